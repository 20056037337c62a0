"""Fire timer rows in a long-lived process, from a heap of the nearest rows that each commit updates.

The heap is a cache of the store's nearest rows: those of the process's own slots within the horizon, as read at the
last refresh, and those that this process has committed since, in any slot. Every row is checked when it fires, so a row
that was moved or deleted, or that two processes have in their heaps, is harmless.

Rows are due by the wall clock, which may be set at any time: it is checked every few seconds (`clock.WALL_CHECK_S`),
and the store is read every minute.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS, wait_toward
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.timing.deadline_heap import DeadlineHeap
from whistlestop.history.core import deadlines
from whistlestop.history.engine.transient_errors import is_transient
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import SLOTS, TimerTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from whistlestop.history.engine.engine import Engine

HORIZON_NS = 60 * SECOND_NS
FOREIGN_NS = HORIZON_NS + 15 * SECOND_NS
"""A row due later than this from now is read by the slot's own scanner at one of its refreshes."""
PAGE = 1000
CONCURRENT = 64
RETRY_S = 1.0
FIRE_AGAIN_NS = 5 * SECOND_NS
EVERYTHING = ((0, SLOTS),)
TABLE = "timer_tasks"
_log = logging.getLogger(__name__)


def _row_of(timer: TimerTask) -> tuple[str, ...]:
    return timer.key.namespace_id, timer.key.workflow_id, timer.key.run_id, timer.kind


class TimerProcessor:
    """Fire timer rows that are due."""

    def __init__(
        self,
        engine: Engine,
        handlers: Mapping[str, Callable[[TimerTask], Awaitable[None]]],
        postponed: Callable[[int], None] | None = None,
    ) -> None:
        self._engine = engine
        self._heap: DeadlineHeap[tuple[TimerTask, bool]] = DeadlineHeap()
        """Rows, and whether a commit of this process wrote them (otherwise they were read)."""
        self._changed = asyncio.Event()
        self._sleeps_until_ns = 0
        self._spans: Sequence[tuple[int, int]] = EVERYTHING
        self._reread = False
        self._horizon_ns = 0
        self._refreshed_ns = 0
        """When the store was read, by the steady clock."""
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._retries: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Callable[[TimerTask], Awaitable[None]]] = {
            "execution": self._fire_execution,
            "retention": self._fire_retention,
            **handlers,
        }
        """By the row's kind. A handler finishes its row: it moves or deletes it."""
        self._postponed = postponed
        """Called with the time at which a failed row is to be tried again."""

    def notify(self, timer: TimerTask) -> None:
        """Fire a row that was just written at its time; nothing happens before `start` or for a later page."""
        if self._task is None:
            return
        limit_ns = self._horizon_ns if self._is_ours(timer) else self._engine.clock.now_ns() + FOREIGN_NS
        if timer.fire_at_ns <= limit_ns:
            self._push(timer, armed=True)

    def start(self, spans: Sequence[tuple[int, int]] = EVERYTHING) -> None:
        """Begin to fire the rows of these slots (spans, first included and last excluded)."""
        self._spans = tuple(spans)
        self._task = asyncio.create_task(Loop("timers", self._engine.clock).run(self._turn), name="timers")

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """Change the slots whose rows are fired by this process, and read all of their rows."""
        self._spans = tuple(spans)
        self._reread = True
        self._changed.set()

    def _is_ours(self, timer: TimerTask) -> bool:
        return any(first <= timer.slot < following for first, following in self._spans)

    async def close(self) -> None:
        """Stop; wait for the rows being fired. Others stay in the store."""
        task, self._task = self._task, None
        if task is not None:
            retries = list(self._retries)
            for each in (task, *retries):
                each.cancel()
            await asyncio.gather(task, *self._running, *retries, return_exceptions=True)

    def _push(self, timer: TimerTask, *, armed: bool, at_ns: int = 0) -> None:
        deadline_ns = at_ns or timer.fire_at_ns
        self._heap.push(deadline_ns, (timer, armed))
        if deadline_ns < self._sleeps_until_ns:
            self._changed.set()

    async def _turn(self) -> None:
        await self._refresh()
        await self._run_until_horizon()

    async def _refresh(self) -> None:
        """Read the rows up to a new horizon, which is nearer if there are many."""
        await self._engine.aside.tidy()
        now_ns, self._refreshed_ns = self._engine.clock.now_ns(), self._engine.clock.steady_ns()
        # Rows committed during the read may be missing from its result, so they are added as they come.
        horizon_ns = self._horizon_ns = now_ns + HORIZON_NS
        self._reread = False
        self._heap.keep(lambda entry: entry[1] and not self._is_ours(entry[0]))
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
            for timer, armed in self._heap.pop_expired(now_ns):
                if not (armed and self._is_superseded(timer)):
                    await self._spawn(timer)
            if self._reread or now_ns >= self._horizon_ns or self._is_stale():
                # Rows must not be read again while they are being fired.
                await asyncio.gather(*self._running, return_exceptions=True)
                return
            earliest_ns = self._heap.next_ns
            next_ns = self._horizon_ns if earliest_ns is None else min(earliest_ns, self._horizon_ns)
            self._changed.clear()
            self._sleeps_until_ns = next_ns
            await wait_toward(clock, next_ns, self._changed.wait())
            self._sleeps_until_ns = 0

    def _is_stale(self) -> bool:
        """Return whether the wall clock was set back since the last refresh, so that the horizon is further away."""
        return self._engine.clock.steady_ns() - self._refreshed_ns > HORIZON_NS

    def _is_superseded(self, timer: TimerTask) -> bool:
        """Return whether a later commit of this process has moved or deleted a row that it wrote."""
        if timer.kind != "execution":
            return False
        entry = self._engine.peek(timer.key)
        return entry is not None and deadlines.timer_row_wall_ns(entry.state) != timer.fire_at_ns

    async def _spawn(self, timer: TimerTask) -> None:
        while len(self._running) >= CONCURRENT:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self.fire(timer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def fire_page(self, limit: int) -> int:
        """Fire up to `limit` rows that are due now, read from the store; return how many there were.

        Raise StorageError.
        """
        rows = await self._engine.store.scan_timers(0, SLOTS, self._engine.clock.now_ns(), limit)
        for first in range(0, len(rows), CONCURRENT):
            # When the page is full, rows that fail are postponed, or they would fill the next page as well.
            firing = (self.fire(row, in_the_way=len(rows) == limit) for row in rows[first : first + CONCURRENT])
            await asyncio.gather(*firing)
        return len(rows)

    async def fire(self, timer: TimerTask, *, in_the_way: bool = False) -> None:
        """Let the owner of one row handle what is due.

        A row that can't be processed is set aside; nothing is raised.
        """
        aside = self._engine.aside
        row = _row_of(timer)
        try:
            handler = self._handlers.get(timer.kind)
            if handler is None:
                await self._set_aside(timer, f"unknown kind of timer {timer.kind!r}")
                return
            await handler(timer)
        except (ServiceError, StorageError) as error:
            if not is_transient(error):
                await self._set_aside(timer, error)
                return
            _log.warning("the timer of workflow %s failed and is retried: %s", timer.key.workflow_id, error)
            if self._task is not None:
                self._retry_later(timer)
            elif in_the_way:
                await self._move(timer, self._engine.clock.now_ns() + FIRE_AGAIN_NS)
        except Exception as error:  # noqa: BLE001 - a bug, or damaged data, of one row must not stop the others
            await self._set_aside(timer, error)
        else:
            if aside.is_noted(TABLE, row):
                await aside.forget(TABLE, row)

    def _retry_later(self, timer: TimerTask) -> None:
        retry = asyncio.create_task(self._retry(timer))
        self._retries.add(retry)
        retry.add_done_callback(self._retries.discard)

    async def _retry(self, timer: TimerTask) -> None:
        await self._engine.clock.sleep(FIRE_AGAIN_NS / SECOND_NS)
        self._push(timer, armed=False)

    async def _set_aside(self, timer: TimerTask, error: BaseException | str) -> None:
        """Note that the row can't be processed, and postpone it for a growing time."""
        noted = await self._engine.aside.note(TABLE, _row_of(timer), error)
        await self._move(timer, noted.next_ns)

    async def _move(self, timer: TimerTask, at_ns: int) -> None:
        """Postpone the row, so that the rows after it get their turn."""
        try:
            moved = await self._engine.store.postpone_timer(timer, at_ns)
        except StorageError as error:
            _log.warning("a failed timer could not be postponed: %s", error)
            moved = False
        if not moved:
            return
        if self._postponed is not None:
            self._postponed(at_ns)
        if self._task is not None and at_ns <= self._horizon_ns:
            self._push(replace(timer, fire_at_ns=at_ns), armed=False)

    async def _fire_execution(self, timer: TimerTask) -> None:
        key = timer.key
        try:
            run, _ = await self._engine.change(key.namespace_id, key.workflow_id, key.run_id, deadlines.fire_deadlines)
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            await self._engine.store.delete_timer(timer)
            return
        if not run.is_dirty and deadlines.timer_row_wall_ns(run.state) != timer.fire_at_ns:
            await self._engine.store.delete_timer(timer)

    async def _fire_retention(self, timer: TimerTask) -> None:
        """Delete a closed run whose retention is over."""
        if self._engine.clock.now_ns() < timer.fire_at_ns:
            return
        await self._engine.delete(timer.key, timer)
