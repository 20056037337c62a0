"""Describe a pending Nexus operation of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from whistlestop.history.core.nexus.machine import State, cancellation_of, state_of
from whistlestop.history.core.times import set_duration, set_timestamp

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import NexusAttempt, NexusOperation


_PENDING = {
    State.SCHEDULED: common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED,
    State.BACKING_OFF: common_enums.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF,
    State.STARTED: common_enums.PENDING_NEXUS_OPERATION_STATE_STARTED,
}


def pending_state(operation: NexusOperation) -> common_enums.PendingNexusOperationState.ValueType:
    """Return the state of a pending operation as Temporal shows it."""
    return _PENDING[state_of(operation)]


def pending_operation(operation: NexusOperation) -> workflow_pb.PendingNexusOperationInfo:
    """Return one operation that is scheduled, backing off or started."""
    info = workflow_pb.PendingNexusOperationInfo(
        endpoint=operation.endpoint,
        service=operation.service,
        operation=operation.operation,
        operation_id=operation.operation_token,
        operation_token=operation.operation_token,
        scheduled_event_id=operation.scheduled_event_id,
        attempt=operation.start.attempt,
        state=pending_state(operation),
    )
    set_timestamp(info.scheduled_time, operation.scheduled_ns)
    for name in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout"):
        if operation.HasField(f"{name}_ns"):  # type: ignore[arg-type]
            set_duration(getattr(info, name), getattr(operation, f"{name}_ns"))
    _fill_attempt(info, operation.start)
    if operation.cancel_requested_event_id:
        _fill_cancellation(info.cancellation_info, operation)
    return info


def _fill_attempt(
    info: workflow_pb.PendingNexusOperationInfo | workflow_pb.NexusOperationCancellationInfo, attempt: NexusAttempt
) -> None:
    info.attempt = attempt.attempt
    if attempt.last_complete_ns:
        set_timestamp(info.last_attempt_complete_time, attempt.last_complete_ns)
    if attempt.HasField("last_failure"):
        info.last_attempt_failure.CopyFrom(attempt.last_failure)
    if attempt.next_attempt_ns:
        set_timestamp(info.next_attempt_schedule_time, attempt.next_attempt_ns)


def _fill_cancellation(info: workflow_pb.NexusOperationCancellationInfo, operation: NexusOperation) -> None:
    info.SetInParent()
    if not operation.cancel_requested_ns:
        return
    set_timestamp(info.requested_time, operation.cancel_requested_ns)
    attempt = operation.cancel
    info.state = cancellation_of(attempt)
    _fill_attempt(info, attempt)
