"""Several instances at once: those that live on keep caches, which are never more than caches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.functions import test_workflows as workflows
from tests.functions.client import QUEUE, opened
from tests.parity import commands
from tests.parity.puppet import seconds
from whistlestop.common.clock import SECOND_NS, SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.functions.client import Cloud

SCENARIOS = (
    workflows.test_activity_with_a_retry,
    workflows.test_signals,
    workflows.test_direct_query,
    workflows.test_query_that_goes_with_a_workflow_task,
    workflows.test_update,
    workflows.test_child_that_continues_as_new,
)
WORKFLOWS = 12
WORKERS = 3


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
async def test_on_warm_instances(warm_cloud: Cloud, scenario: Callable[[Cloud], Awaitable[None]]) -> None:
    """Calls to one run land on instances that have cached it as it was before."""
    await scenario(warm_cloud)


async def test_many_workers_and_workflows_at_once(warm_cloud: Cloud) -> None:
    await _everything_finishes(warm_cloud)


async def test_many_workers_and_workflows_at_once_with_nothing_kept(cloud: Cloud) -> None:
    await _everything_finishes(cloud)


async def _everything_finishes(cloud: Cloud) -> None:
    """Pollers race for the same rows, and each task is handed out once."""
    names = [f"w{number}" for number in range(WORKFLOWS)]
    handed_out: list[tuple[str, int]] = []
    done: set[str] = set()
    await asyncio.gather(*(cloud.start(name) for name in names))

    async def work_on_workflows() -> None:
        while len(done) < WORKFLOWS:
            task = await cloud.call("PollWorkflowTaskQueue", task_queue=QUEUE, identity="worker")
            if not task.task_token:
                continue
            name = task.workflow_execution.workflow_id
            handed_out.append((name, task.started_event_id))
            if task.previous_started_event_id:
                await cloud.complete(task, commands.complete_workflow(name))
                done.add(name)
            else:
                await cloud.complete(
                    task, commands.activity("a", QUEUE["name"], schedule_to_close_timeout=seconds(3600))
                )

    async def work_on_activities() -> None:
        while len(done) < WORKFLOWS:
            task = await cloud.call("PollActivityTaskQueue", task_queue=QUEUE, identity="worker")
            if task.task_token:
                await cloud.call("RespondActivityTaskCompleted", task_token=task.task_token)

    workers = [work_on_workflows() for _ in range(WORKERS)] + [work_on_activities() for _ in range(WORKERS)]
    await asyncio.wait_for(asyncio.gather(*workers), 120)
    assert len(handed_out) == len(set(handed_out)) == 2 * WORKFLOWS
    counted = await cloud.call("CountWorkflowExecutions", query="ExecutionStatus = 'Completed'")
    assert counted.count == WORKFLOWS


async def test_instances_are_members(warm_cloud: Cloud) -> None:
    """Each of those that served a call, for as long as it is called now and then."""
    await warm_cloud.start("any")
    now_ns = SystemClock().now_ns()
    async with opened(warm_cloud.store_env) as store:
        members = await store.list_members(now_ns, 100)
        assert {member.role for member in members} == {"frontend", "history"}
        assert len({member.host_id for member in members}) == len(members)
        assert await store.list_members(now_ns + 100 * SECOND_NS, 100) == []
