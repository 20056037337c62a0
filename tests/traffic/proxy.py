"""A gRPC proxy before a server that counts the fields of all replies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tests.traffic.fields import count_refusal, count_reply

if TYPE_CHECKING:
    from collections import Counter

_STATUS = "grpc-status-details-bin"
_OPTIONS = [
    ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20), ("grpc.so_reuseport", 0),
]  # fmt: skip


class Proxy(grpc.GenericRpcHandler):
    """Forwards unary calls as they are. Streams (server reflection) are not forwarded."""

    def __init__(self, target: str, counts: Counter[str]) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._counts = counts
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self,))

    async def start(self, address: str) -> int:
        """Listen, and return the port."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        await self._server.stop(0)
        await self._channel.close()

    def service(self, handler_call_details: Any) -> Any:
        # Without (de)serialisers, requests and replies are bytes.
        return grpc.unary_unary_rpc_method_handler(partial(self._forward, handler_call_details.method))

    async def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        forward: Any = self._channel.unary_unary(method)
        call = forward(request, timeout=context.time_remaining(), metadata=_forwarded(context.invocation_metadata()))
        try:
            reply: bytes = await call
        except grpc.aio.AioRpcError as error:
            trailing = tuple(error.trailing_metadata() or ())
            status = next((value for key, value in trailing if key == _STATUS), b"")
            count_refusal(self._counts, method, error.code().name, status if isinstance(status, bytes) else b"")
            await context.abort(error.code(), error.details() or "", _forwarded(trailing))
            raise AssertionError("abort raises") from error
        count_reply(self._counts, method, reply)
        await context.send_initial_metadata(_forwarded(await call.initial_metadata()))
        context.set_trailing_metadata(_forwarded(await call.trailing_metadata()))
        return reply


def _forwarded(metadata: Any) -> tuple[tuple[str, Any], ...]:
    """Return the metadata without those of the connection; gRPC sets its own."""
    own = ("user-agent", "content-type", "te", "date", "server")
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key not in own and (not key.startswith("grpc-") or key == _STATUS)
    )
