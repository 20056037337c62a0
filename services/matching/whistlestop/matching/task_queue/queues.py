"""All queues of this process: created, filled from the store, read after notifications, removed when idle."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import FIRST, PRIORITIES, is_keyed, priority_of
from whistlestop.matching.task_queue.dispatch_order import Window
from whistlestop.matching.task_queue.queue import TaskQueue
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Notifier, Subscription
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.task_queue.dispatch_order import FairOrder
    from whistlestop.matching.task_queue.queue import QueueKey
    from whistlestop.net.tasks.background import Background
    from whistlestop.net.tasks.deadline_queue import DeadlineQueue
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

_SWEEP_EVERY_NS = 60 * SECOND_NS
_LISTEN_AT_ONCE_S = 60.0
_RETRY_READ_NS = SECOND_NS
_PER_LEVEL, _MAX_LEVELS = 10, 500
"""For a queue with fairness keys: how many tasks of how many keys are read at once."""
_PER_LEVEL_OF_MANY = 2
"""With more keys than that, a read is for one turn of each key."""


async def read_fairly(store: TaskStore, key: QueueKey, cursor: int | None = None) -> Window:
    """Read the first tasks of each fairness key, for at most `_MAX_LEVELS` keys.

    All keys of the more urgent priorities are included. Within the priority that does not fit, a read continues after
    the `cursor` at which the last one ended, so that all keys get their turns. Raise StorageError.
    """
    per_level = _PER_LEVEL if cursor is None else _PER_LEVEL_OF_MANY
    rows = await store.list_tasks_by_level(*key, FIRST, per_level, _MAX_LEVELS)
    levels = _levels(rows)
    if len(levels) < _MAX_LEVELS:
        return Window(rows, _bounds(rows, per_level))
    cut = priority_of(levels[-1])
    if cursor is not None and priority_of(cursor) == cut:
        urgent = [row for row in rows if priority_of(row.key.priority) < cut]
        room = _MAX_LEVELS - len(_levels(urgent))
        further = await store.list_tasks_by_level(*key, cursor, per_level, room)
        further = [row for row in further if priority_of(row.key.priority) == cut]
        again = [level for level in levels if priority_of(level) == cut and level <= cursor]
        wanted = set(again[: room - len(_levels(further))])
        rows = [*urgent, *further, *(row for row in rows if row.key.priority in wanted)]
        levels = _levels(rows)
    # Tasks without a key are ordered after all that have one.
    plain = await store.list_tasks_by_level(*key, 0, per_level, PRIORITIES)
    rows = [row for row in rows if is_keyed(row.key.priority)] + plain
    return Window(rows, _bounds(rows, per_level), levels[-1])


def _levels(rows: Iterable[MatchingTask]) -> list[int]:
    return list(dict.fromkeys(row.key.priority for row in rows))


def _bounds(rows: Sequence[MatchingTask], per_level: int) -> dict[int, int]:
    """Return the last task id of each level that may have more tasks."""
    counts = Counter(row.key.priority for row in rows)
    last = {row.key.priority: row.key.task_id for row in rows}
    return {level: last[level] for level, count in counts.items() if count >= per_level}


class Queues:
    """The queues in memory, by key."""

    def __init__(
        self,
        store: TaskStore,
        clock: Clock,
        notifier: Notifier,
        config: MatchingConfig,
        deadlines: DeadlineQueue,
        background: Background,
    ) -> None:
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._config = config
        self._deadlines = deadlines
        self._background = background
        self._queues: dict[QueueKey, TaskQueue] = {}
        self._swept_ns = 0

    def __len__(self) -> int:
        return len(self._queues)

    def __iter__(self) -> Iterator[TaskQueue]:
        return iter(self._queues.values())

    def find(self, key: QueueKey) -> TaskQueue | None:
        """Return the queue if it is in memory, else None."""
        return self._queues.get(key)

    def get(self, key: QueueKey, now_ns: int) -> TaskQueue:
        """Return the queue; create it if it is not in memory."""
        queue = self._queues.get(key)
        if queue is None:
            if now_ns - self._swept_ns > _SWEEP_EVERY_NS or len(self._queues) >= self._config.queues:
                self._sweep(now_ns)
            queue = self._queues[key] = TaskQueue(key, self._config, self._deadlines, self.ask_for_read, now_ns)
        return queue

    def _sweep(self, now_ns: int) -> None:
        self._swept_ns = now_ns
        limit_ns = now_ns - int(self._config.idle_queue_s * SECOND_NS)
        for queue in [queue for queue in self if queue.idle_since(limit_ns)]:
            self._forget(queue)
        excess = len(self._queues) - self._config.queues + 1
        if excess > 0:
            # Make room in one go, so that a flood of names does not cause a sweep for each of them.
            excess += self._config.queues // 10
            idle = sorted((queue for queue in self if queue.idle_since(now_ns + 1)), key=lambda queue: queue.used_ns)
            for queue in idle[:excess]:
                self._forget(queue)

    def _forget(self, queue: TaskQueue) -> None:
        if queue.listener is not None:
            queue.listener.cancel()
            queue.listener = None
        del self._queues[queue.key]

    # Reading the store.

    async def read(self, queue: TaskQueue) -> None:
        """Fill the window from the store. Raise StorageError, leaving the window as it was."""
        fair = queue.fair
        if fair is not None and fair.short and not fair.wants_read and not queue.is_old(self._clock.steady_ns()):
            await self._refill(queue, fair)
            return
        limit = self._config.page + queue.busy
        with self._reading(queue):
            window = None
            rows: list[MatchingTask] = []
            if fair is None:
                rows = await self._store.list_tasks(*queue.key, None, limit)
            if queue.fair is not None or (rows and is_keyed(rows[0].key.priority)):
                window = await read_fairly(self._store, queue.key, None if fair is None else fair.cursor)
        if window is None:
            queue.end_read(rows, limit, self._clock.steady_ns())
        else:
            queue.end_fair_read(window, self._clock.steady_ns())

    async def _refill(self, queue: TaskQueue, fair: FairOrder) -> None:
        """Read more tasks of the keys that have run out of theirs."""
        limit = max(self._config.page // fair.levels, _PER_LEVEL)
        while True:
            level, last = next(iter(fair.short.items()))
            with self._reading(queue):
                rows = await self._store.list_tasks(*queue.key, (level, last), limit)
            own = [row for row in rows if row.key.priority == level]
            bound = own[-1].key.task_id if len(own) == limit else None
            queue.end_refill(level, own, bound, self._clock.steady_ns())
            if queue.reading or queue.fair is not fair or fair or not fair.short:
                return

    @contextmanager
    def _reading(self, queue: TaskQueue) -> Iterator[None]:
        queue.begin_read()
        try:
            yield
        except BaseException:
            queue.abort_read()
            if queue.waiters:
                self._deadlines.call_at(self._clock.steady_ns() + _RETRY_READ_NS, lambda: self._read_if_wanted(queue))
            raise

    def ask_for_read(self, queue: TaskQueue) -> None:
        """Read the queue soon in the background, for the polls that wait."""
        if not queue.reading:
            queue.reading = True
            self._background.spawn(self._read_quietly(queue))

    def _read_if_wanted(self, queue: TaskQueue) -> None:
        if queue.waiters:
            self.ask_for_read(queue)

    async def _read_quietly(self, queue: TaskQueue) -> None:
        try:
            await self.read(queue)
        except StorageError as error:
            log.warning("the tasks of queue %s could not be read: %s", queue.key[1], error)

    # Notifications of other processes.

    def listen(self, queue: TaskQueue) -> None:
        """Subscribe to the queue's notifications by other processes, until the queue is idle."""
        if queue.listener is None and self._config.remote_notifications:
            notifications = self._notifier.subscribe(queue.topic)
            notifications.__enter__()
            queue.listener = self._background.spawn(self._listen(queue, notifications))

    async def _listen(self, queue: TaskQueue, notifications: Subscription) -> None:
        idle_ns = int(self._config.idle_queue_s * SECOND_NS)
        try:
            while queue.polled_since(self._clock.steady_ns() - idle_ns):
                # Tasks committed by this process are passed to the queue directly.
                if (
                    await notifications.wait(self._clock.steady_ns() + int(_LISTEN_AT_ONCE_S * SECOND_NS))
                    and notifications.remote
                ):
                    await self._read_after_notification(queue)
        except asyncio.CancelledError:
            # A listener is only cancelled when its queue is removed or on shutdown; then nobody awaits it.
            pass
        finally:
            notifications.__exit__(None, None, None)
            queue.listener = None

    async def _read_after_notification(self, queue: TaskQueue) -> None:
        pause_s = self._config.notification_pause_s
        while queue.reading:
            await self._clock.sleep(pause_s)
        queue.last_read_ns = 0
        if queue.waiters:
            queue.reading = True
            await self._read_quietly(queue)
        # The pause bounds the cost of a busy writer in another process, and loses nothing.
        await self._clock.sleep(pause_s)

    def close(self) -> None:
        """Stop listening and answer all waiting polls."""
        for queue in self:
            if queue.listener is not None:
                queue.listener.cancel()
            while queue.waiters:
                queue.waiters.popitem(last=False)[0].end()
