"""Completion callbacks: called, with retries, when their run ends for good or their update completes.

The state of a closed run still changes here: each attempt is recorded for DescribeWorkflowExecution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from whistlestop.common.errors import failed_precondition
from whistlestop.common.timing.backoff import backoff
from whistlestop.history.core.state_pb2 import CallbackInfo, TransferData

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run

KIND = "nexus_callback"
"""The kind of their transfer tasks."""
CLOSED_BEFORE_COMPLETED = failure_pb.Failure(
    message="Workflow Update failed because the Workflow completed before the Update completed.", source="Server"
)
CLOSED_BEFORE_COMPLETED.application_failure_info.type = "AcceptedUpdateCompletedWorkflow"
CLOSED_BEFORE_COMPLETED.application_failure_info.non_retryable = True


def on_close(run: Run, closing: history_pb.HistoryEvent) -> None:
    """Schedule the callbacks of a closing run: an update's in any case, the run's own unless the chain continues."""
    goes_on = closing.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
    attributes = getattr(closing, closing.WhichOneof("attributes") or "")
    goes_on = goes_on or getattr(attributes, "retry_state", 0) == wf_enums.RETRY_STATE_IN_PROGRESS
    for index in range(len(run.state.completion_callbacks)):
        info = info_of(run.state, index)
        if info.state != CallbackInfo.STANDBY:
            continue
        if info.update_id:
            _call(run, index, TransferData(outcome=update_pb.Outcome(failure=CLOSED_BEFORE_COMPLETED)))
        elif not goes_on:
            _call(run, index, _end_of(run.state, closing))


def _end_of(state: MutableState, closing: history_pb.HistoryEvent) -> TransferData:
    """Return how the run ended: a workflow by its last event, a standalone activity by its outcome."""
    data = TransferData()
    activity = state.activity_execution
    if not state.HasField("activity_execution"):
        data.close_event.CopyFrom(closing)
    elif closing.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        data.outcome.success.CopyFrom(activity.result)
    else:
        data.outcome.failure.CopyFrom(activity.failure if activity.HasField("failure") else activity.last_failure)
    return data


def check_number(run: Run, more: int) -> None:
    """Raise FAILED_PRECONDITION when the run would have too many callbacks."""
    present, most = len(run.state.completion_callbacks), run.limits.callbacks_per_execution
    if more and present + more > most:
        kind = "an activity" if run.state.HasField("activity_execution") else "a workflow"
        raise failed_precondition(
            f"cannot attach more than {most} callbacks to {kind} ({present} callbacks already attached)"
        )


def check_number_of_update(run: Run, update_id: str, present: int, more: int) -> None:
    """Raise FAILED_PRECONDITION when the update would have too many callbacks."""
    most = run.limits.callbacks_per_update
    if more and present + more > most:
        raise failed_precondition(
            f'cannot attach more than {most} callbacks to update "{update_id}" ({present} callbacks already attached)'
        )


def destination_of(callback: common_pb.Callback.Nexus) -> str:
    """Return the key of the circuit breaker: scheme and host of the callback's URL."""
    parts = urlsplit(callback.url)
    return f"{parts.scheme}://{parts.netloc}"


def on_update_completed(run: Run, update_id: str, outcome: update_pb.Outcome) -> None:
    """Schedule the callbacks that wait for the update."""
    for index in range(len(run.state.completion_callbacks)):
        info = info_of(run.state, index)
        if info.update_id == update_id and info.state == CallbackInfo.STANDBY:
            _call(run, index, TransferData(outcome=outcome))


def _call(run: Run, index: int, data: TransferData) -> None:
    if run.state.completion_callbacks[index].WhichOneof("variant") != "nexus":
        return
    info_of(run.state, index).state = CallbackInfo.SCHEDULED
    data.callback_index = index
    run.add_transfer(KIND, data)


def handed_on(state: MutableState) -> list[common_pb.Callback]:
    """Return the callbacks for the next run of the chain: those of updates stay with their run."""
    return [
        callback
        for index, callback in enumerate(state.completion_callbacks)
        if index >= len(state.callback_infos) or not state.callback_infos[index].update_id
    ]


def is_attached(state: MutableState, update_id: str, request_id: str) -> bool:
    """Return whether that request has attached its callbacks to the update already."""
    return any(info.update_id == update_id and info.request_id == request_id for info in state.callback_infos)


def info_of(state: MutableState, index: int) -> CallbackInfo:
    """Return the state of the callback at that index. It is added if an older release attached the callback."""
    while len(state.callback_infos) <= index:
        # It was attached by a release that did not record this.
        state.callback_infos.add(registered_ns=state.start_ns)
    return state.callback_infos[index]


def is_owed(state: MutableState, index: int) -> bool:
    """Return whether the callback at that index still has to be called."""
    if index >= len(state.completion_callbacks):
        return False
    return info_of(state, index).state in (CallbackInfo.SCHEDULED, CallbackInfo.BACKING_OFF)


def _end_attempt(run: Run, index: int) -> CallbackInfo:
    info = info_of(run.state, index)
    info.attempt += 1
    info.last_complete_ns = run.now_ns
    info.next_attempt_ns = 0
    info.ClearField("last_failure")
    run.changed = True
    return info


def succeeded(run: Run, index: int) -> None:
    """Record that the callback at that index was delivered."""
    _end_attempt(run, index).state = CallbackInfo.SUCCEEDED


def failed(run: Run, index: int, message: str) -> None:
    """Record that the callback was refused permanently."""
    info = _end_attempt(run, index)
    info.state = CallbackInfo.FAILED
    info.last_failure.message = message
    info.last_failure.application_failure_info.non_retryable = True


def put_off(run: Run, index: int, message: str) -> int:
    """Record a failed attempt that is retried; return when (wall clock, nanoseconds)."""
    info = _end_attempt(run, index)
    info.state = CallbackInfo.BACKING_OFF
    info.last_failure.message = message
    info.last_failure.application_failure_info.SetInParent()
    limits = run.limits
    pause_ns = backoff(limits.callback_retry_initial_ns, info.attempt, limits.callback_retry_max_ns)
    info.next_attempt_ns = run.now_ns + pause_ns
    return info.next_attempt_ns


# ---- content ---------------------------------------------------------------------------------------------------------


def result_of(data: TransferData) -> common_pb.Payload | None:
    """Return the first payload of the result, the only one that Nexus supports; None when there is none."""
    if data.HasField("outcome"):
        result = data.outcome.success
    else:
        result = data.close_event.workflow_execution_completed_event_attributes.result
    return result.payloads[0] if result.payloads else None


def failure_of(data: TransferData) -> failure_pb.Failure | None:
    """Return the failure of an update or a run that did not complete; None for one that did."""
    if data.HasField("outcome"):
        return data.outcome.failure if data.outcome.HasField("failure") else None
    closing = data.close_event
    failure = failure_pb.Failure()
    kind = closing.event_type
    if kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        failure.CopyFrom(closing.workflow_execution_failed_event_attributes.failure)
    elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
        failure.message = "operation canceled"
        failure.canceled_failure_info.SetInParent()
        attributes = closing.workflow_execution_canceled_event_attributes
        if attributes.HasField("details"):
            failure.canceled_failure_info.details.CopyFrom(attributes.details)
    elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
        failure.message = "operation terminated"
        failure.terminated_failure_info.SetInParent()
    elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
        failure.message = "operation exceeded internal timeout"
        failure.timeout_failure_info.SetInParent()
    else:
        return None
    return failure


def link_of(state: MutableState, index: int) -> common_pb.Link:
    """Return a link to where the callback was registered: the run's start, or the request that attached it."""
    link = common_pb.Link()
    if state.HasField("activity_execution"):
        activity = link.activity
        activity.namespace, activity.run_id = state.namespace, state.run_id
        activity.activity_id = state.activity_execution.activity_id
        return link
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = state.namespace, state.workflow_id, state.run_id
    info = info_of(state, index)
    if info.request_id:
        event.request_id_ref.request_id = info.request_id
        event.request_id_ref.event_type = (
            info.event_type or et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED  # type: ignore[assignment]
        )
    else:
        event.event_ref.event_id = 1
        event.event_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return link
