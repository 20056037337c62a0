"""Measure tasks per second over the last 30 seconds, in a handful of counters."""

from __future__ import annotations

from whistlestop.common.clock import SECOND_NS

_BUCKET_NS = 5 * SECOND_NS
_BUCKETS = 7
_WINDOW_NS = 30 * SECOND_NS


class Rate:
    """A sliding window of five-second buckets."""

    __slots__ = ("_at", "_bucket_start_ns", "_counts", "_start_ns")

    def __init__(self, now_ns: int) -> None:
        self._start_ns = now_ns
        self._bucket_start_ns = now_ns
        self._counts = [0] * _BUCKETS
        self._at = 0

    def add(self, now_ns: int, n: int = 1) -> None:
        """Count `n` more at `now_ns`, which must not decrease between calls."""
        if now_ns - self._bucket_start_ns >= _BUCKET_NS:
            self._advance(now_ns)
        self._counts[self._at] += n

    def per_second(self, now_ns: int) -> float:
        """Return the average per second over the window, or over the lifetime while that is shorter."""
        self._advance(now_ns)
        elapsed_ns = min(now_ns - self._bucket_start_ns + _WINDOW_NS, now_ns - self._start_ns)
        if elapsed_ns <= 0:
            return 0.0
        return sum(self._counts) * SECOND_NS / elapsed_ns

    def _advance(self, now_ns: int) -> None:
        passed = (now_ns - self._bucket_start_ns) // _BUCKET_NS
        if passed <= 0:
            return
        for _ in range(min(passed, _BUCKETS)):
            self._at = (self._at + 1) % _BUCKETS
            self._counts[self._at] = 0
        self._bucket_start_ns += passed * _BUCKET_NS


class RatePair:
    """The rates at which one priority of a queue is filled and emptied; both start together, to be comparable."""

    __slots__ = ("added", "dispatched")

    def __init__(self, now_ns: int) -> None:
        self.added = Rate(now_ns)
        self.dispatched = Rate(now_ns)
