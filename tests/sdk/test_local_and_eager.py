"""What does not go through a task queue: local activities, eager activities, eager workflow starts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio import activity, workflow
from temporalio.api.command.v1 import Command, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
)
from temporalio.exceptions import ActivityError, ApplicationError

from tests.sdk.support import LONG, ONCE, SHORT, SOON, cause_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client


@activity.defn
async def fails_until(attempt: int) -> int:
    if activity.info().attempt < attempt:
        raise ApplicationError("not yet", type="NotYet")
    return activity.info().attempt


@activity.defn
async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


@workflow.defn
class Local:
    @workflow.run
    async def run(self, attempt: int, most: int) -> int:
        policy = ONCE if most == 1 else SOON
        return await workflow.execute_local_activity(
            fails_until, attempt, start_to_close_timeout=LONG, retry_policy=policy
        )


@workflow.defn
class LongLocal:
    @workflow.run
    async def run(self, seconds: float) -> None:
        await workflow.execute_local_activity(sleeps, seconds, start_to_close_timeout=LONG)


@workflow.defn
class Eager:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(fails_until, 1, start_to_close_timeout=LONG)


@workflow.defn
class TooLong:
    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_local_activity(sleeps, 5.0, start_to_close_timeout=SHORT, retry_policy=ONCE)
        except ActivityError as error:
            return type(error.cause).__name__
        return "in time"


@on_every_store
async def test_a_local_activity_leaves_a_marker_alone(client: Client) -> None:
    async with worker(client, Local, activities=[fails_until]) as queue:
        handle = await client.start_workflow(Local.run, args=[1, 1], id=new("local"), task_queue=queue)
        assert await handle.result() == 1
    assert (await kinds(handle))[3:] == ["WORKFLOW_TASK_COMPLETED", "MARKER_RECORDED", "WORKFLOW_EXECUTION_COMPLETED"]


async def test_a_local_activity_is_retried_within_its_workflow_task(client: Client) -> None:
    async with worker(client, Local, activities=[fails_until]) as queue:
        handle = await client.start_workflow(Local.run, args=[3, 0], id=new("local"), task_queue=queue)
        assert await handle.result() == 3
    assert (await kinds(handle)).count("WORKFLOW_TASK_COMPLETED") == 1


async def test_a_failed_local_activity_fails_its_workflow(client: Client) -> None:
    async with worker(client, Local, activities=[fails_until]) as queue:
        run = client.execute_workflow(Local.run, args=[9, 1], id=new("local"), task_queue=queue)
        assert (await cause_of(run, ApplicationError)).type == "NotYet"


async def test_a_long_local_activity_keeps_its_workflow_task_alive(client: Client) -> None:
    """The SDK asks for a new workflow task before the old one's time is over."""
    async with worker(client, LongLocal, activities=[sleeps]) as queue:
        handle = await client.start_workflow(
            LongLocal.run, 1.3, id=new("local"), task_queue=queue, task_timeout=timedelta(seconds=1)
        )
        await handle.result()
    seen = await kinds(handle)
    assert seen.count("WORKFLOW_TASK_COMPLETED") > 1
    assert "WORKFLOW_TASK_TIMED_OUT" not in seen


@on_every_store
async def test_a_workflow_starts_eagerly_on_a_worker_of_its_client(client: Client) -> None:
    async with worker(client, Local, activities=[fails_until]) as queue:
        handle = await client.start_workflow(
            Local.run, args=[1, 1], id=new("eager"), task_queue=queue, request_eager_start=True
        )
        assert await handle.result() == 1
    assert getattr(handle, "__temporal_eagerly_started") is True


async def test_without_a_worker_nothing_starts_eagerly(client: Client) -> None:
    handle = await client.start_workflow(
        Local.run, args=[1, 1], id=new("eager"), task_queue=new("queue"), request_eager_start=True
    )
    assert getattr(handle, "__temporal_eagerly_started") is False
    await handle.terminate()


@on_every_store
async def test_an_eager_activity_comes_with_the_answer_to_its_workflow_task(client: Client) -> None:
    """By hand: the SDK does not show how a task reached it."""
    queue = TaskQueue(name=new("queue"))
    handle = await client.start_workflow("AnyName", id=new("eager"), task_queue=queue.name)
    service = client.workflow_service
    task = await service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace=client.namespace, task_queue=queue, identity="by hand"), timeout=LONG
    )
    attributes = ScheduleActivityTaskCommandAttributes(
        activity_id="1", activity_type=ActivityType(name="anything"), task_queue=queue, request_eager_execution=True
    )
    attributes.start_to_close_timeout.FromTimedelta(LONG)
    command = Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=attributes,
    )
    answer = await service.respond_workflow_task_completed(
        RespondWorkflowTaskCompletedRequest(
            namespace=client.namespace, task_token=task.task_token, commands=[command], identity="by hand"
        )
    )
    (eager,) = answer.activity_tasks
    assert (eager.activity_id, eager.attempt) == ("1", 1)
    await service.respond_activity_task_completed(
        RespondActivityTaskCompletedRequest(namespace=client.namespace, task_token=eager.task_token, identity="by hand")
    )
    assert (await kinds(handle))[4:7] == ["ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED"]
    await handle.terminate()


async def test_activities_run_without_eagerness(client: Client) -> None:
    async with worker(client, Eager, activities=[fails_until], disable_eager_activity_execution=True) as queue:
        assert await client.execute_workflow(Eager.run, id=new("eager"), task_queue=queue) == 1


async def test_a_local_activity_has_a_timeout(client: Client) -> None:
    async with worker(client, TooLong, activities=[sleeps]) as queue:
        result = await client.execute_workflow(TooLong.run, id=new("local"), task_queue=queue)
    assert result == "TimeoutError"
