"""Validate the parts that several commands share: task queues, priorities, ids, search attributes.

A `*_fault` function returns what is wrong, in Temporal's words, or an empty text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import task_queue_pb2

from whistlestop.common import task_queues
from whistlestop.history.core import retry
from whistlestop.history.core.commands.errors import BadCommand

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.core.workflow_task.causes import Cause

RESERVED_ID_PREFIXES = ("temporal-sys-scheduler:", "temporal-sys-activity:", "temporal-sys-nexus-operation:")
"""The prefixes of the server's own runs, which share the namespace of workflow ids."""
FAIRNESS_KEY_BYTES = 64


def task_queue_fault(queue: taskqueue_pb.TaskQueue, default_name: str, own_queue: str, id_length: int) -> str:
    """Complete a task queue; return what is wrong with it, or an empty text."""
    if queue.kind == task_queue_pb2.TASK_QUEUE_KIND_UNSPECIFIED:
        queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    if not queue.name:
        if not default_name:
            return "missing task queue name"
        queue.name = default_name
    if len(queue.name.encode()) > id_length:
        return "taskQueue length exceeds limit"
    if queue.name.startswith(task_queues.RESERVED_PREFIX):
        return task_queues.RESERVED
    if (
        queue.kind == task_queue_pb2.TASK_QUEUE_KIND_STICKY
        and queue.normal_name
        and len(queue.normal_name.encode()) > id_length
    ):
        return "taskQueue length exceeds limit"
    return task_queues.internal_fault(queue.name, own_queue)


def priority_fault(priority: common_pb.Priority) -> str:
    """Return what is wrong with a priority, or an empty text."""
    if priority.priority_key < 0:
        return "priority key can't be negative"
    if len(priority.fairness_key.encode()) > FAIRNESS_KEY_BYTES:
        return "fairness key length exceeds limit"
    if priority.fairness_weight < 0:
        return "must be greater than zero"
    return ""


def queue_text(queue: taskqueue_pb.TaskQueue) -> str:
    """Return the task queue as error messages show it."""
    return str(queue).strip().replace("\n", " ").replace(": ", ":")


def too_long(text: str, run: Run) -> bool:
    """Return whether an id or a name is too long, in bytes."""
    return len(text.encode()) > run.limits.id_length


_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


def is_uuid(text: str) -> bool:
    """Return whether the text has the form of a UUID, as a run id must; False if empty."""
    return _UUID.fullmatch(text) is not None


def check_namespace(run: Run, cause: Cause, namespace: str) -> None:
    """Raise BadCommand for another namespace, unless the configuration allows cross-namespace commands."""
    if namespace and namespace != run.state.namespace and not run.limits.cross_namespace_commands:
        raise BadCommand(cause, "cross namespace commands are not allowed")


def namespace_id_of(run: Run, namespace: str) -> str:
    """Return the id of the namespace that a command names; by default the run's own."""
    return run.namespace_ids.get(namespace, run.state.namespace_id)


def workflow_retry_fault(policy: common_pb.RetryPolicy, run: Run) -> str:
    """Complete a retry policy; return what is wrong with it, or an empty text."""
    retry.set_defaults(policy, run.limits.workflow_retry)
    return retry.fault(policy)


def check_search_attributes(
    run: Run, attributes: common_pb.SearchAttributes, prefix: str, suffix: str, *, namespace: str = ""
) -> None:
    """Raise BadCommand for unknown attributes or wrong types in the named namespace (by default the run's own).

    Nothing is checked when the run was loaded without a check function.
    """
    if run.check_search_attributes is None:
        return
    fault = run.check_search_attributes(attributes, namespace or run.state.namespace)
    if not fault:
        return
    if "has no mapping defined" not in fault:
        fault = f"{prefix}{fault}{suffix}"
    raise BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES, fault)
