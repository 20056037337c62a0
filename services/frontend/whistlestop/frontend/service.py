"""The frontend: every call of a client or worker goes through `Frontend.call`.

It finds the RPC in the registry, checks the caller's permission, resolves the namespace, validates the request, and
passes it to the function that serves it. The meaning of an RPC is in `api/<group>.py`; nothing here depends on a
particular RPC.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError

from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError, data_loss, invalid_argument, unavailable, unimplemented
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.nesting import bound_of
from whistlestop.common.messages.storable import nul_field
from whistlestop.common.messages.times import refused_time
from whistlestop.common.renamed_rpcs import current_name
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.frontend.api import Rules, UnknownSearchAttribute, parts_of
from whistlestop.frontend.api.switches import guards
from whistlestop.frontend.client_versions import check_call
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.namespace_resolution import NamespaceResolver
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.ports import FrontendPorts
from whistlestop.frontend.registry import AS_TEMPORAL, REGISTRY, RpcSpec, Served
from whistlestop.net.tasks.background import Background
from whistlestop.storage import errors as storage_errors
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.set_aside import SetAside
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.rpcs.handlers import Handler
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.frontend.api import Validator
    from whistlestop.frontend.api.switches import Guard
    from whistlestop.frontend.auth.access import AccessControl
    from whistlestop.frontend.registry import Access
    from whistlestop.storage.interface import Store

    Serve = Callable[[Message, CallContext], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class _Route:
    """Everything that a call of an RPC needs, looked up once."""

    spec: RpcSpec
    serve: Serve
    validate: Validator | None
    bound: Callable[[Message], None] | None
    """Cuts the failures in a request to what can be stored and read again."""


@dataclass(frozen=True, slots=True)
class _Checks:
    """What requests are checked against before they are served."""

    rules: Rules
    guards: Mapping[str, Guard]
    """For each RPC of a disabled part of the API, the function that refuses it."""


class Frontend:
    """The public API, on top of a store and the two other functions."""

    def __init__(
        self,
        store: Store,
        history: Channel,
        matching: Channel,
        clock: Clock,
        ids: Ids,
        config: FrontendConfig | None = None,
        *,
        namespaces: NamespaceCache | None = None,
    ) -> None:
        log = logging.getLogger(__name__)
        self._background = Background(log, "a background task of the frontend failed")
        self.ports = FrontendPorts(
            store,
            HistoryService(history),
            MatchingService(matching),
            clock,
            ids,
            config or FrontendConfig(),
            namespaces or NamespaceCache(store, clock),
            SetAside(store, clock),
            ThrottledWarnings(log, clock),
            self._background,
            self.call_as_server,
        )
        """Return what handlers may use."""
        self._access = self._access_control()
        self.registry = REGISTRY
        """The public RPCs that transports offer."""
        self.configured()
        self._specs = REGISTRY | OWN_REGISTRY
        self._routes: dict[str, _Route] = {}
        """Routes of the RPCs called so far, by full name."""
        self._waiting: set[asyncio.Task[object]] = set()
        self._closing = False

    def configured(self) -> None:
        """Apply `config`, at the start and whenever it has changed."""
        config, ids, warn = self.ports.config, self.ports.ids, self.ports.warn
        self._resolver = NamespaceResolver(self.ports.namespaces, config.max_id_length)
        self._checks = _Checks(Rules(config, ids, warn), guards(config))
        self._own_checks = {
            name: _Checks(Rules(own, ids, warn), guards(own)) for name, own in config.by_namespace.items()
        }

    async def call(self, full_rpc_name: str, request: Message, context: CallContext) -> Reply:
        """Serve a call of `package.Service/Method`. Raises only ServiceError and cancellation."""
        route = self._route_of(full_rpc_name)
        if self._access is not None:
            try:
                context = await self._access.admit(route.spec, request, context)
            except storage_errors.StorageError as error:
                raise self._from_storage(error) from error
        check_call(context.headers)
        return await self._perform(route, request, context)

    async def call_as_server(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Serve a call by the server itself, without authorisation. Raise ServiceError.

        Never use it for a call from outside.
        """
        return await self._perform(self._route_of(rpc.full_name), request, context)

    async def admit(self, access: Access, namespace: str, headers: Mapping[str, str]) -> None:
        """Check the caller's access to a namespace, for requests that are not RPCs. Raises ServiceError."""
        if self._access is not None:
            await self._access.check(access, namespace, headers)

    async def is_authenticated(self, headers: Mapping[str, str]) -> bool:
        """Return whether the headers authenticate a caller; True if authentication is off."""
        return self._access is None or await self._access.is_authenticated(headers)

    def peek_authenticated(self, headers: Mapping[str, str]) -> bool | None:
        """Return what `is_authenticated` would, or None if that would have to wait."""
        return True if self._access is None else self._access.peek(headers)

    def _access_control(self) -> AccessControl | None:
        if self.ports.config.auth is None:
            return None
        from whistlestop.frontend.auth.access import AccessControl

        return AccessControl(self.ports.config.auth, self.ports.namespaces, self.ports.clock)

    def _route_of(self, full_rpc_name: str) -> _Route:
        route = self._routes.get(full_rpc_name)
        if route is None:
            spec = self._specs.get(full_rpc_name)
            if spec is None:
                service, _, method = full_rpc_name.partition("/")
                raise unimplemented(f"unknown method {method} for service {service}")
            current_name(full_rpc_name.rpartition("/")[2])
            route = self._routes[full_rpc_name] = self._route(spec)
        return route

    async def _perform(self, route: _Route, request: Message, context: CallContext) -> Reply:
        if route.bound is not None:
            route.bound(request)
        unstorable = nul_field(request)
        if unstorable and not (route.spec.namespaced and self._is_too_long(request, unstorable)):
            raise _unstorable(unstorable)
        try:
            if route.spec.namespaced:
                context = await self._enter_namespace(route, request, context)
            if unstorable:
                raise _unstorable(unstorable)
            if route.spec.long_poll:
                return await self._serve_long_poll(route, request, context)
            return await route.serve(request, context)
        except ValueError as error:
            raise refused_time(request) or error from None
        except storage_errors.StorageError as error:
            raise self._from_storage(error) from error
        except DecodeError as error:
            # The request itself was parsed before, so this comes from stored data.
            raise data_loss(f"{route.spec.method} found stored data that can't be read: {error}") from error

    def add(self, spec: RpcSpec, serve: Serve) -> None:
        """Add an RPC beyond Temporal's public services. Call it before the server listens."""
        self.registry = self.registry | {spec.full_name: spec}
        self._routes[spec.full_name] = _Route(spec, serve, None, bound_of(spec.request_type))

    async def close(self) -> None:
        """Drain: end open polls at once with an empty reply, and refuse new ones."""
        self._closing = True
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        for _ in waiting:
            await asyncio.sleep(0)
        await self._background.cancel()

    def _route(self, spec: RpcSpec) -> _Route:
        handler, validator = parts_of(spec.method)
        return _Route(spec, self._server_of(spec, handler), validator, bound_of(spec.request_type))

    def _server_of(self, spec: RpcSpec, handler: Handler[FrontendPorts] | None) -> Serve:
        if handler is not None:
            return lambda request, context: handler(self.ports, request, context)
        if spec.served is Served.UNIMPLEMENTED:
            return _refusal(spec)
        client = self.ports.history if spec.served is Served.HISTORY else self.ports.matching
        return client.bind(client.rpcs[spec.method])

    async def _enter_namespace(self, route: _Route, request: Message, context: CallContext) -> CallContext:
        namespace = self._resolver.peek(route.spec, request) or await self._resolver.resolve(route.spec, request)
        checks = self._checks
        if self._own_checks and namespace is not None:
            checks = self._own_checks.get(namespace.name, checks)
        if checks.guards and (guard := checks.guards.get(route.spec.method)) is not None:
            guard(request)
        if route.validate is not None:
            try:
                route.validate(request, namespace, checks.rules)
            except UnknownSearchAttribute:
                # Another process may have added the attribute since the namespace was read.
                if namespace is None:
                    raise
                namespace = await self.ports.namespaces.refresh(namespace.namespace_id)
                route.validate(request, namespace, checks.rules)
        if namespace is None:
            return context
        return CallContext(
            context.deadline_ns, context.headers, namespace.namespace_id, namespace.name, context.can_long_poll
        )

    def _from_storage(self, error: storage_errors.StorageError) -> ServiceError:
        self.ports.warn("the store: %s", error)
        return service_error(error)

    def _is_too_long(self, request: Message, path: str) -> bool:
        """Whether the text there is longer than any id may be: then the refusal tells of that, as Temporal's does."""
        found: Any = request
        for name in path.split("."):
            found = getattr(found, name, None)
        return isinstance(found, str) and len(found) > self.ports.config.max_id_length

    def _draining(self) -> bool:
        return self._closing

    async def _serve_long_poll(self, route: _Route, request: Message, context: CallContext) -> Reply:
        if self._draining():
            raise unavailable("the server is shutting down")
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._waiting.add(task)
        try:
            return await route.serve(request, context)
        except asyncio.CancelledError:
            if not self._draining():
                raise
            task.uncancel()
            if route.spec.method.startswith("Poll"):
                return route.spec.response_type()
            raise unavailable("the server is shutting down") from None
        finally:
            self._waiting.discard(task)


def _unstorable(field: str) -> ServiceError:
    return invalid_argument(f"{field} must not contain U+0000: no store holds a name or an id with it.")


def _refusal(spec: RpcSpec) -> Serve:
    async def refuse(request: Message, context: CallContext) -> Reply:
        if spec.feature is not None and spec.feature in AS_TEMPORAL:
            code, text = AS_TEMPORAL[spec.feature]
            raise ServiceError(code, text.format(method=spec.method))
        raise unimplemented(f"{spec.method} is not supported by this server: {spec.reason}")

    return refuse
