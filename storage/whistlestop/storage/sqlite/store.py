"""The store on one SQLite file, or in memory."""

from __future__ import annotations

import os
import queue
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from whistlestop.common import private_files
from whistlestop.storage.admin import check, notes_set_aside, table_counts
from whistlestop.storage.errors import CannotOpen, Unavailable
from whistlestop.storage.sqlite import file, schema
from whistlestop.storage.sqlite.base import INLINE_OPERATIONS, SLOW_THREADS
from whistlestop.storage.sqlite.cluster import SqliteCluster
from whistlestop.storage.sqlite.connection import MEMORY, connect, translate
from whistlestop.storage.sqlite.executions import SqliteExecutions
from whistlestop.storage.sqlite.nexus import SqliteNexus
from whistlestop.storage.sqlite.queries import SqliteQueries
from whistlestop.storage.sqlite.tasks import SqliteTasks
from whistlestop.storage.sqlite.timers import SqliteTimers
from whistlestop.storage.sqlite.visibility import SqliteVisibility
from whistlestop.storage.sqlite.writer import DirectWriter, GroupWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whistlestop.storage.migrations import SchemaStatus
    from whistlestop.storage.records import Finding, QueueMessage


class SqliteStore(
    SqliteExecutions, SqliteTasks, SqliteTimers, SqliteQueries, SqliteVisibility, SqliteNexus, SqliteCluster
):
    """See whistlestop.storage.interface.Store. `path` is a file or ":memory:"; `pragmas` are applied after our own.

    `open` accepts a fresh or older database too, so that `migrate` can follow; it refuses a newer one.
    """

    def __init__(self, path: str, pragmas: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._pragmas = dict(pragmas or {})
        self._main: sqlite3.Connection | None = None

    async def open(self) -> None:
        main = connect(self.path, self._pragmas)
        try:
            schema.refuse_newer(main, self.path)
            self._slow = queue.SimpleQueue()
            if self.path == MEMORY:
                self._reader, self._lister = main.cursor(), main
                self._slow.put(main)
                self._writer = DirectWriter(main)
            else:
                self._reader = connect(self.path, self._pragmas, read_only=True).cursor()
                self._lister = connect(self.path, self._pragmas, read_only=True)
                self._lister.set_progress_handler(_interrupt, INLINE_OPERATIONS)
                for _ in range(SLOW_THREADS):
                    self._slow.put(connect(self.path, self._pragmas, read_only=True))
                self._slow_threads = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="sqlite-reader")
                self._writer = self._group_writer(main)
        except BaseException as error:
            self._close_readers()
            main.close()
            if isinstance(error, (OSError, RuntimeError)):
                raise CannotOpen(f"can't use the database {self.path}: {error}") from error
            raise
        self._main = main

    def _group_writer(self, main: sqlite3.Connection) -> GroupWriter:
        return GroupWriter(main, self.path)

    async def close(self) -> None:
        if self._main is None or self._writer is None:
            return
        await self._writer.close()
        self._close_readers()
        if self.path != MEMORY:
            # The last connection to close moves the WAL into the file and deletes it.
            with suppress(sqlite3.Error):
                file.settle(self._main)
        self._main.close()
        self._main = self._writer = None

    def _close_readers(self) -> None:
        """Wait for the long reads, and close all connections but the main one."""
        if self._slow_threads is not None:
            self._slow_threads.shutdown()
        reader = self._reader and self._reader.connection
        if self._reader is not None:
            self._reader.close()
        if self.path != MEMORY:
            slow = []
            while self._slow is not None and not self._slow.empty():
                slow.append(self._slow.get())
            for db in (reader, self._lister, *slow):
                if db is not None:
                    db.close()
        self._reader = self._lister = self._slow = self._slow_threads = None

    async def migrate(self, *, contract: bool = False) -> list[str]:
        """Apply the migrations that are missing and return their names; contract migrations only when asked for.

        Raise StorageError.
        """
        main = self._open_main()
        try:
            applied = schema.migrate(main, self.path, contract=contract)
            if self.path != MEMORY and (file.claim(main) or applied):
                # From here on the file by itself is a valid database, whatever happens to its -wal.
                main.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise translate(error) from error
        return applied

    async def schema_status(self) -> SchemaStatus:
        return schema.status(self._open_main())

    async def backup(self, target: str) -> None:
        """Write a consistent copy to `target` while serving. Raise CannotOpen."""

        def copy(db: sqlite3.Connection) -> None:
            try:
                os.close(private_files.create(target))
            except FileExistsError:
                raise CannotOpen(f"the backup {target} exists already: name a new file") from None
            except OSError as error:
                raise CannotOpen(f"can't write the backup {target}: {error.strerror}") from error
            try:
                copied = sqlite3.connect(target)
            except sqlite3.Error as error:
                raise CannotOpen(f"can't write the backup {target}: {error}") from error
            try:
                db.backup(copied, pages=-1 if self.path == MEMORY else 1024)
                file.claim(copied)
                file.renew(copied)
            except sqlite3.Error as error:
                raise CannotOpen(f"can't write the backup {target}: {error}") from error
            finally:
                copied.close()

        await self._in_thread(copy)

    async def check(self, limit: int) -> list[Finding]:
        """Check the invariants page by page; return at most `limit` findings. Raise StorageError."""
        return await check(self._slowly, limit)

    async def notes_set_aside(self, limit: int) -> list[tuple[QueueMessage, bool]]:
        """Return the notes of rows that were set aside, and whether each row is still there.

        See whistlestop.storage.set_aside. At most `limit` notes are returned.
        """
        return await notes_set_aside(self._slowly, limit)

    async def table_counts(self, limit: int) -> dict[str, int]:
        """Return the number of rows of each table, each counted up to `limit`. Raise StorageError."""
        return await table_counts(self._slowly, limit)

    async def _slowly(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._in_thread(lambda db: db.execute(sql, parameters).fetchall())

    async def ping(self) -> None:
        self._one("SELECT 1", ())

    def _open_main(self) -> sqlite3.Connection:
        if self._main is None:
            raise Unavailable("the store is not open")
        return self._main


def _interrupt() -> int:
    return 1
