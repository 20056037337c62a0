"""Apply the events of Nexus operations to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.times import duration_ns, timestamp_ns

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _scheduled(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.nexus_operation_scheduled_event_attributes
    operation = state.nexus_operations[event.event_id]
    operation.scheduled_event_id = event.event_id
    operation.scheduled_event_batch_id = batch_id
    operation.endpoint = a.endpoint
    operation.endpoint_id = a.endpoint_id
    operation.service = a.service
    operation.operation = a.operation
    operation.request_id = a.request_id
    if a.HasField("schedule_to_close_timeout"):
        operation.schedule_to_close_timeout_ns = duration_ns(a.schedule_to_close_timeout)
    if a.HasField("schedule_to_start_timeout"):
        operation.schedule_to_start_timeout_ns = duration_ns(a.schedule_to_start_timeout)
    if a.HasField("start_to_close_timeout"):
        operation.start_to_close_timeout_ns = duration_ns(a.start_to_close_timeout)
    operation.scheduled_ns = timestamp_ns(event.event_time)


def _started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.nexus_operation_started_event_attributes
    if a.scheduled_event_id not in state.nexus_operations:
        return
    operation = state.nexus_operations[a.scheduled_event_id]
    operation.started_ns = timestamp_ns(event.event_time)
    operation.operation_token = a.operation_token or a.operation_id
    if operation.cancel_requested_event_id:
        # Only now is there something to send the request to.
        operation.cancel_requested_ns = operation.started_ns


def _cancel_requested(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.nexus_operation_cancel_requested_event_attributes
    if a.scheduled_event_id not in state.nexus_operations:
        # The operation ended while the worker was requesting this; the event of its end follows.
        return
    operation = state.nexus_operations[a.scheduled_event_id]
    operation.cancel_requested_event_id = event.event_id
    if operation.started_ns:
        operation.cancel_requested_ns = timestamp_ns(event.event_time)


def _over(field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.nexus_operations.pop(getattr(event, field).scheduled_event_id, None)

    return applier


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: _scheduled,
    et.EVENT_TYPE_NEXUS_OPERATION_STARTED: _started,
    et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED: _cancel_requested,
    et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: _over("nexus_operation_completed_event_attributes"),
    et.EVENT_TYPE_NEXUS_OPERATION_FAILED: _over("nexus_operation_failed_event_attributes"),
    et.EVENT_TYPE_NEXUS_OPERATION_CANCELED: _over("nexus_operation_canceled_event_attributes"),
    et.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: _over("nexus_operation_timed_out_event_attributes"),
    # NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED and _FAILED change nothing that is rebuilt from history.
}
