"""Apply the events of signals and cancellation requests to other executions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def derived_uuid(run_id: str, event_id: int) -> str:
    """Return an id for what an event requests of another execution; it is derived, so that a rebuild gives the same."""
    digest = hashlib.blake2b(f"{run_id}:{event_id}".encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def _external_initiated(map_field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        external = getattr(state, map_field)[event.event_id]
        external.initiated_event_id = event.event_id
        external.initiated_event_batch_id = batch_id
        external.request_id = derived_uuid(_writer_of(state, event.event_id), event.event_id)

    return applier


def _writer_of(state: MutableState, event_id: int) -> str:
    """Return the run that wrote the event: after a reset, requests to others are repeated under the original ids."""
    for branch in state.branches:
        if branch.first_event_id <= event_id < branch.next_event_id:
            return branch.branch_id
    return state.run_id


def _external_over(map_field: str, field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        getattr(state, map_field).pop(getattr(event, field).initiated_event_id, None)

    return applier


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _external_initiated("external_signals"),
    et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_over(
        "external_signals", "signal_external_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: _external_over(
        "external_signals", "external_workflow_execution_signaled_event_attributes"
    ),
    et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _external_initiated("external_cancels"),
    et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_over(
        "external_cancels", "request_cancel_external_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _external_over(
        "external_cancels", "external_workflow_execution_cancel_requested_event_attributes"
    ),
}
