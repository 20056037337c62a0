"""Firing timer rows in a long-lived process: a heap over the nearest rows, re-armed by each commit.

The heap is a cache of the store's nearest rows: those of the process's own slots within the horizon, as read at the
last refresh, plus what this process committed since, whosever slot it is in. Every row is looked at again when it
fires, so a row that moved or went, or that two processes have armed, is harmless.

Rows are due by the wall clock, which may be set at any time: it is looked at every few seconds (`clock.WALL_LOOK_S`),
and the store every minute that passes.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS, wait_toward
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.loops import Loop
from whistlestop.history.core import timers as core_timers
from whistlestop.history.passing import is_passing
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import SLOTS, TimerTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from whistlestop.history.engine import Engine

HORIZON_NS = 60 * SECOND_NS
FOREIGN_NS = HORIZON_NS + 15 * SECOND_NS
"""Whoever scans the slot reads a row that is due later than this from now at a refresh of its own."""
PAGE = 1000
CONCURRENT = 64
RETRY_S = 1.0
FIRE_AGAIN_NS = 5 * SECOND_NS
EVERYTHING = ((0, SLOTS),)
TABLE = "timer_tasks"
_log = logging.getLogger(__name__)


def _nobody(at_ns: int) -> None:
    return None


def _row_of(timer: TimerTask) -> tuple[str, ...]:
    return timer.key.namespace_id, timer.key.workflow_id, timer.key.run_id, timer.kind


class TimerProcessor:
    """Fires what is due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heap: list[tuple[int, int, TimerTask, bool]] = []
        """Due time, number, row, and whether a commit of this process armed it (else it was read)."""
        self._count = 0
        self._wake = asyncio.Event()
        self._sleeps_until_ns = 0
        self._spans: Sequence[tuple[int, int]] = EVERYTHING
        self._reread = False
        self._horizon_ns = 0
        self._refreshed_ns = 0
        """When the store was read, by the steady clock."""
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._retries: set[asyncio.Task[None]] = set()
        self.handlers: dict[str, Callable[[TimerTask], Awaitable[None]]] = {
            "execution": self._fire_execution,
            "retention": self._fire_retention,
        }
        """By the row's kind. A handler settles its row: it re-arms or deletes it."""
        self.postponed: Callable[[int], None] = _nobody
        """Told when a row that could not be processed is to be tried again."""

    def hint(self, timer: TimerTask) -> None:
        """A row was written."""
        if self._task is None:
            return
        limit_ns = self._horizon_ns if self._is_ours(timer) else self._engine.clock.now_ns() + FOREIGN_NS
        if timer.fire_at_ns <= limit_ns:
            self._push(timer, armed=True)

    def start(self, spans: Sequence[tuple[int, int]] = EVERYTHING) -> None:
        """Begin with the rows of these spans of slots."""
        self._spans = tuple(spans)
        self._task = asyncio.create_task(Loop("timers", self._engine.clock).run(self._turn), name="timers")

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """From now on the rows of these spans of slots are fired here: look at them all."""
        self._spans = tuple(spans)
        self._reread = True
        self._wake.set()

    def _is_ours(self, timer: TimerTask) -> bool:
        return any(first <= timer.slot < following for first, following in self._spans)

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            retries = list(self._retries)
            for each in (task, *retries):
                each.cancel()
            await asyncio.gather(task, *self._running, *retries, return_exceptions=True)

    def _push(self, timer: TimerTask, *, armed: bool, at_ns: int = 0) -> None:
        self._count += 1
        due_ns = at_ns or timer.fire_at_ns
        heapq.heappush(self._heap, (due_ns, self._count, timer, armed))
        if due_ns < self._sleeps_until_ns:
            self._wake.set()

    async def _turn(self) -> None:
        await self._refresh()
        await self._run_until_horizon()

    async def _refresh(self) -> None:
        """Read the rows up to a new horizon (nearer when there are very many)."""
        await self._engine.aside.tidy()
        now_ns, self._refreshed_ns = self._engine.clock.now_ns(), self._engine.clock.steady_ns()
        # What is committed while the store is being read may not be in the answer: it is armed as it comes.
        horizon_ns = self._horizon_ns = now_ns + HORIZON_NS
        self._reread = False
        self._heap = [entry for entry in self._heap if entry[3] and not self._is_ours(entry[2])]
        heapq.heapify(self._heap)
        found: list[TimerTask] = []
        for first, following in self._spans:
            rows = await self._engine.store.next_timers(first, following, 0, PAGE)
            if len(rows) == PAGE:
                horizon_ns = max(min(horizon_ns, rows[-1].fire_at_ns), now_ns + SECOND_NS // 10)
            found += rows
        self._horizon_ns = horizon_ns
        for row in found:
            if row.fire_at_ns <= horizon_ns:
                self._push(row, armed=False)

    async def _run_until_horizon(self) -> None:
        clock = self._engine.clock
        while True:
            now_ns = clock.now_ns()
            while self._heap and self._heap[0][0] <= now_ns:
                _, _, timer, armed = heapq.heappop(self._heap)
                if not (armed and self._is_superseded(timer)):
                    await self._spawn(timer)
            if self._reread or now_ns >= self._horizon_ns or self._is_stale():
                # The same rows must not be read again while they are being fired.
                await asyncio.gather(*self._running, return_exceptions=True)
                return
            next_ns = min(self._heap[0][0], self._horizon_ns) if self._heap else self._horizon_ns
            self._wake.clear()
            self._sleeps_until_ns = next_ns
            await wait_toward(clock, next_ns, self._wake.wait())
            self._sleeps_until_ns = 0

    def _is_stale(self) -> bool:
        """The wall clock was set back since the last look at the store: the horizon is further away than it was."""
        return self._engine.clock.steady_ns() - self._refreshed_ns > HORIZON_NS

    def _is_superseded(self, timer: TimerTask) -> bool:
        """A commit of this process armed it, and a later one has moved or removed the row: nothing to look at."""
        if timer.kind != "execution":
            return False
        entry = self._engine.peek(timer.key)
        return entry is not None and core_timers.row_due(entry.state) != timer.fire_at_ns

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
            # Rows that fail for now stand aside where they would fill the next page as well.
            firing = (self.fire(row, in_the_way=len(rows) == limit) for row in rows[first : first + CONCURRENT])
            await asyncio.gather(*firing)
        return len(rows)

    async def fire(self, timer: TimerTask, *, in_the_way: bool = False) -> None:
        """Let the owner of one row look what is due. One that can't be processed is set aside; nothing is raised."""
        aside = self._engine.aside
        row = _row_of(timer)
        try:
            handler = self.handlers.get(timer.kind)
            if handler is None:
                await self._set_aside(timer, f"nobody knows timers of the kind {timer.kind!r}")
                return
            await handler(timer)
        except (ServiceError, StorageError) as error:
            if not is_passing(error):
                await self._set_aside(timer, error)
                return
            _log.warning("timer of %s failed (%s); trying again", timer.key.workflow_id, error)
            if self._task is not None:
                self._retry_later(timer)
            elif in_the_way:
                await self._move(timer, self._engine.clock.now_ns() + FIRE_AGAIN_NS)
        except Exception as error:  # noqa: BLE001 - a bug, or damaged data, of one row must not stop the others
            await self._set_aside(timer, error)
        else:
            if aside.knows(TABLE, row):
                await aside.forget(TABLE, row)

    def _retry_later(self, timer: TimerTask) -> None:
        retry = asyncio.create_task(self._retry(timer))
        self._retries.add(retry)
        retry.add_done_callback(self._retries.discard)

    async def _retry(self, timer: TimerTask) -> None:
        await self._engine.clock.sleep(FIRE_AGAIN_NS / SECOND_NS)
        self._push(timer, armed=False)

    async def _set_aside(self, timer: TimerTask, error: BaseException | str) -> None:
        """Note that the row can't be processed, and look at it again later and later."""
        noted = await self._engine.aside.note(TABLE, _row_of(timer), error)
        await self._move(timer, noted.next_ns)

    async def _move(self, timer: TimerTask, at_ns: int) -> None:
        """Let rows behind it have their turn."""
        try:
            moved = await self._engine.store.postpone_timer(timer, at_ns)
        except StorageError as error:
            _log.warning("a timer that failed could not be postponed: %s", error)
            moved = False
        if not moved:
            return
        self.postponed(at_ns)
        if self._task is not None and at_ns <= self._horizon_ns:
            self._push(replace(timer, fire_at_ns=at_ns), armed=False)

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
        if not run.is_dirty and core_timers.row_due(run.state) != timer.fire_at_ns:
            await self._engine.store.delete_timer(timer)

    async def _fire_retention(self, timer: TimerTask) -> None:
        """The closed run has been kept for long enough."""
        if self._engine.clock.now_ns() < timer.fire_at_ns:
            return
        async with self._engine.lock(timer.key):
            await self._engine.store.delete_execution(timer.key)
            self._engine.forget(timer.key)
            await self._engine.store.delete_timer(timer)
