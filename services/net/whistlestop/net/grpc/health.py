"""grpc.health.v1: whether the server, or one of its services, is serving.

The two messages have one field each, so they are encoded and decoded by hand.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc.head import Head, Method

if TYPE_CHECKING:
    from whistlestop.net.grpc.head import MessageStream

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"
_SERVICE_UNKNOWN = b"\x08\x03"
_MAX_REQUEST = 1_024


class Health:
    """Health of the named services, and of the server as a whole under the empty name."""

    def __init__(self, services: frozenset[str]) -> None:
        self._names = services | {HEALTH_SERVICE, ""}
        self._drained = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        """Return the methods by their paths."""
        check, watch = f"/{HEALTH_SERVICE}/Check", f"/{HEALTH_SERVICE}/Watch"
        return {
            check: Method(check, self._check, public=True, most=_MAX_REQUEST),
            watch: Method(watch, streaming=self._watch, public=True, most=_MAX_REQUEST, streams_requests=False),
        }

    def drain(self) -> None:
        """Report NOT_SERVING from now on, because the server is shutting down."""
        self._drained.set()

    async def _check(self, data: bytes, head: Head) -> bytes:
        if _service(data) not in self._names:
            raise ServiceError(Code.NOT_FOUND, "unknown service")
        return _NOT_SERVING if self._drained.is_set() else _SERVING

    async def _watch(self, call: MessageStream) -> None:
        """Send the status now, and again when it changes, which it does at most once."""
        data = await anext(call, b"")
        if _service(data) not in self._names:
            await call.send(_SERVICE_UNKNOWN)
            await asyncio.Event().wait()  # until the client leaves: services are not added later
        if not self._drained.is_set():
            await call.send(_SERVING)
            await self._drained.wait()
        await call.send(_NOT_SERVING)


def _service(data: bytes) -> str:
    """Return the service name, the only field of HealthCheckRequest."""
    return data[2:].decode("utf-8", "replace") if data[:1] == b"\n" else ""
