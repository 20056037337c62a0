"""`whistlestop task-queue describe`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.server.cli.api_access import Api, run
from whistlestop.server.cli.connection import Connection, on_a_server
from whistlestop.server.cli.output import Output, as_json, instant, print_json, print_table, remark, wants_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

KINDS = {1: "workflow", 2: "activity"}


@app.callback()
def _group() -> None:
    """Keep `describe` a command of its own while it is the only one."""


@app.command()
@on_a_server
def describe(
    connection: Connection,
    name: Annotated[str, typer.Argument(help="The task queue.")],
    *,
    output: Output = "table",
) -> None:
    """Show the pollers and the backlog of a task queue."""
    json_wanted = wants_json(output)

    async def work() -> None:
        async with connection.open() as api:
            answers = {kind: await _describe(api, connection.namespace, name, number) for number, kind in KINDS.items()}
        if json_wanted:
            print_json({kind: as_json(answer) for kind, answer in answers.items()})
            return
        if not any(answer.pollers or answer.stats.approximate_backlog_count for answer in answers.values()):
            remark(f"no worker polls {name} and no task waits in it; a queue that nobody has used looks the same")
        print_table(
            ("kind", "backlog", "oldest", "tasks added /s", "tasks handed out /s", "pollers"),
            [
                (
                    kind,
                    answer.stats.approximate_backlog_count,
                    f"{answer.stats.approximate_backlog_age.ToMilliseconds() / 1000:.1f} s",
                    f"{answer.stats.tasks_add_rate:.1f}",
                    f"{answer.stats.tasks_dispatch_rate:.1f}",
                    len(answer.pollers),
                )
                for kind, answer in answers.items()
            ],
        )
        pollers = [
            (kind, poller.identity, instant(poller.last_access_time.ToNanoseconds()))
            for kind, answer in answers.items()
            for poller in answer.pollers
        ]
        if pollers:
            print_table(("kind", "poller", "last seen"), pollers)

    run(work)


async def _describe(api: Api, namespace: str, name: str, number: int) -> Any:
    from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    request = rr.DescribeTaskQueueRequest(
        namespace=namespace, task_queue=queue_pb.TaskQueue(name=name), report_stats=True
    )
    request.task_queue_type = number  # type: ignore[assignment]  # a number of the enum
    return await api.call(WorkflowService.DescribeTaskQueue, request)
