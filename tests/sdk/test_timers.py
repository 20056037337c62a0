"""Timers of workflows. Real time passes here, so they are short."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio import workflow

from tests.sdk.support import event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client


@workflow.defn
class Sleeper:
    @workflow.run
    async def run(self, seconds: float) -> float:
        began = workflow.now()
        await workflow.sleep(seconds, summary="a nap")
        return (workflow.now() - began).total_seconds()


@workflow.defn
class Order:
    """Three timers in the order of their ends, whatever the order of their starts."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def one(self, milliseconds: int) -> None:
        await workflow.sleep(timedelta(milliseconds=milliseconds))
        self.seen.append(milliseconds)

    @workflow.run
    async def run(self) -> list[int]:
        await asyncio.gather(self.one(400), self.one(50), self.one(200))
        return self.seen


@workflow.defn
class Cancels:
    @workflow.run
    async def run(self) -> str:
        task = asyncio.create_task(workflow.sleep(3600))
        await workflow.sleep(0.01)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "slept"


@workflow.defn
class Waits:
    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self, seconds: float) -> str:
        try:
            await workflow.wait_condition(lambda: self.told, timeout=seconds)
        except asyncio.TimeoutError:  # noqa: UP041 - as the SDK's documentation has it
            return "too late"
        return "told"

    @workflow.signal
    def tell(self) -> None:
        self.told = True


@on_every_store
async def test_a_timer_does_not_fire_early(client: Client) -> None:
    async with worker(client, Sleeper) as queue:
        slept = await client.execute_workflow(Sleeper.run, 0.3, id=new("sleeper"), task_queue=queue)
    assert 0.3 <= slept < 5


@on_every_store
async def test_timers_fire_in_the_order_of_their_ends(client: Client) -> None:
    async with worker(client, Order) as queue:
        assert await client.execute_workflow(Order.run, id=new("order"), task_queue=queue) == [50, 200, 400]


async def test_a_cancelled_timer_never_fires(client: Client) -> None:
    async with worker(client, Cancels) as queue:
        handle = await client.start_workflow(Cancels.run, id=new("cancels"), task_queue=queue)
        assert await handle.result() == "cancelled"
    seen = await kinds(handle)
    assert (seen.count("TIMER_STARTED"), seen.count("TIMER_FIRED"), seen.count("TIMER_CANCELED")) == (2, 1, 1)


async def test_a_wait_that_takes_too_long_is_given_up(client: Client) -> None:
    async with worker(client, Waits) as queue:
        assert await client.execute_workflow(Waits.run, 0.1, id=new("waits"), task_queue=queue) == "too late"


async def test_a_wait_that_is_over_cancels_its_timer(client: Client) -> None:
    async with worker(client, Waits) as queue:
        handle = await client.start_workflow(Waits.run, 3600, id=new("waits"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
        await handle.signal(Waits.tell)
        assert await handle.result() == "told"
    assert "TIMER_CANCELED" in await kinds(handle)


async def test_a_timer_that_fires_without_a_worker_is_there_for_the_next_one(client: Client) -> None:
    async with worker(client, Sleeper) as queue:
        handle = await client.start_workflow(Sleeper.run, 0.3, id=new("sleeper"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
    await event_of(handle, "TIMER_FIRED")
    async with worker(client, Sleeper, queue=queue):
        assert await handle.result() >= 0.3


async def test_a_timer_keeps_its_summary(client: Client) -> None:
    async with worker(client, Sleeper) as queue:
        handle = await client.start_workflow(Sleeper.run, 0.01, id=new("sleeper"), task_queue=queue)
        await handle.result()
    assert (await event_of(handle, "TIMER_STARTED")).user_metadata.summary.data == b'"a nap"'
