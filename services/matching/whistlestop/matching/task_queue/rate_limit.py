"""The rate at which one queue may dispatch tasks.

A token bucket is kept as a single time: the bucket is empty until `ready_ns`. A dispatch moves that time forward by one
interval, and an idle period leaves room for a burst. Pure: the caller passes the time.

As in Temporal, the limit is the one set by UpdateTaskQueueConfig, else the one that the last poller brought, and never
more than the system's.
"""

from __future__ import annotations

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.lazy_dataclasses import dataclass

NEVER_NS = 1 << 62
"""A time after every other: the next token of a queue whose limit is zero."""

_NO_RATE = 1e-9
_MAX_DEBT_TOKENS = 1
"""After a limit is raised, nobody waits longer than for this many tokens of the new one."""


def _spent(ready_ns: int, now_ns: int, interval_ns: int, span_ns: int) -> int:
    """Return when, in nanoseconds, a bucket that fills in `span_ns` has its next token after one was taken now."""
    # A burst one interval smaller than the bucket keeps "N per second" from letting N + 1 tasks through at once.
    return max(ready_ns, now_ns - max(span_ns - interval_ns, 0)) + interval_ns


@dataclass(frozen=True, slots=True)
class KeyRate:
    """The rate limit of each fairness key: tasks per second at weight 1, proportional to the weight."""

    rps: float
    burst_s: float

    @property
    def paused(self) -> bool:
        """Whether nothing may be dispatched."""
        return self.rps <= _NO_RATE

    def spent(self, ready_ns: int, now_ns: int, weight: float) -> int:
        """Return when, in nanoseconds, the bucket of a key has its next token after one was taken now."""
        return _spent(ready_ns, now_ns, self.interval_ns(weight), int(self.burst_s * SECOND_NS))

    def returned(self, ready_ns: int, weight: float) -> int:
        """Return when, in nanoseconds, the bucket of a key has its next token after one was given back."""
        return ready_ns - self.interval_ns(weight)

    def interval_ns(self, weight: float) -> int:
        """Return the nanoseconds between two tokens of a key."""
        return NEVER_NS if self.paused else min(int(SECOND_NS / (self.rps * weight)), NEVER_NS)


class RateLimiter:
    """The token bucket of one queue."""

    __slots__ = (
        "_api_rps",
        "_interval_ns",
        "_span_ns",
        "_system_rps",
        "_worker_rps",
        "ready_ns",
        "rps",
        "source",
    )

    def __init__(self, system_rps: float, burst_s: float) -> None:
        self._system_rps = system_rps
        self._span_ns = int(burst_s * SECOND_NS)
        self._api_rps: float | None = None
        self._worker_rps: float | None = None
        self.ready_ns = 0
        self.rps = 0.0
        self.source: queue_enums.RateLimitSource.ValueType = queue_enums.RATE_LIMIT_SOURCE_SYSTEM
        self._interval_ns = 0
        self._settle(0)

    def set_api_rps(self, rps: float | None, now_ns: int) -> None:
        """Set the limit of the queue's stored settings; None: there is none."""
        if rps != self._api_rps:
            self._api_rps = rps
            self._settle(now_ns)

    def set_worker_rps(self, rps: float | None, now_ns: int) -> None:
        """Set the limit that came with the latest poll; None: it had none."""
        if rps != self._worker_rps:
            self._worker_rps = rps
            self._settle(now_ns)

    @property
    def is_set(self) -> bool:
        """Whether a limit below the system's is set."""
        return self.source != queue_enums.RATE_LIMIT_SOURCE_SYSTEM

    def take(self, now_ns: int) -> bool:
        """Take one token. Return False, and change nothing, when the bucket is empty."""
        if self.ready_ns > now_ns:
            return False
        self.ready_ns = _spent(self.ready_ns, now_ns, self._interval_ns, self._span_ns)
        return True

    def give_back(self) -> None:
        """Return the token of a task that was not started."""
        if self.ready_ns < NEVER_NS:
            self.ready_ns -= self._interval_ns

    def _settle(self, now_ns: int) -> None:
        wanted, source = self._system_rps, queue_enums.RATE_LIMIT_SOURCE_SYSTEM
        if self._api_rps is not None:
            if self._api_rps < wanted:
                wanted, source = self._api_rps, queue_enums.RATE_LIMIT_SOURCE_API
        elif self._worker_rps is not None and self._worker_rps < wanted:
            wanted, source = self._worker_rps, queue_enums.RATE_LIMIT_SOURCE_WORKER
        self.rps, self.source = wanted, source
        if wanted <= _NO_RATE:
            self._interval_ns = self.ready_ns = NEVER_NS
            return
        self._interval_ns = int(SECOND_NS / wanted)
        self.ready_ns = min(self.ready_ns, now_ns + _MAX_DEBT_TOKENS * self._interval_ns)
