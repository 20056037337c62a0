"""A stream, which is one call: plain state, changed by the layers of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from whistlestop.net.budget import Request
    from whistlestop.net.grpc.head import Head


class Receiver(Protocol):
    """Takes the messages of a call as they arrive."""

    def feed(self, data: bytes, most: int, *, ended: bool) -> None:
        """Take received bytes, of messages of up to `most` bytes. Raises ServiceError or TooLarge."""
        ...


class Stream:
    """A stream from its HEADERS until our END_STREAM or a reset by either side; then it is `closed` and forgotten."""

    __slots__ = (
        "admitted", "begun", "body", "call", "closed", "content_left", "credit", "deadline", "drained", "ended", "head",
        "headers_sent", "number", "outgoing", "receive_left", "request", "running", "seen_unsent", "task",
        "trailers",
    )  # fmt: skip

    def __init__(self, number: int, head: Head, receive_left: int) -> None:
        self.number = number
        self.head = head
        self.receive_left = receive_left
        """How much the peer may send before we grant more."""
        self.credit = 0
        """How much we may send, less the connection's initial window, which a peer may change for all streams."""
        self.content_left = head.content_length
        """Bytes still to come according to content-length; None without one."""
        self.ended = False
        """The peer has sent everything."""
        self.closed = False
        self.admitted = True
        """The caller is authenticated, or needs no authentication."""
        self.begun = False
        """The call has begun: it was not refused by its headers."""
        self.request: Request | None = None
        """The budget's record, while the caller is unauthenticated or if the method is public."""
        self.body: bytes | bytearray = b""
        """What was received of the request so far."""
        self.task: asyncio.Task[None] | None = None
        self.running = False
        """The task counts as running."""
        self.deadline: float | None = None
        self.call: Receiver | None = None
        """What takes the messages of a streaming call."""
        self.headers_sent = False
        self.outgoing: memoryview | None = None
        """Data that waits for flow control."""
        self.seen_unsent = -1
        """How much data waited at the last check; see `Outbound.look_at_unsent`."""
        self.trailers: bytes | None = None
        """The trailers that follow `outgoing` and end the stream; None while there may be more messages."""
        self.drained: asyncio.Future[None] | None = None
        """Resolved when `outgoing` has been sent, for a handler that waits for it."""
