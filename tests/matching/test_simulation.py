"""Random offers, polls, departures, conflicts and lost hints: no task is lost, none is handed out twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.matching.fakes import Bench, got, settle
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.notify import task_queue_topic
from whistlestop.matching.config import MatchingConfig


class World:
    """Two processes over one store, a seed, and what the clients saw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        config = MatchingConfig(
            share_pollers=False,
            remote_notifications=self.random.random() < 0.5,
            page=self.random.choice([2, 5, 100]),
            buffer=self.random.choice([4, 10, 1000]),
            system_rps=self.random.choice([50.0, 1e6]),
        )
        self.bench = Bench(config)
        self.processes = [self.bench.matching, self.bench.another()]
        self.bench.history.before = self.trouble
        self.bench.history.after = self.late_trouble
        self.bench.rows.delay = self.pause
        self.calm = False
        self.made: list[str] = []
        self.polls: list[asyncio.Task[Any]] = []
        self.received: list[str] = []
        self.lost_replies: set[str] = set()

    async def pause(self) -> None:
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)

    async def trouble(self, method: str, request: Any) -> None:
        await self.pause()
        if not self.calm and self.random.random() < 0.15:
            raise ServiceError(self.random.choice([Code.UNAVAILABLE, Code.ABORTED, Code.INTERNAL]), "trouble")

    async def late_trouble(self, method: str, request: Any) -> None:
        # The start has taken place; whoever fails from here on has a started task that times out, as in Temporal.
        workflow_id = request.execution.workflow_id
        self.lost_replies.add(workflow_id)
        await self.pause()
        if not self.calm and self.random.random() < 0.05:
            raise ServiceError(Code.UNAVAILABLE, "started, but the answer is lost")
        self.lost_replies.discard(workflow_id)

    def write(self) -> None:
        name = f"w{len(self.made)}"
        self.made.append(name)
        task = self.bench.task(name, priority=self.random.choice([1, 3, 3, 3, 5]))
        if self.random.random() < 0.8:
            self.random.choice(self.processes).offer([task])
        if self.random.random() < 0.8:
            self.bench.hint_from_elsewhere(task_queue_topic("ns-id", "q", 1))

    def poll(self) -> None:
        self.polls.append(
            self.bench.poll(seconds=self.random.choice([3, 10, 70]), matching=self.random.choice(self.processes))
        )

    def leave(self) -> None:
        waiting = [poll for poll in self.polls if not poll.done()]
        if waiting:
            self.random.choice(waiting).cancel()

    def collect(self) -> None:
        for poll in [poll for poll in self.polls if poll.done()]:
            self.polls.remove(poll)
            if not poll.cancelled() and (name := got(poll)):
                self.received.append(name)

    async def step(self) -> None:
        act = self.random.choices([self.write, self.poll, self.leave, None], [4, 5, 1, 3])[0]
        if act is None:
            await self.bench.clock.advance(self.random.choice([0.001, 0.05, 1, 10]))
        else:
            act()
        if self.random.random() < 0.6:
            await self.pause()
        self.collect()

    async def finish(self) -> None:
        """Quiet weather: whatever is still there must come out."""
        self.calm = True
        for _ in range(40):
            set_aside = sum(queue.busy for process in self.processes for queue in process._queues)
            if not self.bench.rows.rows and not set_aside:
                break
            for _ in range(10):
                self.poll()
            await settle(60)
            await self.bench.clock.advance(31)
            self.collect()
        for poll in self.polls:
            poll.cancel()
        await settle()
        self.collect()
        for process in self.processes:
            await process.close()


@pytest.mark.parametrize("seed", range(60))
async def test_every_task_is_started_exactly_once(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    for _ in range(200):
        await world.step()
    await world.finish()
    assert world.bench.rows.rows == {}
    assert sorted(world.bench.history.started) == sorted(world.made)
    assert len(world.received) == len(set(world.received))
    assert set(world.received) <= set(world.made)
    for process in world.processes:
        for queue in process._queues:
            assert (queue.polls, queue.busy, len(queue.waiters)) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_without_faults_clients_get_every_task(seed: int) -> None:
    world = World(1000 + seed)
    world.bench.history.after = None
    for _ in range(150):
        world.random.choice([world.write, world.poll])()
        await world.pause()
        if world.random.random() < 0.1:
            await world.bench.clock.advance(0.2)
        world.collect()
    for _ in range(40):
        if len(world.received) == len(world.made):
            break
        for _ in range(10):
            world.poll()
        await world.bench.clock.advance(31)
        world.collect()
    assert sorted(world.received) == sorted(world.made)
    for process in world.processes:
        await process.close()
    await asyncio.gather(*world.polls, return_exceptions=True)
