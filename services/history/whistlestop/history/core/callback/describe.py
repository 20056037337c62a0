"""Describe a completion callback of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from whistlestop.history.core.state_pb2 import CallbackInfo
from whistlestop.history.core.times import set_timestamp

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState


_CALLBACK_STATES = {
    CallbackInfo.STANDBY: common_enums.CALLBACK_STATE_STANDBY,
    CallbackInfo.SCHEDULED: common_enums.CALLBACK_STATE_SCHEDULED,
    CallbackInfo.BACKING_OFF: common_enums.CALLBACK_STATE_BACKING_OFF,
    CallbackInfo.FAILED: common_enums.CALLBACK_STATE_FAILED,
    CallbackInfo.SUCCEEDED: common_enums.CALLBACK_STATE_SUCCEEDED,
}


def callback(state: MutableState, index: int) -> workflow_pb.CallbackInfo:
    """Return the callback at that index and its state. Raise IndexError."""
    about = workflow_pb.CallbackInfo()
    about.callback.CopyFrom(state.completion_callbacks[index])
    if index < len(state.callback_infos) and state.callback_infos[index].update_id:
        about.trigger.update_workflow_execution_completed.update_id = state.callback_infos[index].update_id
    else:
        about.trigger.workflow_closed.SetInParent()
    if index >= len(state.callback_infos):
        # It was attached by a release that did not record more.
        set_timestamp(about.registration_time, state.start_ns)
        about.state = common_enums.CALLBACK_STATE_STANDBY
        return about
    info = state.callback_infos[index]
    set_timestamp(about.registration_time, info.registered_ns)
    about.state = _CALLBACK_STATES[info.state]
    about.attempt = info.attempt
    if info.last_complete_ns:
        set_timestamp(about.last_attempt_complete_time, info.last_complete_ns)
    if info.HasField("last_failure"):
        about.last_attempt_failure.CopyFrom(info.last_failure)
    if info.next_attempt_ns:
        set_timestamp(about.next_attempt_schedule_time, info.next_attempt_ns)
    return about
