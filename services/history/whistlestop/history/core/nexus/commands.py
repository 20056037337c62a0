"""Handle the commands ScheduleNexusOperation and RequestCancelNexusOperation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.errors import ServiceError
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import system as system_nexus
from whistlestop.history.core.nexus.deadlines import next_deadline
from whistlestop.history.core.times import duration_ns

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.transition.run import Run

_BAD_SCHEDULE = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES
_BAD_CANCEL = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES
_NAME = "ScheduleNexusOperationCommandAttributes"
_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")
_LONGEST_S = 315_576_000_000
_ENDS = {
    et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: "nexus_operation_completed_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_FAILED: "nexus_operation_failed_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_CANCELED: "nexus_operation_canceled_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: "nexus_operation_timed_out_event_attributes",
}


def schedule(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command ScheduleNexusOperation. Raise BadCommand."""
    run = completion.run
    attributes = command.schedule_nexus_operation_command_attributes
    endpoint_id = _endpoint_id(run, attributes)
    _check_sizes(run, attributes)
    headers = _headers(run, attributes)
    pending = len(run.state.nexus_operations)
    if pending >= run.limits.nexus_pending_operations > 0:
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED,
            "workflow has reached the pending nexus operation limit of "
            f"{run.limits.nexus_pending_operations} for this namespace",
        )
    _trim(run, attributes)
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED)
    a = event.nexus_operation_scheduled_event_attributes
    for field in ("endpoint", "service", "operation"):
        setattr(a, field, getattr(attributes, field))
    for field in ("input", *_TIMEOUTS):
        if attributes.HasField(field):  # type: ignore[arg-type]
            getattr(a, field).CopyFrom(getattr(attributes, field))
    a.nexus_header.update(headers)
    a.endpoint_id = endpoint_id
    a.request_id = run.ids.uuid()
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    operation = run.state.nexus_operations[event.event_id]
    nexus_operations.want_start(run, operation)
    run.arm(next_deadline(operation))
    return event


def _endpoint_id(run: Run, attributes: command_pb.ScheduleNexusOperationCommandAttributes) -> str:
    """Return the id of the endpoint that the command names; empty for the system endpoint, whose input is checked here.

    Raise BadCommand.
    """
    if attributes.endpoint == system_nexus.ENDPOINT:
        if attributes.nexus_header:
            raise BadCommand(
                _BAD_SCHEDULE, f"{_NAME}.NexusHeader must be empty when using {system_nexus.ENDPOINT} endpoint"
            )
        try:
            system_nexus.parse(attributes, run.state.namespace)
        except ServiceError as error:
            raise BadCommand(_BAD_SCHEDULE, error.message) from error
        return ""
    endpoint_id = run.nexus_endpoints.get(attributes.endpoint)
    if endpoint_id is None:
        raise BadCommand(_BAD_SCHEDULE, f'endpoint "{attributes.endpoint}" not found')
    return endpoint_id


def _check_sizes(run: Run, attributes: command_pb.ScheduleNexusOperationCommandAttributes) -> None:
    limits = run.limits
    for field, most in (("service", limits.nexus_service_length), ("operation", limits.nexus_operation_length)):
        if len(getattr(attributes, field).encode()) > most:
            raise BadCommand(_BAD_SCHEDULE, f"{_NAME}.{field.capitalize()} exceeds length limit of {most}")
    for field in _TIMEOUTS:
        fault = _duration_fault(getattr(attributes, field))
        if fault:
            name = "".join(part.capitalize() for part in field.split("_"))
            raise BadCommand(_BAD_SCHEDULE, f"{_NAME}.{name} is invalid: {fault}")
    sizes.check_blob(run, _BAD_SCHEDULE, attributes.input.ByteSize(), f"{_NAME}.Input exceeds size limit")


def _duration_fault(duration: Duration) -> str:
    if duration.seconds < 0 or duration.nanos < 0:
        return "negative duration"
    if duration.seconds > _LONGEST_S:
        return "duration out of range"
    return ""


def _headers(run: Run, attributes: command_pb.ScheduleNexusOperationCommandAttributes) -> dict[str, str]:
    """Return the headers in lower case, as Nexus requires. Raise BadCommand."""
    headers = {}
    size = 0
    for name, value in attributes.nexus_header.items():
        lower = name.lower()
        headers[lower] = value
        size += len(lower.encode()) + len(value.encode())
        if lower in run.limits.nexus_disallowed_headers:
            raise BadCommand(_BAD_SCHEDULE, f'{_NAME}.NexusHeader contains a disallowed header key: "{name}"')
    if size > run.limits.nexus_header_size:
        raise BadCommand(_BAD_SCHEDULE, f"{_NAME}.NexusHeader exceeds size limit")
    return headers


def _trim(run: Run, attributes: command_pb.ScheduleNexusOperationCommandAttributes) -> None:
    """Shorten schedule-to-close to the run's timeout and to the limit, and the partial timeouts to it."""
    run_ns, longest_ns = run.state.run_timeout_ns, run.limits.nexus_schedule_to_close_max_ns
    whole = attributes.schedule_to_close_timeout
    if run_ns and not 0 < duration_ns(whole) <= run_ns:
        whole.FromNanoseconds(run_ns)
    if 0 < longest_ns < duration_ns(whole):
        whole.FromNanoseconds(longest_ns)
    if not duration_ns(whole):
        return
    for part in (attributes.schedule_to_start_timeout, attributes.start_to_close_timeout):
        if duration_ns(part) > duration_ns(whole):
            part.CopyFrom(whole)


def request_cancel(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command RequestCancelNexusOperation. Raise BadCommand."""
    run = completion.run
    attributes = command.request_cancel_nexus_operation_command_attributes
    scheduled_event_id = attributes.scheduled_event_id
    operation = run.state.nexus_operations.get(scheduled_event_id)
    if operation is None and not _has_ended(run, scheduled_event_id):
        raise BadCommand(
            _BAD_CANCEL,
            "requested cancelation for a non-existing or already completed operation with scheduled event ID of "
            f"{scheduled_event_id}",
        )
    if operation is not None and operation.cancel_requested_event_id:
        raise BadCommand(
            _BAD_CANCEL,
            f"cancelation was already requested for an operation with scheduled event ID {scheduled_event_id}",
        )
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED)
    a = event.nexus_operation_cancel_requested_event_attributes
    a.scheduled_event_id = scheduled_event_id
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    if operation is not None and operation.started_ns:
        nexus_operations.want_cancel(run, operation)
    return event


def _has_ended(run: Run, scheduled_event_id: int) -> bool:
    """Return whether the operation ended during this workflow task, so that the worker could not know."""

    def ends_it(event: history_pb.HistoryEvent) -> bool:
        field = _ENDS.get(event.event_type)
        return field is not None and bool(getattr(event, field).scheduled_event_id == scheduled_event_id)

    return run.buffered(ends_it) is not None
