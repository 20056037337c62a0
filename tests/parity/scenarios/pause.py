"""Pausing a whole workflow: what is handed out meanwhile (nothing), and what history and descriptions say of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import activity, complete_workflow, timer
from tests.parity.puppet import Refused, seconds
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _pause(p: Puppet, **fields: Any) -> None:
    await p.call(
        "PauseWorkflowExecution",
        **{"workflow_id": p.workflow_id, "identity": "client", "reason": "why", "request_id": "r", **fields},
    )


async def _unpause(p: Puppet) -> None:
    await p.call("UnpauseWorkflowExecution", workflow_id=p.workflow_id, identity="client", reason="on", request_id="u")


async def _nothing(p: Puppet, rpc: str) -> None:
    try:
        task = await p.call(rpc, record=False, deadline=2.0, **p.poll_fields())
        p.note(rpc, bool(task.task_token))
    except Refused:
        p.note(rpc, False)


@scenario
async def before_a_task_is_taken(p: Puppet) -> None:
    await p.start()
    await _pause(p)
    await p.describe()
    await p.history()
    await p.history(history_event_filter_type="HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT")
    await p.signal("s")
    await _nothing(p, "PollWorkflowTaskQueue")
    await _unpause(p)
    await p.step(complete_workflow("r"))
    await p.history()
    await p.describe()


@scenario
async def while_a_task_is_under_way(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _pause(p)
    await p.history()
    await p.complete(task, timer("t", 0.1))
    await p.has_event("timer_fired")
    await p.history()
    await _nothing(p, "PollWorkflowTaskQueue")
    await _unpause(p)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def while_an_activity_waits(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await _pause(p)
    await _nothing(p, "PollActivityTaskQueue")
    await p.describe()
    await _unpause(p)
    await p.run_activity()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def while_an_activity_runs(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    task = await p.activity_task()
    await _pause(p)
    await p.complete_activity(task)
    await _nothing(p, "PollWorkflowTaskQueue")
    await _unpause(p)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def paused_ones_are_found(p: Puppet) -> None:
    await p.start()
    await _pause(p)
    await p.listed(f"WorkflowId = '{p.workflow_id}' AND ExecutionStatus = 'Paused'", count=1)
    await p.listed(f"TemporalPauseInfo = 'Workflow:{p.workflow_id}'", count=1)
    await p.terminate()
    await p.history()


@scenario
async def refusals(p: Puppet) -> None:
    for rpc in ("PauseWorkflowExecution", "UnpauseWorkflowExecution"):
        await p.refused(rpc, workflow_id=p.id("nobody"))
        await p.refused(rpc, workflow_id=p.workflow_id, reason="x" * 1001)
        await p.refused(rpc, workflow_id=p.workflow_id, identity="x" * 1001)
        await p.refused(rpc, workflow_id=p.workflow_id, request_id="x" * 1001)
    await p.start()
    await p.refused("UnpauseWorkflowExecution", workflow_id=p.workflow_id)
    await _pause(p)
    await _pause(p)
    await p.refused("PauseWorkflowExecution", workflow_id=p.workflow_id, request_id="another")
    await p.refused("UpdateWorkflowExecution", **p.update_fields("u", "u1"))
    await asyncio.sleep(0)
    await p.terminate()
    await p.refused("PauseWorkflowExecution", workflow_id=p.workflow_id)
    await p.refused("UnpauseWorkflowExecution", workflow_id=p.workflow_id)


@scenario
async def an_activity_unpaused_meanwhile(p: Puppet) -> None:
    """Its retry is handed out though the workflow is paused; the workflow hears of its end when it is unpaused."""
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(1)}))
    await p.fail_activity(await p.activity_task(record=False))
    named: dict[str, Any] = {"execution": p.execution(), "id": "a", "identity": "client"}
    await p.call("PauseActivity", **named)
    await _pause(p)
    await p.call("UnpauseActivity", **named)
    await p.complete_activity(await p.activity_task())
    await p.describe()
    await _unpause(p)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def an_attempt_that_fails_meanwhile(p: Puppet) -> None:
    """The retry of what a worker was at when the workflow was paused is handed out."""
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(1)}))
    task = await p.activity_task(record=False)
    await _pause(p)
    await p.fail_activity(task)
    await p.complete_activity(await p.activity_task())
    await _unpause(p)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def a_retry_that_falls_due_meanwhile(p: Puppet) -> None:
    """What was waiting for its retry when the workflow was paused is held until it goes on."""
    await p.start()
    await p.step(activity("a", p.task_queue, retry_policy={"initial_interval": seconds(1)}))
    await p.fail_activity(await p.activity_task(record=False))
    await _pause(p)
    await _nothing(p, "PollActivityTaskQueue")
    await _unpause(p)
    await p.run_activity()
    await p.step(complete_workflow())
    await p.history()
