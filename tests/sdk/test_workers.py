"""Workers: sticky caches, shutting down in the middle, several of them, failing workflow tasks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from tests.patience import LONG_POLL_S
from tests.sdk.support import LONG, SOON, cause_of, event_of, kinds, new, on_every_store, worker
from tests.support.waiting import eventually

BEGAN: dict[str, asyncio.Event] = {}
BROKEN: set[str] = set()


@activity.defn
async def hangs_at_first() -> int:
    if activity.info().attempt == 1:
        BEGAN[activity.info().workflow_id or ""].set()
        await asyncio.Event().wait()
    return activity.info().attempt


@activity.defn
async def finishes() -> str:
    BEGAN[activity.info().workflow_id or ""].set()
    await asyncio.sleep(0.2)
    return "finished"


@activity.defn
async def who() -> str:
    await asyncio.sleep(0.05)
    return activity.info().task_queue


@workflow.defn
class Hangs:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(hangs_at_first, start_to_close_timeout=LONG, retry_policy=SOON)


@workflow.defn
class Finishes:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(finishes, start_to_close_timeout=LONG)


@workflow.defn
class Steps:
    """A local variable must be there again after each wait, from the cache or from history."""

    def __init__(self) -> None:
        self.told = 0

    @workflow.run
    async def run(self, steps: int) -> list[int]:
        seen = []
        for step in range(1, steps + 1):
            await workflow.wait_condition(lambda step=step: self.told >= step)  # type: ignore[misc]
            seen.append(self.told)
        return seen

    @workflow.signal
    def tell(self) -> None:
        self.told += 1

    @workflow.query
    def count(self) -> int:
        return self.told


@workflow.defn
class Mends:
    """Its code is mended while it runs."""

    @workflow.run
    async def run(self) -> str:
        if workflow.info().workflow_id in BROKEN:
            raise RuntimeError("a bug")
        return "mended"


@workflow.defn(failure_exception_types=[RuntimeError])
class FailsOnBugs:
    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a bug that ends it")


@workflow.defn
class Fans:
    @workflow.run
    async def run(self, count: int) -> int:
        done = await asyncio.gather(
            *(workflow.execute_activity(who, start_to_close_timeout=LONG) for _ in range(count))
        )
        return len(done)


@on_every_store
@pytest.mark.parametrize("cached", [0, 1], ids=["no cache", "a cache of one"])
async def test_runs_that_fall_out_of_the_cache_go_on(client: Client, cached: int) -> None:
    async with worker(client, Steps, max_cached_workflows=cached, max_concurrent_workflow_tasks=2) as queue:
        handles = [await client.start_workflow(Steps.run, 2, id=new("steps"), task_queue=queue) for _ in range(3)]
        for count in (1, 2):
            for handle in handles:
                await handle.signal(Steps.tell)
                assert await handle.query(Steps.count) == count
        for handle in handles:
            assert await handle.result() == [1, 2]


@on_every_store
async def test_an_activity_of_a_stopped_worker_is_tried_by_another(client: Client) -> None:
    name = new("hangs")
    BEGAN[name] = asyncio.Event()
    async with worker(client, Hangs, activities=[hangs_at_first]) as queue:
        handle = await client.start_workflow(Hangs.run, id=name, task_queue=queue)
        await BEGAN[name].wait()
    async with worker(client, Hangs, activities=[hangs_at_first], queue=queue):
        assert await handle.result() == 2


async def test_a_graceful_worker_finishes_its_activity(client: Client) -> None:
    name = new("finishes")
    BEGAN[name] = asyncio.Event()
    grace = timedelta(seconds=5)
    async with worker(client, Finishes, activities=[finishes], graceful_shutdown_timeout=grace) as queue:
        handle = await client.start_workflow(Finishes.run, id=name, task_queue=queue)
        await BEGAN[name].wait()
    completed = (await event_of(handle, "ACTIVITY_TASK_COMPLETED")).activity_task_completed_event_attributes
    assert completed.result.payloads[0].data == b'"finished"'
    async with worker(client, Finishes, queue=queue):
        assert await handle.result() == "finished"


@on_every_store
async def test_a_run_cached_by_a_stopped_worker_goes_on_at_another_at_once(client: Client) -> None:
    """Without waiting for the sticky queue's ten seconds."""
    async with worker(client, Steps) as queue:
        handle = await client.start_workflow(Steps.run, 2, id=new("steps"), task_queue=queue)
        await handle.signal(Steps.tell)
        assert await handle.query(Steps.count) == 1
    async with worker(client, Steps, queue=queue):
        await handle.signal(Steps.tell)
        assert await handle.result() == [1, 2]
    assert "WORKFLOW_TASK_TIMED_OUT" not in await kinds(handle)


@on_every_store
async def test_two_workers_share_a_queue(client: Client, address: str) -> None:
    """One at a time each, so that neither can take all; and each its own connection, as the SDK demands."""
    queue = new("queue")
    one = worker(client, Fans, activities=[who], queue=queue, max_concurrent_activities=1, identity="one")
    other = worker(
        await Client.connect(address), activities=[who], queue=queue, max_concurrent_activities=1, identity="other"
    )
    async with one, other:
        handle = await client.start_workflow(Fans.run, 10, id=new("fans"), task_queue=queue)
        assert await handle.result() == 10
    by = {
        event.activity_task_completed_event_attributes.identity
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_completed_event_attributes")
    }
    assert by == {"one", "other"}


async def test_a_bug_fails_the_workflow_task_until_it_is_fixed(client: Client) -> None:
    async with worker(client, Mends) as queue:
        name = new("mends")
        BROKEN.add(name)
        handle = await client.start_workflow(Mends.run, id=name, task_queue=queue)
        failed = (await event_of(handle, "WORKFLOW_TASK_FAILED")).workflow_task_failed_event_attributes
        assert failed.failure.message == "a bug"
        BROKEN.discard(name)
        assert await handle.result() == "mended"
    assert (await kinds(handle)).count("WORKFLOW_TASK_FAILED") == 1


async def test_a_bug_of_a_known_kind_fails_the_workflow(client: Client) -> None:
    async with worker(client, FailsOnBugs) as queue:
        run = client.execute_workflow(FailsOnBugs.run, id=new("fails"), task_queue=queue)
        assert (await cause_of(run, ApplicationError)).type == "RuntimeError"


async def test_a_workflow_of_an_unregistered_type_waits(client: Client) -> None:
    async with worker(client, Mends) as queue:
        handle = await client.start_workflow("Unknown", id=new("unknown"), task_queue=queue)
        failed = (await event_of(handle, "WORKFLOW_TASK_FAILED")).workflow_task_failed_event_attributes
        assert "Unknown" in failed.failure.message
        await handle.terminate()


async def test_a_worker_ends_soon(client: Client) -> None:
    """Its open polls are answered, not waited for."""
    async with asyncio.timeout(LONG_POLL_S):
        for _ in range(5):
            async with worker(client, Mends, activities=[who]):
                pass


async def test_a_sandboxed_workflow_runs(client: Client) -> None:
    """As it is without any option."""
    queue = new("queue")
    async with Worker(client, task_queue=queue, workflows=[Mends]):
        assert await client.execute_workflow(Mends.run, id=new("mends"), task_queue=queue) == "mended"


async def test_a_hundred_workflows_end(client: Client) -> None:
    async with worker(client, Mends) as queue:
        runs = (client.execute_workflow(Mends.run, id=new("mends"), task_queue=queue) for _ in range(100))
        assert set(await asyncio.gather(*runs)) == {"mended"}


async def test_a_task_queue_shows_its_pollers(client: Client) -> None:
    async with worker(client, Mends, identity="here") as queue:

        async def seen() -> bool:
            answer = await client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=client.namespace, task_queue=TaskQueue(name=queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                )
            )  # fmt: skip
            return {poller.identity for poller in answer.pollers} == {"here"}

        await eventually(seen)
