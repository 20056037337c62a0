"""A schedule asked as the workflow that the real server makes of it, and after it has ended or gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _created(p: Puppet) -> dict[str, str]:
    """A schedule that starts nothing, and its scheduler's workflow once that is at work."""
    await p.call(
        "CreateSchedule",
        schedule_id=p.id("s"),
        request_id=p.id("create"),
        schedule=_schedule(p),
    )
    execution = p.execution(f"temporal-sys-scheduler:{p.id('s')}")
    for _ in range(6000):
        told = await p.call("DescribeWorkflowExecution", record=False, execution=execution)
        if told.workflow_execution_info.history_length not in (2, 3):  # the real one's first task is done
            break
        await asyncio.sleep(0.05)
    return execution


def _schedule(p: Puppet) -> dict[str, Any]:
    action = {
        "start_workflow": {
            "workflow_id": p.id("wf"),
            "workflow_type": {"name": "Journey"},
            "task_queue": {"name": p.task_queue},
        }
    }
    return {"spec": {"calendar": [{"year": "2090"}]}, "action": action}


async def _asked(p: Puppet) -> None:
    """All that is asked of a schedule."""
    of: dict[str, Any] = {"schedule_id": p.id("s")}
    await p.attempt("DescribeSchedule", **of)
    await p.attempt("PatchSchedule", patch={"pause": "x"}, request_id="p", **of)
    await p.attempt("UpdateSchedule", schedule=_schedule(p), request_id="u", **of)
    await p.attempt("DeleteSchedule", **of)
    await p.attempt(
        "ListScheduleMatchingTimes", start_time={"seconds": 3786912000}, end_time={"seconds": 3787084800}, **of
    )


@scenario
async def operated_on(p: Puppet) -> None:
    execution = await _created(p)
    for options, path in (({"priority": {"priority_key": 2}}, "priority"), ({}, "versioning_override")):
        await p.attempt(
            "UpdateWorkflowExecutionOptions",
            workflow_execution=execution,
            workflow_execution_options=options,
            update_mask={"paths": [path]},
        )
    await p.attempt("ResetStickyTaskQueue", execution=execution)
    for rpc in ("PauseActivity", "UnpauseActivity", "ResetActivity"):
        await p.attempt(rpc, execution=execution, id="x")
    await p.attempt("RecordActivityTaskHeartbeatById", workflow_id=execution["workflow_id"], activity_id="x")
    await p.call("DescribeSchedule", schedule_id=p.id("s"))
    await p.call("DeleteSchedule", schedule_id=p.id("s"))


@scenario
async def terminated(p: Puppet) -> None:
    execution = await _created(p)
    await p.terminate(execution["workflow_id"], reason="enough")
    await _asked(p)
    await p.attempt("TerminateWorkflowExecution", workflow_execution=execution)
    await p.call("CreateSchedule", schedule_id=p.id("s"), request_id=p.id("again"), schedule=_schedule(p))
    await p.call("DeleteSchedule", schedule_id=p.id("s"))


@scenario
async def deleted_as_a_workflow(p: Puppet) -> None:
    execution = await _created(p)
    await p.call("DeleteWorkflowExecution", workflow_execution=execution)
    for _ in range(3000):
        try:
            await p.call("DescribeWorkflowExecution", record=False, execution=execution)
        except Refused:
            break
        await asyncio.sleep(0.1)
    await _asked(p)
    await p.attempt("DescribeWorkflowExecution", execution=execution)
