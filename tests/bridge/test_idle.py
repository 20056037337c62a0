"""When a worker ends that is billed while it lives. Time is fake."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from temporalio.worker import ActivityInboundInterceptor

from whistlestop.bridge.counters import Counters
from whistlestop.bridge.idle import EndsWhenIdle
from whistlestop.common.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from temporalio.worker import ExecuteActivityInput, Worker, WorkerConfig


class Life:
    """A worker of whom the plugin knows only that it can be shut down."""

    def __init__(self, most_idle_s: float) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        self.ended = asyncio.Event()
        self._plugin = EndsWhenIdle(self.counters, most_idle_s, self.clock)
        (self.interceptor,) = self._plugin.configure_worker(cast("WorkerConfig", {}))["interceptors"]
        self.run = asyncio.create_task(self._plugin.run_worker(cast("Worker", self), self._live))

    async def _live(self, _: Worker) -> None:
        await self.ended.wait()

    async def shutdown(self) -> None:
        self.ended.set()

    async def pass_s(self, seconds: int) -> bool:
        """Whether it has ended when they have passed."""
        for _ in range(seconds * 4):
            await self.clock.advance(0.25)
        return self.ended.is_set()

    def activity(self, done: asyncio.Event) -> Awaitable[Any]:
        """One that runs until `done`."""

        class Work(ActivityInboundInterceptor):
            def __init__(self) -> None:
                pass

            async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
                await done.wait()

        inbound = self.interceptor.intercept_activity(Work())
        return asyncio.ensure_future(inbound.execute_activity(cast("ExecuteActivityInput", None)))


async def test_an_idle_worker_ends_after_the_configured_time() -> None:
    life = Life(10)
    assert not await life.pass_s(9)
    life.counters.tasks += 1
    assert not await life.pass_s(9)
    assert await life.pass_s(3)
    await life.run


async def test_a_worker_does_not_end_while_an_activity_runs() -> None:
    life = Life(10)
    done = asyncio.Event()
    activity = life.activity(done)
    assert not await life.pass_s(60)
    done.set()
    await activity
    assert not await life.pass_s(9), "a task may follow from its result"
    assert await life.pass_s(3)
    await life.run


async def test_a_worker_that_ends_by_itself_is_no_longer_observed() -> None:
    life = Life(10)
    await life.pass_s(1)
    life.ended.set()
    await life.run
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "end when idle"] == []
