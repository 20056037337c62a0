"""All queues of this process: found, filled from the store, woken by hints, and forgotten when idle."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import is_keyed
from whistlestop.matching.queue import TaskQueue
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Notifier, Subscription
    from whistlestop.matching.alarms import Alarms
    from whistlestop.matching.background import Background
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.queue import QueueKey
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

_SWEEP_EVERY_NS = 60 * SECOND_NS
_LISTEN_AT_ONCE_S = 60.0
_RETRY_READ_NS = SECOND_NS
_LEVELS_IN_MIND, _LEAST_PER_LEVEL, _MOST_LEVELS = 10, 4, 1000
"""Of a queue with fairness keys: so many tasks of so many keys are read at once."""


async def read_fairly(
    store: TaskStore, key: QueueKey, limit: int
) -> tuple[list[MatchingTask], dict[int, int]]:
    """The first tasks of each level, and the last task ids of levels that may have more."""
    per_level = max(limit // _LEVELS_IN_MIND, _LEAST_PER_LEVEL)
    rows = await store.list_tasks_by_level(*key, per_level, _MOST_LEVELS)
    counts = Counter(row.key.priority for row in rows)
    last = {row.key.priority: row.key.task_id for row in rows}
    return rows, {level: last[level] for level, count in counts.items() if count >= per_level}


class Queues:
    """The queues in memory, by key."""

    def __init__(
        self,
        store: TaskStore,
        clock: Clock,
        notifier: Notifier,
        config: MatchingConfig,
        alarms: Alarms,
        background: Background,
    ) -> None:
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._config = config
        self._alarms = alarms
        self._background = background
        self._queues: dict[QueueKey, TaskQueue] = {}
        self._swept_ns = 0

    def __len__(self) -> int:
        return len(self._queues)

    def __iter__(self) -> Iterator[TaskQueue]:
        return iter(self._queues.values())

    def find(self, key: QueueKey) -> TaskQueue | None:
        """The queue, if it is in memory."""
        return self._queues.get(key)

    def get(self, key: QueueKey, now_ns: int) -> TaskQueue:
        """The queue, made when it is new here."""
        queue = self._queues.get(key)
        if queue is None:
            if now_ns - self._swept_ns > _SWEEP_EVERY_NS or len(self._queues) >= self._config.queues:
                self._sweep(now_ns)
            queue = self._queues[key] = TaskQueue(key, self._config, self._alarms, self.ask_for_read, now_ns)
        return queue

    def _sweep(self, now_ns: int) -> None:
        self._swept_ns = now_ns
        limit_ns = now_ns - int(self._config.idle_queue_s * SECOND_NS)
        for queue in [queue for queue in self if queue.idle_since(limit_ns)]:
            self._forget(queue)
        excess = len(self._queues) - self._config.queues + 1
        if excess > 0:
            # Make room in one go, so that a flood of names does not sweep at each of them.
            excess += self._config.queues // 10
            idle = sorted((queue for queue in self if queue.idle_since(now_ns + 1)), key=lambda queue: queue.used_ns)
            for queue in idle[:excess]:
                self._forget(queue)

    def _forget(self, queue: TaskQueue) -> None:
        if queue.listener is not None:
            queue.listener.cancel()
            queue.listener = None
        del self._queues[queue.key]

    # Looking at the store.

    async def read(self, queue: TaskQueue) -> None:
        """Fill the window from the store. Raises StorageError, and then the window is as before."""
        limit = self._config.page + queue.busy
        queue.begin_read()
        try:
            rows = await self._store.list_tasks(*queue.key, None, limit)
            bounds = None
            if queue.fair is not None or (rows and is_keyed(rows[0].key.priority)):
                rows, bounds = await read_fairly(self._store, queue.key, limit)
        except BaseException:
            queue.end_read(None, limit, self._clock.now_ns())
            if queue.waiters:
                self._alarms.at(self._clock.now_ns() + _RETRY_READ_NS, lambda: self._read_if_wanted(queue))
            raise
        queue.end_read(rows, limit, self._clock.now_ns(), bounds)

    def ask_for_read(self, queue: TaskQueue) -> None:
        """Read soon, on behalf of those who wait."""
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
            log.warning("queue %s could not be read: %s", queue.key[1], error)

    # Hints of other processes.

    def listen(self, queue: TaskQueue) -> None:
        """From now on until the queue is idle, look at the store when another process says that it wrote."""
        if queue.listener is None and self._config.hear_others:
            hints = self._notifier.subscribe(queue.topic)
            hints.__enter__()
            queue.listener = self._background.spawn(self._listen(queue, hints))

    async def _listen(self, queue: TaskQueue, hints: Subscription) -> None:
        idle_ns = int(self._config.idle_queue_s * SECOND_NS)
        try:
            while queue.polled_since(self._clock.now_ns() - idle_ns):
                # What this process commits is offered to the queue directly.
                if await hints.wait(self._clock.now_ns() + int(_LISTEN_AT_ONCE_S * SECOND_NS)) and hints.elsewhere:
                    await self._hint(queue)
        except asyncio.CancelledError:
            # Only forgetting a queue and closing cancel a listener; nobody awaits it then.
            pass
        finally:
            hints.__exit__(None, None, None)
            queue.listener = None

    async def _hint(self, queue: TaskQueue) -> None:
        pause_s = self._config.hint_pause_s
        while queue.reading:
            await self._clock.sleep(pause_s)
        if queue.waiters:
            queue.reading = True
            await self._read_quietly(queue)
        else:
            queue.last_read_ns = 0
        # A pause bounds what a busy writer elsewhere costs, and loses nothing.
        await self._clock.sleep(pause_s)

    def close(self) -> None:
        """Stop listening and answer everybody who waits."""
        for queue in self:
            if queue.listener is not None:
                queue.listener.cancel()
            while queue.waiters:
                queue.waiters.popitem(last=False)[0].end()
