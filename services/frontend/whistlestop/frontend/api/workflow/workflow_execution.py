"""Signal, RequestCancel, Terminate, Reset, Delete, Describe, Query and both histories: checks and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1.query_pb2 import QueryRejectCondition
from temporalio.api.enums.v1.reset_pb2 import ResetReapplyType
from temporalio.api.enums.v1.workflow_pb2 import HistoryEventFilterType

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.rules import validates

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace


@validates(WorkflowService.SignalWorkflowExecution)
def check_signal(request: service_pb.SignalWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the execution, the signal's name, and sizes. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "workflow_execution")
    checks.check_no_schedule(request.workflow_execution.workflow_id)
    if not request.signal_name:
        raise invalid_argument("SignalName is not set on request.")
    if checks.length(request.signal_name) > rules.config.max_id_length:
        raise invalid_argument("SignalName length exceeds limit.")
    if checks.length(request.request_id) > rules.config.max_id_length:
        raise invalid_argument("RequestId length exceeds limit.")
    if request.links:
        checks.check_links(request.links, rules)
    checks.check_blob(request.input, rules)


@validates(WorkflowService.RequestCancelWorkflowExecution)
def check_request_cancel(
    request: service_pb.RequestCancelWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the execution and the links. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "workflow_execution")
    checks.check_no_schedule(request.workflow_execution.workflow_id)
    checks.check_links(request.links, rules)


@validates(WorkflowService.TerminateWorkflowExecution)
def check_terminate(
    request: service_pb.TerminateWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the execution, and fill in reason and identity. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "workflow_execution")
    checks.check_links(request.links, rules)
    if not request.reason:
        request.reason = "terminated by user via frontend"
    if not request.identity:
        request.identity = "frontend-service"


@validates(WorkflowService.ResetWorkflowExecution)
def check_reset(request: service_pb.ResetWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the execution, the required request id, and the reapply type. Raise INVALID_ARGUMENT."""
    if not request.request_id:
        raise invalid_argument("RequestId is not set on request.")
    if checks.length(request.request_id) > rules.config.max_id_length:
        raise invalid_argument("RequestId length exceeds limit.")
    checks.check_execution(request, "workflow_execution")
    checks.check_no_schedule(request.workflow_execution.workflow_id)
    if not request.reset_reapply_type:
        request.reset_reapply_type = ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE
    if request.reset_reapply_type not in ResetReapplyType.values():
        raise invalid_argument(f"unknown reset reapply type: {request.reset_reapply_type}")


@validates(WorkflowService.DeleteWorkflowExecution)
def check_delete(request: service_pb.DeleteWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that an execution is named correctly. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "workflow_execution")


@validates(WorkflowService.DescribeWorkflowExecution)
def check_describe(
    request: service_pb.DescribeWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check that an execution is named correctly. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "execution")


@validates(WorkflowService.QueryWorkflow)
def check_query(request: service_pb.QueryWorkflowRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the execution, and the type and size of the query. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "execution")
    checks.check_no_schedule(request.execution.workflow_id)
    if not request.HasField("query"):
        raise invalid_argument("WorkflowQuery is not set on request.")
    if not request.query.query_type:
        raise invalid_argument("QueryType is not set on request.")
    if not request.query_reject_condition:
        request.query_reject_condition = QueryRejectCondition.QUERY_REJECT_CONDITION_NONE
    checks.check_blob(request.query.query_args, rules)


@validates(WorkflowService.GetWorkflowExecutionHistory)
def check_history(
    request: service_pb.GetWorkflowExecutionHistoryRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the execution, limit the page size, and default to all events. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "execution")
    _fill_page_size(request, rules)
    if not request.history_event_filter_type:
        request.history_event_filter_type = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT


@validates(WorkflowService.GetWorkflowExecutionHistoryReverse)
def check_history_reverse(
    request: service_pb.GetWorkflowExecutionHistoryReverseRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the execution, and limit the page size. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "execution")
    _fill_page_size(request, rules)


@validates(WorkflowService.ResetStickyTaskQueue)
def check_reset_sticky(
    request: service_pb.ResetStickyTaskQueueRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check that an execution is named correctly. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "execution")


@validates(WorkflowService.PauseWorkflowExecution, WorkflowService.UnpauseWorkflowExecution)
def check_pause(
    request: service_pb.PauseWorkflowExecutionRequest | service_pb.UnpauseWorkflowExecutionRequest,
    namespace: Namespace | None, rules: Rules,
) -> None:  # fmt: skip
    """Check the execution, and the lengths of texts. Raise INVALID_ARGUMENT."""
    for name, value in (
        ("reason", request.reason), ("request id", request.request_id), ("identity", request.identity)
    ):  # fmt: skip
        if checks.length(value) > rules.config.max_id_length:
            raise invalid_argument(f"{name} is too long.")
    if not request.workflow_id:
        raise invalid_argument("Can't load workflow execution. WorkflowId not set.")
    if not checks.is_run_id(request.run_id):
        raise invalid_argument("RunId is not valid UUID.")
    checks.check_is_a_workflow(request.workflow_id, request.run_id)
    checks.check_no_schedule(request.workflow_id)


def _fill_page_size(
    request: service_pb.GetWorkflowExecutionHistoryRequest | service_pb.GetWorkflowExecutionHistoryReverseRequest,
    rules: Rules,
) -> None:
    most = rules.config.history_max_page_size
    if not 0 < request.maximum_page_size <= most:
        request.maximum_page_size = most
