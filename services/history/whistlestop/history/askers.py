"""Callers that wait in this process for an answer that comes by a row: to a query, or to a Nexus request of outside.

The row says until when its caller waits, by the wall clock, for those who find it in another process. In this process
the caller's own deadline counts, which stands on the steady clock: whoever sets the wall clock ends no wait.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.common.clock import Clock
    from whistlestop.storage.records import ExecutionKey, QueryRecord

KEEP_NS = 10 * SECOND_NS
"""How long a row outlives its caller's deadline."""


class Askers:
    """Until when each of them waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[ExecutionKey, int, int]] = {}
        """By query: the run, the deadline, and when the row expires."""

    @contextmanager
    def waiting(self, query_id: str, key: ExecutionKey, deadline_ns: int) -> Iterator[int]:
        """Somebody waits until `deadline_ns` of the steady clock. Gives the time of day at which its row expires."""
        expires_ns = self._clock.now_ns() + deadline_ns - self._clock.steady_ns() + KEEP_NS
        self._waiting[query_id] = (key, deadline_ns, expires_ns)
        try:
            yield expires_ns
        finally:
            self._waiting.pop(query_id, None)  # who asks under one id twice leaves twice

    def since_ns(self, key: ExecutionKey) -> int:
        """Rows of that run which expire later than this may have a caller who waits."""
        mine = (expires_ns - 1 for asked, _, expires_ns in self._waiting.values() if asked == key)
        return min((self._clock.now_ns(), *mine))

    def left_ns(self, record: QueryRecord) -> int:
        """For how long the row's caller still waits; not positive where it does not."""
        found = self._waiting.get(record.query_id)
        if found is not None:
            return found[1] - self._clock.steady_ns()
        return record.expires_ns - KEEP_NS - self._clock.now_ns()
