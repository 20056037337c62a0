"""A standalone Nexus operation as DescribeNexusOperationExecution returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.history.core.nexus import standalone as nexus_execution
from whistlestop.history.core.nexus.describe import pending_state
from whistlestop.history.core.nexus.machine import cancellation_of
from whistlestop.history.core.times import set_duration, set_timestamp

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState, NexusOperation

_HIDDEN = frozenset({
    "TemporalNamespaceDivision", nexus_execution.SERVICE_ATTRIBUTE, nexus_execution.REQUEST_ATTRIBUTE,
})  # fmt: skip
_TIMED_OUT = wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT


def info(
    state: MutableState,
    started: history_pb.HistoryEvent,
    scheduled: history_pb.HistoryEvent,
    now_ns: int,
) -> nexus_pb.NexusOperationExecutionInfo:
    """Return everything about the operation but its input and outcome."""
    execution = state.nexus_execution
    operation = nexus_execution.operation_of(state)
    timed_out = enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT
    description = nexus_pb.NexusOperationExecutionInfo(
        operation_id=execution.operation_id,
        run_id=state.run_id,
        endpoint=operation.endpoint,
        service=operation.service,
        operation=operation.operation,
        status=timed_out if state.status == _TIMED_OUT else state.status,  # type: ignore[arg-type]  # same numbers
        state=pending_state(operation) if is_open(state) else common_enums.PENDING_NEXUS_OPERATION_STATE_UNSPECIFIED,
        attempt=_attempt(state, operation),
        request_id=operation.request_id,
        operation_token=operation.operation_token,
        state_transition_count=state.state_transition_count,
        state_size_bytes=state.ByteSize(),
        links=execution.links,
        identity=started.workflow_execution_started_event_attributes.identity,
        nexus_header=scheduled.nexus_operation_scheduled_event_attributes.nexus_header,
    )
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    for name in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout"):
        if attributes.HasField(name):
            getattr(description, name).CopyFrom(getattr(attributes, name))
    _fill_times(description, state, operation, now_ns)
    if operation.start.HasField("last_failure"):
        description.last_attempt_failure.CopyFrom(operation.start.last_failure)
    description.search_attributes.SetInParent()
    for name, payload in state.search_attributes.items():
        if name not in _HIDDEN:
            description.search_attributes.indexed_fields[name].CopyFrom(payload)
    if state.HasField("user_metadata"):
        description.user_metadata.CopyFrom(state.user_metadata)
    if execution.cancel_requested_ns:
        _fill_cancellation(description.cancellation_info, state, operation)
    return description


def is_open(state: MutableState) -> bool:
    """Return whether the operation is open: has not been closed in any way."""
    return state.close_ns == 0


def _fill_times(
    description: nexus_pb.NexusOperationExecutionInfo, state: MutableState, operation: NexusOperation, now_ns: int
) -> None:
    set_timestamp(description.schedule_time, operation.scheduled_ns)
    if operation.schedule_to_close_timeout_ns:
        set_timestamp(description.expiration_time, operation.scheduled_ns + operation.schedule_to_close_timeout_ns)
    if not is_open(state):
        set_timestamp(description.close_time, state.close_ns)
    set_duration(description.execution_duration, (state.close_ns or now_ns) - operation.scheduled_ns)
    at_once = not is_open(state) and not operation.started_ns and state.nexus_execution.HasField("result")
    if operation.start.last_complete_ns and not at_once:
        set_timestamp(description.last_attempt_complete_time, operation.start.last_complete_ns)
    if is_open(state) and operation.start.next_attempt_ns:
        set_timestamp(description.next_attempt_schedule_time, operation.start.next_attempt_ns)


def _attempt(state: MutableState, operation: NexusOperation) -> int:
    """Return the number of the current attempt, while the operation itself counts finished ones."""
    attempt = operation.start
    is_over = bool(operation.started_ns or attempt.next_attempt_ns)
    if not is_open(state) and not attempt.deadline_ns:
        is_over = is_over or bool(attempt.attempt)
    return attempt.attempt + (0 if is_over else 1)


def _fill_cancellation(
    description: nexus_pb.NexusOperationExecutionCancellationInfo, state: MutableState, operation: NexusOperation
) -> None:
    execution = state.nexus_execution
    attempt = operation.cancel
    set_timestamp(description.requested_time, execution.cancel_requested_ns)
    description.reason = execution.cancel_reason
    description.attempt = attempt.attempt
    if operation.started_ns:
        description.state = cancellation_of(attempt)
        if not attempt.over and not attempt.next_attempt_ns:
            description.attempt += 1
    if attempt.last_complete_ns:
        set_timestamp(description.last_attempt_complete_time, attempt.last_complete_ns)
    if attempt.HasField("last_failure"):
        description.last_attempt_failure.CopyFrom(attempt.last_failure)
    if attempt.next_attempt_ns:
        set_timestamp(description.next_attempt_schedule_time, attempt.next_attempt_ns)
