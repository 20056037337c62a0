"""Delete the rows of finished tasks after the call that finished them was answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from whistlestop.net.tasks.background import Background
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import TaskKey

log = logging.getLogger(__name__)

_MAX_AT_ONCE = 500


class RowDeletes:
    """Delete rows in the background; those added meanwhile go together in the next batch."""

    def __init__(self, store: TaskStore, background: Background) -> None:
        self._store = store
        self._background = background
        self._keys: list[TaskKey] = []
        self._busy = False

    def add(self, key: TaskKey) -> None:
        """Delete the row soon. If that fails, a later poll finds it, history refuses it, and it is added again."""
        self._keys.append(key)
        if not self._busy:
            self._busy = True
            self._background.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._keys:
                keys, self._keys = self._keys[:_MAX_AT_ONCE], self._keys[_MAX_AT_ONCE:]
                await self._store.delete_tasks(keys)
        except StorageError as error:
            log.warning("rows of finished tasks could not be deleted: %s", error)
        finally:
            self._busy = False
