"""The counters of a process, which a scrape converts for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


TASK_TYPES = {1: "workflow", 2: "activity", 3: "nexus"}
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class PrometheusMetrics:
    """Plain counters that implement whistlestop.common.metrics.Metrics; a scrape converts them for Prometheus.

    So a server that is never scraped does not import Prometheus' library, and counting a call is a few additions.
    """

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        """By RPC and gRPC status."""
        self.seconds: dict[str, Durations] = {}
        """By RPC."""
        self.transitions = 0
        self.conflicts: dict[str, int] = {}
        """By kind."""
        self.tasks = dict.fromkeys(TASK_TYPES, 0)
        """Tasks written to task queues, by Temporal's TaskQueueType."""
        self.backlog: dict[int, int] = {}
        """Waiting tasks, by Temporal's TaskQueueType."""
        self.failed_rows: dict[str, int] = {}
        """Stored rows that could not be processed, by table."""
        self.rows_set_aside: dict[str, int] = {}
        self.polls: tuple[Callable[[], dict[str, int]], Callable[[], int]] | None = None
        """Returns how polls ended, and how many are waiting."""
        self.loops: Callable[[], dict[str, int]] | None = None
        """Returns the number of failed turns of each background loop."""

    def request(self, rpc: str, code: str, seconds: float) -> None:
        """Record that an RPC of the public API ended with gRPC status `code` (`OK`, `NOT_FOUND`, …) after `seconds`."""
        key = (rpc, code)
        self.requests[key] = self.requests.get(key, 0) + 1
        durations = self.seconds.get(rpc)
        if durations is None:
            durations = self.seconds[rpc] = Durations()
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.sum_s += seconds

    def transition(self) -> None:
        self.transitions += 1

    def conflict(self, kind: str) -> None:
        """Record a commit that lost against another writer: `version` of a run, or `current` run of a workflow id."""
        self.conflicts[kind] = self.conflicts.get(kind, 0) + 1

    def tasks_added(self, task_type: int, count: int) -> None:
        """Record that `count` tasks of a type (Temporal's TaskQueueType) were written."""
        if task_type in self.tasks:
            self.tasks[task_type] += count

    def set_backlog(self, counts: dict[int, int]) -> None:
        """Set the numbers of waiting tasks, by Temporal's TaskQueueType."""
        self.backlog = {number: counts.get(number, 0) for number in TASK_TYPES}

    def row_failed(self, table: str) -> None:
        """Count a row of that table that could not be processed."""
        self.failed_rows[table] = self.failed_rows.get(table, 0) + 1

    def set_aside(self, counts: dict[str, int]) -> None:
        """Set the numbers of rows that are set aside, by table."""
        self.rows_set_aside = {"timer_tasks": 0, **counts}

    def watch_polls(self, read: Callable[[], dict[str, int]], waiting: Callable[[], int]) -> None:
        """Set the functions that return how polls ended, and how many are waiting."""
        self.polls = read, waiting

    def watch_loops(self, read: Callable[[], dict[str, int]]) -> None:
        """Set the function that returns the number of failed turns of each background loop."""
        self.loops = read


class Durations:
    """A histogram of durations."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        """By bucket; the last one is for durations above all bounds."""
        self.sum_s = 0.0
