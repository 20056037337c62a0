"""Completion callbacks of a run: they stand by until the run ends for good, and are then called until they are heard.

A run that ended goes on changing here: each attempt is written down, for DescribeWorkflowExecution to show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.history.core.state_pb2 import CallbackInfo, TransferData

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import MutableState

_MOST_DOUBLINGS = 40


def on_close(run: Run, closing: history_pb.HistoryEvent) -> None:
    """Have them called, unless the run is retried or goes on as new."""
    if closing.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
        return
    attributes = getattr(closing, closing.WhichOneof("attributes") or "")
    if getattr(attributes, "retry_state", 0) == wf_enums.RETRY_STATE_IN_PROGRESS:
        return
    for index, callback in enumerate(run.state.completion_callbacks):
        if callback.WhichOneof("variant") != "nexus":
            continue
        info_of(run.state, index).state = CallbackInfo.SCHEDULED
        data = TransferData(callback_index=index)
        data.close_event.CopyFrom(closing)
        run.add_transfer("nexus_callback", data)


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


def result_of(closing: history_pb.HistoryEvent) -> common_pb.Payload | None:
    """The first result of a run that completed; Nexus knows no more than one."""
    result = closing.workflow_execution_completed_event_attributes.result
    return result.payloads[0] if result.payloads else None


def failure_of(closing: history_pb.HistoryEvent) -> failure_pb.Failure | None:
    """How a run ended that did not complete, as an operation's failure; None for one that did."""
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
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = state.namespace, state.workflow_id, state.run_id
    request_id = info_of(state, index).request_id
    if request_id:
        event.request_id_ref.request_id = request_id
        event.request_id_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    else:
        event.event_ref.event_id = 1
        event.event_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return link
