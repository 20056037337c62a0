"""What runs hand on to those on other task queues, and a pin set while a run moves to another version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands
from tests.parity.scenarios import slow_scenario
from tests.parity.scenarios.deployments import (
    AUTO_UPGRADE,
    PINNED,
    completed,
    current,
    described,
    options,
    registered,
    taken,
    version,
)

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _serves(p: Puppet, queue: str, build_id: str) -> None:
    """A worker of the build polls that queue for workflows, too."""
    poll = p.begin("PollWorkflowTaskQueue", record=False, **p.poll_fields(queue), **options(p, build_id))
    for _ in range(400):
        reply = await p.call("DescribeWorkerDeploymentVersion", record=False, deployment_version=version(p, build_id))
        if queue in [each.name for each in reply.worker_deployment_version_info.task_queue_infos]:
            break
    await poll.abandon()


def _pin(p: Puppet, build_id: str) -> dict[str, Any]:
    return {"pinned": {"behavior": "PINNED_OVERRIDE_BEHAVIOR_PINNED", "version": version(p, build_id)}}


async def _override(p: Puppet, override: dict[str, Any], workflow_id: str | None = None) -> None:
    await p.attempt(
        "UpdateWorkflowExecutionOptions",
        workflow_execution=p.execution(workflow_id),
        workflow_execution_options={"versioning_override": override} if override else {},
        update_mask={"paths": ["versioning_override"]},
    )


async def _begun(p: Puppet, label: str, workflow_id: str) -> None:
    """How the run began, and where it is."""
    answer = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(workflow_id))
    p.note(label, p.normalised(answer.history.events[0]))
    await described(p, label, workflow_id)


async def _handed_on(p: Puppet, name: str, behavior: str, queue: str, *, pinned: bool) -> None:
    """To a child and to the next run, both on another queue."""
    await p.start(name)
    if pinned:
        await _override(p, _pin(p, "1"), name)
    child = commands.child(f"{name}-child", queue, parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await completed(p, await taken(p, "1", record=False), "1", behavior, child)
    await p.has_event("child_workflow_execution_started", name)
    await _begun(p, "child", f"{name}-child")
    await completed(p, await taken(p, "1", record=False), "1", behavior, commands.continue_as_new(queue))
    await _begun(p, "continued", name)
    await p.terminate(name)
    await p.terminate(f"{name}-child")


@slow_scenario
async def what_is_handed_on_to_other_queues(p: Puppet) -> None:
    """Only a version that serves them."""
    await registered(p, "1")
    served, other = p.id("served"), p.id("other")
    await _serves(p, served, "1")
    await current(p, "1")
    for number, (behavior, pinned) in enumerate(((PINNED, False), (AUTO_UPGRADE, False), (AUTO_UPGRADE, True))):
        for queue in (served, other):
            await _handed_on(p, f"{queue}-{number}", behavior, queue, pinned=pinned)


async def _moving(p: Puppet) -> Any:
    """A run that moves from the first version to the second: its task."""
    await registered(p, "1", "2")
    await current(p, "1")
    await p.start()
    await completed(p, await taken(p, "1", record=False), "1", AUTO_UPGRADE)
    await current(p, "2")
    await p.signal("go")
    return await taken(p, "2", record=False)


@slow_scenario
async def a_pin_waits_for_the_move(p: Puppet) -> None:
    task = await _moving(p)
    await _override(p, _pin(p, "1"))
    await described(p, "pinned while it moves")
    await completed(p, task, "2", AUTO_UPGRADE)
    await described(p, "the move is over")
    await p.signal("again")
    task = await taken(p, "1", record=False)
    await completed(p, task, "1", AUTO_UPGRADE)
    await described(p, "where it is pinned to")
    await p.history()


@slow_scenario
async def a_pin_and_a_move_that_fails(p: Puppet) -> None:
    task = await _moving(p)
    await _override(p, _pin(p, "1"))
    await p.fail_task(task)
    await described(p, "the task failed")
    task = await taken(p, "2", record=False)
    await described(p, "moving again")
    await _override(p, {})
    await described(p, "pinned no more")
    await completed(p, task, "2", AUTO_UPGRADE)
    await described(p, "the move is over")
    await p.history()
