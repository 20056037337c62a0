"""The store on one Postgres database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage.admin import check, notes_set_aside, table_counts
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.interface import MAX_READ_S
from whistlestop.storage.postgres import schema
from whistlestop.storage.postgres.backup import write_backup
from whistlestop.storage.postgres.cluster import PostgresCluster
from whistlestop.storage.postgres.connection import EXPECTED, create_pool, one_line, retried, translate, try_connection
from whistlestop.storage.postgres.executions import PostgresExecutions
from whistlestop.storage.postgres.nexus import PostgresNexus
from whistlestop.storage.postgres.queries import PostgresQueries
from whistlestop.storage.postgres.statement import numbered
from whistlestop.storage.postgres.tasks import PostgresTasks
from whistlestop.storage.postgres.timers import PostgresTimers
from whistlestop.storage.postgres.visibility import PostgresVisibility
from whistlestop.storage.postgres.writer import TransitionWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whistlestop.storage.migrations import SchemaStatus
    from whistlestop.storage.records import Finding, QueueMessage


class PostgresStore(
    PostgresExecutions,
    PostgresTasks,
    PostgresTimers,
    PostgresQueries,
    PostgresVisibility,
    PostgresNexus,
    PostgresCluster,
):
    """See whistlestop.storage.interface.Store.

    `password` is called for each connection when the URL has none: it returns tokens that are valid for a while. With
    `prepare` False no prepared statements are kept, for poolers that pass on a server connection after each
    transaction; by default `open` finds out whether there is such a pooler. `open` accepts a fresh or older database
    too, so that `migrate` can follow; it refuses a newer one.
    """

    def __init__(
        self, url: str, *, pool_size: int = 8, prepare: bool | None = None, password: Callable[[], str] | None = None
    ) -> None:
        self.url = url
        # Aurora DSQL is not known to accept SET LOCAL: there, only a cancellation ends a statement.
        self._has_timeouts = ".dsql." not in url
        self._password = password
        self._pool_size = pool_size
        self._prepare = prepare

    async def open(self) -> None:
        pooled = await try_connection(self.url, self._password, check_pooler=self._prepare is None)
        prepare = not pooled if self._prepare is None else self._prepare
        pool = create_pool(self.url, self._pool_size, prepare=prepare, password=self._password)
        try:
            await pool.open()
            async with pool.connection() as connection:
                await schema.refuse_newer(connection)
        except EXPECTED as error:
            await pool.close()
            raise CannotOpen(f"can't use the database: {one_line(error)}") from error
        except BaseException:
            await pool.close()
            raise
        self._pool = pool
        # At most half of the connections, so that reads never have to wait for writes.
        self._writer = TransitionWriter(pool, max(1, min(4, self._pool_size // 2)))

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        if self._pool is not None:
            await self._pool.close()
        self._pool = self._writer = None

    async def migrate(self, *, contract: bool = False) -> list[str]:
        """Apply the migrations that are missing and return their names; contract migrations only when asked for.

        Raise StorageError.
        """
        async with self._connections().connection(silent_s=None) as connection:
            try:
                return await schema.migrate(connection, contract=contract)
            except EXPECTED as error:
                raise translate(error) from error

    async def schema_status(self) -> SchemaStatus:
        pool = self._connections()

        async def run() -> SchemaStatus:
            async with pool.connection() as connection:
                return await schema.status(connection)

        return await retried(run, read=True)

    async def backup(self, target: str) -> None:
        """Write a consistent copy to `target` while serving. Raise CannotOpen."""
        async with self._connections().connection(silent_s=None) as connection:
            try:
                await write_backup(connection, target)
            except EXPECTED as error:
                raise translate(error) from error

    async def check(self, limit: int) -> list[Finding]:
        """Check the invariants page by page; return at most `limit` findings. Raise StorageError."""
        return await check(self._with_marks, limit)

    async def notes_set_aside(self, limit: int) -> list[tuple[QueueMessage, bool]]:
        """Return the notes of rows that were set aside, and whether each row is still there.

        See whistlestop.storage.set_aside. At most `limit` notes are returned.
        """
        return await notes_set_aside(self._with_marks, limit)

    async def table_counts(self, limit: int) -> dict[str, int]:
        """Return the number of rows of each table, each counted up to `limit`. Raise StorageError."""
        return await table_counts(self._with_marks, limit)

    async def _with_marks(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._all(numbered(sql, "?"), parameters, silent_s=MAX_READ_S)

    async def ping(self) -> None:
        await self._one("SELECT 1")
