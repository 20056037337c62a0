"""The queues of Nexus requests: to which version of a handler's workers a request goes.

Rules of this file, which are Temporal's:
- A request is new work of its queue, whatever the version of the calling workflow: it goes to the current version of
  the deployment that serves the queue or, for a share of the requests, to the ramping one.
- Without a deployment, assignment rules decide, and then the default of the queue's compatible sets.
- Retries of a request and the request to cancel its operation go by the same request id, so they have the same place in
  a ramp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1.task_queue_pb2 import TASK_QUEUE_TYPE_NEXUS

from whistlestop.common.proto.nexus_pb2 import NexusTaskData
from whistlestop.common.versioning.build_ids import NEW_WORK, queue_of_task
from whistlestop.common.versioning.deployments import target_of, versioned_queue, versioning_data

if TYPE_CHECKING:
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.state_pb2 import NexusAttempt, NexusOperation
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.records import MatchingTask

TASK_TYPE = int(TASK_QUEUE_TYPE_NEXUS)


def queue_of_request(deployments: NamespaceDeployments, task_queue: str, request_id: str) -> str:
    """Return the queue on which a request to the workers of `task_queue` waits: that itself without any versions."""
    version, _ = target_of(deployments, task_queue, TASK_TYPE, request_id)
    if version is not None:
        return versioned_queue(task_queue, version)
    return queue_of_task(versioning_data(deployments, task_queue), task_queue, NEW_WORK, request_id)[0]


def queue_of(run: Run, task: MatchingTask, deployments: NamespaceDeployments) -> str:
    """Return the queue of an operation's task by the deployments of its namespace; its own if the task is stale."""
    found = attempt_with(run, task)
    if found is None:
        return task.key.task_queue
    # Tasks that release 0.1.0 wrote do not name the task queue: they wait on it.
    task_queue = NexusTaskData.FromString(task.data).task_queue or task.key.task_queue
    return queue_of_request(deployments, task_queue, found[0].request_id)


def attempt_with(run: Run, task: MatchingTask) -> tuple[NexusOperation, NexusAttempt] | None:
    """Return the operation and the attempt that the task belongs to; None for a stale task."""
    operation = run.state.nexus_operations.get(task.scheduled_event_id)
    if operation is None:
        return None
    attempt = operation.cancel if NexusTaskData.FromString(task.data).cancel else operation.start
    return (operation, attempt) if attempt.row.task_id == task.key.task_id else None


def caller_namespace(task: MatchingTask) -> str:
    """Return the namespace of the run to which an operation's task belongs: the queue may be in another one."""
    return NexusTaskData.FromString(task.data).namespace_id
