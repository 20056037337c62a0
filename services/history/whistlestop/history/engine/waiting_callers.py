"""Callers in this process that wait for an answer in a row: to a query, or to an external Nexus request.

The row's expiry is by the wall clock, for other processes. In this process the caller's own deadline counts, which is
by the steady clock, so that setting the wall clock ends no wait.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import ExecutionKey, QueryRecord, TaskKey

KEEP_NS = 10 * SECOND_NS
"""How long a row outlives its caller's deadline."""


class WaitingCallers:
    """The deadlines of waiting callers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[ExecutionKey, int, int]] = {}
        """By query id: the run, the deadline (steady clock), and when the row expires (wall clock)."""

    @contextmanager
    def waiting(self, query_id: str, key: ExecutionKey, deadline_ns: int) -> Iterator[int]:
        """Register a caller that waits until `deadline_ns` (steady clock); yield when its row expires (wall clock)."""
        expires_ns = self._clock.now_ns() + deadline_ns - self._clock.steady_ns() + KEEP_NS
        self._waiting[query_id] = (key, deadline_ns, expires_ns)
        try:
            yield expires_ns
        finally:
            self._waiting.pop(query_id, None)  # the same id may have been registered twice

    def since_ns(self, key: ExecutionKey) -> int:
        """Return the time after which rows of that run expire if their callers may still wait.

        In nanoseconds since the Unix epoch.
        """
        mine = (expires_ns - 1 for asked, _, expires_ns in self._waiting.values() if asked == key)
        return min((self._clock.now_ns(), *mine))

    def left_ns(self, record: QueryRecord) -> int:
        """Return how long the row's caller still waits, in nanoseconds; zero or less if it does not."""
        found = self._waiting.get(record.query_id)
        if found is not None:
            return found[1] - self._clock.steady_ns()
        return record.expires_ns - KEEP_NS - self._clock.now_ns()


async def is_waiting(store: TaskStore, row: TaskKey) -> bool:
    """Return whether no worker has taken the task yet. Raise StorageError."""
    before = (row.priority, row.task_id - 1)
    tasks = await store.list_tasks(row.namespace_id, row.task_queue, row.task_type, before, 1)
    return bool(tasks) and tasks[0].key == row
