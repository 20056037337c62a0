"""Runs without timeouts along their chains: what is shown of a first run, and of those that follow on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.parity import commands
from tests.parity.puppet import cases, seconds
from tests.parity.scenarios import scenario, slow_scenario
from tests.parity.scenarios.schedules import instant

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _config(p: Puppet, workflow_id: str | None = None) -> None:
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id))
    p.note("config", p.normalised(described.execution_config))


@scenario
async def continued_as_new(p: Puppet) -> None:
    first = await p.start()
    await p.describe()
    await p.step(commands.continue_as_new(p.task_queue))
    await p.describe()
    await p.describe(run_id=first)
    await p.history()


@scenario
async def retried(p: Puppet) -> None:
    first = await p.start(retry_policy={"maximum_attempts": 2, "initial_interval": seconds(30)})
    await p.describe()
    await p.step(commands.fail_workflow())
    await p.describe()
    await p.describe(run_id=first)
    await p.history()


@slow_scenario
async def by_a_cron_schedule(p: Puppet) -> None:
    await p.start(cron_schedule="@every 1s")
    await p.describe()
    await p.step(commands.complete_workflow())
    await _config(p)


@scenario
async def of_a_child(p: Puppet) -> None:
    name, queue = p.id("child"), p.id("child-queue")
    await p.start()
    await p.step(commands.child(name, queue))
    await p.has_event("child_workflow_execution_started")
    await p.describe(name)
    task = await p.workflow_task(queue)
    await p.complete(task, commands.continue_as_new(queue))
    await p.describe(name)


@scenario
async def reset(p: Puppet) -> None:
    await p.start()
    await p.step()
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(), reason="again", request_id=p.id("reset"),
        workflow_task_finish_event_id=4,
    )  # fmt: skip
    await p.describe()


@scenario
async def begun_by_a_signal(p: Puppet) -> None:
    await p.call("SignalWithStartWorkflowExecution", signal_name="go", **p.start_fields())
    await p.describe()


@slow_scenario
async def timeouts_of_nothing(p: Puppet) -> None:
    """A timeout of zero seconds is none, but is shown."""
    for number, fields in enumerate(
        cases(
            {"workflow_run_timeout": seconds(0)},
            {"workflow_execution_timeout": seconds(0)},
            {"workflow_execution_timeout": seconds(0), "workflow_run_timeout": seconds(0)},
            {"workflow_execution_timeout": seconds(3600)},
            {"workflow_run_timeout": seconds(3600)},
        )
    ):
        name, queue = p.id(f"w{number}"), p.id(f"queue-{number}")
        await p.start(name, task_queue={"name": queue}, retry_policy={"maximum_attempts": 3}, **fields)
        await p.describe(name)
        again = commands.continue_as_new(queue, retry_policy={"maximum_attempts": 3})
        for following in (again, commands.fail_workflow()):
            await p.complete(await p.workflow_task(queue), following)
            await p.describe(name)
        child = p.id(f"child-{number}")
        await p.complete(await p.workflow_task(queue), commands.child(child, p.id("elsewhere"), **fields))
        await p.has_event("child_workflow_execution_started", name)
        await p.has_event("workflow_task_scheduled", child)
        await p.describe(child)
        await p.terminate(name)


@slow_scenario
async def begun_by_a_schedule(p: Puppet) -> None:
    name = p.id("scheduled")
    await p.call(
        "CreateSchedule",
        schedule_id=p.id("schedule"),
        request_id=p.id("request"),
        schedule={
            "spec": {"interval": [{"interval": seconds(3600)}]},
            "action": {
                "start_workflow": {
                    "workflow_id": name, "workflow_type": {"name": "Journey"}, "task_queue": {"name": p.task_queue},
                }
            },
        },
        initial_patch={"trigger_immediately": {"scheduled_time": instant("2026-01-01T03:04:05")}},
    )  # fmt: skip
    task = await p.workflow_task()
    workflow_id = task.workflow_execution.workflow_id
    await _config(p, workflow_id)
    await p.complete(task, commands.continue_as_new(p.task_queue))
    await _config(p, workflow_id)
    await p.call("DeleteSchedule", record=False, schedule_id=p.id("schedule"))


@scenario
async def continued_with_a_choice_of_version(p: Puppet) -> None:
    """Which is not repeated in the event of the run that ends."""
    first = await p.start()
    choice = "CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_AUTO_UPGRADE"
    await p.step(commands.continue_as_new(p.task_queue, initial_versioning_behavior=choice))
    await p.history(run_id=first)
    await p.terminate()
