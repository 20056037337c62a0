"""Whom a store tells of what it writes, where nothing lives that could tell them afterwards.

A function ends when it has answered. So its store finds out with the very statement that writes tasks which workers
sleep until there are some, and lets the database itself hint to long-lived servers that share it. Both cost no
statement of their own, and nothing where nobody sleeps and no server lives.

A worker's wake queue is registered by rows among those of pollers (`wake_record`): under the negative type of the
queue that it wants to hear of, with the name of the wake queue for an identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import closed_topic, execution_topic, query_topic, task_queue_topic
from whistlestop.storage.records import PollerRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from whistlestop.storage.records import MatchingTask, Transition


@dataclass(frozen=True, slots=True)
class Outreach:
    """What a function's store does beyond writing."""

    wake: Callable[[Iterable[str]], None] | None = None
    """Told the names of the wake queues that wait for what was just written. Called on the event loop."""
    sender: str = ""
    """Under which name servers are hinted to by NOTIFY; empty: not at all. Only Postgres itself can."""


def wake_record(
    namespace_id: str, task_queue: str, task_type: int, wake_queue: str, now_ns: int, expires_ns: int
) -> PollerRecord:
    """Whoever adds a task to the queue before `expires_ns` is to wake `wake_queue`."""
    return PollerRecord(namespace_id, task_queue, -task_type, wake_queue, now_ns, b"", expires_ns)


def wake_keys(tasks: Iterable[MatchingTask]) -> list[tuple[str, str, int]]:
    """Under which keys the wake queues of these tasks' queues stand."""
    return sorted({(task.key.namespace_id, task.key.task_queue, -task.key.task_type) for task in tasks})


def tasks_of(transition: Transition) -> list[MatchingTask]:
    """All matching tasks that the transition adds."""
    return [task for write in transition.writes for task in write.tasks_added]


def topics_of(transition: Transition) -> list[str]:
    """What others may wait for, and this commit brings about."""
    keys = [write.key for write in transition.writes]
    topics = [execution_topic(key.namespace_id, key.workflow_id, key.run_id) for key in keys]
    # A run that closes writes its visibility row.
    rows = [write.visibility for write in transition.writes if write.visibility is not None]
    topics += (closed_topic(row.key.namespace_id, row.key.run_id) for row in rows if row.close_time_us is not None)
    topics += (query_topic(query_id) for query_id, _, _ in transition.answers)
    return topics + task_topics(tasks_of(transition))


def task_topics(tasks: Iterable[MatchingTask]) -> list[str]:
    """The topics of the queues that the tasks stand in."""
    return [task_queue_topic(task.key.namespace_id, task.key.task_queue, task.key.task_type) for task in tasks]
