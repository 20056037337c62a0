"""The gRPC side of the bridge: any method of any service, as bytes.

The bridge itself answers health checks, for itself. Any other call is passed on, for the target to serve or refuse.
"""

from __future__ import annotations

import base64
import errno
import time
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.budget import Budget
from whistlestop.net.grpc.head import Method
from whistlestop.net.grpc.health import Health
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.grpc.server import GrpcServer
from whistlestop.net.listener import bounds_of_process, raise_descriptor_limit

if TYPE_CHECKING:
    from whistlestop.bridge.service import Bridge
    from whistlestop.common.clock import Clock
    from whistlestop.net.grpc.head import Head
    from whistlestop.net.listen_address import ListenAddress

_MAX_MESSAGE = 128 * 1024 * 1024
"""The bridge's own limit. The target's lower limit is the relevant one, whose error SDKs recognise."""
_MAX_METHODS = 1000
_CONNECTION_HEADERS = frozenset(
    {"host", "te", "content-type", "content-length", "connection", "user-agent", "accept-encoding"}
)
"""Metadata about the connection rather than the call."""
_HEALTHY = frozenset({
    "temporal.api.workflowservice.v1.WorkflowService", "temporal.api.operatorservice.v1.OperatorService",
})  # fmt: skip


class _Methods:
    """A method for every requested path."""

    def __init__(self, bridge: Bridge, clock: Clock) -> None:
        self._bridge = bridge
        self._clock = clock
        self.health = Health(_HEALTHY)
        self._made: dict[str, Method] = {}
        self._own = self.health.methods()

    def method(self, path: str) -> Method:
        found = self._own.get(path) or self._made.get(path)
        if found is None:
            if len(self._made) >= _MAX_METHODS:
                self._made.clear()
            found = self._made[path] = self._of(path)
        return found

    def too_large(self, size: int) -> ServiceError:
        message = f"grpc: received message larger than max ({size} vs. {_MAX_MESSAGE})"
        return ServiceError(Code.RESOURCE_EXHAUSTED, message)

    def _of(self, path: str) -> Method:
        call, clock = self._bridge.call, self._clock

        async def handle(data: bytes, head: Head) -> bytes:
            remaining_s = head.timeout_s
            deadline_ns = None if remaining_s is None else clock.steady_ns() + int(remaining_s * SECOND_NS)
            return await call(path, data, headers_of(head), deadline_ns)

        return Method(path, handle)


def headers_of(head: Head) -> dict[str, str]:
    """Return metadata as HTTP headers; binary values in base64, as in Connect. Empty without metadata."""
    headers = {
        name: value
        for name, value in head.headers.items()
        if name not in _CONNECTION_HEADERS and not name.startswith((":", "grpc-"))
    }
    for name, value in head.binary.items():
        headers[name] = base64.b64encode(value).decode().rstrip("=")
    return headers


class BridgeServer:
    """A gRPC server in front of a bridge."""

    def __init__(self, bridge: Bridge, clock: Clock) -> None:
        self._methods = _Methods(bridge, clock)
        budget = Budget(time.monotonic, bounds_of_process(raise_descriptor_limit()))
        self._server = GrpcServer(self._methods, Limits(max_message=_MAX_MESSAGE), budget)

    async def start(self, address: ListenAddress) -> int:
        """Listen and return the bound port. Raises OSError."""
        try:
            return await self._server.start(address.ip, address.port)
        except OSError as error:
            advice = ": is the port taken?" if error.errno == errno.EADDRINUSE else ""
            raise OSError(error.errno, f"can't listen on {address}: {error.strerror or error}{advice}") from error

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, give running ones `grace_s` seconds, then end them."""
        self._methods.health.drain()
        await self._server.stop(grace_s)
