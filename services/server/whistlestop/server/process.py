"""The life of a server process: open the store, listen, wait, drain.

The order matters. The store is opened and migrated before a port is bound; the gRPC port is opened last, because SDKs
take an answer on it for readiness. A server that is alone on its store loads the code of history and matching after
that, when a call needs them or after `ENGINE_DELAY_S`, because test suites start servers often and wait for the port.
When stopping: polls end with empty replies, ports close, background work stops, and the store finishes its writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from whistlestop.common import private_files
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.metrics import NO_METRICS
from whistlestop.functions.database import is_verified
from whistlestop.net.budget import Budget
from whistlestop.net.listen_address import host_port
from whistlestop.net.listener import bounds_of_process, raise_descriptor_limit
from whistlestop.net.tasks import loops
from whistlestop.server.assembly import Services, assemble
from whistlestop.server.config import (
    INTERNAL_ROLES,
    BadConfig,
    Role,
    ServerConfig,
    bind_address,
    check_internal_address,
    require_authentication,
)
from whistlestop.server.membership import Membership
from whistlestop.server.ranges import Leases
from whistlestop.server.stores import (
    close_notifier,
    make_notifier,
    make_store,
    note_alone,
    notify_waiters,
)
from whistlestop.storage import set_aside
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.metrics import Metrics
    from whistlestop.common.notify import Notifier
    from whistlestop.frontend.endpoints.browsers import BrowserRules
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.asgi import App
    from whistlestop.server.config import TlsConfig
    from whistlestop.server.grpc_endpoint import GrpcEndpoint
    from whistlestop.server.metrics.prometheus import PrometheusMetrics
    from whistlestop.storage.interface import Store

log = logging.getLogger(__name__)

ENGINE_DELAY_S = 0.25
"""How long a server that nobody calls delays background work when it starts."""
BACKLOG_PAGE = 200
BACKLOG_COUNT = 10_000
BACKLOG_AGE_S = 5.0


class Server:
    """A server process. Use it as `async with Server(config) as server`; the ports are known inside."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.host_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.port = 0
        self.http_port = 0
        self.metrics_port = 0
        self.internal_port = 0
        self.applied_migrations: list[str] = []
        self._budget = Budget(time.monotonic, bounds_of_process(raise_descriptor_limit()))
        """What unauthenticated peers of all listeners may use."""
        self._closers = contextlib.AsyncExitStack()
        self._engine_start: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._closers.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        log.info("draining")
        await self._closers.aclose()
        log.info("stopped")

    async def _start(self) -> None:
        config = self.config
        ip = bind_address(config.ip)
        require_authentication(config, ip)
        internal_ip = bind_address(config.internal_ip, "--internal-ip") if config.internal_ip else ip
        if config.internal_port is not None:
            check_internal_address(internal_ip, config.internal_secrets())
        self._lock_file()
        metrics = _make_metrics() if config.metrics_port is not None else None
        services, membership = await self._open_services(metrics)
        await self._register(services)
        self._engine_start = asyncio.create_task(self._start_engine(services, metrics), name="start of the engine")
        self._closers.push_async_callback(self._end_engine_start)
        if not self._is_alone():
            # Beside other servers, due work does not wait for a client. Membership assigns the slots to scan; timers
            # committed here are armed here in any case.
            await self.started()
        self._follow_dynamic_config(services)
        if metrics is not None:
            await self._open_metrics(bind_address(config.metrics_address(), "--metrics-ip"), metrics, services)
        if config.internal_port is not None:
            await self._open_internal(internal_ip, config.internal_port, services)
        if Role.FRONTEND in config.roles:
            frontend = _Measured(services.frontend, metrics) if metrics is not None else services.frontend
            await self._open_http(ip, frontend, services)
            await self._open_grpc(ip, frontend, services)
        bound = host_port(ip, self.port) if self.port else host_port(internal_ip, self.internal_port)
        address, _, port = (config.broadcast_address or bound).rpartition(":")
        await membership.join(address.strip("[]"), int(port or 0))
        log.info("serving on %s", bound, extra={"host_id": self.host_id})

    def _is_alone(self) -> bool:
        """Return whether no other process uses the store, and calls come only through the frontend's ports."""
        config = self.config
        return not config.store.database_url and config.internal_port is None and Role.FRONTEND in config.roles

    async def started(self) -> None:
        """Wait until all background work has begun; the ports may be open before."""
        assert self._engine_start is not None
        await asyncio.shield(self._engine_start)

    async def _start_engine(self, services: Services, metrics: PrometheusMetrics | None) -> None:
        if self._is_alone():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENGINE_DELAY_S):
                    await services.needed.wait()
        from whistlestop.history.timers.processor import EVERYTHING

        if services.history is not None:
            await services.history.start(() if self.config.store.database_url else EVERYTHING)
        if metrics is not None:
            _watch(services, metrics)
        if Role.FRONTEND in self.config.roles:
            from whistlestop.frontend.api.namespaces import resume_deletions
            from whistlestop.frontend.batch.worker import resume_batches

            resume_deletions(services.frontend.ports)
            resume_batches(services.frontend.ports)

    async def _end_engine_start(self) -> None:
        assert self._engine_start is not None
        self._engine_start.cancel()
        await asyncio.wait([self._engine_start])

    def _follow_dynamic_config(self, services: Services) -> None:
        """Apply the file of `--dynamic-config-file` whenever it has changed."""
        config = self.config
        if config.dynamic_source is None:
            return
        from whistlestop.server.settings.live_config import LiveConfig, reconfigure

        live = LiveConfig(config.dynamic_source, config.dynamic, services.clock, partial(reconfigure, services))
        task = asyncio.ensure_future(live.run())
        self._closers.callback(task.cancel)

    def _lock_file(self) -> None:
        """Lock the SQLite file, because two servers on it would each trust their own cache."""
        store = self.config.store
        if store.database_url or store.in_memory:
            return
        try:
            # Do not close this before SQLite's own descriptors: that would drop SQLite's locks on the file.
            descriptor = private_files.open_or_create(store.sqlite_path)
        except OSError as error:
            raise BadConfig(f"can't open {store.sqlite_path}: {error.strerror}") from error
        self._closers.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadConfig(
                f"another server is using {store.sqlite_path}; a SQLite file can be used by one server only"
            ) from error

    async def _open_services(self, metrics: PrometheusMetrics | None) -> tuple[Services, Membership]:
        config = self.config
        if config.store.database_url and not is_verified(config.store.database_url):
            log.warning(
                "the certificate of the database is not verified, so it could be impersonated: add "
                "sslmode=verify-full and sslrootcert=FILE to its URL"
            )
        store = make_store(config.store) if metrics is None else make_store(config.store, metrics)
        await store.open()
        self._closers.push_async_callback(store.close)
        self.applied_migrations = await store.migrate()
        from whistlestop.common.clock import SystemClock

        notifier = await make_notifier(config.store, SystemClock())
        self._closers.push_async_callback(close_notifier, notifier)
        services = self._assemble(store, notifier, metrics or NO_METRICS)
        membership = self._membership(services)
        # Leave after the last commit, because then other members scan for the timers of this one.
        self._closers.push_async_callback(membership.leave)
        self._closers.push_async_callback(services.close)
        return services, membership

    def _assemble(self, store: Store, notifier: Notifier, metrics: Metrics) -> Services:
        return assemble(self.config, store, notifier, metrics)

    def _membership(self, services: Services) -> Membership:
        roles = tuple(sorted(self.config.roles))
        store, clock, notifier = services.store, services.clock, services.notifier
        if not self.config.store.database_url:
            return Membership(store, clock, notifier, self.host_id, roles)
        leases = Leases(store, f"{self.host_id}/{Role.HISTORY}")
        membership = Membership(store, clock, notifier, self.host_id, roles, leases=leases, scanner=services.history)
        membership.on_alone = partial(note_alone, notifier)
        membership.on_member_lost = partial(notify_waiters, notifier)
        return membership

    async def _register(self, services: Services) -> None:
        from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

        from whistlestop.common.rpcs.operator_service import OperatorService
        from whistlestop.frontend.api.namespaces import ensure_namespace

        for namespace in dict.fromkeys(("temporal-system", *self.config.namespaces)):
            await ensure_namespace(services.frontend.ports, namespace, self.config.retention_s)
        if not self.config.search_attributes:
            return
        for namespace in self.config.namespaces:
            for name, kind in self.config.search_attributes.items():
                request = operator_pb.AddSearchAttributesRequest(namespace=namespace)
                request.search_attributes[name] = kind  # type: ignore[assignment]  # a number of the enum
                try:
                    await services.frontend.call_as_server(OperatorService.AddSearchAttributes, request, CallContext())
                except ServiceError as error:
                    if error.code is not Code.ALREADY_EXISTS:
                        raise BadConfig(f"--search-attribute {name}: {error.message}") from error

    async def _open_metrics(self, ip: str, metrics: PrometheusMetrics, services: Services) -> None:
        from whistlestop.net.http.server import HttpServer
        from whistlestop.server.metrics.endpoint import metrics_app

        app = metrics_app(metrics, _Backlog(services, metrics).refresh, _browser_rules(self.config, services))
        endpoint = HttpServer(app, budget=self._budget)
        port = self.config.metrics_port or 0
        try:
            self.metrics_port = await endpoint.start(ip, port)
        except OSError as error:
            raise _cannot_listen("--metrics-port", ip, port, error) from error
        self._closers.push_async_callback(endpoint.stop)

    async def _open_grpc(self, ip: str, frontend: Frontend | _Measured, services: Services) -> None:
        from whistlestop.server.grpc_endpoint import GrpcEndpoint

        # A measured frontend has the same interface.
        endpoint: GrpcEndpoint = GrpcEndpoint(frontend, services.clock, self._budget)  # type: ignore[arg-type]
        tls = None if self.config.tls is None else _tls_context(self.config.tls, "h2")
        address = host_port(ip, self.config.port)
        try:
            self.port = await endpoint.start(address, tls)
        except OSError as error:
            raise _cannot_listen("--port", ip, self.config.port, error) from error

        async def drain() -> None:
            await services.frontend.close()
            await endpoint.stop(self.config.drain_s)

        self._closers.push_async_callback(drain)

    async def _open_http(self, ip: str, frontend: Frontend | _Measured, services: Services) -> None:
        if self.config.http_port is None:
            return
        from whistlestop.net.http.server import HttpServer

        rules = _browser_rules(self.config, services)

        def make() -> App:
            from whistlestop.frontend.endpoints.http import make_app

            return make_app(frontend, services.clock, rules)  # type: ignore[arg-type]  # measured, it has the same call

        endpoint = HttpServer(_made_later(make), budget=self._budget)
        port, tls = self.config.http_port, self.config.tls
        context = None if tls is None else _tls_context(tls, "http/1.1")
        asks = tls is not None and bool(tls.client_ca)
        try:
            self.http_port = await endpoint.start(ip, port, context, requests_certificates=asks)
        except OSError as error:
            raise _cannot_listen("--http-port", ip, port, error) from error
        self._closers.push_async_callback(endpoint.stop)

    async def _open_internal(self, ip: str, port: int, services: Services) -> None:
        from whistlestop.net.http.server import HttpServer
        from whistlestop.server.internal_endpoint import KEEP_ALIVE_S, InternalApi, internal_app

        named = {Role.HISTORY: services.history, Role.MATCHING: services.matching}
        served = {
            str(role): service
            for role, service in named.items()
            if role in self.config.roles & INTERNAL_ROLES and service is not None
        }
        api = InternalApi(served, services.clock, self.config.internal_secrets())
        endpoint = HttpServer(internal_app(api), KEEP_ALIVE_S, budget=self._budget)
        try:
            self.internal_port = await endpoint.start(ip, port)
        except OSError as error:
            raise _cannot_listen("--internal-port", ip, port, error) from error

        async def drain() -> None:
            await api.drain()
            await endpoint.stop()

        self._closers.push_async_callback(drain)


def _watch(services: Services, metrics: PrometheusMetrics) -> None:
    """Count failures of background work, and the outcomes of polls."""
    for service in (services.history, services.matching, services.frontend.ports):
        if service is not None:
            service.aside.listener = metrics.row_failed
    metrics.watch_loops(loops.failures)
    matching = services.matching
    if matching is not None:
        counters = matching.counters
        metrics.watch_polls(
            lambda: {
                "fresh": counters.fresh, "backlogged": counters.backlogged, "empty": counters.empty,
                "stale": counters.stale, "failed": counters.failed,
            },
            lambda: matching.waiting,
        )  # fmt: skip


class _Measured:
    """A frontend whose calls are counted and timed."""

    def __init__(self, frontend: Frontend, metrics: PrometheusMetrics) -> None:
        self._call = frontend.call
        self._metrics = metrics
        self._short: dict[str, str] = {}
        self.frontend = frontend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.frontend, name)

    async def call(self, full_rpc_name: str, request: Message, context: CallContext) -> Reply:
        began = time.perf_counter()
        code = "OK"
        try:
            return await self._call(full_rpc_name, request, context)
        except ServiceError as error:
            code = error.code.name
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            short = self._short.get(full_rpc_name)
            if short is None:
                short = self._short[full_rpc_name] = full_rpc_name.rpartition("/")[2]
            self._metrics.request(short, code, time.perf_counter() - began)


class _Backlog:
    """Counts waiting tasks for a scrape, at most every few seconds, and only for a bounded number of queues."""

    def __init__(self, services: Services, metrics: PrometheusMetrics) -> None:
        self._store = services.store
        self._metrics = metrics
        self._next_s = 0.0

    async def refresh(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + BACKLOG_AGE_S
        counts: dict[int, int] = {}
        aside: dict[str, int] = {}
        try:
            for message, is_there in await self._store.notes_set_aside(set_aside.MAX_NOTES):
                note = set_aside.decoded(message.data)
                if note is not None and is_there:
                    aside[note.table] = aside.get(note.table, 0) + 1
            for namespace_id, queue, task_type in await self._store.list_backlogged_queues(None, BACKLOG_PAGE):
                backlog = await self._store.backlog(namespace_id, queue, task_type, BACKLOG_COUNT)
                counts[task_type] = counts.get(task_type, 0) + sum(each.count for each in backlog.values())
        except StorageError as error:
            log.warning("the backlog could not be counted: %s", error)
            return
        self._metrics.set_backlog(counts)
        self._metrics.set_aside(aside)


def _made_later(make: Callable[[], App]) -> App:
    """Return an application that is constructed, and its code imported, by its first request."""
    made: App | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        if made is None:
            made = make()
        await made(scope, receive, send)

    return app


def _make_metrics() -> PrometheusMetrics:
    from whistlestop.server.metrics.prometheus import PrometheusMetrics

    return PrometheusMetrics()


def _cannot_listen(flag: str, ip: str, port: int, error: OSError) -> BadConfig:
    reason = error.strerror or str(error)
    return BadConfig(f"can't listen on {host_port(ip, port)} ({flag}): {reason}")


def _browser_rules(config: ServerConfig, services: Services) -> BrowserRules:
    from whistlestop.frontend.endpoints.browsers import LOCAL_NAMES, BrowserRules, hosts_of

    # A browser presents a client certificate whatever site's page makes the request.
    is_open = config.auth is None or (config.tls is not None and bool(config.tls.client_ca))
    names = LOCAL_NAMES | {socket.gethostname().lower(), config.ip.lower()}
    hosts = hosts_of(services.frontend.ports.config.http_allowed_hosts)
    return BrowserRules(is_open, frozenset(config.http_cors_origins), hosts, names)


def _tls_context(tls: TlsConfig, protocol: str) -> ssl.SSLContext:
    from whistlestop.net.tls import server_context

    for flag, path in (("--tls-cert", tls.certificate), ("--tls-key", tls.key), ("--tls-client-ca", tls.client_ca)):
        if path:
            _check_readable(path, flag)
    private_files.warn_if_open("the key of TLS", tls.key)
    try:
        return server_context(tls.certificate, tls.key, tls.client_ca, protocol)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error
        raise BadConfig(f"--tls-cert {tls.certificate}, --tls-key {tls.key}: not usable ({reason})") from error


def _check_readable(path: str, flag: str) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123 - three small files at start
            return
    except OSError as error:
        raise BadConfig(f"{flag} {path}: {error.strerror}") from error
