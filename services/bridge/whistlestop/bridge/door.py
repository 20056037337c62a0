"""The gRPC side of the bridge, on grpc.aio: any method of any service, as bytes.

Health is the bridge's own: it answers for itself. Everything else is the target's to know or to refuse.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.doors.status import status_bytes
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.bridge.service import Bridge
    from whistlestop.common.clock import Clock

logger = logging.getLogger(__name__)

_HEALTH = "/grpc.health.v1.Health/"
_SERVING = b"\x08\x01"
_MOST_MESSAGE = 128 * 1024 * 1024
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_OWN = frozenset({"host", "te", "content-type", "content-length", "connection", "user-agent", "accept-encoding"})
"""Metadata that is about the connection, not about the call."""
# SO_REUSEPORT would let a second bridge take the same port without a word; a taken port must be an error.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MOST_MESSAGE),
    ("grpc.max_send_message_length", _MOST_MESSAGE),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, bridge: Bridge, clock: Clock) -> None:
        self._bridge = bridge
        self._clock = clock
        self._made: dict[str, Any] = {
            _HEALTH + "Check": grpc.unary_unary_rpc_method_handler(_check),
            _HEALTH + "Watch": grpc.unary_stream_rpc_method_handler(_watch),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        found = self._made.get(path)
        if found is None:
            found = self._made[path] = grpc.unary_unary_rpc_method_handler(self._behaviour(path))
        return found

    def _behaviour(self, path: str) -> Any:
        call, clock = self._bridge.call, self._clock

        async def handle(data: bytes, context: Any) -> bytes:
            left_s = context.time_remaining()
            deadline_ns = None if left_s is None else clock.now_ns() + int(left_s * SECOND_NS)
            try:
                return await call(path, data, headers_of(context.invocation_metadata() or ()), deadline_ns)
            except ServiceError as error:
                await _abort(context, error)
            except asyncio.CancelledError:
                raise
            except Exception:
                # A bug: told to the log, without the payload, and to nobody else.
                logger.exception("%s failed", path)
                await _abort(context, ServiceError(Code.INTERNAL, "internal error of the bridge"))

        return handle


def headers_of(metadata: Any) -> dict[str, str]:
    """Metadata as HTTP headers; binary values in base64, as Connect has them."""
    headers: dict[str, str] = {}
    for name, value in metadata:
        if name in _OWN or name.startswith((":", "grpc-")):
            continue
        text = value if isinstance(value, str) else base64.b64encode(value).decode().rstrip("=")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    return headers


async def _check(data: bytes, context: Any) -> bytes:
    return _SERVING


async def _watch(data: bytes, context: Any) -> AsyncIterator[bytes]:
    yield _SERVING
    await asyncio.Event().wait()  # until the caller leaves


async def _abort(context: Any, error: ServiceError) -> NoReturn:
    trailing = (("grpc-status-details-bin", status_bytes(error)),) if error.details else ()
    await context.abort(_STATUS[int(error.code)], error.message, trailing)
    raise AssertionError("abort returned")


class Door:
    """A gRPC server in front of a bridge."""

    def __init__(self, bridge: Bridge, clock: Clock) -> None:
        self._handlers = _Handlers(bridge, clock)
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> int:
        """Listen on `host:port`; the bound port. Raises OSError."""
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers,))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise OSError(f"can't listen on {address}: is the port taken?")
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, give running ones `grace_s`, then end them."""
        if self._server is not None:
            await self._server.stop(grace_s)
