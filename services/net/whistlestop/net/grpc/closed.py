"""Closed streams, as far as frames may still arrive on them (RFC 9113, section 5.1).

A stream that we ended with an answer is half closed until the peer ends it as well: further frames are checked and
discarded. On a stream that we reset, frames already on their way are ignored. On all others the peer has said that it
sends nothing more, so that a frame is an error. The streams of the first two kinds are remembered here; all others
below the highest stream number are closed on both sides, except for the numbers that a client has skipped.

This module does no I/O. Only a bounded number of streams is remembered; nothing is known of streams older than the
oldest forgotten one, and frames on them are ignored.
"""

from __future__ import annotations

from typing import Final

MAX_HALF_CLOSED: Final = 256
MAX_RESET: Final = 4_096
_MAX_SKIPPED: Final = 256
DISCARDED_AT_MOST: Final = 16 * 1024
"""Bytes that are discarded before the stream is reset."""


class HalfClosed:
    """The state needed to check the rest of a request that was answered early."""

    __slots__ = ("content_left", "discarded", "send_left")

    def __init__(self, content_left: int | None, send_left: int) -> None:
        self.content_left = content_left
        """Bytes still to come according to content-length; None without one."""
        self.send_left = send_left
        self.discarded = 0


class ClosedStreams:
    """The closed streams of one connection."""

    __slots__ = ("_forgotten", "_reset", "_skipped", "half_closed")

    def __init__(self) -> None:
        self.half_closed: dict[int, HalfClosed] = {}
        self._reset: dict[int, None] = {}
        self._skipped: list[tuple[int, int]] = []
        self._forgotten = 0
        """It is unknown how streams up to this number ended."""

    def answered(self, number: int, content_left: int | None, send_left: int) -> int | None:
        """Record that we ended a stream before its peer; return the number of an older stream to reset, or None."""
        self.half_closed[number] = HalfClosed(content_left, send_left)
        if len(self.half_closed) <= MAX_HALF_CLOSED:
            return None
        oldest = next(iter(self.half_closed))
        self.reset(oldest)
        return oldest

    def reset(self, number: int) -> None:
        """Record that we reset a stream, of which the peer may not know yet."""
        self.half_closed.pop(number, None)
        self._reset[number] = None
        if len(self._reset) > MAX_RESET:
            oldest = next(iter(self._reset))
            del self._reset[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def ended(self, number: int) -> None:
        """Record that the peer has ended or reset the stream as well."""
        self.half_closed.pop(number, None)
        self._reset.pop(number, None)

    def skipped(self, last: int, number: int) -> None:
        """Record that the peer opened `number` after `last`: the numbers between cannot be used any more."""
        self._skipped.append((last, number))
        if len(self._skipped) > _MAX_SKIPPED:
            self._forgotten = max(self._forgotten, self._skipped.pop(0)[1])

    def was_skipped(self, number: int) -> bool:
        """Return whether the stream was skipped, and so never opened."""
        return any(last < number < following for last, following in self._skipped)

    def may_come(self, number: int) -> bool:
        """Return whether frames on the stream may still arrive, since the peer may not know yet that it is closed."""
        return number in self._reset or number <= self._forgotten

    def clear(self) -> None:
        """Forget everything, because the connection is lost."""
        self.half_closed.clear()
        self._reset.clear()
        self._skipped.clear()
