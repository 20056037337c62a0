"""Child workflows from their parent's side: initiated by a command, started, closed.

The start, and everything that a child reports to its parent, is delivered by transfer tasks (see history/transfers).
The child's first commit and the parent's started event are one transaction, so neither exists without the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.versioning.deployments import named_version
from whistlestop.history.core.chain import cron
from whistlestop.history.core.chain.start import (
    copy_memo_and_search_attributes,
    round_to_millisecond,
    run_timeout,
    task_timeout,
)
from whistlestop.history.core.commands import external_attributes, sizes
from whistlestop.history.core.commands.faults import namespace_id_of
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import duration_ns, set_duration, set_timestamp
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.common.v1 import message_pb2 as common_pb

    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import Child, MutableState
    from whistlestop.history.core.transition.run import Run

CLOSE_POLICY_REASON = "by parent close policy"


def initiate(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command StartChildWorkflowExecution. Raise BadCommand."""
    run = completion.run
    attributes = command.start_child_workflow_execution_command_attributes
    external_attributes.start_child_workflow(run, attributes)
    sizes.check_pending_children(run)
    event = run.event(et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED)
    a = event.start_child_workflow_execution_initiated_event_attributes
    a.namespace = attributes.namespace or run.state.namespace
    a.namespace_id = namespace_id_of(run, attributes.namespace)
    for field in (
        "workflow_type",
        "task_queue",
        "input",
        "header",
        "retry_policy",
        "priority",
    ):
        if attributes.HasField(field):
            getattr(a, field).CopyFrom(getattr(attributes, field))
    copy_memo_and_search_attributes(a, attributes)
    if attributes.HasField("workflow_execution_timeout"):
        a.workflow_execution_timeout.CopyFrom(attributes.workflow_execution_timeout)
    for field in ("workflow_run_timeout", "workflow_task_timeout"):
        getattr(a, field).CopyFrom(getattr(attributes, field))
    for field in (
        "workflow_id",
        "parent_close_policy",
        "control",
        "workflow_id_reuse_policy",
        "cron_schedule",
        "inherit_build_id",
    ):
        setattr(a, field, getattr(attributes, field))
    a.workflow_task_completed_event_id = completion.completed_event_id
    time_skipping_state.hand_on_to_child(run.state, a)
    run.append(event)
    child = run.state.children[event.event_id]
    run.add_transfer(
        "start_child",
        TransferData(
            initiated_event_id=event.event_id,
            initiated_event_batch_id=child.initiated_event_batch_id,
            target_namespace_id=a.namespace_id,
            target_workflow_id=a.workflow_id,
        ),
    )
    return event


def started_attributes(
    parent: MutableState,
    event: history_pb.HistoryEvent,
    *,
    now_ns: int,
    limits: Limits,
    deployments: NamespaceDeployments,
) -> history_pb.WorkflowExecutionStartedEventAttributes:
    """Return the attributes of the child's first event, from the parent's initiated event."""
    initiated = event.start_child_workflow_execution_initiated_event_attributes
    now_ns += duration_ns(initiated.time_skipping_state_propagation.initial_skipped_duration)
    a = history_pb.WorkflowExecutionStartedEventAttributes(attempt=1)
    for field in (
        "workflow_type", "task_queue", "header", "input", "retry_policy",
        "time_skipping_config", "time_skipping_state_propagation",
    ):  # fmt: skip
        if initiated.HasField(field):
            getattr(a, field).CopyFrom(getattr(initiated, field))
    copy_memo_and_search_attributes(a, initiated)
    priority = merged_priority(parent.priority, initiated.priority)
    if priority.ByteSize() or initiated.HasField("priority") or parent.HasField("priority"):
        a.priority.CopyFrom(priority)
    a.parent_workflow_namespace = parent.namespace
    a.parent_workflow_namespace_id = parent.namespace_id
    a.parent_workflow_execution.workflow_id = parent.workflow_id
    a.parent_workflow_execution.run_id = parent.run_id
    a.parent_initiated_event_id = event.event_id
    a.root_workflow_execution.workflow_id = parent.root_workflow_id
    a.root_workflow_execution.run_id = parent.root_run_id
    _hand_on_version(parent, initiated, a, deployments)
    a.cron_schedule = initiated.cron_schedule
    execution_ns = duration_ns(initiated.workflow_execution_timeout)
    run_ns = run_timeout(duration_ns(initiated.workflow_run_timeout), execution_ns)
    if initiated.HasField("workflow_execution_timeout"):
        set_duration(a.workflow_execution_timeout, execution_ns)
    set_duration(a.workflow_run_timeout, run_ns)
    set_duration(a.workflow_task_timeout, task_timeout(duration_ns(initiated.workflow_task_timeout), run_ns, limits))
    if execution_ns:
        set_timestamp(a.workflow_execution_expiration_time, round_to_millisecond(now_ns + execution_ns))
    backoff_ns = 0
    if initiated.cron_schedule:
        a.initiator = wf_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        backoff_ns = cron.first_backoff(initiated.cron_schedule, now_ns)
    set_duration(a.first_workflow_task_backoff, backoff_ns)
    return a


def _hand_on_version(
    parent: MutableState,
    initiated: history_pb.StartChildWorkflowExecutionInitiatedEventAttributes,
    a: history_pb.WorkflowExecutionStartedEventAttributes,
    deployments: NamespaceDeployments,
) -> None:
    """Pass on the parent's version or build id to a child; deployments do not extend to other namespaces."""
    if initiated.inherit_build_id and not versioning_state.behavior_of(parent):
        build_ids.hand_on(parent, a)
    if initiated.namespace_id != parent.namespace_id:
        return
    override = parent.versioning_info.versioning_override
    if named_version(override) is not None:
        a.versioning_override.CopyFrom(override)
    versioning.hand_on(parent, a, deployments)


def merged_priority(base: common_pb.Priority, override: common_pb.Priority) -> common_pb.Priority:
    """Return the child's priority; fields that it leaves unset are its parent's."""
    merged = type(base)()
    merged.CopyFrom(base)
    merged.priority_key = override.priority_key or base.priority_key
    merged.fairness_key = override.fairness_key or base.fairness_key
    merged.fairness_weight = override.fairness_weight or base.fairness_weight
    return merged


def record_started(run: Run, initiated: history_pb.HistoryEvent, child_run_id: str) -> None:
    """Write the event that the child of this initiated event was started."""
    attributes = initiated.start_child_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
    a = event.child_workflow_execution_started_event_attributes
    a.namespace = attributes.namespace
    a.namespace_id = attributes.namespace_id
    a.initiated_event_id = initiated.event_id
    a.workflow_execution.workflow_id = attributes.workflow_id
    a.workflow_execution.run_id = child_run_id
    a.workflow_type.CopyFrom(attributes.workflow_type)
    if attributes.HasField("header"):
        a.header.CopyFrom(attributes.header)
    run.append(event)
    workflow_task.schedule_if_none(run)


def record_start_failed(
    run: Run,
    initiated: history_pb.HistoryEvent,
    cause: failed_cause_pb2.StartChildWorkflowExecutionFailedCause.ValueType,
) -> None:
    """Write the event that the child of this initiated event could not be started."""
    attributes = initiated.start_child_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED)
    a = event.start_child_workflow_execution_failed_event_attributes
    a.namespace = attributes.namespace
    a.namespace_id = attributes.namespace_id
    a.workflow_id = attributes.workflow_id
    a.workflow_type.CopyFrom(attributes.workflow_type)
    a.cause = cause
    a.control = attributes.control
    a.initiated_event_id = initiated.event_id
    run.append(event)
    workflow_task.schedule_if_none(run)


_CLOSED = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: (
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        "workflow_execution_completed_event_attributes",
        "child_workflow_execution_completed_event_attributes",
        ("result",),
    ),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: (
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        "workflow_execution_failed_event_attributes",
        "child_workflow_execution_failed_event_attributes",
        ("failure", "retry_state"),
    ),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: (
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        "workflow_execution_canceled_event_attributes",
        "child_workflow_execution_canceled_event_attributes",
        ("details",),
    ),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: (
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        "workflow_execution_timed_out_event_attributes",
        "child_workflow_execution_timed_out_event_attributes",
        ("retry_state",),
    ),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: (
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        "workflow_execution_terminated_event_attributes",
        "child_workflow_execution_terminated_event_attributes",
        (),
    ),
}


def record_closed(run: Run, child: Child, child_run_id: str, closing: history_pb.HistoryEvent) -> None:
    """Record the child's closing event in the parent's history."""
    event_type, source_field, field, copied = _CLOSED[closing.event_type]
    source = getattr(closing, source_field)
    event = run.event(event_type)
    a = getattr(event, field)
    a.namespace = child.namespace
    a.namespace_id = child.namespace_id
    a.workflow_execution.workflow_id = child.workflow_id
    a.workflow_execution.run_id = child_run_id
    a.workflow_type.name = child.workflow_type
    a.initiated_event_id = child.initiated_event_id
    a.started_event_id = child.started_event_id
    for name in copied:
        if name == "retry_state":
            a.retry_state = source.retry_state
        elif source.HasField(name):
            getattr(a, name).CopyFrom(getattr(source, name))
    run.append(event)
    workflow_task.schedule_if_none(run)


def on_close(run: Run, closing: history_pb.HistoryEvent, *, notify_parent: bool = True) -> None:
    """Notify the parent of the closing of `run`, unless the chain goes on, and apply the parent close policies."""
    state = run.state
    if notify_parent and state.parent.workflow_id and closing.event_type in _CLOSED:
        data = TransferData(
            initiated_event_id=state.parent.initiated_event_id,
            target_namespace_id=state.parent.namespace_id,
            target_workflow_id=state.parent.workflow_id,
            target_run_id=state.parent.run_id,
            request_id=state.first_run_id,
        )
        data.close_event.CopyFrom(closing)
        run.add_transfer("child_closed", data)
    for child in state.children.values():
        if child.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_ABANDON or not child.started_event_id:
            continue
        run.add_transfer(
            "parent_closed",
            TransferData(
                initiated_event_id=child.initiated_event_id,
                target_namespace_id=child.namespace_id,
                target_workflow_id=child.workflow_id,
                target_run_id=child.run_id,
                parent_close_policy=child.parent_close_policy,
                namespace=state.namespace,
            ),
        )
