"""One stream, which is one call: plain state, moved by the storeys of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from whistlestop.common.budget import Request
    from whistlestop.common.grpc.head import Head
    from whistlestop.common.grpc.streaming import StreamingCall


class Stream:
    """From its HEADERS until our END_STREAM or a reset of either side; then it is `closed` and forgotten."""

    __slots__ = (
        "admitted", "begun", "body", "call", "closed", "content_left", "credit", "deadline", "drained", "ended", "head",
        "headers_sent", "number", "outgoing", "receive_left", "request", "running", "seen_unsent", "task",
        "trailers",
    )  # fmt: skip

    def __init__(self, number: int, head: Head, receive_left: int) -> None:
        self.number = number
        self.head = head
        self.receive_left = receive_left
        """What the peer may still send before we grant more."""
        self.credit = 0
        """What we may still send, less the connection's initial window, which a peer may change for all streams."""
        self.content_left = head.content_length
        """What is still to come by the content-length; None without one."""
        self.ended = False
        """The peer has sent all it will."""
        self.closed = False
        self.admitted = True
        """It is known who calls, or anybody may."""
        self.begun = False
        """It is a call, and not one that was refused at its head."""
        self.request: Request | None = None
        """As the budget counts it while it is not known who calls, or if anybody may."""
        self.body: bytes | bytearray = b""
        """What came of the request so far."""
        self.task: asyncio.Task[None] | None = None
        self.running = False
        """The task counts as running."""
        self.deadline: float | None = None
        self.call: StreamingCall | None = None
        self.headers_sent = False
        self.outgoing: memoryview | None = None
        """What waits for a window."""
        self.seen_unsent = -1
        """How much that was when it was last looked at; see `Outbound.look_at_unsent`."""
        self.trailers: bytes | None = None
        """What follows `outgoing` and ends the stream; None while there may be more."""
        self.drained: asyncio.Future[None] | None = None
        """Somebody waits for `outgoing` to be gone."""
