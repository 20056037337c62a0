"""Encode fresh tasks as a message, by which history in another process passes them to waiting polls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.proto.internal_pb2 import OfferTasksRequest
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from collections.abc import Iterable


def request_of(tasks: Iterable[MatchingTask]) -> OfferTasksRequest:
    """Return the request that passes these tasks on."""
    request = OfferTasksRequest()
    for task in tasks:
        key = task.key
        request.tasks.add(
            namespace_id=key.namespace_id,
            task_queue=key.task_queue,
            task_type=key.task_type,
            priority=key.priority,
            task_id=key.task_id,
            workflow_id=task.workflow_id,
            run_id=task.run_id,
            scheduled_event_id=task.scheduled_event_id,
            stamp=task.stamp,
            created_ns=task.created_ns,
            query_id=task.query_id,
            data=task.data,
            sticky=task.sticky,
        )
    return request


def tasks_of(request: OfferTasksRequest) -> list[MatchingTask]:
    """Return the tasks in the request, in its order; empty if there are none."""
    return [
        MatchingTask(
            TaskKey(each.namespace_id, each.task_queue, each.task_type, each.priority, each.task_id),
            each.workflow_id,
            each.run_id,
            each.scheduled_event_id,
            each.stamp,
            each.created_ns,
            each.query_id,
            each.data,
            each.sticky,
        )
        for each in request.tasks
    ]
