"""The interface for metrics: services call it, and the process decides who records them.

Every method is called on hot paths, so an implementation adds a number and returns. Label values come from small
fixed sets, and never contain names of workflows, task queues or users, or payloads.
"""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """A recorder of what the services do."""

    def request(self, rpc: str, code: str, seconds: float) -> None:
        """Record that an RPC of the public API ended with gRPC status `code` (`OK`, `NOT_FOUND`, …) after `seconds`."""
        ...

    def transition(self) -> None:
        """Record a committed transition."""
        ...

    def conflict(self, kind: str) -> None:
        """Record a commit that lost against another writer: `version` of a run, or `current` run of a workflow id."""
        ...

    def tasks_added(self, task_type: int, count: int) -> None:
        """Record that `count` tasks of a type (Temporal's TaskQueueType) were written."""
        ...


class NoMetrics:
    """Records nothing."""

    def request(self, rpc: str, code: str, seconds: float) -> None:
        """Record nothing."""
        return

    def transition(self) -> None:
        return None

    def conflict(self, kind: str) -> None:
        """Record nothing."""
        return

    def tasks_added(self, task_type: int, count: int) -> None:
        """Record nothing."""
        return


NO_METRICS: Metrics = NoMetrics()
