"""Nexus tasks: a worker of an endpoint takes a workflow's request and answers it.

A task is a row that names the operation; everything else is read when a poll takes it. Its token has everything that
the answer needs, so any instance may receive it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.common.messages.nesting import load_json
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData, OperationToken, RecordNexusTaskStartedRequest
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history import tokens
from whistlestop.history.api import handles
from whistlestop.history.api.nexus import requests as nexus_requests
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import links as nexus_links
from whistlestop.history.core.times import MILLISECOND_NS, set_timestamp
from whistlestop.history.nexus.callbacks import CALLBACK_HEADER, SYSTEM_URL, callback_url, token_of
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto import internal_pb2
    from whistlestop.history.core.state_pb2 import NexusOperation
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts


# ---- polls -----------------------------------------------------------------------------------------------------------


@handles(HistoryService.RecordNexusTaskStarted)
async def record_nexus_task_started(
    ports: HistoryPorts, request: RecordNexusTaskStartedRequest, context: CallContext
) -> service_pb.PollNexusTaskQueueResponse:
    """Start the request for a poller, and return the poll's reply. Raise NOT_FOUND for a stale task."""
    cancel = request.task.cancel

    def decide(run: Run) -> NexusOperation:
        run.bookkeeping = True
        return nexus_operations.take(run, request.scheduled_event_id, request.stamp, cancel=cancel)

    run, operation = await ports.engine.change(request.task.namespace_id, request.workflow_id, request.run_id, decide)
    scheduled = await ports.engine.event(run, operation.scheduled_event_batch_id, operation.scheduled_event_id)
    reply = service_pb.PollNexusTaskQueueResponse(task_token=tokens.of_nexus_task(run, operation, cancel=cancel))
    _fill_common(reply.request, operation, scheduled, run.now_ns, cancel=cancel)
    if cancel:
        _fill_cancel(reply.request.cancel_operation, operation)
    else:
        _fill_start(reply.request, run, operation, scheduled)
    return reply


def _fill_common(
    request: nexus_pb.Request,
    operation: NexusOperation,
    scheduled: history_pb.HistoryEvent,
    now_ns: int,
    *,
    cancel: bool,
) -> None:
    attempt = nexus_operations.attempt_of(operation, cancel=cancel)
    header = request.header
    header.update(scheduled.nexus_operation_scheduled_event_attributes.nexus_header)
    header["user-agent"] = "temporalio/server"
    header.update(nexus_requests.timeout_headers(attempt.deadline_ns - now_ns))
    set_timestamp(request.scheduled_time, now_ns)
    request.endpoint = operation.endpoint
    request.capabilities.temporal_failure_responses = not cancel
    if cancel:
        header["content-length"] = "0"
    elif "operation-timeout" not in header:
        timeout_ns = nexus_operations.operation_timeout(operation, now_ns)
        if timeout_ns:
            header["operation-timeout"] = f"{timeout_ns // MILLISECOND_NS}ms"


def _fill_start(
    request: nexus_pb.Request, run: Run, operation: NexusOperation, scheduled: history_pb.HistoryEvent
) -> None:
    state, limits = run.state, run.limits
    start = request.start_operation
    start.service, start.operation = operation.service, operation.operation
    start.request_id = operation.request_id
    start.callback = SYSTEM_URL if limits.nexus_system_callback_url else callback_url(state, limits) or SYSTEM_URL
    token = OperationToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=operation.scheduled_event_id,
        request_id=operation.request_id,
    )
    start.callback_header[CALLBACK_HEADER] = token_of(token)
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    start.payload.CopyFrom(attributes.input if attributes.HasField("input") else nexus_operations.NOTHING)
    link = nexus_links.caller(state, scheduled)
    start.links.append(link)
    request.header["nexus-request-id"] = operation.request_id
    request.header["nexus-link"] = nexus_links.header_value(link)


def _fill_cancel(request: nexus_pb.CancelOperationRequest, operation: NexusOperation) -> None:
    request.service, request.operation = operation.service, operation.operation
    request.operation_token = request.operation_id = operation.operation_token


# ---- responses -------------------------------------------------------------------------------------------------------


@handles(HistoryService.RespondNexusTaskCompleted)
async def respond_nexus_task_completed(
    ports: HistoryPorts, request: service_pb.RespondNexusTaskCompletedRequest, context: CallContext
) -> service_pb.RespondNexusTaskCompletedResponse:
    """Record the handler's response, which may say that the operation failed.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for a malformed token or failure.
    """
    token = tokens.received(request.task_token, tokens.Kind.NEXUS, context, nexus_operations.TASK_NOT_FOUND)
    response = request.response
    _check_details(response.start_operation.operation_error.failure)
    if token.query_id:
        await nexus_requests.completed(ports, token, request)
        return service_pb.RespondNexusTaskCompletedResponse()
    believed = await _believed_namespace(ports, token)

    def decide(run: Run) -> None:
        operation = nexus_operations.answered(run, token, believed)
        if operation is None:
            return
        if token.nexus_cancel:
            nexus_operations.cancel_delivered(run, operation)
        else:
            _started(run, operation, response.start_operation)

    await ports.engine.change(token.caller_namespace_id, token.workflow_id, token.run_id, decide)
    return service_pb.RespondNexusTaskCompletedResponse()


def _started(run: Run, operation: NexusOperation, response: nexus_pb.StartOperationResponse) -> None:
    variant = response.WhichOneof("variant")
    if variant == "sync_success":
        success = response.sync_success
        result = success.payload if success.HasField("payload") else None
        if result is not None and result.ByteSize() > run.limits.blob_size_error:
            nexus_operations.fail(run, operation, nexus_operations.TOO_LARGE)
            return
        nexus_operations.complete(run, operation, result, nexus_links.from_nexus(success.links))
    elif variant == "async_success":
        pending = response.async_success
        token = pending.operation_token or pending.operation_id
        if not operation.started_ns:
            nexus_operations.start(run, operation, token, nexus_links.from_nexus(pending.links))
    elif variant == "operation_error":
        nexus_operations.fail(run, operation, nexus_failures.of_operation_error(response.operation_error))
    elif variant == "failure":
        nexus_operations.fail(run, operation, response.failure)
    else:
        nexus_operations.refused(
            run, operation, nexus_failures.handler_failure("INTERNAL", "empty outcome"), cancel=False
        )


@handles(HistoryService.RespondNexusTaskFailed)
async def respond_nexus_task_failed(
    ports: HistoryPorts, request: service_pb.RespondNexusTaskFailedRequest, context: CallContext
) -> service_pb.RespondNexusTaskFailedResponse:
    """Record the handler's error. Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for a malformed one."""
    token = tokens.received(request.task_token, tokens.Kind.NEXUS, context, nexus_operations.TASK_NOT_FOUND)
    _check_details(request.error.failure)
    if token.query_id:
        await nexus_requests.failed(ports, token, request)
        return service_pb.RespondNexusTaskFailedResponse()
    failure = request.failure if request.HasField("failure") else nexus_failures.of_handler_error(request.error)
    believed = await _believed_namespace(ports, token)

    def decide(run: Run) -> None:
        operation = nexus_operations.answered(run, token, believed)
        if operation is not None:
            nexus_operations.refused(run, operation, failure, cancel=token.nexus_cancel)

    await ports.engine.change(token.caller_namespace_id, token.workflow_id, token.run_id, decide)
    return service_pb.RespondNexusTaskFailedResponse()


async def _believed_namespace(ports: HistoryPorts, token: internal_pb2.TaskToken) -> str:
    """Return where the operation's endpoint leads, for a token of release 0.1.0 without a recorded target."""
    if token.nonce:
        return ""
    entry = await ports.engine.read(ExecutionKey(token.caller_namespace_id, token.workflow_id, token.run_id))
    operation = entry.state.nexus_operations.get(token.scheduled_event_id)
    if operation is None:
        raise not_found(nexus_operations.TASK_NOT_FOUND)
    record = await ports.store.get_nexus_endpoint(endpoint_id=operation.endpoint_id)
    return "" if record is None else NexusEndpointData.FromString(record.data).target_namespace_id


def _check_details(failure: nexus_pb.Failure) -> None:
    if failure.details:
        try:
            load_json(failure.details)
        except ValueError:
            raise invalid_argument("failure details must be JSON serializable") from None
