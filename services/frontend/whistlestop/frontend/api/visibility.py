"""ListWorkflowExecutions, Scan, Count, and the older ListOpen / ListClosed / ListArchived.

Each of them applies a list filter to the visibility rows of a namespace.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1.workflow_pb2 import WorkflowExecutionStatus
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.listing import entries, fill_count, page, parsed_filter, show_attributes
from whistlestop.frontend.api.rules import handles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.records import VisibilityRow
    from whistlestop.storage.visibility import AttributeType

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - written with a Z
_MAX_ARCHIVED = 10_000
_RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
_STATUS_WORDS: dict[int, str] = {
    value: name.removeprefix("WORKFLOW_EXECUTION_STATUS_").title().replace("_", "")
    for name, value in WorkflowExecutionStatus.items()
}


@handles(WorkflowService.ListWorkflowExecutions)
async def list_workflow_executions(
    frontend: FrontendPorts, request: service_pb.ListWorkflowExecutionsRequest, context: CallContext
) -> service_pb.ListWorkflowExecutionsResponse:
    """Return a page of matching executions, the latest start first unless the filter orders them.

    Raise INVALID_ARGUMENT for a bad filter or page token.
    """
    executions, token = await _page(frontend, context, request.query, request.page_size, request.next_page_token)
    return service_pb.ListWorkflowExecutionsResponse(executions=executions, next_page_token=token)


@handles(WorkflowService.ScanWorkflowExecutions)
async def scan_workflow_executions(
    frontend: FrontendPorts, request: service_pb.ScanWorkflowExecutionsRequest, context: CallContext
) -> service_pb.ScanWorkflowExecutionsResponse:
    """Return a page like `list_workflow_executions`. Raise INVALID_ARGUMENT for a bad filter or page token."""
    executions, token = await _page(frontend, context, request.query, request.page_size, request.next_page_token)
    return service_pb.ScanWorkflowExecutionsResponse(executions=executions, next_page_token=token)


@handles(WorkflowService.CountWorkflowExecutions)
async def count_workflow_executions(
    frontend: FrontendPorts, request: service_pb.CountWorkflowExecutionsRequest, context: CallContext
) -> service_pb.CountWorkflowExecutionsResponse:
    """Count executions, also per group if the filter groups. Raise INVALID_ARGUMENT for a bad filter."""
    query, _ = await parsed_filter(frontend, context, request.query)
    return await fill_count(frontend, context, query, service_pb.CountWorkflowExecutionsResponse())


@handles(WorkflowService.ListOpenWorkflowExecutions)
async def list_open_workflow_executions(
    frontend: FrontendPorts, request: service_pb.ListOpenWorkflowExecutionsRequest, context: CallContext
) -> service_pb.ListOpenWorkflowExecutionsResponse:
    """List running executions by start time. Deprecated. Raise INVALID_ARGUMENT for a bad page token."""
    clauses = ["ExecutionStatus = 'Running'", *_between("StartTime", request), *_by_id_or_type(request)]
    executions, token = await _page(
        frontend, context, " AND ".join(clauses), request.maximum_page_size, request.next_page_token
    )
    return service_pb.ListOpenWorkflowExecutionsResponse(executions=executions, next_page_token=token)


@handles(WorkflowService.ListClosedWorkflowExecutions)
async def list_closed_workflow_executions(
    frontend: FrontendPorts, request: service_pb.ListClosedWorkflowExecutionsRequest, context: CallContext
) -> service_pb.ListClosedWorkflowExecutionsResponse:
    """List closed executions by close time. Deprecated. Raise INVALID_ARGUMENT."""
    closed = _between("CloseTime", request) or ["CloseTime IS NOT NULL"]
    clauses = ["ExecutionStatus != 'Running'", *closed, *_by_id_or_type(request)]
    if request.WhichOneof("filters") == "status_filter":
        status = request.status_filter.status
        if status in (WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED, _RUNNING):
            raise invalid_argument("StatusFilter must be specified and must be not Running.")
        clauses.append(f"ExecutionStatus = {_quoted(_STATUS_WORDS.get(status, str(status)))}")
    executions, token = await _page(
        frontend, context, " AND ".join(clauses), request.maximum_page_size, request.next_page_token
    )
    return service_pb.ListClosedWorkflowExecutionsResponse(executions=executions, next_page_token=token)


@handles(WorkflowService.ListArchivedWorkflowExecutions)
async def list_archived_workflow_executions(
    frontend: FrontendPorts, request: service_pb.ListArchivedWorkflowExecutionsRequest, context: CallContext
) -> service_pb.ListArchivedWorkflowExecutionsResponse:
    """Refuse the request with INVALID_ARGUMENT, because there is no archive."""
    if request.page_size > _MAX_ARCHIVED:
        raise invalid_argument(f"PageSize is larger than allowed {_MAX_ARCHIVED}.")
    raise invalid_argument("Cluster is not configured for visibility archival.")


async def _page(
    frontend: FrontendPorts, context: CallContext, text: str, size: int, after: bytes
) -> tuple[list[workflow_pb.WorkflowExecutionInfo], bytes]:
    query, custom = await parsed_filter(frontend, context, text)
    rows, token = await page(frontend, context, query, size, after, text)
    return await entries(frontend, rows, lambda row: execution_info(row, custom)), token


def execution_info(row: VisibilityRow, custom: Mapping[str, AttributeType]) -> workflow_pb.WorkflowExecutionInfo:
    """Return a row as clients see it. Only custom attributes that are in `custom` are shown."""
    info = workflow_pb.WorkflowExecutionInfo(
        execution=common_pb.WorkflowExecution(workflow_id=row.key.workflow_id, run_id=row.key.run_id),
        type=common_pb.WorkflowType(name=row.workflow_type),
        status=row.status,  # type: ignore[arg-type]  # stored as its number
        task_queue=row.task_queue,
        history_length=row.history_length,
        history_size_bytes=row.history_size_bytes,
        state_transition_count=row.state_transition_count,
    )
    info.start_time.FromMicroseconds(row.start_time_us)
    info.execution_time.FromMicroseconds(row.execution_time_us or row.start_time_us)
    if row.close_time_us is not None:
        info.close_time.FromMicroseconds(row.close_time_us)
    if row.execution_duration_ns is not None:
        info.execution_duration.FromNanoseconds(row.execution_duration_ns)
    if row.parent_workflow_id:
        info.parent_execution.workflow_id = row.parent_workflow_id
        info.parent_execution.run_id = row.parent_run_id or ""
    info.root_execution.workflow_id = row.root_workflow_id
    info.root_execution.run_id = row.root_run_id
    info.memo.MergeFromString(row.memo)
    show_attributes(info.search_attributes, row, custom)
    return info


def _by_id_or_type(request: Any) -> list[str]:
    kind = request.WhichOneof("filters")
    if kind == "execution_filter":
        return [f"WorkflowId = {_quoted(request.execution_filter.workflow_id)}"]
    if kind == "type_filter":
        return [f"WorkflowType = {_quoted(request.type_filter.name)}"]
    return []


def _between(column: str, request: Any) -> list[str]:
    earliest, latest = request.start_time_filter.earliest_time, request.start_time_filter.latest_time
    has_earliest = request.start_time_filter.HasField("earliest_time")
    has_latest = request.start_time_filter.HasField("latest_time")
    if has_earliest and has_latest:
        if earliest.ToNanoseconds() > latest.ToNanoseconds():
            raise invalid_argument("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
        return [f"{column} BETWEEN '{_instant(earliest)}' AND '{_instant(latest)}'"]
    if has_earliest:
        return [f"{column} >= '{_instant(earliest)}'"]
    if has_latest:
        return [f"{column} <= '{_instant(latest)}'"]
    return []


def _instant(timestamp: Timestamp) -> str:
    # strftime does not pad years before 1000, and Go's zero time is in the year 1.
    try:
        whole = (_EPOCH + timedelta(seconds=timestamp.seconds)).isoformat()
    except OverflowError as error:
        raise ValueError("a time beyond the years 1 to 9999") from error
    return f"{whole}.{timestamp.nanos:09}Z"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
