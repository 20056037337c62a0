"""Apply the events of updates to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.callback.state import add_update_callbacks
from whistlestop.history.core.signal.state import note_request

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState, Update
    from whistlestop.history.core.transition.apply import Applier


def _update_admitted(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_admitted_event_attributes
    update = state.updates[a.request.meta.update_id]
    update.update_id = a.request.meta.update_id
    update.stage = update.ADMITTED
    update.request.CopyFrom(a.request)
    update.admitted_event_id = event.event_id
    request = a.request
    _note_request_of_update(state, request.request_id, event)
    add_update_callbacks(state, event, update.update_id, request.request_id, request.completion_callbacks)


def _note_request_of_update(state: MutableState, request_id: str, event: history_pb.HistoryEvent) -> None:
    """Record the request with the latest event of its update, unless it is recorded for something else."""
    known = state.request_ids[request_id].event_type if request_id in state.request_ids else None
    if request_id and known in (None, et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED):
        note_request(state, request_id, event)


def _update_accepted(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_accepted_event_attributes
    update_id = a.protocol_instance_id or a.accepted_request.meta.update_id
    update = state.updates[update_id]
    update.update_id = update_id
    update.stage = update.ACCEPTED
    update.accepted_event_id = event.event_id
    update.request_message_id = a.accepted_request_message_id
    update.sequencing_event_id = a.accepted_request_sequencing_event_id
    request_id = a.accepted_request.request_id or update.request.request_id
    _note_request_of_update(state, request_id, event)
    update.ClearField("request")
    if a.HasField("accepted_request"):
        # A worker rejected the update that an event had admitted, which is not in history: this is a new one of the
        # same id.
        update.admitted_event_id = 0
    state.update_count += 1
    request = a.accepted_request
    add_update_callbacks(state, event, update_id, request.request_id, request.completion_callbacks)


def _update_completed(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_completed_event_attributes
    update: Update = state.updates[a.meta.update_id]
    update.update_id = a.meta.update_id
    update.stage = update.COMPLETED
    update.completed_event_id = event.event_id
    update.completed_event_batch_id = batch_id
    update.accepted_event_id = a.accepted_event_id


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update_admitted,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _update_accepted,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED: _update_completed,
}
