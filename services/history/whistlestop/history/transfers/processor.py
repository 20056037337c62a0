"""Deliver transfer tasks: the effects of one run on another.

A row is written by the transition that causes it. Its effect, the answer to its sender and its deletion are one commit,
so it takes effect exactly once however often it is delivered. The rows of one sender are delivered in order; but a
request to another server, which may take long, continues beside them and does not delay them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.common.clock import SECOND_NS, wait_until
from whistlestop.common.errors import ServiceError
from whistlestop.common.timing.backoff import backoff
from whistlestop.history.engine.transient_errors import is_transient
from whistlestop.history.transfers import push_rows
from whistlestop.history.transfers.outcomes import PutOff, is_final
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.history.transfers.outcomes import Rest
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionKey, TransferTask
    from whistlestop.storage.set_aside import SetAside

T = TypeVar("T")
SWEEP_S = 60.0
SWEPT_AGE_NS = 2 * SECOND_NS
"""Younger rows are being delivered by the process that committed them."""
EVERYTHING = ((0, SLOTS),)
TABLE = "transfer_tasks"
PAGE = 500
CONCURRENT = 32
"""The maximum of concurrent deliveries, and of those that wait for another server."""
FIRST_RETRY_NS = SECOND_NS // 5
MOST_RETRY_NS = 60 * SECOND_NS
_log = logging.getLogger(__name__)


def _row_of(task: TransferTask) -> tuple[str, ...]:
    return str(task.slot), str(task.task_id)


class TransferProcessor:
    """Deliver transfer tasks: new ones right after their commit, others by sweeping the store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        aside: SetAside,
        deliver: Callable[[TransferTask], Awaitable[Rest | None]],
        give_up: Callable[[TransferTask, Exception], Awaitable[None]],
        postponed: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._aside = aside
        self._deliver = deliver
        self._give_up = give_up
        """Lets the task fail for its sender, and deletes it."""
        self._waiting: dict[ExecutionKey, deque[TransferTask]] = {}
        self._known: set[int] = set()
        self._put_off: set[int] = set()
        """Ids of rows that are retried by this process at their time; no sweep finds them before."""
        self._workers: set[asyncio.Task[None]] = set()
        self._retries: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._external = asyncio.Semaphore(CONCURRENT)
        self._sweeper: asyncio.Task[None] | None = None
        self._loop = Loop("transfers", clock)
        self._spans: Sequence[tuple[int, int]] = EVERYTHING
        self._sweep_now = asyncio.Event()
        self._closing = False
        self._stop_ns: int | None = None
        self._postponed = postponed
        """Called with the time at which a failed row is to be tried again."""

    def notify(self, transfers: Sequence[TransferTask]) -> None:
        """Deliver rows that were just written; those that are known are ignored."""
        if self._closing:
            return
        for task in transfers:
            if task.task_id in self._known or task.task_id in self._put_off:
                continue
            self._known.add(task.task_id)
            queue = self._waiting.get(task.key)
            if queue is not None:
                queue.append(task)
                continue
            self._waiting[task.key] = deque((task,))
            self._begin(self._work(task.key))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        worker = asyncio.create_task(work)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    def line(self, key: ExecutionKey) -> tuple[TransferTask, ...]:
        """Return the rows of that sender that are not delivered yet, the one in progress first; empty without any."""
        return tuple(self._waiting.get(key, ()))

    @property
    def stop_ns(self) -> int | None:
        """In a function: when the call has to end, by the steady clock; otherwise None."""
        return self._stop_ns

    def start(self, spans: Sequence[tuple[int, int]] = EVERYTHING) -> None:
        """Begin to sweep these slots for rows that were left behind."""
        self.scan(spans)
        self._sweeper = asyncio.create_task(self._sweep(), name="transfers")

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """Change the slots to sweep, and start with all rows in them."""
        self._spans = tuple(spans)
        self._sweep_now.set()

    async def close(self) -> None:
        """Stop; undelivered rows stay in the store."""
        self._closing = True
        tasks = [*self._workers, *self._retries, *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, stop_ns: int | None = None) -> None:
        """Wait until all rows passed so far, and those that they caused, were tried once.

        From `stop_ns` (steady clock) on no delivery is started: the rest stays in the store for the next sweep.
        Failures are logged, and the rows are tried again later.
        """
        self._stop_ns = stop_ns
        try:
            while self._workers:
                await asyncio.gather(*self._workers, return_exceptions=True)
        finally:
            self._stop_ns = None

    async def sweep_once(self, limit: int = PAGE, older_ns: int = 0) -> int:
        """Deliver a page of rows that have been due for `older_ns`; return how many there were. Raise StorageError."""
        found = 0
        for first, following in self._spans:
            now_ns = self._clock.now_ns()
            rows = await self._store.scan_transfer_tasks(first, following, now_ns - older_ns, limit - found)
            self.notify(rows)
            found += len(rows)
            if found >= limit:
                break
        return found

    async def _sweep(self) -> None:
        await self._loop.run(self._turn)

    async def _turn(self) -> None:
        """Sweep, and wait for the next time. If a sweep fails, the loop repeats it."""
        clock = self._clock
        older_ns = 0 if self._sweep_now.is_set() else SWEPT_AGE_NS
        self._sweep_now.clear()
        try:
            while await self.sweep_once(older_ns=older_ns) == PAGE:
                await self.drain()
        except Exception:
            if not older_ns:
                self._sweep_now.set()
            raise
        self._loop.succeeded()
        await wait_until(clock, clock.steady_ns() + int(SWEEP_S * SECOND_NS), self._sweep_now.wait())

    async def _work(self, key: ExecutionKey) -> None:
        queue = self._waiting[key]
        while queue:
            task = queue[0]
            rest: Rest | None = None
            try:
                # Starting workers on demand may wait for another server, too, and its rows have a queue of their own.
                async with self._external if task.kind == push_rows.KIND else self._slots:
                    if not self._is_late():
                        rest = await self._attempt(task, partial(self._deliver, task))
            finally:
                queue.popleft()
                if rest is None:
                    self._known.discard(task.task_id)
                if not queue:
                    del self._waiting[key]
            if rest is not None:
                self._begin(self._finish(task, rest))

    async def _finish(self, task: TransferTask, rest: Rest) -> None:
        """Run the part of a delivery that waits for another server."""
        try:
            async with self._external:
                if not self._is_late():
                    await self._attempt(task, rest)
        finally:
            self._known.discard(task.task_id)

    def _is_late(self) -> bool:
        clock = self._clock
        if self._stop_ns is None or clock.steady_ns() < self._stop_ns:
            return False
        if self._postponed is not None:
            self._postponed(clock.now_ns())
        return True

    async def _attempt(self, task: TransferTask, part: Callable[[], Awaitable[T]]) -> T | None:
        """Run (a part of) a delivery, and schedule a retry if it fails."""
        aside = self._aside
        try:
            done = await part()
        except PutOff as put_off:
            await self._postpone(task, put_off.until_ns)
        except (ServiceError, StorageError) as error:
            if is_final(error) and await self._gave_up(task, error):
                return None
            if not is_transient(error):
                await self._set_aside(task, error)
                return None
            _log.warning(
                "transfer task %s of workflow %s, run %s failed (%s); it is retried",
                task.kind,
                task.key.workflow_id,
                task.key.run_id,
                error,
            )
            await self._postpone(task)
        except Exception as error:  # noqa: BLE001 - a bug, or damaged data, of one delivery must not stop the others
            await self._set_aside(task, error)
        else:
            if aside.is_noted(TABLE, _row_of(task)):
                await aside.forget(TABLE, _row_of(task))
            return done
        return None

    async def _gave_up(self, task: TransferTask, reason: Exception) -> bool:
        try:
            await self._give_up(task, reason)
        except Exception as error:  # noqa: BLE001 - damaged data among them
            _log.warning("the sender of a transfer task could not be notified (%s); it is retried", error)
            return False
        return True

    async def _set_aside(self, task: TransferTask, error: BaseException) -> None:
        """Note that the row can't be processed, and retry it after a growing time."""
        noted = await self._aside.note(TABLE, _row_of(task), error)
        try:
            if task.kind != push_rows.KIND and await self._store.get_execution(task.key) is None:
                # It has failed as long as its run existed, and nobody can repair it now.
                await self._store.delete_transfer_task(task)
                await self._aside.forget(TABLE, _row_of(task))
                return
        except StorageError as failure:
            _log.warning("the run of a transfer task could not be read: %s", failure)
        await self._postpone(task, noted.next_ns)

    async def _postpone(self, task: TransferTask, until_ns: int = 0) -> None:
        clock = self._clock
        delay_ns = backoff(FIRST_RETRY_NS, task.attempt + 1, MOST_RETRY_NS)
        if until_ns:
            delay_ns = max(until_ns - clock.now_ns(), 0)
        visible_at_ns = clock.now_ns() + delay_ns
        try:
            await self._store.postpone_transfer_task(task, visible_at_ns, task.attempt + 1)
        except StorageError as error:
            _log.warning("a transfer task could not be postponed (%s); the next sweep finds it", error)
            return
        if self._postponed is not None:
            self._postponed(visible_at_ns)
        if self._sweeper is None:
            return  # In a function no task outlives the call; the next sweep finds the row.
        again = replace(task, visible_at_ns=visible_at_ns, attempt=task.attempt + 1)
        self._put_off.add(task.task_id)
        retry = asyncio.create_task(self._retry_after(delay_ns / SECOND_NS, again))
        self._retries.add(retry)
        retry.add_done_callback(self._retries.discard)

    async def _retry_after(self, delay_s: float, task: TransferTask) -> None:
        try:
            await self._clock.sleep(delay_s)
        finally:
            self._put_off.discard(task.task_id)
        self.notify((task,))
