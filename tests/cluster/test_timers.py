"""Which rows a process arms: its own slots' as read, and all that it commits itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.timers.processor import FOREIGN_NS, HORIZON_NS, TimerProcessor
from whistlestop.storage.records import SLOTS, ExecutionKey, TimerTask
from whistlestop.storage.set_aside import SetAside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MINE, FOREIGN = 1, SLOTS - 1
HALF = ((0, SLOTS // 2),)


class Rows:
    """The store: what stands in it, and something to do in the middle of a read."""

    def __init__(self) -> None:
        self.rows: list[TimerTask] = []
        self.meanwhile: list[TimerTask] = []
        self.processor: TimerProcessor | None = None

    async def next_timers(self, first: int, following: int, after_ns: int, limit: int) -> list[TimerTask]:
        found = [row for row in self.rows if first <= row.slot < following]
        await asyncio.sleep(0)
        for row in self.meanwhile:
            assert self.processor is not None
            self.processor.notify(row)
        self.meanwhile = []
        return sorted(found, key=lambda row: row.fire_at_ns)[:limit]

    async def notes_set_aside(self, limit: int) -> list[object]:
        return []


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Rows()
        self.cached: dict[ExecutionKey, Any] = {}
        store: Any = self.store
        aside = SetAside(store, self.clock)
        engine: Any = SimpleNamespace(clock=self.clock, store=store, peek=self.cached.get, aside=aside)
        self.processor = self.store.processor = TimerProcessor(engine, {"execution": self._fire})
        self.fired: list[str] = []

    async def _fire(self, timer: TimerTask) -> None:
        self.fired.append(timer.key.workflow_id)
        self.store.rows = [row for row in self.store.rows if row is not timer]

    def timer(self, name: str, slot: int, in_s: float) -> TimerTask:
        at_ns = self.clock.now_ns() + round(in_s * SECOND_NS)
        return TimerTask("execution", slot, ExecutionKey("ns", name, "run"), at_ns)

    async def start(self) -> None:
        self.processor.start(HALF)
        await self.advance(0.1)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.processor.close()


async def test_rows_of_other_slots_are_left_to_their_owner(bench: Bench) -> None:
    bench.store.rows = [bench.timer("mine", MINE, 1), bench.timer("foreign", FOREIGN, 1)]
    await bench.start()
    await bench.advance(2)
    assert bench.fired == ["mine"]


async def test_timers_fire_in_the_process_that_committed_them(bench: Bench) -> None:
    await bench.start()
    for name, slot in (("mine", MINE), ("foreign", FOREIGN)):
        bench.processor.notify(bench.timer(name, slot, 1))
    await bench.advance(2)
    assert bench.fired == ["mine", "foreign"]


async def test_a_foreign_row_is_kept_beyond_our_horizon_until_its_owner_must_have_read_it(bench: Bench) -> None:
    await bench.start()
    await bench.advance(HORIZON_NS / SECOND_NS - 1)
    bench.processor.notify(bench.timer("near", FOREIGN, 30))
    bench.processor.notify(bench.timer("far", FOREIGN, FOREIGN_NS / SECOND_NS + 1))
    for _ in range(10):
        await bench.advance(10)
    assert bench.fired == ["near"]


async def test_a_row_that_is_committed_while_the_store_is_read_is_not_lost(bench: Bench) -> None:
    bench.store.meanwhile = [bench.timer("meanwhile", MINE, 5)]
    await bench.start()
    await bench.advance(6)
    assert bench.fired == ["meanwhile"]


async def test_slots_that_are_taken_over_are_read_at_once(bench: Bench) -> None:
    bench.store.rows = [bench.timer("foreign", FOREIGN, 1)]
    await bench.start()
    bench.processor.scan(((0, SLOTS),))
    await bench.advance(0.1)
    await bench.advance(1)
    assert bench.fired == ["foreign"]


async def test_slots_that_are_given_up_are_left_alone(bench: Bench) -> None:
    bench.store.rows = [bench.timer("mine", MINE, 1)]
    await bench.start()
    bench.processor.scan(())
    await bench.advance(0.1)
    await bench.advance(1)
    assert bench.fired == []


async def test_a_row_moved_by_a_later_commit_is_not_read(bench: Bench) -> None:
    await bench.start()
    timer = bench.timer("moved", MINE, 1)
    bench.processor.notify(timer)
    bench.cached[timer.key] = SimpleNamespace(state=MutableState(timer_row_ns=timer.fire_at_ns + SECOND_NS))
    await bench.advance(1.5)
    assert bench.fired == []
