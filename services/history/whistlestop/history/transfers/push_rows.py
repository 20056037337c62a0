"""The transfer tasks of versions whose workers are started on demand, which a commit writes beside their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.proto.internal_pb2 import ResetStickyTaskRequest
from whistlestop.common.versioning.deployments import (
    Version,
    pushed_version,
    version_string,
    versioned_queue,
)
from whistlestop.storage.records import ExecutionKey, TransferTask, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.ids import Ids
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.records import MatchingTask

KIND = "push"
"""The kind of the transfer task and of the timer row."""
PREFIX = "temporal-sys-push:"
STICKY_PREFIX = "temporal-sys-push-sticky:"
_WORKFLOW = int(queue_enums.TASK_QUEUE_TYPE_WORKFLOW)


def rows_for(
    tasks: Iterable[MatchingTask], deployments: NamespaceDeployments, ids: Ids, now_ns: int
) -> list[TransferTask]:
    """Return the transfer tasks for these tasks: one for each version whose workers are started on demand."""
    keys = set()
    for task in tasks:
        version = pushed_version(deployments, task.key.task_queue, task.key.task_type)
        if version is not None:
            keys.add(key_of(task.key.namespace_id, version))
    return [row_of(key, ids, now_ns) for key in sorted(keys, key=lambda key: key.workflow_id)]


def row_of(key: ExecutionKey, ids: Ids, now_ns: int) -> TransferTask:
    """Return a new transfer task of that version, due now."""
    return TransferTask(slot_of(key.namespace_id, key.workflow_id), ids.task_id(now_ns), key, KIND, b"", now_ns)


def sticky_rows(run: Run, deployments: NamespaceDeployments, ids: Ids, now_ns: int) -> list[TransferTask]:
    """Return the transfer tasks for tasks on a sticky queue of a version whose workers are started on demand.

    Empty when there is no such task.
    """
    state = run.state
    version = state.versioning_info.deployment_version
    queue = versioned_queue(state.task_queue, version)
    if not state.sticky_task_queue or pushed_version(deployments, queue, _WORKFLOW) is None:
        return []
    rows = []
    for task in run.tasks_added:
        if task.key.task_queue == state.sticky_task_queue:
            request = ResetStickyTaskRequest(
                execution={"workflow_id": task.workflow_id, "run_id": task.run_id},  # type: ignore[arg-type]
                scheduled_event_id=task.scheduled_event_id,
                stamp=task.stamp,
            )
            key = ExecutionKey(task.key.namespace_id, STICKY_PREFIX + task.key.task_queue, "")
            slot = slot_of(key.namespace_id, key.workflow_id)
            rows.append(TransferTask(slot, ids.task_id(now_ns), key, KIND, request.SerializeToString(), now_ns))
    return rows


def key_of(namespace_id: str, version: Version) -> ExecutionKey:
    """Return the key under which the rows of a version are stored."""
    return ExecutionKey(namespace_id, PREFIX + version_string(version), "")
