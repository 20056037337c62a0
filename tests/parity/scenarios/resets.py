"""Resets of runs that wait for something: what was pending at that point, and what came of it before the reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands
from tests.parity.commands import complete_workflow, fail_workflow
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

SECOND_TASK = 9
"""Finishes the second workflow task, which a signal made: the first one left something pending."""


async def _pending(p: Puppet, *left: dict[str, Any]) -> str:
    """A run that left that pending with its first workflow task, and has completed two."""
    task_run = await p.start()
    await p.step(*left)
    return task_run


async def _reset(p: Puppet, finish_event_id: int, run_id: str = "", **fields: Any) -> str:
    answer = await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="why", request_id=p.id("reset"),
        workflow_task_finish_event_id=finish_event_id, **fields,
    )  # fmt: skip
    return str(answer.run_id)


def _child(p: Puppet, **attributes: Any) -> dict[str, Any]:
    return commands.child(p.id("child"), p.id("child-queue"), **attributes)


async def _with_child(p: Puppet, **attributes: Any) -> int:
    """A run whose child is under way, and which has completed the task that told it so; the event that did."""
    await p.start()
    await p.step(_child(p, **attributes))
    await p.has_event("child_workflow_execution_started")
    task = await p.step()
    return int(task.started_event_id) + 1


async def _child_ends(p: Puppet, *closing: dict[str, Any]) -> None:
    await p.complete(await p.workflow_task(p.id("child-queue")), *(closing or (complete_workflow("child"),)))


@scenario
async def child_is_under_way(p: Puppet) -> None:
    point = await _with_child(p)
    await _reset(p, point)
    await p.history()
    await p.step()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def child_has_ended(p: Puppet) -> None:
    point = await _with_child(p)
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step()
    await _reset(p, point)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def child_has_failed_and_nothing_is_applied_again(p: Puppet) -> None:
    point = await _with_child(p)
    await _child_ends(p, fail_workflow())
    await p.has_event("child_workflow_execution_failed")
    await p.step()
    every = [f"RESET_REAPPLY_EXCLUDE_TYPE_{kind}" for kind in ("SIGNAL", "UPDATE", "NEXUS", "CANCEL_REQUEST")]
    await _reset(p, point, reset_reapply_exclude_types=every)
    await p.history()
    await p.terminate()


@scenario
async def child_ended_after_its_parent(p: Puppet) -> None:
    point = await _with_child(p, parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await p.signal("go")
    await p.step(complete_workflow())
    await _child_ends(p)
    await p.closed(p.id("child"))
    await _reset(p, point)
    await p.history()
    await p.terminate()


@scenario
async def child_ends_after_its_parent_and_the_reset(p: Puppet) -> None:
    point = await _with_child(p, parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await p.signal("go")
    await p.step(complete_workflow())
    await _reset(p, point)
    await p.step()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.history()
    await p.terminate()


@scenario
async def child_of_the_shared_history_and_the_close_policy(p: Puppet) -> None:
    point = await _with_child(p)
    await _reset(p, point)
    await p.step(complete_workflow())
    await p.closed()
    await p.arrived()
    await p.arrived()
    await p.describe(p.id("child"))
    await p.terminate(p.id("child"))


@scenario
async def child_is_started_again(p: Puppet) -> None:
    point = await _with_child(p)
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await _reset(p, 4)
    await p.step(_child(p))
    await p.has_event("child_workflow_execution_started")
    await p.history()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step(complete_workflow())
    await p.history()
    p.note("point", point)


@scenario
async def child_that_still_runs_is_started_again(p: Puppet) -> None:
    await _with_child(p)
    await _reset(p, 4)
    await p.step(_child(p))
    await p.has_event("start_child_workflow_execution_failed")
    await p.history()
    await p.terminate()
    await p.terminate(p.id("child"))
