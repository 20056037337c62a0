"""`temporal batch`, and the commands that take a query. One job runs at a time in a namespace: this one has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.scenarios import scenario
from tests.cli.scenarios.workflow import to_start
from tests.cli.worker import worker

if TYPE_CHECKING:
    from tests.cli.terminal import Printed, Terminal


def _begun(_: object) -> bool:
    """Whatever it prints, it was not refused because of another job."""
    return True


async def _ended(t: Terminal, started: Printed) -> None:
    job = started.json["batchJobId"]
    await t.until(
        lambda shown: shown["state"] != "BATCH_OPERATION_STATE_RUNNING" and shown["state"] != "Running",
        "batch describe",
        "--job-id",
        job,
    )


@scenario
async def batches(t: Terminal) -> None:
    """Each command that takes a query, over two workflows."""
    query = ("-q", f"TaskQueue = '{t.task_queue}' AND ExecutionStatus = 'Running'", "-y", "--reason", "why")
    async with worker(t):
        for name in ("a", "b"):
            await t.run("workflow start", *to_start(t, name))
        await t.until(lambda counted: int(counted["count"]) == 2, "workflow count", *query[:2])
        await _ended(t, await t.until(_begun, "workflow signal", *query, "--name", "stop", "-i", '"Ely"'))
        await t.run("workflow query", "-w", t.id("a"), "--name", "where")
        await _ended(
            t,
            await t.until(_begun, "workflow update-options", *query, "--versioning-override-behavior", "auto_upgrade"),
        )
        await _ended(t, await t.until(_begun, "workflow reset", *query, "-t", "FirstWorkflowTask"))
        await t.until(lambda counted: int(counted["count"]) == 2, "workflow count", *query[:2])
        await _ended(t, await t.until(_begun, "workflow cancel", *query, "--rps", "50"))
        await t.run("workflow result", "-w", t.id("b"))
        for name in ("c", "d"):
            await t.run("workflow start", *to_start(t, name))
        await t.until(lambda counted: int(counted["count"]) == 2, "workflow count", *query[:2])
        await _ended(t, await t.until(_begun, "workflow terminate", *query))
        await t.run("workflow result", "-w", t.id("d"), shaped=_by_whomever)
        await t.until(
            lambda counted: int(counted["count"]) == 6, "workflow count", "-q", f"TaskQueue = '{t.task_queue}'"
        )
        await _ended(t, await t.until(_begun, "workflow delete", "-q", f"TaskQueue = '{t.task_queue}'", "-y"))
    await t.run(
        "workflow terminate",
        "-q",
        "WorkflowId ==",
        "-y",
        ours="invalid visibility query: invalid query: malformed SQL query",
    )
    await t.run("workflow terminate", *query[:2], said="n\n", output="text")
    await t.run("batch describe", "--job-id", "nobody")
    await t.run("batch terminate", "--job-id", "nobody", "--reason", "why")
    await t.run("batch list", "--limit", "1", record=False)


@scenario
async def jobs_are_listed(t: Terminal) -> None:
    name = t.id("ns")
    await t.run("operator namespace create", "-n", name, "--retention", "24h")
    await t.until(_begun, "operator namespace describe", "-n", name, record=False)
    await t.until(_begun, "batch list", record=False, namespace=name)
    started = await t.run("workflow terminate", "-q", "WorkflowType = 'None'", "-y", "--reason", "why", namespace=name)
    job = started.json["batchJobId"]
    await t.until(_completed, "batch describe", "--job-id", job, namespace=name)
    await t.until(_completed, "batch list", namespace=name)
    await t.run("batch list", output="text", namespace=name)
    await t.run("batch terminate", "--job-id", job, "--reason", "late", namespace=name)


def _completed(shown: object) -> bool:
    return "COMPLETED" in str(shown)


def _by_whomever(ended: Any) -> Any:
    """A batch acts in the name of whoever started it; the real server's in that of its own worker."""
    del ended["close_event"]["workflow_execution_terminated_event_attributes"]["identity"]
    return ended
