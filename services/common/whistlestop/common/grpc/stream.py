"""One stream, which is one call: plain state, moved by the three storeys of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from whistlestop.common.grpc.head import Head
    from whistlestop.common.grpc.streaming import StreamingCall


class Stream:
    """From its HEADERS until our END_STREAM or a reset of either side; then it is `closed` and forgotten."""

    __slots__ = (
        "asking", "body", "call", "closed", "deadline", "drained", "ended", "head", "headers_sent", "held", "number",
        "outgoing", "receive_left", "send_left", "task", "trailers",
    )  # fmt: skip

    def __init__(self, number: int, head: Head, receive_left: int, send_left: int) -> None:
        self.number = number
        self.head = head
        self.receive_left = receive_left
        """What the peer may still send before we grant more."""
        self.send_left = send_left
        """What we may still send; negative after the peer shrank its windows."""
        self.ended = False
        """The peer has sent all it will."""
        self.closed = False
        self.body: bytes | bytearray = b""
        """What came of the request so far."""
        self.asking: asyncio.Task[None] | None = None
        """Finds out whether the caller is known, since much is coming."""
        self.held = False
        """No more may come until that is found out."""
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        self.call: StreamingCall | None = None
        self.headers_sent = False
        self.outgoing: memoryview | None = None
        """What waits for a window."""
        self.trailers: bytes | None = None
        """What follows `outgoing` and ends the stream; None while there may be more."""
        self.drained: asyncio.Future[None] | None = None
        """Somebody waits for `outgoing` to be gone."""
