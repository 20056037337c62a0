"""Metrics of a function, written to its log in CloudWatch's embedded metric format by Powertools.

They are off unless the setting `metrics` is `on`, because CloudWatch charges for each metric of each function in
every month in which it is written. The only dimension is the function; names of workflows and queues are never
dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.functions.settings import FunctionSettings

NAMESPACE = "Whistlestop"
_TASKS = {1: "WorkflowTasksAdded", 2: "ActivityTasksAdded", 3: "NexusTasksAdded"}
_CONFLICTS = {"version": "VersionConflicts", "current": "CurrentRunConflicts"}


class FunctionMetrics:
    """The function's implementation of `whistlestop.common.metrics.Metrics`, written as one log line per invocation."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._counts: dict[str, float] = {}
        self._spans_ms: list[tuple[str, float]] = []
        self._totals: dict[str, dict[str, int]] = {}
        self._powertools: Any = None

    def count(self, name: str, number: float = 1) -> None:
        """Add to a counter. Adding 0 does not create it."""
        if number:
            self._counts[name] = self._counts.get(name, 0) + number

    def span(self, name: str, milliseconds: float) -> None:
        """Add a duration in milliseconds to the metric of that name."""
        self._spans_ms.append((name, milliseconds))

    def count_growth(self, kind: str, totals: Mapping[str, int], names: Mapping[str, str]) -> None:
        """Add to each counter in `names` by how much its total has grown since the last call."""
        before = self._totals.get(kind, {})
        for key, name in names.items():
            self.count(name, totals.get(key, 0) - before.get(key, 0))
        self._totals[kind] = dict(totals)

    def request(self, rpc: str, code: str, seconds: float) -> None:
        """Record that an RPC of the public API ended with gRPC status `code` (`OK`, `NOT_FOUND`, …) after `seconds`."""
        self.count("Requests")
        if code != "OK":
            self.count("RequestsFailed")
        self.span("RequestTime", seconds * 1000)

    def transition(self) -> None:
        self.count("Transitions")

    def conflict(self, kind: str) -> None:
        """Record a commit that lost against another writer: `version` of a run, or `current` run of a workflow id."""
        self.count(_CONFLICTS.get(kind, "Conflicts"))

    def tasks_added(self, task_type: int, count: int) -> None:
        """Record that `count` tasks of a type (Temporal's TaskQueueType) were written."""
        self.count(_TASKS.get(task_type, "TasksAdded"), count)

    def flush(self) -> None:
        """Write what was counted since the last flush; nothing if nothing was counted."""
        if not self._counts and not self._spans_ms:
            return
        if self._powertools is None:
            # Imported on first use, so that an instance without metrics does not pay for it.
            from aws_lambda_powertools.metrics import Metrics

            self._powertools = Metrics(namespace=NAMESPACE, service=self._function)
        for name, number in self._counts.items():
            self._powertools.add_metric(name, "Count", number)
        for name, milliseconds in self._spans_ms:
            self._powertools.add_metric(name, "Milliseconds", milliseconds)
        self._counts.clear()
        self._spans_ms.clear()
        self._powertools.flush_metrics()


def metrics_of(function: str, settings: FunctionSettings) -> FunctionMetrics | None:
    """Return the function's metrics, or None when they are off."""
    return FunctionMetrics(function) if settings.metrics == "on" else None
