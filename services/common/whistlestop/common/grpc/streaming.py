"""Calls with streams of messages. Temporal's API has none; health's Watch and reflection do.

Rules of this file: small and bounded, not fast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.grpc.messages import PREFIX, PREFIX_SIZE, TooLarge, plain_message

if TYPE_CHECKING:
    from whistlestop.common.grpc.head import Head
    from whistlestop.common.grpc.outbound import Outbound
    from whistlestop.common.grpc.stream import Stream

_MOST_WAITING = 1_000


class StreamingCall:
    """What a streaming handler works with: iterate over it for messages, `send` answers, return or raise to end."""

    def __init__(self, connection: Outbound, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._messages: deque[bytes] = deque()
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
        return self._messages.popleft()

    async def send(self, message: bytes) -> None:
        """Send one message; returns when it has left for the transport."""
        stream = self._stream
        if stream.closed:
            return
        self._connection.send_message(stream, message)
        if stream.outgoing is not None:
            stream.drained = asyncio.get_running_loop().create_future()
            await stream.drained
            stream.drained = None

    def feed(self, data: bytes, most: int, *, ended: bool) -> None:
        """Take in what came. Raises ServiceError or TooLarge."""
        partial = self._partial
        partial += data
        while len(partial) >= PREFIX_SIZE:
            flag, length = PREFIX.unpack_from(partial)
            if length > most:
                raise TooLarge(length)
            end = PREFIX_SIZE + length
            if len(partial) < end:
                break
            if len(self._messages) >= _MOST_WAITING:
                raise ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: more messages than the handler reads")
            message = plain_message(bytes(partial[PREFIX_SIZE:end]), flag, gzipped=self.head.gzipped, most=most)
            self._messages.append(message)
            del partial[:end]
        if ended:
            if partial:
                raise ServiceError(Code.INTERNAL, "grpc: a message that ends early")
            self._ended = True
        self._came.set()
