"""Apply signals to the run's state, and note the requests that history records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _signaled(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    state.signal_count += 1
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if not request_id:
        return
    if request_id in state.request_ids and state.request_ids[request_id].event_type != event.event_type:
        # The request also started the run or was attached to it, and its id is recorded for that.
        state.signal_request_ids.append(request_id)
    else:
        note_request(state, request_id, event)


def note_request(state: MutableState, request_id: str, event: history_pb.HistoryEvent) -> None:
    """Record by which event the run knows a request id."""
    info = state.request_ids[request_id]
    info.event_type = event.event_type
    info.event_id = event.event_id


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signaled,
}
