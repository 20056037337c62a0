"""Construct the three services of a process, or clients of those that other processes serve.

This is the only module that knows all of them, and it decides nothing about workflows. History and matching are
imported and constructed when they are first needed, so that a server can answer on its port before their code is
read.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.common.clock import SystemClock
from whistlestop.common.dynamic_config import allowed_addresses
from whistlestop.common.ids import RandomIds
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.metrics import NO_METRICS, Metrics
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.frontend.service import Frontend
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.dynamic_keys import MATCHING_KEYS
from whistlestop.net.listen_address import host_port
from whistlestop.net.outbound import Named, Outbound
from whistlestop.storage.namespaces import NamespaceCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.service import History
    from whistlestop.matching.service import Matching
    from whistlestop.net.internal.http_client import HttpClient
    from whistlestop.server.config import ServerConfig
    from whistlestop.server.offers import RemoteOffers
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask

T = TypeVar("T")


class _Later:
    """A service that is constructed by its first call."""

    def __init__(self, make: Callable[[], Channel]) -> None:
        self._make = make

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        self.call = self._make().call  # type: ignore[method-assign]  # later calls go straight there
        return await self.call(rpc, request, context)


@dataclass(frozen=True, slots=True)
class Engine:
    """History and matching; each is None if other processes serve it."""

    history: History | None
    matching: Matching | None
    offers: RemoteOffers | None
    """Sends new tasks to matching in other processes."""
    to_history: Channel
    to_matching: Channel
    outbound: Outbound
    """Sends requests to addresses that callers choose."""


class Services:
    """The services of a process, and what they share."""

    def __init__(
        self, store: Store, notifier: Notifier, clock: Clock, ids: Ids, *, clients: tuple[HttpClient, ...],
        make_frontend: Callable[[Services], Frontend], make_engine: Callable[[], Engine],
    ) -> None:  # fmt: skip
        self.store = store
        self.notifier = notifier
        self.clock = clock
        self.ids = ids
        self.clients = clients
        """Clients of the services that other processes serve."""
        self.needed = asyncio.Event()
        """Set when history or matching is first needed."""
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self.frontend = make_frontend(self)

    @property
    def engine(self) -> Engine:
        """History and matching, constructed when they are first needed."""
        if self._engine is None:
            self._engine = self._make_engine()
            self.needed.set()
        return self._engine

    @property
    def history(self) -> History | None:
        """The history service of this process; None if other processes serve it."""
        return self.engine.history

    @property
    def matching(self) -> Matching | None:
        """The matching service of this process; None if other processes serve it."""
        return self.engine.matching

    async def close(self) -> None:
        """Stop background work: history first, since what it commits is still offered to matching."""
        engine = self._engine
        if engine is not None:
            if engine.history is not None:
                await engine.history.close()
            if engine.offers is not None:
                await engine.offers.close()
            if engine.matching is not None:
                await engine.matching.close()
        for client in self.clients:
            client.close()


def assemble(
    config: ServerConfig, store: Store, notifier: Notifier, metrics: Metrics = NO_METRICS, *,
    time: Clock | None = None, watch: Callable[[Run], None] | None = None,
) -> Services:  # fmt: skip
    """Construct the services over an open store. Nothing is started.

    `time` replaces the system's clock; it may skip months, after which a test still wants earlier results, so closed
    runs are retained. `watch` gets each run that history commits.
    """
    clock, ids = SystemClock(), RandomIds()
    namespaces = NamespaceCache(store, time or clock)
    at_history = _remote_client("history", config.history_urls, config, clock)
    at_matching = _remote_client("matching", config.matching_urls, config, clock)

    def make_engine() -> Engine:
        return _engine(
            config, store, notifier, metrics, clock=clock, time=time or clock, ids=ids, namespaces=namespaces,
            at_history=at_history, at_matching=at_matching, watch=watch,
        )  # fmt: skip

    def make_frontend(services: Services) -> Frontend:
        frontend_config = config.dynamic.apply(
            FrontendConfig(
                persistence_store=config.store.kind,
                address=config.broadcast_address or _address(config.ip, config.port),
                http_address=_address(config.ip, config.http_port),
                auth=_auth(config),
            ),
            FRONTEND_KEYS,
        )
        to_history = at_history or _Later(lambda: services.engine.to_history)
        to_matching = at_matching or _Later(lambda: services.engine.to_matching)
        return Frontend(
            store, to_history, to_matching, clock, ids, frontend_config,
            namespaces=namespaces if at_history is None else None,
        )  # fmt: skip

    clients = tuple(client for client in (at_history, at_matching) if client is not None)
    return Services(store, notifier, clock, ids, clients=clients, make_frontend=make_frontend, make_engine=make_engine)


def _engine(
    config: ServerConfig, store: Store, notifier: Notifier, metrics: Metrics, *, clock: Clock, time: Clock, ids: Ids,
    namespaces: NamespaceCache, at_history: HttpClient | None, at_matching: HttpClient | None,
    watch: Callable[[Run], None] | None,
) -> Engine:  # fmt: skip
    """Construct history and matching, unless other processes serve them."""
    alone = not config.store.database_url
    outbound = Outbound(Named.parse(config.allow_outbound))
    outbound.allow(allowed_addresses(config.dynamic))
    matching: Matching | None = None
    offers: RemoteOffers | None = None
    history: History | None = None
    if at_matching is None:
        from whistlestop.matching.service import Matching

        settings = MatchingConfig(
            host=config.broadcast_address or f"{config.ip}:{config.port}",
            remote_notifications=not alone,
            share_pollers=not alone,
        )
        settings = config.dynamic.apply(settings, MATCHING_KEYS)
        to_history = at_history or _Later(lambda: _made(history))
        matching = Matching(store, to_history, clock, ids, notifier, settings, outbound=outbound)
    elif at_history is None:
        from whistlestop.server.offers import RemoteOffers

        offers = RemoteOffers(at_matching, clock)
    to_matching: Channel = at_matching or _made(matching)
    if at_history is None:
        from whistlestop.history.core.limits import Limits
        from whistlestop.history.service import History

        listener = offers or _made(matching).offer
        history = History(
            store,
            to_matching,
            time,
            ids,
            notifier,
            limits=config.dynamic.apply(Limits(), LIMIT_KEYS),
            task_listener=_listener(listener, metrics),
            exclusive=alone,
            wall=clock,
            outbound=outbound,
            namespaces=namespaces,
            retains_closed_runs=time is not clock,
            watch=watch,
        )
    return Engine(history, matching, offers, at_history or _made(history), to_matching, outbound)


def _address(ip: str, port: int | None) -> str:
    """Return an address to show; empty for a port that is chosen when the server starts, and for none."""
    return host_port(ip, port) if port else ""


def _auth(config: ServerConfig) -> AuthConfig | None:
    """Return how callers are authenticated; with client certificates, their names count as credentials."""
    if config.auth is None or config.tls is None or not config.tls.client_ca:
        return config.auth
    return replace(config.auth, certificates=True)


def _remote_client(name: str, urls: Sequence[str], config: ServerConfig, clock: Clock) -> HttpClient | None:
    """Return a client of the processes that serve `name`; None if this process does."""
    if not urls:
        return None
    from whistlestop.net.internal.http_client import HttpClient
    from whistlestop.server.internal_endpoint import credential

    endpoints = [f"{url.rstrip('/')}/{name}" for url in urls]
    return HttpClient(endpoints, clock, credential(config.internal_secrets()), name=f"the {name} service", resend=False)


def _made(service: T | None) -> T:
    """Return the service, which this process must have because no other process is configured for it."""
    assert service is not None
    return service


def _listener(
    offer: Callable[[Sequence[MatchingTask]], None], metrics: Metrics
) -> Callable[[Sequence[MatchingTask]], None]:
    if metrics is NO_METRICS:
        return offer

    def listen(tasks: Sequence[MatchingTask]) -> None:
        for task in tasks:
            metrics.tasks_added(task.key.task_type, 1)
        offer(tasks)

    return listen
