"""The RPCs of standalone Nexus operations, except the responses of handlers.

The frontend serves lists and counts from visibility; handlers respond through `nexus_tasks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError, not_found
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.api.standalone import Standalone, already_started, long_poll_token, set_keyword
from whistlestop.history.api.start import Start, start
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import standalone as core
from whistlestop.history.core.nexus import standalone_describe as describe
from whistlestop.history.core.nexus.deadlines import next_deadline
from whistlestop.history.engine import histories
from whistlestop.history.nexus import circuit_breakers

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")


OPERATIONS = Standalone(
    id_field="operation_id", id_prefix=core.ID_PREFIX, division=core.DIVISION, missing=core.NOT_FOUND,
    deleted="Delete nexus operation execution", is_standalone=core.is_standalone, end=core.terminate,
    long_poll=lambda limits: (limits.nexus_long_poll_ns, limits.nexus_long_poll_buffer_ns),
)  # fmt: skip


# ---- start -----------------------------------------------------------------------------------------------------------


@handles(HistoryService.StartNexusOperationExecution)
async def start_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.StartNexusOperationExecutionRequest, context: CallContext
) -> service_pb.StartNexusOperationExecutionResponse:
    """Start a standalone operation, or answer as the id policies say when its id is in use.

    Raise NOT_FOUND for an unknown endpoint, ALREADY_EXISTS when the policies forbid the start.
    """
    endpoint = await ports.store.get_nexus_endpoint(name=request.endpoint)
    if endpoint is None:
        raise not_found(f"could not find Nexus endpoint by name: {request.endpoint}")
    attributes = _scheduled_attributes(request, endpoint.endpoint_id, ports.ids.uuid())

    def prepare(run: Run) -> None:
        operation = core.begin(run, request.operation_id, attributes)
        nexus_operations.want_start(run, operation)
        run.arm(next_deadline(operation))

    begin = _start_request(request, attributes.request_id)
    try:
        reply, run = await start(Start(ports, begin, context, prepare))
    except ServiceError as error:
        text = "nexus operation execution already started: request_id={request_id}, run_id={run_id}"
        raise already_started(error, text, details_pb.NexusOperationExecutionAlreadyStartedFailure) from None
    return service_pb.StartNexusOperationExecutionResponse(run_id=reply.run_id, started=run is not None)


def _scheduled_attributes(
    request: service_pb.StartNexusOperationExecutionRequest, endpoint_id: str, request_id: str
) -> history_pb.NexusOperationScheduledEventAttributes:
    attributes = history_pb.NexusOperationScheduledEventAttributes(
        endpoint=request.endpoint,
        endpoint_id=endpoint_id,
        service=request.service,
        operation=request.operation,
        nexus_header=request.nexus_header,
        request_id=request_id,
    )
    for field in ("input", *_TIMEOUTS):
        if request.HasField(field):  # type: ignore[arg-type]
            getattr(attributes, field).CopyFrom(getattr(request, field))
    return attributes


def _start_request(
    request: service_pb.StartNexusOperationExecutionRequest, nexus_request_id: str
) -> service_pb.StartWorkflowExecutionRequest:
    """Return the start request of the operation's run."""
    begin = OPERATIONS.start_request(request)
    begin.workflow_type.name = request.operation
    begin.task_queue.name = request.endpoint
    set_keyword(begin, core.SERVICE_ATTRIBUTE, request.service)
    set_keyword(begin, core.REQUEST_ATTRIBUTE, nexus_request_id)
    return begin


# ---- reading ---------------------------------------------------------------------------------------------------------


@handles(HistoryService.DescribeNexusOperationExecution)
async def describe_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.DescribeNexusOperationExecutionRequest, context: CallContext
) -> service_pb.DescribeNexusOperationExecutionResponse:
    """Describe the operation; with the token of an earlier answer, wait until something has changed.

    Without a change the reply is empty at the deadline. Raise NOT_FOUND, or INVALID_ARGUMENT for a wrong token.
    """
    key = await OPERATIONS.key(ports, request, context)
    entry = await OPERATIONS.read_or_wait(ports, context, key, request.long_poll_token)
    if entry is None:
        return service_pb.DescribeNexusOperationExecutionResponse()
    state = entry.state
    operation = core.operation_of(state)
    started = await histories.read_event(ports.engine, entry, 1, 1)
    scheduled = await histories.read_event(
        ports.engine, entry, operation.scheduled_event_batch_id, operation.scheduled_event_id
    )
    reply = service_pb.DescribeNexusOperationExecutionResponse(
        run_id=state.run_id,
        info=describe.info(state, started, scheduled, ports.clock.now_ns()),
        long_poll_token=long_poll_token(entry),
    )
    circuit_breakers.show(ports.engine.breakers, context.namespace_id, (reply.info,))
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    if request.include_input and attributes.HasField("input"):
        reply.input.CopyFrom(attributes.input)
    if request.include_outcome:
        _fill_outcome(reply, state)
    return reply


def _fill_outcome(
    reply: service_pb.DescribeNexusOperationExecutionResponse | service_pb.PollNexusOperationExecutionResponse,
    state: MutableState,
) -> None:
    if state.close_ns == 0:
        return
    execution = state.nexus_execution
    if execution.HasField("result"):
        reply.result.CopyFrom(execution.result)
    elif execution.HasField("failure"):
        reply.failure.CopyFrom(execution.failure)


@handles(HistoryService.PollNexusOperationExecution)
async def poll_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.PollNexusOperationExecutionRequest, context: CallContext
) -> service_pb.PollNexusOperationExecutionResponse:
    """Return the operation's token once it has started, or its outcome; an empty reply at the deadline.

    Raise NOT_FOUND.
    """
    key = await OPERATIONS.key(ports, request, context)
    start_will_do = request.wait_stage == enums.NEXUS_OPERATION_WAIT_STAGE_STARTED

    def is_there(entry: Entry) -> bool:
        state = entry.state
        return state.close_ns != 0 or (start_will_do and core.operation_of(state).started_ns != 0)

    entry = await OPERATIONS.wait(ports, context, key, is_there)
    if entry is None:
        return service_pb.PollNexusOperationExecutionResponse()
    state = entry.state
    closed = state.close_ns != 0
    reply = service_pb.PollNexusOperationExecutionResponse(
        run_id=state.run_id,
        wait_stage=(enums.NEXUS_OPERATION_WAIT_STAGE_CLOSED if closed else enums.NEXUS_OPERATION_WAIT_STAGE_STARTED),
        operation_token=core.operation_of(state).operation_token,
    )
    _fill_outcome(reply, state)
    return reply


# ---- changing --------------------------------------------------------------------------------------------------------


@handles(HistoryService.RequestCancelNexusOperationExecution)
async def request_cancel_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.RequestCancelNexusOperationExecutionRequest, context: CallContext
) -> service_pb.RequestCancelNexusOperationExecutionResponse:
    """Request the operation's cancellation, which is sent to its handler once it has started.

    Raise NOT_FOUND, or FAILED_PRECONDITION if it is over or its cancellation was already requested.
    """

    def decide(run: Run) -> None:
        operation = core.request_cancel(run, reason=request.reason, request_id=request.request_id)
        if operation is not None:
            nexus_operations.want_cancel(run, operation)

    await OPERATIONS.change_named(ports, request, context, decide)
    return service_pb.RequestCancelNexusOperationExecutionResponse()


@handles(HistoryService.TerminateNexusOperationExecution)
async def terminate_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.TerminateNexusOperationExecutionRequest, context: CallContext
) -> service_pb.TerminateNexusOperationExecutionResponse:
    """Terminate the operation at once. Raise NOT_FOUND, or FAILED_PRECONDITION if it is over."""
    await OPERATIONS.terminate(ports, request, context)
    return service_pb.TerminateNexusOperationExecutionResponse()


@handles(HistoryService.DeleteNexusOperationExecution)
async def delete_nexus_operation_execution(
    ports: HistoryPorts, request: service_pb.DeleteNexusOperationExecutionRequest, context: CallContext
) -> service_pb.DeleteNexusOperationExecutionResponse:
    """Terminate the operation if it is open, and delete everything stored of it. Raise NOT_FOUND."""
    await OPERATIONS.delete(ports, request, context)
    return service_pb.DeleteNexusOperationExecutionResponse()
