"""A standalone Nexus operation: an operation that no workflow called, as a run of its own.

The run has this one operation, scheduled by its second event; it proceeds like an operation of a workflow
(`nexus_operations.py`). This module has what differs: start and end, and the requests of clients.
`MutableState.nexus_execution` keeps what is neither in the operation nor in history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.errors import failed_precondition
from whistlestop.history.core.activity.standalone import note_repeated
from whistlestop.history.core.workflow import close

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.failure.v1 import message_pb2 as failure_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState, NexusOperation
    from whistlestop.history.core.transition.run import Run

ID_PREFIX = "temporal-sys-nexus-operation:"
"""The prefix of its id in `executions`."""
DIVISION = "131748067"
"""Temporal's number for standalone Nexus operations, by which list filters select them (TemporalNamespaceDivision)."""
SERVICE_ATTRIBUTE = "TemporalNexusService"
REQUEST_ATTRIBUTE = "TemporalNexusRequestId"
"""Search attributes of the server's own, for fields without a column in visibility."""
NOT_FOUND = "operation not found for ID: {}"
ALREADY_COMPLETED = "operation already completed"
_ENDS: dict[int, str] = {
    wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED: "Succeeded",
    wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED: "Failed",
    wf_enums.WORKFLOW_EXECUTION_STATUS_CANCELED: "Canceled",
    wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: "TimedOut",
}


def is_standalone(state: MutableState) -> bool:
    """Return whether the run is a standalone Nexus operation, not a workflow."""
    return state.HasField("nexus_execution")


def operation_of(state: MutableState) -> NexusOperation:
    """Return the run's operation, which is kept when it is over."""
    return state.nexus_operations[state.nexus_execution.scheduled_event_id]


def self_link(state: MutableState) -> common_pb.Link:
    """Return the link by which a handler sees its caller."""
    link = common_pb.Link()
    link.nexus_operation.namespace = state.namespace
    link.nexus_operation.operation_id = state.nexus_execution.operation_id
    link.nexus_operation.run_id = state.run_id
    return link


def begin(run: Run, operation_id: str, attributes: history_pb.NexusOperationScheduledEventAttributes) -> NexusOperation:
    """Schedule the operation of a new run. The caller has to request its start (`want_start`)."""
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED)
    event.nexus_operation_scheduled_event_attributes.CopyFrom(attributes)
    run.append(event)
    execution = run.state.nexus_execution
    execution.operation_id = operation_id
    execution.scheduled_event_id = event.event_id
    return operation_of(run.state)


# ---- completion ------------------------------------------------------------------------------------------------------


def note_links(run: Run, links: Iterable[common_pb.Link]) -> None:
    """Add the links that the handler returned, if any, to the state."""
    run.state.nexus_execution.links.extend(links)
    run.changed = True


def complete(run: Run, result: common_pb.Payload, links: Iterable[common_pb.Link]) -> None:
    """Complete the operation with its result, and close the run."""
    execution = run.state.nexus_execution
    execution.links.extend(links)
    execution.result.CopyFrom(result)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    event.workflow_execution_completed_event_attributes.result.payloads.append(result)
    _end(run, event)


def fail(run: Run, operation: NexusOperation, cause: failure_pb.Failure) -> None:
    """Close the operation with a failure, or as cancelled if the failure says so."""
    _note_failure(run, operation, cause, by_attempt=not operation.started_ns)
    if cause.HasField("canceled_failure_info"):
        event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED)
        event.workflow_execution_canceled_event_attributes.details.CopyFrom(cause.canceled_failure_info.details)
    else:
        event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
        event.workflow_execution_failed_event_attributes.failure.CopyFrom(cause)
    _end(run, event)


def time_out(run: Run, operation: NexusOperation, cause: failure_pb.Failure, *, by_attempt: bool) -> None:
    """Close the run as timed out. `by_attempt` says whether an attempt or a deadline ended it."""
    _note_failure(run, operation, cause, by_attempt=by_attempt)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT)
    event.workflow_execution_timed_out_event_attributes.retry_state = wf_enums.RETRY_STATE_TIMEOUT
    _end(run, event)


def _note_failure(run: Run, operation: NexusOperation, cause: failure_pb.Failure, *, by_attempt: bool) -> None:
    execution = run.state.nexus_execution
    execution.failure.CopyFrom(cause)
    execution.ended_by_attempt = by_attempt
    if by_attempt:
        operation.start.last_complete_ns = run.now_ns
        operation.start.last_failure.CopyFrom(cause)


def _end(run: Run, event: history_pb.HistoryEvent) -> None:
    operation = operation_of(run.state)
    run.drop_task(operation.start.row)
    run.drop_task(operation.cancel.row)
    close.finish(run, event)


# ---- requests of clients ---------------------------------------------------------------------------------------------


def request_cancel(run: Run, *, reason: str, request_id: str) -> NexusOperation | None:
    """Record a request to cancel; return the operation if the request has to be sent now, otherwise None.

    An operation that has not started gets it once it has. Raise FAILED_PRECONDITION when the operation is over or
    another request has asked for it.
    """
    execution = run.state.nexus_execution
    if execution.cancel_requested_ns and execution.cancel_request_id == request_id:
        note_repeated(run)
        return None
    if not run.is_open:
        raise failed_precondition(ALREADY_COMPLETED)
    if execution.cancel_requested_ns:
        raise failed_precondition(f"cancellation already requested with request ID {execution.cancel_request_id}")
    execution.cancel_requested_ns = run.now_ns
    execution.cancel_request_id = request_id
    execution.cancel_reason = reason
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED)
    event.nexus_operation_cancel_requested_event_attributes.scheduled_event_id = execution.scheduled_event_id
    run.append(event)
    run.changed = True
    operation = operation_of(run.state)
    return operation if operation.started_ns else None


def terminate(run: Run, *, reason: str, identity: str, request_id: str) -> None:
    """Terminate the operation at once; its handler is not notified.

    Raise FAILED_PRECONDITION when it is over, unless by the same request.
    """
    execution = run.state.nexus_execution
    if execution.terminated:
        if execution.terminate_request_id == request_id:
            note_repeated(run)
            return
        raise failed_precondition(f"already terminated with request ID {execution.terminate_request_id}")
    if not run.is_open:
        raise failed_precondition(f"invalid transition from {_ENDS.get(run.state.status, '')}")
    execution.terminated = True
    execution.terminate_request_id = request_id
    execution.failure.message = reason
    execution.failure.terminated_failure_info.identity = identity
    operation = operation_of(run.state)
    run.drop_task(operation.start.row)
    run.drop_task(operation.cancel.row)
    close.terminate(run, reason=reason, identity=identity)
