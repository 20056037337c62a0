"""`whistlestop workflow list | show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.server.cli.output import Output, instant, print_json, print_table, wants_json
from whistlestop.server.cli.reach import Address, Api, DatabaseUrl, DbFilename, Namespace, reach, run
from whistlestop.server.config import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

PAGE = 200
ADDRESS = "127.0.0.1:7233"
_STATUS_PREFIX = "WORKFLOW_EXECUTION_STATUS_"
_EVENT_PREFIX = "EVENT_TYPE_"


@app.command("list")
def list_workflows(
    *,
    query: Annotated[str, typer.Option("--query", "-q", help="A filter in Temporal's list language.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows at most.")] = 50,
    namespace: Namespace = DEFAULT_NAMESPACE,
    address: Address = ADDRESS,
    db_filename: DbFilename = "",
    database_url: DatabaseUrl = "",
    output: Output = "table",
) -> None:
    """List workflow executions, the newest first."""
    as_json = wants_json(output)

    async def work() -> None:
        async with reach(address, db_filename, database_url) as api:
            found = [info async for info in _listed(api, namespace, query, limit)]
        if as_json:
            print_json([_to_dict(info) for info in found])
            return
        print_table(
            ("status", "workflow id", "type", "task queue", "started", "closed", "run id"),
            [
                (
                    _status(info.status),
                    info.execution.workflow_id,
                    info.type.name,
                    info.task_queue,
                    _at(info.start_time),
                    _at(info.close_time) if info.HasField("close_time") else "",
                    info.execution.run_id,
                )
                for info in found
            ],
        )

    run(work)


@app.command()
def show(
    workflow_id: Annotated[str, typer.Argument(help="The workflow's id.")],
    *,
    run_id: Annotated[str, typer.Option("--run-id", "-r", help="One run; the current one otherwise.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Events at most.")] = 1000,
    namespace: Namespace = DEFAULT_NAMESPACE,
    address: Address = ADDRESS,
    db_filename: DbFilename = "",
    database_url: DatabaseUrl = "",
    output: Output = "table",
) -> None:
    """Show one workflow: what it is, what it waits for, and its events."""
    as_json = wants_json(output)

    async def work() -> None:
        from temporalio.api.common.v1 import message_pb2 as common_pb
        from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

        execution = common_pb.WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        async with reach(address, db_filename, database_url) as api:
            described = await api.call(
                "DescribeWorkflowExecution",
                rr.DescribeWorkflowExecutionRequest(namespace=namespace, execution=execution),
                rr.DescribeWorkflowExecutionResponse,
            )
            execution.run_id = described.workflow_execution_info.execution.run_id
            events = [event async for event in _events(api, namespace, execution, limit)]
        if as_json:
            print_json({"execution": _to_dict(described), "events": [_to_dict(event) for event in events]})
            return
        _print_summary(described)
        _print_pending(described)
        print_table(
            ("id", "at", "event", "detail"),
            [
                (event.event_id, _at(event.event_time), _event_name(event.event_type), _detail(event))
                for event in events
            ],
        )

    run(work)


async def _listed(api: Api, namespace: str, query: str, limit: int) -> AsyncIterator[Any]:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    token, left = b"", limit
    while left > 0:
        page = await api.call(
            "ListWorkflowExecutions",
            rr.ListWorkflowExecutionsRequest(
                namespace=namespace, query=query, page_size=min(PAGE, left), next_page_token=token
            ),
            rr.ListWorkflowExecutionsResponse,
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
            "GetWorkflowExecutionHistory",
            rr.GetWorkflowExecutionHistoryRequest(
                namespace=namespace, execution=execution, maximum_page_size=min(PAGE, left), next_page_token=token
            ),
            rr.GetWorkflowExecutionHistoryResponse,
        )
        for event in page.history.events[:left]:
            yield event
        left -= len(page.history.events)
        token = page.next_page_token
        if not token:
            return


def _print_summary(described: Any) -> None:
    info = described.workflow_execution_info
    print(f"{info.execution.workflow_id}  {_status(info.status)}")
    for name, value in (
        ("run id", info.execution.run_id),
        ("type", info.type.name),
        ("task queue", info.task_queue),
        ("started", _at(info.start_time)),
        ("closed", _at(info.close_time) if info.HasField("close_time") else ""),
        ("events", info.history_length),
    ):
        if value:
            print(f"  {name}: {value}")


def _print_pending(described: Any) -> None:
    if described.pending_activities:
        print_table(
            ("activity", "type", "state", "attempt"),
            [
                (each.activity_id, each.activity_type.name, _activity_state(each.state), each.attempt)
                for each in described.pending_activities
            ],
            "Pending activities",
        )
    if described.pending_children:
        print_table(
            ("child", "type", "run id"),
            [(each.workflow_id, each.workflow_type_name, each.run_id) for each in described.pending_children],
            "Pending children",
        )


def _to_dict(message: Message) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(message)
    return found


def _at(timestamp: Any) -> str:
    return instant(timestamp.ToNanoseconds())


def _status(number: Any) -> str:
    from temporalio.api.enums.v1.workflow_pb2 import WorkflowExecutionStatus

    return _words(WorkflowExecutionStatus.Name(number).removeprefix(_STATUS_PREFIX))


def _activity_state(number: Any) -> str:
    from temporalio.api.enums.v1.workflow_pb2 import PendingActivityState

    return _words(PendingActivityState.Name(number).removeprefix("PENDING_ACTIVITY_STATE_"))


def _event_name(number: Any) -> str:
    from temporalio.api.enums.v1.event_type_pb2 import EventType

    return _words(EventType.Name(number).removeprefix(_EVENT_PREFIX))


def _words(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _detail(event: Any) -> str:
    """What tells one event from another of its kind: names and ids, never payloads."""
    attributes = getattr(event, event.WhichOneof("attributes") or "", None)
    if attributes is None:
        return ""
    known = attributes.DESCRIPTOR.fields_by_name
    for name in ("activity_type", "workflow_type"):
        if name in known and getattr(attributes, name).name:
            return str(getattr(attributes, name).name)
    for name in ("signal_name", "timer_id", "marker_name"):
        if name in known and getattr(attributes, name):
            return str(getattr(attributes, name))
    if "failure" in known and attributes.HasField("failure"):
        return str(attributes.failure.message)
    return (
        f"of event {attributes.scheduled_event_id}"
        if "scheduled_event_id" in known and attributes.scheduled_event_id
        else ""
    )
