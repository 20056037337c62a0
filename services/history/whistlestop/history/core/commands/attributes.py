"""Validate the attributes of commands and fill in their defaults.

Rules of this file: there is one function per command type. It raises `BadCommand` with Temporal's cause and wording, or
completes the attributes (defaults are set, timeouts capped). This is idempotent, since a decision may be repeated after
a conflict. Events copy the completed attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.history.core import retry
from whistlestop.history.core.chain.start import run_timeout, task_timeout
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.commands.faults import (
    check_search_attributes,
    priority_fault,
    queue_text,
    task_queue_fault,
    too_long,
    workflow_retry_fault,
)
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.core.workflow_task.causes import Cause


# ---- activities ------------------------------------------------------------------------------------------------------


def schedule_activity(run: Run, a: command_pb.ScheduleActivityTaskCommandAttributes) -> None:
    """Check and complete ScheduleActivityTask. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
    _take_fairness_key(a)
    fault = activity_fault(run, a, run.state.run_timeout_ns)
    if fault:
        raise BadCommand(cause, fault)
    if a.use_workflow_build_id and a.task_queue.name != run.state.task_queue and not run.state.assigned_build_id:
        raise BadCommand(cause, "Activity with UseCompatibleVersion cannot run on different task queue.")
    sizes.check_blob(run, cause, a.input.ByteSize(), "ScheduleActivityTaskCommandAttributes.Input exceeds size limit.")
    sizes.check_pending_activities(run)


def _take_fairness_key(a: command_pb.ScheduleActivityTaskCommandAttributes) -> None:
    """Read a fairness key from the activity id, where SDKs put it that have no field for it yet."""
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
    """Complete the attributes of an activity; return what is wrong with them, or an empty text."""
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
    retry.set_defaults(a.retry_policy, run.limits.activity_retry)
    fault = retry.fault(a.retry_policy)
    if fault:
        return fault
    for what, text in (("activityId", a.activity_id), ("activityType", a.activity_type.name)):
        if too_long(text, run):
            return f"{what} exceeds length limit. Length={len(text.encode())} Limit={run.limits.id_length}"
    fault = priority_fault(a.priority)
    if fault:
        return f"invalid priorities: {fault}"
    return activity_timeouts_fault(a, run_timeout_ns)


_ACTIVITY_TIMEOUTS = ("ScheduleToCloseTimeout", "ScheduleToStartTimeout", "StartToCloseTimeout", "HeartbeatTimeout")


def activity_timeouts_fault(a: command_pb.ScheduleActivityTaskCommandAttributes, run_timeout_ns: int) -> str:
    """Derive missing timeouts from the others, none longer than the run's; return what is wrong, or an empty text."""
    spans = (a.schedule_to_close_timeout, a.schedule_to_start_timeout, a.start_to_close_timeout, a.heartbeat_timeout)
    for name, span in zip(_ACTIVITY_TIMEOUTS, spans, strict=True):
        fault = retry.duration_fault(span)
        if fault:
            return f"invalid {name}: {fault}"
    to_close, to_start, start_to_close, heartbeat = given = tuple(map(duration_ns, spans))
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
    for span, value, before in zip(spans, (to_close, to_start, start_to_close, heartbeat), given, strict=True):
        # One that was not set is set to zero, and one with more than a second of nanoseconds is normalised.
        if value != before or not value or span.nanos >= SECOND_NS:
            set_duration(span, value)
    return ""


def request_cancel_activity(a: command_pb.RequestCancelActivityTaskCommandAttributes) -> None:
    """Check RequestCancelActivityTask. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES
    if a.scheduled_event_id <= 0:
        raise BadCommand(cause, "ScheduledEventId is not set on RequestCancelActivityTaskCommand.")


# ---- timers, markers, search attributes ------------------------------------------------------------------------------


def start_timer(run: Run, a: command_pb.StartTimerCommandAttributes) -> None:
    """Check StartTimer: id and duration. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
    _check_id(run, cause, "TimerId", a.timer_id, "StartTimerCommand")
    fault = retry.duration_fault(a.start_to_fire_timeout)
    if fault:
        raise BadCommand(
            cause, f"An invalid StartToFireTimeout is set on StartTimerCommand: {fault}. TimerId={a.timer_id}"
        )


def cancel_timer(run: Run, a: command_pb.CancelTimerCommandAttributes) -> None:
    """Check CancelTimer: the id. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    _check_id(run, cause, "TimerId", a.timer_id, "CancelTimerCommand")


def record_marker(run: Run, a: command_pb.RecordMarkerCommandAttributes) -> None:
    """Check RecordMarker: name and size. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
    _check_id(run, cause, "MarkerName", a.marker_name, "RecordMarkerCommand")
    sizes.check_blob(
        run, cause, sizes.payloads_map_size(a.details), "RecordMarkerCommandAttributes.Details exceeds size limit."
    )


def _check_id(run: Run, cause: Cause, what: str, value: str, command: str) -> None:
    if not value:
        raise BadCommand(cause, f"{what} is not set on {command}.")
    if too_long(value, run):
        raise BadCommand(
            cause,
            f"{what} on {command} exceeds length limit. "
            f"{what}={value} Length={len(value.encode())} Limit={run.limits.id_length}",
        )


def upsert_search_attributes(run: Run, a: command_pb.UpsertWorkflowSearchAttributesCommandAttributes) -> None:
    """Check UpsertWorkflowSearchAttributes. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    command = "UpsertWorkflowSearchAttributesCommand"
    if not a.HasField("search_attributes"):
        raise BadCommand(cause, f"SearchAttributes is not set on {command}.")
    if not a.search_attributes.indexed_fields:
        raise BadCommand(cause, f"IndexedFields is not set on {command}.")
    check_search_attributes(run, a.search_attributes, "", "")
    sizes.check_blob(
        run,
        cause,
        sizes.payload_map_size(a.search_attributes.indexed_fields),
        f"{command}Attributes exceeds size limit.",
    )
    sizes.check_search_attributes(run, cause, sizes.merged_search_attributes(run, a.search_attributes))


def modify_properties(run: Run, a: command_pb.ModifyWorkflowPropertiesCommandAttributes) -> None:
    """Check ModifyWorkflowProperties. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES
    command = "ModifyWorkflowPropertiesCommand"
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


# ---- closing a run ---------------------------------------------------------------------------------------------------


def complete_workflow(run: Run, a: command_pb.CompleteWorkflowExecutionCommandAttributes) -> None:
    """Check CompleteWorkflowExecution. Raise BadCommand."""
    sizes.check_blob(
        run,
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,  # Temporal's choice
        a.result.ByteSize(),
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.",
    )


def fail_workflow(run: Run, a: command_pb.FailWorkflowExecutionCommandAttributes) -> None:
    """Check FailWorkflowExecution. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
    if not a.HasField("failure"):
        raise BadCommand(cause, "Failure is not set on FailWorkflowExecutionCommand.")
    sizes.check_blob(
        run, cause, a.failure.ByteSize(), "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit."
    )


def continue_as_new(run: Run, a: command_pb.ContinueAsNewWorkflowExecutionCommandAttributes) -> None:
    """Check ContinueAsNewWorkflowExecution; unset fields are inherited from this run. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
    command = "ContinueAsNewWorkflowExecutionCommand"
    state = run.state
    a.workflow_type.name = a.workflow_type.name or state.workflow_type
    name = a.workflow_type.name
    if too_long(name, run):
        raise BadCommand(
            cause,
            f"WorkflowType on {command} exceeds length limit. "
            f"WorkflowType={name} Length={len(name.encode())} Limit={run.limits.id_length}",
        )
    fault = task_queue_fault(a.task_queue, state.task_queue, state.task_queue, run.limits.id_length)
    what = f"WorkflowType={name} TaskQueue={queue_text(a.task_queue)}"
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
        fault = workflow_retry_fault(a.retry_policy, run)
        if fault:
            raise BadCommand(cause, f"invalid WorkflowRetryPolicy on {command}: {fault}. {what}")
    check_search_attributes(run, a.search_attributes, f"invalid SearchAttributes on {command}: ", f". {what}")
    if a.inherit_build_id and a.task_queue.name != state.task_queue and not state.assigned_build_id:
        raise BadCommand(cause, "ContinueAsNew with UseCompatibleVersion cannot run on different task queue.")
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes. Input exceeds size limit.")
    sizes.check_memo(run, cause, a.memo, f"{command}Attributes. Memo exceeds size limit.")
    sizes.check_search_attributes(run, cause, a.search_attributes)
