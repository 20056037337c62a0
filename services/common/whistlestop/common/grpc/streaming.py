"""Calls with streams of messages. Temporal's API has none; health's Watch and reflection do.

Rules of this file: small and bounded, not fast. Whoever may call such a method need not be known, so what it sends and
what it does not read count towards the budget; a handler that reads slowly bounds what is kept of a stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, plain_message

if TYPE_CHECKING:
    from whistlestop.common.grpc.head import Head, Method
    from whistlestop.common.grpc.outbound import Outbound
    from whistlestop.common.grpc.stream import Stream

MOST_WAITING: Final = 100
_CPU_PER_BYTE_S: Final = 1e-9
"""Of an answer, which is copied some times; what its request costs is charged by the call."""
MOST_WAITING_BYTES: Final = 256 * 1024


class StreamingCall:
    """What a streaming handler works with: iterate over it for messages, `send` answers, return or raise to end."""

    def __init__(self, connection: Outbound, stream: Stream, method: Method) -> None:
        self._connection = connection
        self._stream = stream
        self._streams_requests = method.streams_requests
        self._messages: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of the messages that wait."""
        self._count = 0
        self._came = asyncio.Event()
        self._ended = False
        self._partial = bytearray()

    @property
    def head(self) -> Head:
        """The call's head."""
        return self._stream.head

    def __aiter__(self) -> StreamingCall:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        message = self._messages.popleft()
        self._waiting -= len(message)
        self._release(len(message))
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; returns when it has left for the transport."""
        stream = self._stream
        if stream.closed:
            return
        self._hold(len(message))
        size = len(message)
        if stream.request is not None:
            stream.request.spend_cpu(size * _CPU_PER_BYTE_S)
        self._connection.send_message(stream, message)
        del message  # a copy of it waits
        if stream.outgoing is not None:
            stream.drained = asyncio.get_running_loop().create_future()
            await stream.drained
            stream.drained = None
        self._release(size)

    def feed(self, data: bytes, most: int, *, ended: bool) -> None:
        """Take in what came. Raises ServiceError or TooLarge."""
        partial = self._partial
        self._hold(len(data))
        if self._stream.request is not None:
            self._stream.request.restart()
        partial += data
        while len(partial) >= PREFIX_SIZE:
            flag, length = PREFIX.unpack_from(partial)
            if length > most:
                raise TooLarge(length)
            end = PREFIX_SIZE + length
            if len(partial) < end:
                break
            self._take(bytes(partial[PREFIX_SIZE:end]), flag, most)
            del partial[:end]
            self._release(end)
        if ended:
            if partial:
                raise ServiceError(Code.INTERNAL, "grpc: a message that ends early")
            self._ended = True
        self._came.set()

    def _take(self, data: bytes, flag: int, most: int) -> None:
        self._count += 1
        if self._count > 1 and not self._streams_requests:
            raise ServiceError(Code.INTERNAL, "grpc: a request of one message with two messages")
        if len(self._messages) >= MOST_WAITING or self._waiting > MOST_WAITING_BYTES:
            raise ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: more messages than the handler reads")
        message = plain_message(data, flag, gzipped=self.head.gzipped, most=most)
        self._hold(len(message))
        self._waiting += len(message)
        self._messages.append(message)

    def _hold(self, size: int) -> None:
        request = self._stream.request
        if request is not None and not request.hold(size):
            raise ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too much is under way for callers who are not known")

    def _release(self, size: int) -> None:
        if self._stream.request is not None:
            self._stream.request.release(size)
