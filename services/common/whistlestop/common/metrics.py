"""What is counted, as a port: services call it, a shell decides who listens.

Every method is called on hot paths: an implementation adds a number and returns. Names of workflows, task queues'
users and payloads never become labels; label values come from small fixed sets.
"""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """A listener for what the services do."""

    def request(self, rpc: str, code: str, seconds: float) -> None:
        """An RPC of the public API ended with the gRPC status `code` (`OK`, `NOT_FOUND`, …) after `seconds`."""
        ...

    def transition(self) -> None:
        """A transition was committed."""
        ...

    def conflict(self, kind: str) -> None:
        """A commit lost against another writer: `version` of a run, or `current` run of a workflow id."""
        ...

    def tasks_added(self, task_type: int, count: int) -> None:
        """`count` tasks of a kind (Temporal's TaskQueueType) were written."""
        ...


class NoMetrics:
    """Nobody listens."""

    def request(self, rpc: str, code: str, seconds: float) -> None:
        return None

    def transition(self) -> None:
        return None

    def conflict(self, kind: str) -> None:
        return None

    def tasks_added(self, task_type: int, count: int) -> None:
        return None


NO_METRICS: Metrics = NoMetrics()
