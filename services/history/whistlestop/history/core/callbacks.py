"""Completion callbacks: they stand by until their run ends for good (or their update), and are then called until heard.

A run that ended goes on changing here: each attempt is written down, for DescribeWorkflowExecution to show.
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
from whistlestop.history.core.state_pb2 import CallbackInfo, TransferData

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import MutableState

_MOST_DOUBLINGS = 40
KIND = "nexus_callback"
"""Of outbox rows."""
CLOSED_BEFORE_COMPLETED = failure_pb.Failure(
    message="Workflow Update failed because the Workflow completed before the Update completed.", source="Server"
)
CLOSED_BEFORE_COMPLETED.application_failure_info.type = "AcceptedUpdateCompletedWorkflow"
CLOSED_BEFORE_COMPLETED.application_failure_info.non_retryable = True


def on_close(run: Run, closing: history_pb.HistoryEvent) -> None:
    """Have them called: an update's in any case, the run's own unless it is retried or goes on as new."""
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
    """How it ended: a workflow by its last event, a standalone activity by its outcome."""
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
    """Raise FAILED_PRECONDITION when the run would owe too many."""
    present, most = len(run.state.completion_callbacks), run.limits.callbacks_per_execution
    if more and present + more > most:
        kind = "an activity" if run.state.HasField("activity_execution") else "a workflow"
        raise failed_precondition(
            f"cannot attach more than {most} callbacks to {kind} ({present} callbacks already attached)"
        )


def destination_of(callback: common_pb.Callback.Nexus) -> str:
    """Return what a circuit breaker goes by: scheme and host of the callback's URL."""
    parts = urlsplit(callback.url)
    return f"{parts.scheme}://{parts.netloc}"


def on_update_completed(run: Run, update_id: str, outcome: update_pb.Outcome) -> None:
    """Have those called that wait for the update."""
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
    """What the next run of the chain calls when it ends: an update's callbacks stay with their run."""
    return [
        callback
        for index, callback in enumerate(state.completion_callbacks)
        if index >= len(state.callback_infos) or not state.callback_infos[index].update_id
    ]


def is_attached(state: MutableState, update_id: str, request_id: str) -> bool:
    """That request has attached its callbacks to the update already."""
    return any(info.update_id == update_id and info.request_id == request_id for info in state.callback_infos)


def info_of(state: MutableState, index: int) -> CallbackInfo:
    """What became of a callback so far."""
    while len(state.callback_infos) <= index:
        # Attached before this was kept.
        state.callback_infos.add(registered_ns=state.start_ns)
    return state.callback_infos[index]


def is_owed(state: MutableState, index: int) -> bool:
    """It is still to be called."""
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
    """It was heard."""
    _end_attempt(run, index).state = CallbackInfo.SUCCEEDED


def failed(run: Run, index: int, message: str) -> None:
    """It is refused for good."""
    info = _end_attempt(run, index)
    info.state = CallbackInfo.FAILED
    info.last_failure.message = message
    info.last_failure.application_failure_info.non_retryable = True


def put_off(run: Run, index: int, message: str) -> int:
    """Another attempt may do better: when it is due."""
    info = _end_attempt(run, index)
    info.state = CallbackInfo.BACKING_OFF
    info.last_failure.message = message
    info.last_failure.application_failure_info.SetInParent()
    limits = run.limits
    doublings = min(info.attempt - 1, _MOST_DOUBLINGS)
    info.next_attempt_ns = run.now_ns + min(limits.callback_retry_initial_ns << doublings, limits.callback_retry_max_ns)
    return info.next_attempt_ns


# ---- what is told ----------------------------------------------------------------------------------------------------


def result_of(data: TransferData) -> common_pb.Payload | None:
    """The first result of what completed; Nexus knows no more than one."""
    if data.HasField("outcome"):
        result = data.outcome.success
    else:
        result = data.close_event.workflow_execution_completed_event_attributes.result
    return result.payloads[0] if result.payloads else None


def failure_of(data: TransferData) -> failure_pb.Failure | None:
    """How an update or a run ended that did not complete, as an operation's failure; None for one that did."""
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
    """To where the callback was registered: the run's start, or the request that attached it."""
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
