"""What a command has to look like, and what it means where it says nothing.

Rules of this file: one function for each command type. It raises `BadCommand` with Temporal's cause and wording, or
leaves the attributes complete (defaults filled in, spans cut to what may be). Filling in twice changes nothing, since a
decision may be made again after a conflict. Events copy what stands here afterwards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common import cron
from whistlestop.history.core import retry, sizes
from whistlestop.history.core.completion import BadCommand, Cause
from whistlestop.history.core.start import run_timeout, task_timeout
from whistlestop.history.core.times import duration_ns, set_duration

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

    from whistlestop.history.core.run import Run

RESERVED_QUEUE_PREFIX = "/_sys/"
RESERVED_ID_PREFIXES = ("temporal-sys-scheduler:", "temporal-sys-activity:", "temporal-sys-nexus-operation:")
"""Of the server's own runs, which share the ids of workflows."""
PER_NAMESPACE_WORKER_QUEUE = "temporal-sys-per-ns-tq"
FAIRNESS_KEY_BYTES = 64


# ---- what several commands have in common ----------------------------------------------------------------------------


def task_queue_fault(queue: taskqueue_pb.TaskQueue, default_name: str, own_queue: str, id_length: int) -> str:
    """Complete a task queue, or say what is wrong with it."""
    if queue.kind == task_queue_pb2.TASK_QUEUE_KIND_UNSPECIFIED:
        queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    if not queue.name:
        if not default_name:
            return "missing task queue name"
        queue.name = default_name
    if len(queue.name.encode()) > id_length:
        return "taskQueue length exceeds limit"
    if queue.name.startswith(RESERVED_QUEUE_PREFIX):
        return f"task queue name cannot start with reserved prefix {RESERVED_QUEUE_PREFIX}"
    if (
        queue.kind == task_queue_pb2.TASK_QUEUE_KIND_STICKY
        and queue.normal_name
        and len(queue.normal_name.encode()) > id_length
    ):
        return "taskQueue length exceeds limit"
    if queue.name == PER_NAMESPACE_WORKER_QUEUE != own_queue:
        fault = f"cannot use internal per-namespace task queue:{queue.name}"
        return f"{fault} (in parent component task queue: {own_queue})" if own_queue else fault
    return ""


def priority_fault(priority: common_pb.Priority) -> str:
    """What is wrong with a priority, or nothing."""
    if priority.priority_key < 0:
        return "priority key can't be negative"
    if len(priority.fairness_key.encode()) > FAIRNESS_KEY_BYTES:
        return "fairness key length exceeds limit"
    if priority.fairness_weight < 0:
        return "must be greater than zero"
    return ""


def _shown(queue: taskqueue_pb.TaskQueue) -> str:
    return str(queue).strip().replace("\n", " ").replace(": ", ":")


def _too_long(text: str, run: Run) -> bool:
    return len(text.encode()) > run.limits.id_length


_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


def is_uuid(text: str) -> bool:
    """Whether the text can be a run id."""
    return _UUID.fullmatch(text) is not None


def _check_namespace(run: Run, cause: Cause, namespace: str) -> None:
    if namespace and namespace != run.state.namespace:
        raise BadCommand(cause, "cross namespace commands are not allowed")


def _workflow_retry_fault(policy: common_pb.RetryPolicy, run: Run) -> str:
    retry.set_defaults(policy, run.limits)
    return retry.fault(policy)


def _check_search_attributes(run: Run, attributes: common_pb.SearchAttributes, prefix: str, suffix: str) -> None:
    """Names and types, when the shell said which attributes the namespace has."""
    if run.check_search_attributes is None:
        return
    fault = run.check_search_attributes(attributes)
    if not fault:
        return
    if "has no mapping defined" not in fault:
        fault = f"{prefix}{fault}{suffix}"
    raise BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES, fault)


# ---- activities ------------------------------------------------------------------------------------------------------


def schedule_activity(run: Run, a: command_pb.ScheduleActivityTaskCommandAttributes, *, is_set: bool = True) -> None:
    """ScheduleActivityTask."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
    _take_fairness_key(a)
    fault = (
        "ScheduleActivityTaskCommandAttributes is not set on ScheduleActivityTaskCommand."
        if not is_set
        else activity_fault(run, a, run.state.run_timeout_ns)
    )
    if fault:
        raise BadCommand(cause, fault)
    if a.use_workflow_build_id and a.task_queue.name != run.state.task_queue and not run.state.assigned_build_id:
        raise BadCommand(cause, "Activity with UseCompatibleVersion cannot run on different task queue.")
    sizes.check_blob(
        run, cause, a.input.ByteSize(), "ScheduleActivityTaskCommandAttributes.Input exceeds size limit."
    )
    sizes.check_pending_activities(run)


def _take_fairness_key(a: command_pb.ScheduleActivityTaskCommandAttributes) -> None:
    """An activity id may carry a fairness key, for SDKs that have no field for it yet."""
    prefix = "x-temporal-internal-fairness-key["
    if not a.activity_id.startswith(prefix):
        return
    inner, bracket, _ = a.activity_id.removeprefix(prefix).partition("]")
    key, colon, weight = inner.partition(":")
    if bracket and colon:
        try:
            a.priority.fairness_weight = float(weight)
        except ValueError:
            return
        a.priority.fairness_key = key


def activity_fault(run: Run, a: command_pb.ScheduleActivityTaskCommandAttributes, run_timeout_ns: int) -> str:
    """Complete the attributes of an activity, or say what is wrong with them."""
    if not a.HasField("task_queue"):
        return "taskQueue is not set"
    fault = task_queue_fault(a.task_queue, "", run.state.task_queue, run.limits.id_length)
    if fault:
        return fault
    if not a.activity_id:
        return "activityId is not set"
    if not a.activity_type.name:
        return "activityType is not set"
    a.retry_policy.SetInParent()
    retry.set_defaults(a.retry_policy, run.limits)
    fault = retry.fault(a.retry_policy)
    if fault:
        return fault
    for what, text in (("activityId", a.activity_id), ("activityType", a.activity_type.name)):
        if _too_long(text, run):
            return f"{what} exceeds length limit. Length={len(text.encode())} Limit={run.limits.id_length}"
    fault = priority_fault(a.priority)
    if fault:
        return f"invalid priorities: {fault}"
    return activity_timeouts_fault(a, run_timeout_ns)


def activity_timeouts_fault(a: command_pb.ScheduleActivityTaskCommandAttributes, run_timeout_ns: int) -> str:
    """Derive the timeouts that are not set from those that are, none longer than the run; or say what is wrong."""
    spans: tuple[tuple[str, Duration], ...] = (
        ("ScheduleToCloseTimeout", a.schedule_to_close_timeout),
        ("ScheduleToStartTimeout", a.schedule_to_start_timeout),
        ("StartToCloseTimeout", a.start_to_close_timeout),
        ("HeartbeatTimeout", a.heartbeat_timeout),
    )
    for name, span in spans:
        fault = retry.duration_fault(span)
        if fault:
            return f"invalid {name}: {fault}"
    to_close, to_start, start_to_close, heartbeat = (duration_ns(span) for _, span in spans)
    if to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    elif start_to_close:
        to_close = run_timeout_ns
        to_start = to_start or run_timeout_ns
    else:
        return (
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. "
            f"ActivityId={a.activity_id} ActivityType={a.activity_type.name}"
        )
    if run_timeout_ns:
        to_close = min(to_close, run_timeout_ns)
        to_start = min(to_start, run_timeout_ns)
        start_to_close = min(start_to_close, run_timeout_ns)
        heartbeat = min(heartbeat, run_timeout_ns)
    heartbeat = min(heartbeat, start_to_close)
    for (_, span), value in zip(spans, (to_close, to_start, start_to_close, heartbeat), strict=True):
        set_duration(span, value)
    return ""


def request_cancel_activity(a: command_pb.RequestCancelActivityTaskCommandAttributes, *, is_set: bool = True) -> None:
    """RequestCancelActivityTask."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES
    if not is_set:
        raise BadCommand(
            cause, "RequestCancelActivityTaskCommandAttributes is not set on RequestCancelActivityTaskCommand."
        )
    if a.scheduled_event_id <= 0:
        raise BadCommand(cause, "ScheduledEventId is not set on RequestCancelActivityTaskCommand.")


# ---- timers, markers, attributes -------------------------------------------------------------------------------------


def start_timer(run: Run, a: command_pb.StartTimerCommandAttributes, *, is_set: bool = True) -> None:
    """StartTimer."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
    if not is_set:
        raise BadCommand(cause, "StartTimerCommandAttributes is not set on StartTimerCommand.")
    _check_id(run, cause, "TimerId", a.timer_id, "StartTimerCommand")
    fault = retry.duration_fault(a.start_to_fire_timeout)
    if fault:
        raise BadCommand(
            cause, f"An invalid StartToFireTimeout is set on StartTimerCommand: {fault}. TimerId={a.timer_id}"
        )


def cancel_timer(run: Run, a: command_pb.CancelTimerCommandAttributes, *, is_set: bool = True) -> None:
    """CancelTimer."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    if not is_set:
        raise BadCommand(cause, "CancelTimerCommandAttributes is not set on CancelTimerCommand.")
    _check_id(run, cause, "TimerId", a.timer_id, "CancelTimerCommand")


def record_marker(run: Run, a: command_pb.RecordMarkerCommandAttributes, *, is_set: bool = True) -> None:
    """RecordMarker."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
    if not is_set:
        raise BadCommand(cause, "RecordMarkerCommandAttributes is not set on RecordMarkerCommand.")
    _check_id(run, cause, "MarkerName", a.marker_name, "RecordMarkerCommand")
    sizes.check_blob(
        run, cause, sizes.payloads_map_size(a.details), "RecordMarkerCommandAttributes.Details exceeds size limit."
    )


def _check_id(run: Run, cause: Cause, what: str, value: str, command: str) -> None:
    if not value:
        raise BadCommand(cause, f"{what} is not set on {command}.")
    if _too_long(value, run):
        raise BadCommand(
            cause,
            f"{what} on {command} exceeds length limit. "
            f"{what}={value} Length={len(value.encode())} Limit={run.limits.id_length}",
        )


def upsert_search_attributes(
    run: Run, a: command_pb.UpsertWorkflowSearchAttributesCommandAttributes, *, is_set: bool = True
) -> None:
    """UpsertWorkflowSearchAttributes."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    command = "UpsertWorkflowSearchAttributesCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    if not a.HasField("search_attributes"):
        raise BadCommand(cause, f"SearchAttributes is not set on {command}.")
    if not a.search_attributes.indexed_fields:
        raise BadCommand(cause, f"IndexedFields is not set on {command}.")
    _check_search_attributes(run, a.search_attributes, "", "")
    sizes.check_blob(
        run,
        cause,
        sizes.payload_map_size(a.search_attributes.indexed_fields),
        f"{command}Attributes exceeds size limit.",
    )
    sizes.check_search_attributes(run, cause, sizes.merged_search_attributes(run, a.search_attributes))


def modify_properties(
    run: Run, a: command_pb.ModifyWorkflowPropertiesCommandAttributes, *, is_set: bool = True
) -> None:
    """ModifyWorkflowProperties."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES
    command = "ModifyWorkflowPropertiesCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    if not a.HasField("upserted_memo"):
        raise BadCommand(cause, f"UpsertedMemo is not set on {command}.")
    if not a.upserted_memo.fields:
        raise BadCommand(cause, f"UpsertedMemo.Fields is not set on {command}.")
    sizes.check_blob(
        run, cause, sizes.payload_map_size(a.upserted_memo.fields), f"{command}Attributes exceeds size limit."
    )
    sizes.check_memo(
        run, cause, sizes.merged_memo(run, a.upserted_memo), f"{command}Attributes. Memo exceeds size limit."
    )


# ---- the end of a run ------------------------------------------------------------------------------------------------


def complete_workflow(
    run: Run, a: command_pb.CompleteWorkflowExecutionCommandAttributes, *, is_set: bool = True
) -> None:
    """CompleteWorkflowExecution."""
    if not is_set:
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES,
            "CompleteWorkflowExecutionCommandAttributes is not set on CompleteWorkflowExecutionCommand.",
        )
    sizes.check_blob(
        run,
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,  # Temporal's choice
        a.result.ByteSize(),
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.",
    )


def fail_workflow(run: Run, a: command_pb.FailWorkflowExecutionCommandAttributes, *, is_set: bool = True) -> None:
    """FailWorkflowExecution."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
    if not is_set:
        raise BadCommand(cause, "FailWorkflowExecutionCommandAttributes is not set on FailWorkflowExecutionCommand.")
    if not a.HasField("failure"):
        raise BadCommand(cause, "Failure is not set on FailWorkflowExecutionCommand.")
    sizes.check_blob(
        run, cause, a.failure.ByteSize(), "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit."
    )


def cancel_workflow(a: command_pb.CancelWorkflowExecutionCommandAttributes, *, is_set: bool = True) -> None:
    """CancelWorkflowExecution."""
    if not is_set:
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES,
            "CancelWorkflowExecutionCommandAttributes is not set on CancelWorkflowExecutionCommand.",
        )


def continue_as_new(
    run: Run, a: command_pb.ContinueAsNewWorkflowExecutionCommandAttributes, *, is_set: bool = True
) -> None:
    """ContinueAsNewWorkflowExecution: what it leaves open is inherited from this run."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
    command = "ContinueAsNewWorkflowExecutionCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    state = run.state
    a.workflow_type.name = a.workflow_type.name or state.workflow_type
    name = a.workflow_type.name
    if _too_long(name, run):
        raise BadCommand(
            cause,
            f"WorkflowType on {command} exceeds length limit. "
            f"WorkflowType={name} Length={len(name.encode())} Limit={run.limits.id_length}",
        )
    fault = task_queue_fault(a.task_queue, state.task_queue, state.task_queue, run.limits.id_length)
    what = f"WorkflowType={name} TaskQueue={_shown(a.task_queue)}"
    if fault:
        raise BadCommand(cause, f"error validating {command} TaskQueue: {fault}. {what}")
    for field, span in (
        ("WorkflowRunTimeout", a.workflow_run_timeout),
        ("WorkflowTaskTimeout", a.workflow_task_timeout),
        ("BackoffStartInterval", a.backoff_start_interval),
    ):
        fault = retry.duration_fault(span)
        if fault:
            raise BadCommand(cause, f"Invalid {field} on {command}: {fault}. {what}")
    wanted_ns = duration_ns(a.workflow_run_timeout) or state.run_timeout_ns
    run_timeout_ns = run_timeout(wanted_ns, state.execution_timeout_ns)
    set_duration(a.workflow_run_timeout, run_timeout_ns)
    wanted_ns = duration_ns(a.workflow_task_timeout) or state.task_timeout_ns
    set_duration(a.workflow_task_timeout, task_timeout(wanted_ns, run_timeout_ns, run.limits))
    if a.HasField("retry_policy"):
        fault = _workflow_retry_fault(a.retry_policy, run)
        if fault:
            raise BadCommand(cause, f"invalid WorkflowRetryPolicy on {command}: {fault}. {what}")
    _check_search_attributes(run, a.search_attributes, f"invalid SearchAttributes on {command}: ", f". {what}")
    if a.inherit_build_id and a.task_queue.name != state.task_queue and not state.assigned_build_id:
        raise BadCommand(cause, "ContinueAsNew with UseCompatibleVersion cannot run on different task queue.")
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes. Input exceeds size limit.")
    sizes.check_memo(run, cause, a.memo, f"{command}Attributes. Memo exceeds size limit.")
    sizes.check_search_attributes(run, cause, a.search_attributes)


# ---- other executions ------------------------------------------------------------------------------------------------


def start_child_workflow(
    run: Run, a: command_pb.StartChildWorkflowExecutionCommandAttributes, *, is_set: bool = True
) -> None:
    """StartChildWorkflowExecution."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
    command = "StartChildWorkflowExecutionCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    _check_namespace(run, cause, a.namespace)
    a.namespace = a.namespace or run.state.namespace
    fault = _child_fault(run, a, command)
    if fault:
        raise BadCommand(cause, fault)
    what = f"WorkflowId={a.workflow_id} WorkflowType={a.workflow_type.name} Namespace={a.namespace}"
    _check_search_attributes(
        run, a.search_attributes, "invalid SearchAttributes on StartChildWorkflowCommand: ", f". {what}"
    )
    fault = priority_fault(a.priority)
    if fault:
        raise BadCommand(cause, fault)
    state = run.state
    fault = task_queue_fault(a.task_queue, state.task_queue, state.task_queue, run.limits.id_length)
    if fault:
        raise BadCommand(
            cause, f"invalid TaskQueue on {command}: {fault}. {what} TaskQueue={_shown(a.task_queue)}"
        )
    run_timeout_ns = run_timeout(duration_ns(a.workflow_run_timeout), duration_ns(a.workflow_execution_timeout))
    set_duration(a.workflow_run_timeout, run_timeout_ns)
    set_duration(
        a.workflow_task_timeout, task_timeout(duration_ns(a.workflow_task_timeout), run_timeout_ns, run.limits)
    )
    if a.inherit_build_id and a.task_queue.name != state.task_queue and not state.assigned_build_id:
        raise BadCommand(
            cause, "StartChildWorkflowExecution with UseCompatibleVersion cannot run on different task queue."
        )
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes. Input exceeds size limit.")
    sizes.check_memo(run, cause, a.memo, f"{command}Attributes.Memo exceeds size limit.")
    sizes.check_search_attributes(run, cause, a.search_attributes)
    if a.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_UNSPECIFIED:
        a.parent_close_policy = wf_enums.PARENT_CLOSE_POLICY_TERMINATE
    if a.workflow_id_reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED:
        a.workflow_id_reuse_policy = wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


def _child_fault(run: Run, a: command_pb.StartChildWorkflowExecutionCommandAttributes, command: str) -> str:
    workflow_id, name, namespace, limit = a.workflow_id, a.workflow_type.name, a.namespace, run.limits.id_length
    what = f"WorkflowId={workflow_id} WorkflowType={name} Namespace={namespace}"
    if not workflow_id:
        return f"Required field WorkflowId is not set on {command}. WorkflowType={name} Namespace={namespace}"
    if not name:
        return f"Required field WorkflowType is not set on {command}. WorkflowId={workflow_id} Namespace={namespace}"
    if _too_long(namespace, run):
        return f"Namespace on {command} exceeds length limit. {what} Length={len(namespace.encode())} Limit={limit}"
    if workflow_id.startswith(RESERVED_ID_PREFIXES):
        return f"WorkflowId on {command} cannot start with reserved prefix {workflow_id.partition(':')[0]}:. {what}"
    if _too_long(workflow_id, run):
        return (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={workflow_id} "
            f"Length={len(workflow_id.encode())} Limit={limit} WorkflowType={name} Namespace={namespace}"
        )
    if _too_long(name, run):
        return (
            f"WorkflowType on {command} exceeds length limit. WorkflowId={workflow_id} WorkflowType={name} "
            f"Length={len(name.encode())} Limit={limit} Namespace={namespace}"
        )
    for field, span in (
        ("WorkflowExecutionTimeout", a.workflow_execution_timeout),
        ("WorkflowRunTimeout", a.workflow_run_timeout),
        ("WorkflowTaskTimeout", a.workflow_task_timeout),
    ):
        fault = retry.duration_fault(span)
        if fault:
            return f"Invalid {field} on {command}: {fault}. {what}"
    if a.HasField("retry_policy"):
        fault = _workflow_retry_fault(a.retry_policy, run)
        if fault:
            return f"invalid WorkflowRetryPolicy on {command}: {fault}. {what}"
    if a.cron_schedule:
        try:
            cron.parse(a.cron_schedule)
        except ValueError:
            return f"invalid CronSchedule on {command}: invalid CronSchedule.. {what}"
    return ""


def signal_external_workflow(
    run: Run, a: command_pb.SignalExternalWorkflowExecutionCommandAttributes, *, is_set: bool = True
) -> None:
    """SignalExternalWorkflowExecution."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
    command = "SignalExternalWorkflowExecutionCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    if not a.HasField("execution"):
        raise BadCommand(cause, f"Execution is not set on {command}.")
    _check_namespace(run, cause, a.namespace)
    workflow_id, run_id, namespace, name = a.execution.workflow_id, a.execution.run_id, a.namespace, a.signal_name
    limit = run.limits.id_length
    fault = ""
    if not workflow_id:
        fault = f"WorkflowId is not set on {command}. Namespace={namespace} RunId={run_id} SignalName={name}"
    elif _too_long(workflow_id, run):
        fault = (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={workflow_id} "
            f"Length={len(workflow_id.encode())} Limit={limit} Namespace={namespace} RunId={run_id} SignalName={name}"
        )
    elif run_id and not is_uuid(run_id):
        fault = (
            f"Invalid RunId set on {command}. "
            f"WorkflowId={workflow_id} Namespace={namespace} RunId={run_id} SignalName={name}"
        )
    elif not name:
        fault = f"SignalName is not set on {command}. WorkflowId={workflow_id} Namespace={namespace} RunId={run_id}"
    if fault:
        raise BadCommand(cause, fault)
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes.Input exceeds size limit.")


def request_cancel_external_workflow(
    run: Run, a: command_pb.RequestCancelExternalWorkflowExecutionCommandAttributes, *, is_set: bool = True
) -> None:
    """RequestCancelExternalWorkflowExecution."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES
    command = "RequestCancelExternalWorkflowExecutionCommand"
    if not is_set:
        raise BadCommand(cause, f"{command}Attributes is not set on {command}.")
    _check_namespace(run, cause, a.namespace)
    what = f"WorkflowId={a.workflow_id} RunId={a.run_id} Namespace={a.namespace}"
    fault = ""
    if not a.workflow_id:
        fault = f"WorkflowId is not set on {command}. Namespace={a.namespace} RunId={a.run_id}"
    elif _too_long(a.workflow_id, run):
        fault = (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={a.workflow_id} "
            f"Length={len(a.workflow_id.encode())} Limit={run.limits.id_length} "
            f"RunId={a.run_id} Namespace={a.namespace}"
        )
    elif a.run_id and not is_uuid(a.run_id):
        fault = f"Invalid RunId set on {command}. {what}"
    elif _starts_child_in_this_task(run, a.workflow_id):
        fault = f"Start and RequestCancel for child workflow is not allowed in same workflow task. {what}"
    if fault:
        raise BadCommand(cause, fault)


def _starts_child_in_this_task(run: Run, workflow_id: str) -> bool:
    return any(
        event.HasField("start_child_workflow_execution_initiated_event_attributes")
        and event.start_child_workflow_execution_initiated_event_attributes.workflow_id == workflow_id
        for event in run.batch
    )


def protocol_message(a: command_pb.ProtocolMessageCommandAttributes, *, is_set: bool = True) -> None:
    """ProtocolMessage."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
    if not is_set:
        raise BadCommand(cause, "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand.")
    if not a.message_id:
        raise BadCommand(cause, "MessageID is not set on ProtocolMessageCommand.")
