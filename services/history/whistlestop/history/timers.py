"""Firing timer rows in a long-lived process: a heap over the nearest rows, re-armed by each commit.

The heap is a cache of the store's nearest rows: those within the horizon, as read at the last refresh, plus what this
process committed since. Every row is looked at again when it fires, so a row that moved or went is harmless.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core import timers as core_timers
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import SLOTS, TimerTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.history.engine import Engine

HORIZON_NS = 60 * SECOND_NS
PAGE = 1000
CONCURRENT = 64
RETRY_S = 1.0
_log = logging.getLogger(__name__)


class TimerProcessor:
    """Fires what is due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heap: list[tuple[int, int, TimerTask]] = []
        self._count = 0
        self._wake = asyncio.Event()
        self._horizon_ns = 0
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.handlers: dict[str, Callable[[TimerTask], Awaitable[None]]] = {
            "execution": self._fire_execution,
            "retention": self._fire_retention,
        }
        """By the row's kind. A handler settles its row: it re-arms or deletes it."""

    def hint(self, timer: TimerTask) -> None:
        """A row was written."""
        if self._task is not None and timer.fire_at_ns <= self._horizon_ns:
            self._push(timer)
            self._wake.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="timers")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, *self._running, return_exceptions=True)

    def _push(self, timer: TimerTask) -> None:
        self._count += 1
        heapq.heappush(self._heap, (timer.fire_at_ns, self._count, timer))

    async def _loop(self) -> None:
        while True:
            try:
                await self._refresh()
                await self._run_until_horizon()
            except StorageError:
                _log.exception("reading timers failed; trying again")
                await self._engine.clock.sleep(RETRY_S)

    async def _refresh(self) -> None:
        """Read the rows up to a new horizon (nearer when there are very many)."""
        now_ns = self._engine.clock.now_ns()
        horizon_ns = now_ns + HORIZON_NS
        rows = await self._engine.store.next_timers(0, SLOTS, 0, PAGE)
        if len(rows) == PAGE:
            horizon_ns = max(min(horizon_ns, rows[-1].fire_at_ns), now_ns + SECOND_NS // 10)
        self._heap.clear()
        self._horizon_ns = horizon_ns
        for row in rows:
            if row.fire_at_ns <= horizon_ns:
                self._push(row)

    async def _run_until_horizon(self) -> None:
        clock = self._engine.clock
        while True:
            now_ns = clock.now_ns()
            while self._heap and self._heap[0][0] <= now_ns:
                _, _, timer = heapq.heappop(self._heap)
                await self._spawn(timer)
            if now_ns >= self._horizon_ns:
                # The same rows must not be read again while they are being fired.
                await asyncio.gather(*self._running, return_exceptions=True)
                return
            next_ns = min(self._heap[0][0], self._horizon_ns) if self._heap else self._horizon_ns
            self._wake.clear()
            waiter = asyncio.ensure_future(self._wake.wait())
            sleeper = asyncio.ensure_future(clock.sleep((next_ns - clock.now_ns()) / SECOND_NS))
            try:
                await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
                sleeper.cancel()

    async def _spawn(self, timer: TimerTask) -> None:
        while len(self._running) >= CONCURRENT:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self.fire(timer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def fire_page(self, limit: int) -> int:
        """Fire up to `limit` rows that are due now, without any memory of earlier ones; how many there were."""
        rows = await self._engine.store.due_timers(0, SLOTS, self._engine.clock.now_ns(), limit)
        for first in range(0, len(rows), CONCURRENT):
            await asyncio.gather(*(self.fire(row) for row in rows[first : first + CONCURRENT]))
        return len(rows)

    async def fire(self, timer: TimerTask) -> None:
        """Let the owner of one row look what is due."""
        try:
            await self.handlers[timer.kind](timer)
        except (ServiceError, StorageError) as error:
            _log.warning("timer of %s failed (%s); the next refresh tries again", timer.key.workflow_id, error)

    async def _fire_execution(self, timer: TimerTask) -> None:
        key = timer.key
        try:
            run, _ = await self._engine.transact(
                key.namespace_id, key.workflow_id, key.run_id, core_timers.fire_due
            )
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            await self._engine.store.delete_timer(timer)
            return
        if not run.is_dirty and run.state.alarm_ns != timer.fire_at_ns:
            await self._engine.store.delete_timer(timer)

    async def _fire_retention(self, timer: TimerTask) -> None:
        """The closed run has been kept for long enough."""
        if self._engine.clock.now_ns() < timer.fire_at_ns:
            return
        async with self._engine.lock(timer.key):
            await self._engine.store.delete_execution(timer.key)
            self._engine.forget(timer.key)
            await self._engine.store.delete_timer(timer)
