"""Calls with streams of messages. Temporal's API has none; health's Watch and reflection have.

The code is small and bounded rather than fast. Callers of such methods need no authentication, so what they send and
do not read counts towards the budget, and the number of messages that wait for a slow handler is limited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, plain_message

if TYPE_CHECKING:
    from whistlestop.net.grpc.head import Head, Method
    from whistlestop.net.grpc.outbound import Outbound
    from whistlestop.net.grpc.stream import Stream

MAX_WAITING: Final = 100
_CPU_PER_BYTE_S: Final = 1e-9
"""CPU time of an answer, which is copied several times; the call's request is charged elsewhere."""
MAX_WAITING_BYTES: Final = 256 * 1024


class StreamingCall:
    """A call with streams of messages, as its handler sees it (`head.MessageStream`)."""

    def __init__(self, connection: Outbound, stream: Stream, method: Method) -> None:
        self._connection = connection
        self._stream = stream
        self._streams_requests = method.streams_requests
        self._messages: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of the messages that wait to be read."""
        self._count = 0
        self._arrived = asyncio.Event()
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
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._waiting -= len(message)
        self._release(len(message))
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; return when it has been passed to the transport.

        A closed stream drops it. Raise ServiceError when too much of the call is in memory.
        """
        stream = self._stream
        if stream.closed:
            return
        self._count_bytes(len(message))
        size = len(message)
        if stream.request is not None:
            stream.request.spend_cpu(size * _CPU_PER_BYTE_S)
        self._connection.send_message(stream, message)
        del message  # the stream holds a copy
        if stream.outgoing is not None:
            stream.drained = asyncio.get_running_loop().create_future()
            await stream.drained
            stream.drained = None
        self._release(size)

    def feed(self, data: bytes, most: int, *, ended: bool) -> None:
        """Take received bytes. Raises ServiceError or TooLarge."""
        partial = self._partial
        self._count_bytes(len(data))
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
        self._arrived.set()

    def _take(self, data: bytes, flag: int, most: int) -> None:
        self._count += 1
        if self._count > 1 and not self._streams_requests:
            raise ServiceError(Code.INTERNAL, "grpc: a request of one message with two messages")
        if len(self._messages) >= MAX_WAITING or self._waiting > MAX_WAITING_BYTES:
            raise ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: more messages than the handler reads")
        message = plain_message(data, flag, gzipped=self.head.gzipped, most=most)
        self._count_bytes(len(message))
        self._waiting += len(message)
        self._messages.append(message)

    def _count_bytes(self, size: int) -> None:
        request = self._stream.request
        if request is not None and not request.count_bytes(size):
            raise ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too many unfinished requests of unauthenticated callers")

    def _release(self, size: int) -> None:
        if self._stream.request is not None:
            self._stream.request.release(size)
