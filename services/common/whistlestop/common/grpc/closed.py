"""Streams that are over for us, as far as it still matters what a peer may send on them (RFC 9113, section 5.1).

A stream that we ended by an answer is half closed until the peer ends it as well: what comes is checked and thrown
away. On one that we reset, anything that was on its way is ignored. On all others the peer has said that it will send
nothing more: a frame there is a fault. Which of them a stream is can be told from the streams that are remembered
here; all others below the highest number are over for both sides, except those whose number a client has skipped.

The module does no I/O. A bounded number of streams is remembered; of streams older than the oldest that was forgotten
nothing is known, and frames on them are ignored.
"""

from __future__ import annotations

from typing import Final

MOST_HALF_CLOSED: Final = 256
MOST_RESET: Final = 4_096
_MOST_SKIPPED: Final = 256
DISCARDED_AT_MOST: Final = 16 * 1024
"""Bytes that are thrown away before a peer is told to stop."""


class HalfClosed:
    """What must hold for the rest of a request that nobody waits for."""

    __slots__ = ("content_left", "discarded", "send_left")

    def __init__(self, content_left: int | None, send_left: int) -> None:
        self.content_left = content_left
        """What is still to come by the request's content-length; None without one."""
        self.send_left = send_left
        self.discarded = 0


class ClosedStreams:
    """Of one connection."""

    __slots__ = ("_forgotten", "_reset", "_skipped", "half_closed")

    def __init__(self) -> None:
        self.half_closed: dict[int, HalfClosed] = {}
        self._reset: dict[int, None] = {}
        self._skipped: list[tuple[int, int]] = []
        self._forgotten = 0
        """Of streams up to this number it is not known how they ended."""

    def answered(self, number: int, content_left: int | None, send_left: int) -> int | None:
        """We have ended a stream before its peer has; return the number of one that must be reset for it, if any."""
        self.half_closed[number] = HalfClosed(content_left, send_left)
        if len(self.half_closed) <= MOST_HALF_CLOSED:
            return None
        oldest = next(iter(self.half_closed))
        self.reset(oldest)
        return oldest

    def reset(self, number: int) -> None:
        """We have reset a stream, and the peer may not know yet."""
        self.half_closed.pop(number, None)
        self._reset[number] = None
        if len(self._reset) > MOST_RESET:
            oldest = next(iter(self._reset))
            del self._reset[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def ended(self, number: int) -> None:
        """The peer has ended the stream as well, or has reset it."""
        self.half_closed.pop(number, None)
        self._reset.pop(number, None)

    def skipped(self, last: int, number: int) -> None:
        """The peer has opened `number` after `last`: it may not use the numbers between any more."""
        self._skipped.append((last, number))
        if len(self._skipped) > _MOST_SKIPPED:
            self._forgotten = max(self._forgotten, self._skipped.pop(0)[1])

    def was_skipped(self, number: int) -> bool:
        """Return whether such a stream was never opened."""
        return any(last < number < following for last, following in self._skipped)

    def may_come(self, number: int) -> bool:
        """Return whether frames on the stream may be on their way, since the peer need not know that it is over."""
        return number in self._reset or number <= self._forgotten

    def clear(self) -> None:
        """The connection is lost."""
        self.half_closed.clear()
        self._reset.clear()
        self._skipped.clear()
