"""Pinned runs that learn that new work goes to another version, and what they hand on when they do not follow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity import commands
from tests.parity.scenarios import slow_scenario
from tests.parity.scenarios.deployments import (
    AUTO_UPGRADE,
    PINNED,
    completed,
    current,
    described,
    registered,
    taken,
    version,
)

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

USE_RAMPING = "CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_USE_RAMPING_VERSION"


def _started(task: Any) -> Any:
    """The attributes of the newest started event that the task brought."""
    return [event for event in task.history.events if event.event_type == 6][-1].workflow_task_started_event_attributes


async def _told(p: Puppet, label: str, build_id: str = "1") -> Any:
    """The next task, and whether it tells of another version."""
    task = await taken(p, build_id, record=False)
    p.note(label, _started(task).target_worker_deployment_version_changed)
    return task


async def _begun(p: Puppet) -> str:
    """A run that is pinned to version 1, which is current; version 2 is there."""
    await registered(p, "1", "2")
    await current(p, "1")
    run_id = await p.start()
    await completed(p, await _told(p, "at first"), "1", PINNED)
    return run_id


async def _continued(p: Puppet, task: Any, **fields: Any) -> None:
    """The run continues as new; the note is what the next one begins with."""
    await completed(p, task, "1", PINNED, commands.continue_as_new(p.task_queue, **fields))
    history = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    started = history.history.events[0].workflow_execution_started_event_attributes
    p.note("handed on", p.normalised(started))


async def _routed(p: Puppet, build_id: str) -> None:
    """As `current`, and the task queue has heard of it."""
    await current(p, build_id)
    for _ in range(6000):
        found = await p.call("DescribeTaskQueue", record=False, task_queue={"name": p.task_queue})
        if found.versioning_info.current_deployment_version.build_id == build_id:
            break
        await asyncio.sleep(0.05)


@slow_scenario
async def a_target_that_was_declined_is_not_told_again(p: Puppet) -> None:
    await _begun(p)
    await _routed(p, "2")
    await p.signal("go")
    task = await _told(p, "another version is current")
    await p.fail_task(task)
    task = await _told(p, "the task is tried again")
    await _continued(p, task)
    await completed(p, await _told(p, "declined"), "1", PINNED)
    await p.signal("on")
    await _continued(p, await _told(p, "declined, later"))
    await completed(p, await _told(p, "declined twice"), "1", PINNED)
    await registered(p, "3")
    await _routed(p, "3")
    await p.signal("more")
    await completed(p, await _told(p, "a third version is current"), "1", PINNED)
    await p.signal("still")
    await completed(p, await _told(p, "and still is"), "1", PINNED)
    await _routed(p, "1")
    await p.signal("back")
    await completed(p, await _told(p, "its own version is current again"), "1", PINNED)
    await p.history()


@slow_scenario
async def unversioned_workers_are_a_target(p: Puppet) -> None:
    await _begun(p)
    await _routed(p, "")
    await p.signal("go")
    await _continued(p, await _told(p, "no version is current"))
    await completed(p, await _told(p, "declined"), "1", PINNED)
    await _routed(p, "2")
    await p.signal("more")
    await completed(p, await _told(p, "another version is current"), "1", PINNED)


@slow_scenario
async def a_speculative_task_tells_of_the_target(p: Puppet) -> None:
    await _begun(p)
    await _routed(p, "2")
    update = p.begin(
        "UpdateWorkflowExecution", record=False, workflow_execution=p.execution(),
        wait_policy={"lifecycle_stage": "UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED"},
        request={"meta": {"update_id": "u", "identity": "me"}, "input": {"name": "u"}},
    )  # fmt: skip
    task = await _told(p, "by an update")
    await p.fail_task(task)
    await completed(p, await _told(p, "again"), "1", PINNED)
    await p.history()
    await update.abandon()


@slow_scenario
async def an_override_forgets_what_was_declined(p: Puppet) -> None:
    async def override(value: dict[str, Any]) -> None:
        await p.call(
            "UpdateWorkflowExecutionOptions", record=False, workflow_execution=p.execution(),
            workflow_execution_options={"versioning_override": value} if value else {},
            update_mask={"paths": ["versioning_override"]},
        )  # fmt: skip

    await _begun(p)
    await _routed(p, "2")
    await p.signal("go")
    await _continued(p, await _told(p, "another version is current"))
    await completed(p, await _told(p, "declined"), "1", PINNED)
    await override({"pinned": {"behavior": "PINNED_OVERRIDE_BEHAVIOR_PINNED", "version": version(p, "1")}})
    await p.signal("pinned")
    await completed(p, await _told(p, "while an override stands"), "1", PINNED)
    await override({})
    await p.signal("free")
    await completed(p, await _told(p, "when it is gone"), "1", PINNED)


@slow_scenario
async def a_retry_knows_what_was_declined(p: Puppet) -> None:
    await _begun(p)
    await _routed(p, "2")
    await p.signal("go")
    retries = {"retry_policy": {"maximum_attempts": 2, "initial_interval": {"nanos": 1_000_000}}}
    await _continued(p, await _told(p, "another version is current"), **retries)
    await completed(p, await _told(p, "declined"), "1", PINNED, commands.fail_workflow())
    await completed(p, await _told(p, "declined and retried"), "1", PINNED)
    await p.history()


@slow_scenario
async def a_run_begins_on_the_ramping_version_and_so_does_its_retry(p: Puppet) -> None:
    await _begun(p)
    await p.call(
        "SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), build_id="2",
        percentage=0, identity="me",
    )  # fmt: skip
    for _ in range(6000):
        found = await p.call("DescribeTaskQueue", record=False, task_queue={"name": p.task_queue})
        if found.versioning_info.ramping_deployment_version.build_id == "2":
            break
        await asyncio.sleep(0.05)
    await p.signal("go")
    retries = {"retry_policy": {"maximum_attempts": 2, "initial_interval": {"nanos": 1_000_000}}}
    await _continued(p, await _told(p, "nothing new"), initial_versioning_behavior=USE_RAMPING, **retries)
    await described(p, "continued")
    await completed(p, await taken(p, "2", record=False), "2", AUTO_UPGRADE, commands.fail_workflow())
    await described(p, "retried")
    await completed(p, await taken(p, "2", record=False), "2", AUTO_UPGRADE)
    await described(p, "its first task is done")
    for query in (
        f"TemporalWorkerDeployment = '{p.id('deployment')}'",
        f"TemporalWorkerDeploymentVersion = '{p.id('deployment')}:2'",
    ):
        await p.listed(f"{query} AND ExecutionStatus = 'Running' AND WorkflowId = '{p.workflow_id}'", count=1)
    await p.history()
