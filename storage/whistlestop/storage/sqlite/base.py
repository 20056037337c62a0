"""What the parts of the SQLite store share: how to read and how to write."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from whistlestop.storage.errors import TimedOut, Unavailable
from whistlestop.storage.interface import MAX_READ_S
from whistlestop.storage.sqlite.connection import translate

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from whistlestop.storage.notifications import Notifications

T = TypeVar("T")

SLOW_THREADS = 2
MAX_STALL_S = 5.0
OPERATIONS_PER_CHECK = 50_000
"""Steps of SQLite's virtual machine after which a long read checks whether its result is still wanted."""

INLINE_OPERATIONS = 100_000
"""Steps of SQLite's virtual machine (a few milliseconds) that a list may take on the event loop before it moves to a
thread."""


class Writer(Protocol):
    """Run jobs in transactions."""

    groups: int

    async def write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        """Run the job in a transaction and return its result once it is committed. Raise StorageError."""

    async def close(self) -> None: ...


class SqliteBase:
    """Run point reads on the event loop (microseconds, on a connection of their own); leave writes to the writer."""

    _reader: sqlite3.Cursor | None = None
    _lister: sqlite3.Connection | None = None
    _slow: queue.SimpleQueue[sqlite3.Connection] | None = None
    """Connections for long reads, one for each of their threads."""
    _slow_threads: ThreadPoolExecutor | None = None
    _writer: Writer | None = None
    notifications: Notifications | None = None
    """Set in functions only."""

    def _notify_workers(self, notification_queues: Sequence[str]) -> None:
        if self.notifications is not None and self.notifications.notify_workers is not None and notification_queues:
            self.notifications.notify_workers(notification_queues)

    def _all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        if self._reader is None:
            raise Unavailable("the store is not open")
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            if _is_undecodable(error):
                return _damaged(self._reader.connection, sql, parameters)
            raise translate(error) from error

    def _one(self, sql: str, parameters: Sequence[Any]) -> Any:
        rows = self._all(sql, parameters)
        return rows[0] if rows else None

    async def _write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        if self._writer is None:
            raise Unavailable("the store is not open")
        return await self._writer.write(run)

    async def _list(
        self, sql: str, parameters: Sequence[Any], *, is_large: bool = False, within_s: float = MAX_READ_S
    ) -> list[Any]:
        """Run a read that may be long: on the event loop while it is short, otherwise on a thread."""
        if self._lister is None:
            raise Unavailable("the store is not open")
        if not is_large:
            try:
                return self._lister.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error) and not _is_undecodable(error):
                    raise translate(error) from error
            except sqlite3.Error as error:
                raise translate(error) from error

        def read(db: sqlite3.Connection) -> list[Any]:
            try:
                return db.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if not _is_undecodable(error):
                    raise
                return _damaged(db, sql, parameters)

        return await self._in_thread(read, within_s)

    async def _in_thread(self, read: Callable[[sqlite3.Connection], T], within_s: float | None = None) -> T:
        """Run a long read on one of the connections that are reserved for it.

        A database in memory has only one connection, where a long read holds up all others: there it runs on the event
        loop, but not longer than MAX_STALL_S. Raise TimedOut after `within_s` seconds.
        """
        slow, threads = self._slow, self._slow_threads
        if slow is None:
            raise Unavailable("the store is not open")
        if threads is None:
            within_s = None if within_s is None else min(within_s, MAX_STALL_S)
        watch = _Watch(within_s)

        def run() -> T:
            db = slow.get()
            try:
                return watch.read(db, read)
            finally:
                slow.put(db)

        try:
            if threads is None:
                return run()
            return await asyncio.get_running_loop().run_in_executor(threads, run)
        except asyncio.CancelledError:
            watch.stop()
            raise
        except sqlite3.Error as error:
            if watch.is_over:
                raise TimedOut(f"the database did not answer within {within_s:.1f} s") from error
            raise translate(error) from error


def _is_undecodable(error: Exception) -> bool:
    """Return whether a row holds text that is not UTF-8: it is damaged, since we never write such text."""
    return "decode to UTF-8" in str(error)


def _damaged(db: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Return the same rows with replacement characters in damaged text, so that the other rows can be read."""
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        return db.execute(sql, parameters).fetchall()
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        db.text_factory = str


class _Watch:
    """Stop a read after its time limit, or when its caller no longer waits."""

    def __init__(self, within_s: float | None) -> None:
        self._ends_s = None if within_s is None else time.monotonic() + within_s
        self._stopped = False

    def stop(self) -> None:
        """Stop the read. Called on the event loop when the caller was cancelled."""
        self._stopped = True

    @property
    def is_over(self) -> bool:
        """Whether the read has to stop, or was stopped."""
        return self._stopped or (self._ends_s is not None and time.monotonic() > self._ends_s)

    def read(self, db: sqlite3.Connection, read: Callable[[sqlite3.Connection], T]) -> T:
        """Run `read`, checking every OPERATIONS_PER_CHECK steps whether to go on.

        Raise sqlite3.OperationalError if not.
        """
        if self.is_over:
            raise sqlite3.OperationalError("interrupted")
        db.set_progress_handler(lambda: self.is_over, OPERATIONS_PER_CHECK)
        try:
            return read(db)
        finally:
            db.set_progress_handler(None, 0)
