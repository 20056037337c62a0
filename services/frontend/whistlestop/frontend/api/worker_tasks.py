"""What workers send: completions, failures and heartbeats.

A result or heartbeat that is too large to store is not refused (the worker would only retry): the activity fails for
that reason instead, as in Temporal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.query_pb2 import QueryResultType
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.messages.failures import FAILURE_EXCEEDS_LIMIT, server_failure, truncate
from whistlestop.common.messages.times import duration_problem
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.rules import handles, validates
from whistlestop.frontend.api.versioning.worker_version import check_worker_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message
    from temporalio.api.failure.v1.message_pb2 import Failure

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

_RPCS: Mapping[type[Message], Rpc[Any, Any]] = {rpc.request_type: rpc for rpc in HistoryService.rpcs.values()}
"""The RPCs of history by the types of their requests."""
_RESULT_TOO_LARGE = "Complete result exceeds size limit."
_CANCEL_TOO_LARGE = "Cancel details exceed size limit."
_HEARTBEAT_TOO_LARGE = "Heartbeat details exceed size limit."
_WITH_SEARCH_ATTRIBUTES = frozenset(
    {
        "upsert_workflow_search_attributes_command_attributes",
        "start_child_workflow_execution_command_attributes",
        "continue_as_new_workflow_execution_command_attributes",
    }
)


@validates(WorkflowService.RespondWorkflowTaskCompleted)
def check_workflow_task_completed(
    request: service_pb.RespondWorkflowTaskCompletedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check identity and version. Raise INVALID_ARGUMENT.

    Commands are checked by history, where a bad one fails the task.
    """
    checks.check_identity(request.identity, rules)
    checks.check_not_internal(request.sticky_attributes.worker_task_queue.name)
    if namespace is not None:
        for command in request.commands:
            if command.WhichOneof("attributes") in _WITH_SEARCH_ATTRIBUTES:
                attributes = getattr(command, command.WhichOneof("attributes") or "")
                if getattr(attributes, "namespace", "") not in ("", namespace.name):
                    continue  # attributes may have other types in another namespace
                checks.stamp_types(attributes.search_attributes, namespace)
    check_worker_version(request, request.worker_version_stamp, request.sticky_attributes.worker_task_queue, rules)


@validates(WorkflowService.RespondWorkflowTaskFailed)
def check_workflow_task_failed(
    request: service_pb.RespondWorkflowTaskFailedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the identity, and cut a failure that is too large. Raise INVALID_ARGUMENT."""
    checks.check_identity(request.identity, rules)
    if request.failure.ByteSize() > rules.config.blob_size_limit_error:
        request.failure.CopyFrom(_cut(request.failure, rules.config))


@validates(WorkflowService.RespondActivityTaskCompleted, WorkflowService.RespondActivityTaskCanceled)
def check_identity_only(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the length of the worker's identity, which may be empty. Raise INVALID_ARGUMENT."""
    checks.check_identity(request.identity, rules)


@validates(WorkflowService.RespondActivityTaskFailed)
def check_activity_failed(
    request: service_pb.RespondActivityTaskFailedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check that the worker reports an application failure; other kinds are made by the server.

    Raise INVALID_ARGUMENT.
    """
    if request.HasField("failure") and not request.failure.HasField("application_failure_info"):
        raise invalid_argument("Failure must have ApplicationFailureInfo.")
    _check_retry_delays(request.failure)
    checks.check_identity(request.identity, rules)


@validates(
    WorkflowService.RecordActivityTaskHeartbeatById,
    WorkflowService.RespondActivityTaskCompletedById,
    WorkflowService.RespondActivityTaskCanceledById,
    WorkflowService.RespondActivityTaskFailedById,
)
def check_by_id(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the reference to an activity by its id. Raise INVALID_ARGUMENT."""
    if not request.activity_id:
        raise invalid_argument("ActivityId is not set on request.")
    if not isinstance(request, service_pb.RecordActivityTaskHeartbeatByIdRequest):
        checks.check_identity(request.identity, rules)
    if not request.workflow_id and not rules.config.standalone_activities_enabled:
        raise invalid_argument("WorkflowId is not set on request.")
    if isinstance(request, service_pb.RespondActivityTaskFailedByIdRequest):
        _check_retry_delays(request.failure)


@validates(WorkflowService.RespondQueryTaskCompleted)
def check_query_completed(
    request: service_pb.RespondQueryTaskCompletedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Turn a result that is too large into a failure of the query."""
    if request.query_result.ByteSize() > rules.config.blob_size_limit_error:
        request.ClearField("query_result")
        request.completed_type = QueryResultType.QUERY_RESULT_TYPE_FAILED
        request.error_message = checks.BLOB_TOO_LARGE


@validates(WorkflowService.RespondNexusTaskCompleted)
def check_nexus_completed(
    request: service_pb.RespondNexusTaskCompletedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the token of an operation that goes on asynchronously. Raise INVALID_ARGUMENT."""
    started = request.response.start_operation
    if started.WhichOneof("variant") != "async_success":
        return
    token = started.async_success.operation_token or started.async_success.operation_id
    most = rules.config.nexus_operation_token_max_length
    if not token:
        raise invalid_argument("missing opration token in response")
    if len(token.encode()) > most:
        raise invalid_argument(f"operation token length exceeds allowed limit ({len(token.encode())}/{most})")


@validates(WorkflowService.RespondNexusTaskFailed)
def check_nexus_failed(
    request: service_pb.RespondNexusTaskFailedRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check that there is a handler error, in the newer or the older form. Raise INVALID_ARGUMENT."""
    if not request.HasField("error") and not request.HasField("failure"):
        raise invalid_argument("request must contain error or failure")
    if request.HasField("failure") and not request.failure.HasField("nexus_handler_failure_info"):
        raise invalid_argument("request Failure must contain error or failure with NexusHandlerFailureInfo")


def _check_retry_delays(failure: Failure) -> None:
    current: Failure | None = failure
    while current is not None:
        if current.application_failure_info.HasField("next_retry_delay"):
            problem = duration_problem(current.application_failure_info.next_retry_delay)
            if problem:
                raise invalid_argument(f"NextRetryDelay is not a valid duration: {problem}")
        current = current.cause if current.HasField("cause") else None


@handles(WorkflowService.RespondActivityTaskCompleted, WorkflowService.RespondActivityTaskCompletedById)
async def activity_completed(
    frontend: FrontendPorts,
    request: service_pb.RespondActivityTaskCompletedRequest | service_pb.RespondActivityTaskCompletedByIdRequest,
    context: CallContext,
) -> Reply:
    """Serve RespondActivityTaskCompleted, by token or by id. Raise what history raises (NOT_FOUND and others)."""
    if _fits(frontend, context, request.result):
        return await frontend.history.bind(_RPCS[type(request)])(request, context)
    return await _fail_instead(frontend, request, context, _RESULT_TOO_LARGE)


@handles(WorkflowService.RespondActivityTaskCanceled, WorkflowService.RespondActivityTaskCanceledById)
async def activity_canceled(
    frontend: FrontendPorts,
    request: service_pb.RespondActivityTaskCanceledRequest | service_pb.RespondActivityTaskCanceledByIdRequest,
    context: CallContext,
) -> Reply:
    """Serve RespondActivityTaskCanceled, by token or by id. Raise what history raises (NOT_FOUND and others)."""
    if _fits(frontend, context, request.details):
        return await frontend.history.bind(_RPCS[type(request)])(request, context)
    return await _fail_instead(frontend, request, context, _CANCEL_TOO_LARGE)


@handles(WorkflowService.RecordActivityTaskHeartbeat, WorkflowService.RecordActivityTaskHeartbeatById)
async def activity_heartbeat(
    frontend: FrontendPorts,
    request: service_pb.RecordActivityTaskHeartbeatRequest | service_pb.RecordActivityTaskHeartbeatByIdRequest,
    context: CallContext,
) -> Reply:
    """Serve RecordActivityTaskHeartbeat, by token or by id. Raise what history raises (NOT_FOUND and others)."""
    if _fits(frontend, context, request.details):
        return await frontend.history.bind(_RPCS[type(request)])(request, context)
    response: Any = await _fail_instead(frontend, request, context, _HEARTBEAT_TOO_LARGE)
    response.cancel_requested = True
    return _as_message(response)


@handles(WorkflowService.RespondActivityTaskFailed, WorkflowService.RespondActivityTaskFailedById)
async def activity_failed(
    frontend: FrontendPorts,
    request: service_pb.RespondActivityTaskFailedRequest | service_pb.RespondActivityTaskFailedByIdRequest,
    context: CallContext,
) -> Reply:
    """Serve RespondActivityTaskFailed, by token or by id. The reply's `failures` report what was cut.

    Raise ServiceError.
    """
    if _fits(frontend, context, request.failure) and _fits(frontend, context, request.last_heartbeat_details):
        return await frontend.history.bind(_RPCS[type(request)])(request, context)
    response = _RPCS[type(request)].response_type()
    if not _fits(frontend, context, request.last_heartbeat_details):
        response.failures.append(server_failure(_HEARTBEAT_TOO_LARGE, non_retryable=True))
        request.ClearField("last_heartbeat_details")
    if not _fits(frontend, context, request.failure):
        request.failure.CopyFrom(_cut(request.failure, frontend.config.of(context.namespace)))
        response.failures.append(request.failure)
    await frontend.history.bind(_RPCS[type(request)])(request, context)
    return _as_message(response)


async def _fail_instead(frontend: FrontendPorts, request: Any, context: CallContext, reason: str) -> Message:
    """Fail the activity with `reason`; return an empty response to the original request."""
    rpc = _RPCS[type(request)]
    by_id = rpc.method.endswith("ById")
    kind = service_pb.RespondActivityTaskFailedByIdRequest if by_id else service_pb.RespondActivityTaskFailedRequest
    failed: Any = kind()
    names = ("namespace", "workflow_id", "run_id", "activity_id") if by_id else ("namespace", "task_token")
    for name in (*names, "identity"):
        setattr(failed, name, getattr(request, name))
    failed.failure.CopyFrom(server_failure(reason, non_retryable=True))
    await frontend.history.bind(_RPCS[type(failed)])(failed, context)
    return _as_message(rpc.response_type())


def _as_message(message: Any) -> Message:
    result: Message = message
    return result


def _fits(frontend: FrontendPorts, context: CallContext, part: Message) -> bool:
    size, config = part.ByteSize(), frontend.config.of(context.namespace)
    if size > config.blob_size_limit_warn:
        frontend.warn("an activity's %d bytes are over the warning limit of %d", size, config.blob_size_limit_warn)
    return size <= config.blob_size_limit_error


def _cut(failure: Failure, config: FrontendConfig) -> Failure:
    cut = truncate(failure, config.blob_size_limit_warn)
    return server_failure(FAILURE_EXCEEDS_LIMIT, non_retryable=True, cause=cut)


@validates(WorkflowService.UpdateWorkerConfig)
def check_worker_config(
    request: service_pb.UpdateWorkerConfigRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the request if worker commands are enabled. The RPC itself is unimplemented, as in Temporal.

    Raise INVALID_ARGUMENT.
    """
    if rules.config.worker_commands_enabled and not request.HasField("worker_config"):
        raise invalid_argument("WorkerConfig is not set")
