"""StartBatchOperation, StopBatchOperation, DescribeBatchOperation, ListBatchOperations.

A batch job is a run of an internal workflow whose workflow id is the job id, in the namespace division of batchers:
so it is deduplicated, tracked, stopped and listed like any run. `frontend/batch/worker.py` does its work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import decoded
from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.common.messages.nesting import load_json
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks, standalone_activities
from whistlestop.frontend.api.listing import parsed_filter
from whistlestop.frontend.api.rules import handles, validates
from whistlestop.frontend.api.switches import ON_ACTIVITIES
from whistlestop.frontend.api.visibility import count_workflow_executions, list_workflow_executions
from whistlestop.frontend.batch.job_workflow import STATS_MEMO, TASK_QUEUE, WORKFLOW_TYPE, json_payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

DIVISION = "TemporalBatcher"
_TYPE_MEMO = "batch_operation_type"
_REASON_MEMO = "batch_operation_reason"
_QUERY_MEMO = "batch_operation_visibility_query"
_EXECUTIONS_MEMO = "batch_operation_executions"
_IN_DIVISION = f"TemporalNamespaceDivision = '{DIVISION}'"
_COMPLETED = wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
_STATES: Mapping[int, batch_enums.BatchOperationState.ValueType] = {
    wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING: batch_enums.BATCH_OPERATION_STATE_RUNNING,
    _COMPLETED: batch_enums.BATCH_OPERATION_STATE_COMPLETED,
}
# By the operation's field in the request: the word stored in the memo, and the type reported to clients.
_KINDS: Mapping[str, tuple[str, batch_enums.BatchOperationType.ValueType]] = {
    "termination_operation": ("terminate", batch_enums.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW),
    "cancellation_operation": ("cancel", batch_enums.BATCH_OPERATION_TYPE_CANCEL_WORKFLOW),
    "signal_operation": ("signal", batch_enums.BATCH_OPERATION_TYPE_SIGNAL_WORKFLOW),
    "deletion_operation": ("delete", batch_enums.BATCH_OPERATION_TYPE_DELETE_WORKFLOW),
    "reset_operation": ("reset", batch_enums.BATCH_OPERATION_TYPE_RESET_WORKFLOW),
    "update_workflow_options_operation": (
        "update_options", batch_enums.BATCH_OPERATION_TYPE_UPDATE_WORKFLOW_EXECUTION_OPTIONS
    ),
    "unpause_activities_operation": ("unpause_activities", batch_enums.BATCH_OPERATION_TYPE_UNPAUSE_ACTIVITY),
    "reset_activities_operation": ("reset_activities", batch_enums.BATCH_OPERATION_TYPE_RESET_ACTIVITY),
    "update_activity_options_operation": (
        "update_activity_options", batch_enums.BATCH_OPERATION_TYPE_UPDATE_ACTIVITY_OPTIONS
    ),
    "terminate_activities_operation": ("terminate_activities", batch_enums.BATCH_OPERATION_TYPE_TERMINATE_ACTIVITY),
    "cancel_activities_operation": ("cancel_activities", batch_enums.BATCH_OPERATION_TYPE_CANCEL_ACTIVITY),
    "delete_activities_operation": ("delete_activities", batch_enums.BATCH_OPERATION_TYPE_DELETE_ACTIVITY),
}  # fmt: skip
_TYPES = dict(_KINDS.values())
_TYPE_OR_ALL = "Either activity type must be set, or match all should be set to true"


# ---- checks ---------------------------------------------------------------------------------------------------------


@validates(WorkflowService.StartBatchOperation)
def check_start(request: service_pb.StartBatchOperationRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that there are an operation, a reason, a job id, and exactly one selection of executions.

    Raise INVALID_ARGUMENT.
    """
    operation = request.WhichOneof("operation")
    selectors = sum(map(bool, (request.visibility_query, request.executions, request.target_executions)))
    if operation is None or not request.reason or not selectors:
        raise invalid_argument(
            "must provide required parameters: BatchType,Reason,Namespace, AND one of (Query OR Executions OR "
            "TargetExecutions)"
        )
    _check_job_id(request, rules)
    if selectors > 1:
        raise invalid_argument("visibility query, executions, and target executions are mutually exclusive")
    _check_targets(request, operation)
    check = _OPERATION_CHECKS.get(operation)
    if check is not None:
        check(getattr(request, operation))
    checks.check_blob(request, rules)


@validates(WorkflowService.StopBatchOperation)
def check_stop(request: service_pb.StopBatchOperationRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that there are a job id and a reason. Raise INVALID_ARGUMENT."""
    if not request.job_id:
        raise invalid_argument("JobId is not set on request.")
    if not request.reason:
        raise invalid_argument("Reason is not set on request.")
    checks.check_workflow_id(request.job_id[: rules.config.max_id_length], rules)


def _check_job_id(request: Any, rules: Rules) -> None:
    if not request.job_id:
        raise invalid_argument("JobId is not set on request.")
    if checks.length(request.job_id) > rules.config.max_id_length:
        raise invalid_argument("WorkflowId exceeds length limit.")
    checks.check_workflow_id(request.job_id, rules)


@validates(WorkflowService.DescribeBatchOperation)
def _check_describe(
    request: service_pb.DescribeBatchOperationRequest, namespace: Namespace | None, rules: Rules
) -> None:
    _check_job_id(request, rules)


def _check_targets(request: service_pb.StartBatchOperationRequest, operation: str) -> None:
    wanted = (
        common_enums.EXECUTION_TYPE_ACTIVITY if operation in ON_ACTIVITIES else common_enums.EXECUTION_TYPE_WORKFLOW
    )
    for index, target in enumerate(request.target_executions):
        if target.type != wanted:
            raise invalid_argument(
                f"target_executions[{index}] has type {_execution_type(target.type)}, but operation {operation} "
                f"requires {_execution_type(wanted)}"
            )


def _execution_type(number: int) -> str:
    name = enum_name(common_enums.ExecutionType, number)
    return name.removeprefix("EXECUTION_TYPE_").title()


def _check_signal(operation: Any) -> None:
    if not operation.signal:
        raise invalid_argument("must provide signal name")


def _check_options(operation: Any) -> None:
    if not operation.HasField("workflow_execution_options"):
        raise invalid_argument("must provide UpdateOptions")
    if not operation.HasField("update_mask"):
        raise invalid_argument("must provide UpdateMask")


def _check_reset(operation: Any) -> None:
    if operation.HasField("options"):
        if operation.options.WhichOneof("target") is None:
            raise invalid_argument("batch reset missing target")
    elif operation.reset_type not in reset_enums.ResetType.values() or not operation.reset_type:
        name = "Unspecified" if not operation.reset_type else str(operation.reset_type)
        raise invalid_argument(f"unknown batch reset type {name}")


def _check_unpause(operation: Any) -> None:
    if operation.WhichOneof("activity") is None:
        raise invalid_argument("activity filter must be set")
    _check_type_or_all(operation)


def _check_reset_activities(operation: Any) -> None:
    if operation.WhichOneof("activity") is None:
        raise invalid_argument("must provide ActivityType or MatchAll")
    _check_type_or_all(operation)


def _check_activity_options(operation: Any) -> None:
    given = operation.HasField("activity_options")
    if given and operation.restore_original:
        raise invalid_argument("cannot set both activity options and restore original")
    if not given and not operation.restore_original:
        raise invalid_argument("Either activity type must be set, or restore original should be set to true")
    _check_type_or_all(operation)


def _check_type_or_all(operation: Any) -> None:
    field = operation.WhichOneof("activity")
    if field is not None and not getattr(operation, field):
        raise invalid_argument(_TYPE_OR_ALL)


_OPERATION_CHECKS = {
    "signal_operation": _check_signal,
    "update_workflow_options_operation": _check_options,
    "reset_operation": _check_reset,
    "unpause_activities_operation": _check_unpause,
    "reset_activities_operation": _check_reset_activities,
    "update_activity_options_operation": _check_activity_options,
}


# ---- calls ----------------------------------------------------------------------------------------------------------


@handles(WorkflowService.StartBatchOperation)
async def start_batch_operation(
    frontend: FrontendPorts, request: service_pb.StartBatchOperationRequest, context: CallContext
) -> service_pb.StartBatchOperationResponse:
    """Start a job. Raises ALREADY_EXISTS if the id is taken, RESOURCE_EXHAUSTED if too many jobs are running."""
    # Imported here, because few calls start a batch.
    from whistlestop.frontend.batch.worker import begin, note_job

    if request.visibility_query:
        try:
            if request.WhichOneof("operation") in ON_ACTIVITIES:
                await standalone_activities.DIVISION.parsed(frontend, context, request.visibility_query)
            else:
                await parsed_filter(frontend, context, request.visibility_query)
        except ServiceError as error:
            raise invalid_argument(f"invalid visibility query: {error.message}") from None
    running = await count_workflow_executions(
        frontend,
        service_pb.CountWorkflowExecutionsRequest(query=f"{_IN_DIVISION} AND ExecutionStatus = 'Running'"),
        context,
    )
    if running.count >= frontend.config.of(context.namespace).max_concurrent_batch_operations:
        raise ServiceError(
            Code.RESOURCE_EXHAUSTED,
            "Max concurrent batch operations is reached",
            details_pb.ResourceExhaustedFailure(
                cause=causes.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT, scope=causes.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
            ),
        )
    start = _start_request(request, frontend.ids.uuid())
    job = await note_job(frontend, context, request.job_id)
    try:
        await frontend.history.StartWorkflowExecution(start, context)
    except ServiceError as error:
        if error.code is Code.ALREADY_EXISTS:
            await frontend.store.delete_message(job.message)
        raise
    await begin(frontend, job, can_long_poll=context.can_long_poll)
    return service_pb.StartBatchOperationResponse()


def _start_request(
    request: service_pb.StartBatchOperationRequest, request_id: str
) -> service_pb.StartWorkflowExecutionRequest:
    kind = request.WhichOneof("operation")
    assert kind is not None
    identity: str = getattr(getattr(request, kind), "identity", "")
    start = service_pb.StartWorkflowExecutionRequest(
        namespace=request.namespace,
        workflow_id=request.job_id,
        request_id=request_id,
        identity=identity,
        workflow_id_conflict_policy=wf_enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
        workflow_id_reuse_policy=wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
    )
    start.workflow_type.name = WORKFLOW_TYPE
    start.task_queue.name = TASK_QUEUE
    start.input.payloads.add(
        metadata={"encoding": b"binary/protobuf", "messageType": request.DESCRIPTOR.full_name.encode()},
        data=request.SerializeToString(),
    )
    memo: dict[str, Any] = {_TYPE_MEMO: _KINDS[kind][0], _REASON_MEMO: request.reason}
    if request.visibility_query:
        memo[_QUERY_MEMO] = request.visibility_query
    executions = _targets(request, kind)
    if executions:
        memo[_EXECUTIONS_MEMO] = [[each.type, each.business_id, each.run_id] for each in executions]
    for name, value in memo.items():
        start.memo.fields[name].CopyFrom(json_payload(value))
    for name, value in (("BatcherUser", identity), ("TemporalNamespaceDivision", DIVISION)):
        attribute = start.search_attributes.indexed_fields[name]
        attribute.CopyFrom(json_payload(value))
        attribute.metadata["type"] = b"Keyword"
    return start


def _targets(request: service_pb.StartBatchOperationRequest, kind: str) -> list[common_pb.Execution]:
    if request.target_executions:
        return list(request.target_executions)
    of = common_enums.EXECUTION_TYPE_ACTIVITY if kind in ON_ACTIVITIES else common_enums.EXECUTION_TYPE_WORKFLOW
    return [
        common_pb.Execution(type=of, business_id=each.workflow_id, run_id=each.run_id) for each in request.executions
    ]


@handles(WorkflowService.StopBatchOperation)
async def stop_batch_operation(
    frontend: FrontendPorts, request: service_pb.StopBatchOperationRequest, context: CallContext
) -> service_pb.StopBatchOperationResponse:
    """Stop a job. Operations that are already done are not undone. Raise NOT_FOUND."""
    described = await _described_run(frontend, request.job_id, context)
    execution = described.workflow_execution_info.execution
    terminate = service_pb.TerminateWorkflowExecutionRequest(
        namespace=request.namespace, workflow_execution=execution, reason=request.reason, identity=request.identity
    )
    await frontend.history.TerminateWorkflowExecution(terminate, context)
    return service_pb.StopBatchOperationResponse()


@handles(WorkflowService.DescribeBatchOperation)
async def describe_batch_operation(
    frontend: FrontendPorts, request: service_pb.DescribeBatchOperationRequest, context: CallContext
) -> service_pb.DescribeBatchOperationResponse:
    """Describe a job. Raise NOT_FOUND.

    Its counts are updated page by page while it runs, and exact when it is done.
    """
    described = await _described_run(frontend, request.job_id, context)
    info = described.workflow_execution_info
    memo = {name: _value(payload) for name, payload in info.memo.fields.items()}
    response = service_pb.DescribeBatchOperationResponse(
        operation_type=_TYPES.get(memo.get(_TYPE_MEMO, ""), batch_enums.BATCH_OPERATION_TYPE_UNSPECIFIED),
        job_id=info.execution.workflow_id,
        state=_STATES.get(info.status, batch_enums.BATCH_OPERATION_STATE_FAILED),
        start_time=info.start_time,
        close_time=info.close_time if info.HasField("close_time") else None,
        identity=_value(info.search_attributes.indexed_fields["BatcherUser"]) or "",
        reason=memo.get(_REASON_MEMO, ""),
        query=memo.get(_QUERY_MEMO, ""),
        executions=[
            common_pb.Execution(type=of, business_id=business_id, run_id=run_id)
            for of, business_id, run_id in memo.get(_EXECUTIONS_MEMO, ())
        ],
    )
    if info.status == _COMPLETED:
        stats = memo.get(STATS_MEMO, {})
        response.complete_operation_count = stats.get("NumSuccess", 0)
        response.failure_operation_count = stats.get("NumFailure", 0)
        response.total_operation_count = response.complete_operation_count + response.failure_operation_count
    else:
        for pending in described.pending_activities[:1]:
            for payload in pending.heartbeat_details.payloads[:1]:
                progress = _value(payload)
                response.total_operation_count = progress["TotalEstimate"]
                response.complete_operation_count = progress["SuccessCount"]
                response.failure_operation_count = progress["ErrorCount"]
    return response


@handles(WorkflowService.ListBatchOperations)
async def list_batch_operations(
    frontend: FrontendPorts, request: service_pb.ListBatchOperationsRequest, context: CallContext
) -> service_pb.ListBatchOperationsResponse:
    """Return a page of jobs, newest first. Raise INVALID_ARGUMENT for a bad page token."""
    page = await list_workflow_executions(
        frontend,
        service_pb.ListWorkflowExecutionsRequest(
            query=_IN_DIVISION, page_size=request.page_size, next_page_token=request.next_page_token
        ),
        context,
    )
    response = service_pb.ListBatchOperationsResponse(next_page_token=page.next_page_token)
    for info in page.executions:
        kind = _value(info.memo.fields[_TYPE_MEMO]) or ""
        response.operation_info.add(
            job_id=info.execution.workflow_id,
            state=_STATES.get(info.status, batch_enums.BATCH_OPERATION_STATE_FAILED),
            start_time=info.start_time,
            close_time=info.close_time if info.HasField("close_time") else None,
            operation_type=_TYPES.get(kind, batch_enums.BATCH_OPERATION_TYPE_UNSPECIFIED),
        )
    return response


async def _described_run(
    frontend: FrontendPorts, job_id: str, context: CallContext
) -> service_pb.DescribeWorkflowExecutionResponse:
    request = service_pb.DescribeWorkflowExecutionRequest(namespace=context.namespace)
    request.execution.workflow_id = job_id
    reply = await frontend.history.DescribeWorkflowExecution(request, context)
    described = decoded(reply, service_pb.DescribeWorkflowExecutionResponse)
    if described.workflow_execution_info.type.name != WORKFLOW_TYPE:
        # A user's workflow with that id is not a batch job, and must not be stopped as one.
        raise not_found(f"no batch operation with job id {job_id}")
    return described


def _value(payload: common_pb.Payload) -> Any:
    """Return the value of a payload; None if it is not JSON, since a user's workflow may be in the division."""
    try:
        return load_json(payload.data) if payload.data else None
    except ValueError:
        return None
