"""The gRPC endpoint: passes the registry's methods to `Frontend.call`, on the server of `net/grpc`.

Nothing here depends on a particular RPC or on HTTP/2. Parsers and handlers are looked up once per method, and an
error is encoded once, to keep the work per call small. Payloads are never logged.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.clients import encoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.registry import UNAUTHENTICATED_RPC
from whistlestop.net.decode import check_size, parse_request
from whistlestop.net.grpc.head import Method
from whistlestop.net.grpc.health import HEALTH_SERVICE, Health
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.grpc.reflection import REFLECTION_SERVICES, Reflection
from whistlestop.net.grpc.server import GrpcServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Container

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.budget import Budget
    from whistlestop.net.grpc.head import Head

_MAX_PUBLIC = 4_096
"""Maximum bytes of a request that needs no authentication. GetSystemInfo's has no fields."""


class _Methods:
    """All methods of the registry, health and reflection, and the error for any other path."""

    def __init__(self, frontend: Frontend, clock: Clock) -> None:
        self._frontend = frontend
        self._clock = clock
        self.most = frontend.ports.config.max_message_size
        services = frozenset(spec.service for spec in frontend.registry.values())
        authenticates = frontend.ports.config.auth is not None
        self._is_authenticated = self._authenticated if authenticates else None
        self._peek = self._peek_authenticated if authenticates else None
        self._served = services | {HEALTH_SERVICE, *REFLECTION_SERVICES}
        self.health = Health(services)
        self._by_path = {f"/{name}": self._of(spec) for name, spec in frontend.registry.items()}
        self._by_path |= self.health.methods()
        self._by_path |= Reflection(services | {HEALTH_SERVICE}).methods()

    def method(self, path: str) -> Method:
        return self._by_path.get(path) or _unknown(path, self._served)

    def too_large(self, size: int) -> ServiceError:
        try:
            check_size(size, self.most)
        except ServiceError as error:
            return error
        raise AssertionError("a message of allowed size was refused")

    async def _authenticated(self, head: Head) -> bool:
        return await self._frontend.is_authenticated(head.headers)

    def _peek_authenticated(self, head: Head) -> bool | None:
        return self._frontend.peek_authenticated(head.headers)

    def _of(self, spec: RpcSpec) -> Method:
        call, clock, name, kind = self._frontend.call, self._clock, spec.full_name, spec.request_type
        parse = kind.FromString

        async def handle(data: bytes, head: Head) -> bytes:
            try:
                request = parse(data)
            except DecodeError:
                request = parse_request(kind, data)
            remaining_s = head.timeout_s
            deadline_ns = None if remaining_s is None else clock.steady_ns() + int(remaining_s * 1e9)
            return encoded(await call(name, request, CallContext(deadline_ns, head.headers)))

        if spec.method == UNAUTHENTICATED_RPC and self._is_authenticated is not None:
            return Method(name, handle, public=True, most=_MAX_PUBLIC, peek=self._peek)
        return Method(name, handle, is_authenticated=self._is_authenticated, peek=self._peek)


def _unknown(path: str, served: Container[str]) -> Method:
    service, separator, method = path.removeprefix("/").rpartition("/")
    if not separator:
        message = f'malformed method name: "{path}"'
    elif service in served:
        message = f"unknown method {method} for service {service}"
    else:
        message = f"unknown service {service}"
    return Method(path, refusal=ServiceError(Code.UNIMPLEMENTED, message))


class GrpcEndpoint:
    """A gRPC server on one address. `port` is the bound port (useful after asking for 0)."""

    def __init__(self, frontend: Frontend, clock: Clock, budget: Budget | None = None) -> None:
        self._methods = _Methods(frontend, clock)
        self._server = GrpcServer(self._methods, Limits(max_message=self._methods.most), budget)
        self.port = 0

    async def start(self, address: str, tls: ssl.SSLContext | None = None) -> int:
        """Listen on `host:port` and return the port. Raises OSError when the address cannot be bound."""
        host, _, port = address.rpartition(":")
        try:
            self.port = await self._server.start(host.strip("[]"), int(port), tls)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason += ": is the port taken?"
            raise OSError(error.errno, reason) from error
        return self.port

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, give running ones `grace_s` seconds, then end them."""
        self._methods.health.drain()
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._server.wait()
