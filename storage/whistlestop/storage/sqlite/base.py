"""What the parts of the SQLite store share: how to read, and how to write."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from whistlestop.storage.errors import Unavailable
from whistlestop.storage.sqlite.connection import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from whistlestop.storage.outreach import Outreach

T = TypeVar("T")

INLINE_OPERATIONS = 100_000
"""Steps of SQLite's virtual machine (some milliseconds) that a list may take before it moves to a thread."""


class Writer(Protocol):
    """Runs jobs in transactions."""

    groups: int

    async def write(self, run: Callable[[sqlite3.Cursor], T]) -> T: ...

    async def close(self) -> None: ...


class SqliteBase:
    """Point reads run on the event loop (microseconds, on a connection of their own); writes go to the writer."""

    _reader: sqlite3.Cursor | None = None
    _lister: sqlite3.Connection | None = None
    _slow: sqlite3.Connection | None = None
    _slow_thread: ThreadPoolExecutor | None = None
    _writer: Writer | None = None
    outreach: Outreach | None = None
    """Set in functions."""

    def _tell(self, wake_queues: Sequence[str]) -> None:
        if self.outreach is not None and self.outreach.wake is not None and wake_queues:
            self.outreach.wake(wake_queues)

    def _all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        if self._reader is None:
            raise Unavailable("the store is not open")
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate(error) from error

    def _one(self, sql: str, parameters: Sequence[Any]) -> Any:
        if self._reader is None:
            raise Unavailable("the store is not open")
        try:
            rows = self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate(error) from error
        return rows[0] if rows else None

    async def _write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        if self._writer is None:
            raise Unavailable("the store is not open")
        return await self._writer.write(run)

    async def _list(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """A read that may be long: on the event loop as far as it is short, else on a thread."""
        if self._lister is None:
            raise Unavailable("the store is not open")
        try:
            return self._lister.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise translate(error) from error
        except sqlite3.Error as error:
            raise translate(error) from error
        return await self._in_thread(lambda db: db.execute(sql, parameters).fetchall())

    async def _in_thread(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """A long read, on the connection that one thread owns. In memory there is one connection: on the spot."""
        slow, thread = self._slow, self._slow_thread
        if slow is None:
            raise Unavailable("the store is not open")
        try:
            if thread is None:
                return read(slow)
            return await asyncio.get_running_loop().run_in_executor(thread, read, slow)
        except sqlite3.Error as error:
            raise translate(error) from error
