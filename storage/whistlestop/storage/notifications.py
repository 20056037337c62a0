"""Notifications that a store sends on behalf of a function, which ends when it has answered.

The statement that writes tasks also finds the sleeping workers that wait for them, and lets the database notify the
long-lived servers that share it (NOTIFY). This needs no statement of its own, and costs nothing where no worker sleeps
and no server runs.

A worker's notification queue is registered as a row among the pollers (`notification_queue_record`): its task type is
the negative type of the queue that the worker waits for, its identity is the name of the notification queue.
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
class Notifications:
    """What a function's store does beside writing."""

    notify_workers: Callable[[Iterable[str]], None] | None = None
    """Called on the event loop with the names of the notification queues that wait for what was just written."""
    sender: str = ""
    """The sender's name in NOTIFY payloads; empty: no NOTIFY is sent. Aurora DSQL has no NOTIFY."""


def notification_queue_record(
    namespace_id: str, task_queue: str, task_type: int, notification_queue: str, now_ns: int, expires_ns: int
) -> PollerRecord:
    """Return the row by which a task added to the queue before `expires_ns` wakes `notification_queue`."""
    return PollerRecord(namespace_id, task_queue, -task_type, notification_queue, now_ns, b"", expires_ns)


def notification_queue_keys(tasks: Iterable[MatchingTask]) -> list[tuple[str, str, int]]:
    """Return the keys (namespace_id, task_queue, negative task_type) of these tasks' notification queues.

    Empty without tasks.
    """
    return sorted({(task.key.namespace_id, task.key.task_queue, -task.key.task_type) for task in tasks})


def tasks_of(transition: Transition) -> list[MatchingTask]:
    """Return all matching tasks that the transition adds; empty if it adds none."""
    return [task for write in transition.writes for task in write.tasks_added]


def topics_of(transition: Transition) -> list[str]:
    """Return the topics of everything that others may wait for and this commit brings about."""
    keys = [write.key for write in transition.writes]
    topics = [execution_topic(key.namespace_id, key.workflow_id, key.run_id) for key in keys]
    # Only a closing run's visibility row has a close time.
    rows = [write.visibility for write in transition.writes if write.visibility is not None]
    topics += (closed_topic(row.key.namespace_id, row.key.run_id) for row in rows if row.close_time_us is not None)
    topics += (query_topic(query_id) for query_id, _, _ in transition.answers)
    return topics + task_topics(tasks_of(transition))


def task_topics(tasks: Iterable[MatchingTask]) -> list[str]:
    """Return the topic of each task's queue, in the order of the tasks."""
    return [task_queue_topic(task.key.namespace_id, task.key.task_queue, task.key.task_type) for task in tasks]
