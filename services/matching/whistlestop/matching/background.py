"""Work that goes on after a call has answered, and what waits for it at the end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import TaskKey

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 500


class Background:
    """Tasks that belong to no call."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start `work`; an error of it is logged and goes no further."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work of matching failed", exc_info=error)

    async def join(self) -> None:
        """Wait until all that was started is over."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class RowDeletes:
    """Rows that nobody needs any more, deleted together while earlier ones are on their way."""

    def __init__(self, store: TaskStore, background: Background) -> None:
        self._store = store
        self._background = background
        self._keys: list[TaskKey] = []
        self._busy = False

    def add(self, key: TaskKey) -> None:
        """Delete the row soon. If that fails, history refuses the row again and it comes back here."""
        self._keys.append(key)
        if not self._busy:
            self._busy = True
            self._background.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._keys:
                keys, self._keys = self._keys[:_MOST_AT_ONCE], self._keys[_MOST_AT_ONCE:]
                await self._store.delete_tasks(keys)
        except StorageError as error:
            log.warning("stale task rows could not be deleted now: %s", error)
        finally:
            self._busy = False
