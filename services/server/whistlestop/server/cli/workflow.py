"""`whistlestop workflow list | show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.server.cli import workflow_summary
from whistlestop.server.cli.api_access import Api, run
from whistlestop.server.cli.connection import Connection, on_a_server
from whistlestop.server.cli.output import (
    Output,
    as_json,
    form_of,
    print_json,
    print_json_lines,
    print_table,
    remark,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

PAGE = 200


@app.command("list")
@on_a_server
def list_workflows(
    connection: Connection,
    *,
    query: Annotated[str, typer.Option("--query", "-q", help="A filter in Temporal's list language.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows.")] = 50,
    output: Output = "table",
) -> None:
    """List workflow executions, the newest first."""
    form = form_of(output)

    async def work() -> None:
        async with connection.open() as api:
            found = [info async for info in _listed(api, connection.namespace, query, limit)]
        if form == "json":
            print_json([as_json(info) for info in found])
        elif form == "jsonl":
            print_json_lines(as_json(info) for info in found)
        elif form == "table":
            if not found:
                remark(f"no workflow was found in namespace {connection.namespace}")
                return
            print_table(
                ("status", "workflow id", "type", "task queue", "started", "closed", "run id"),
                [workflow_summary.row(info) for info in found],
                optional=("type", "task queue", "started", "closed", "run id"),
            )

    run(work)


@app.command()
@on_a_server
def show(
    connection: Connection,
    workflow_id: Annotated[str, typer.Argument(help="The workflow's id.")],
    *,
    run_id: Annotated[str, typer.Option("--run-id", "-r", help="The run; by default the current one.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of events.")] = 1000,
    output: Output = "table",
) -> None:
    """Show a workflow: its state, its result or what it waits for, and its events."""
    form = form_of(output)

    async def work() -> None:
        from temporalio.api.common.v1 import message_pb2 as common_pb
        from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

        execution = common_pb.WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        async with connection.open() as api:
            described = await api.call(
                WorkflowService.DescribeWorkflowExecution,
                rr.DescribeWorkflowExecutionRequest(namespace=connection.namespace, execution=execution),
            )
            execution.run_id = described.workflow_execution_info.execution.run_id
            events = [event async for event in _events(api, connection.namespace, execution, limit)]
            closing = await _closing_event(api, connection.namespace, execution, described, events)
        if form == "json":
            print_json({"execution": as_json(described), "events": [as_json(event) for event in events]})
        elif form == "jsonl":
            print_json_lines(as_json(event) for event in events)
        elif form == "table":
            workflow_summary.print_execution(described, events, closing)
            if len(events) < described.workflow_execution_info.history_length:
                remark(f"the first {len(events)} events are shown; --limit shows more")

    run(work)


async def _listed(api: Api, namespace: str, query: str, limit: int) -> AsyncIterator[Any]:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    token, left = b"", limit
    while left > 0:
        page = await api.call(
            WorkflowService.ListWorkflowExecutions,
            rr.ListWorkflowExecutionsRequest(
                namespace=namespace, query=query, page_size=min(PAGE, left), next_page_token=token
            ),
        )
        for info in page.executions:
            yield info
        left -= len(page.executions)
        token = page.next_page_token
        if not token:
            return


async def _events(api: Api, namespace: str, execution: Any, limit: int) -> AsyncIterator[Any]:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    token, left = b"", limit
    while left > 0:
        page = await api.call(
            WorkflowService.GetWorkflowExecutionHistory,
            rr.GetWorkflowExecutionHistoryRequest(
                namespace=namespace, execution=execution, maximum_page_size=min(PAGE, left), next_page_token=token
            ),
        )
        for event in page.history.events[:left]:
            yield event
        left -= len(page.history.events)
        token = page.next_page_token
        if not token:
            return


async def _closing_event(api: Api, namespace: str, execution: Any, described: Any, events: list[Any]) -> Any:
    """Return the event that closed the run, or None while it is open."""
    from temporalio.api.enums.v1.workflow_pb2 import HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    info = described.workflow_execution_info
    if not info.HasField("close_time"):
        return None
    if len(events) == info.history_length:
        return events[-1]
    request = rr.GetWorkflowExecutionHistoryRequest(
        namespace=namespace, execution=execution, history_event_filter_type=HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    )
    page = await api.call(WorkflowService.GetWorkflowExecutionHistory, request)
    return page.history.events[-1] if page.history.events else None
