"""What the parts of the Postgres store share: reads and single statements on pooled connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.storage.errors import TimedOut, Unavailable
from whistlestop.storage.postgres.connection import CHUNK_BYTES, SILENT_S, retried, stopped_when_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from psycopg import AsyncConnection

    from whistlestop.storage.notifications import Notifications
    from whistlestop.storage.postgres.connection import Pool

T = TypeVar("T")

_CHUNKS = "SELECT data FROM chunks WHERE kind = $1 AND owner = $2 AND part <= $3 ORDER BY part"


class PostgresBase:
    """Run statements on pooled connections.

    Every method is one statement and one transaction, unless it says otherwise.
    """

    _pool: Pool | None = None
    _long_reads: asyncio.Semaphore | None = None
    _has_timeouts = True
    """False on Aurora DSQL, which has no `statement_timeout`."""
    notifications: Notifications | None = None
    """Set in functions only."""

    def _notify_workers(self, notification_queues: Sequence[str] | None) -> None:
        if self.notifications is not None and self.notifications.notify_workers is not None and notification_queues:
            self.notifications.notify_workers(notification_queues)

    def _connections(self) -> Pool:
        if self._pool is None:
            raise Unavailable("the store is not open")
        return self._pool

    async def _all(
        self, sql: str, parameters: Sequence[Any] = (), *, read: bool = True, silent_s: float = SILENT_S
    ) -> list[Any]:
        pool = self._connections()

        async def run() -> list[Any]:
            async with pool.connection(silent_s=silent_s) as connection:
                cursor = connection.cursor(binary=True)
                await cursor.execute(sql.encode(), parameters)
                return await cursor.fetchall()

        return await retried(run, read=read)

    async def _within(self, seconds: float, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows of a read that may take long.

        The database stops it after `seconds`, or when the caller is cancelled. Only a quarter of the connections run
        such reads at a time, so that short statements find one. Raise TimedOut.
        """
        pool = self._connections()
        if self._long_reads is None:
            self._long_reads = asyncio.Semaphore(max(1, pool.max_size // 4))

        async def run() -> list[Any]:
            async with pool.connection(silent_s=seconds + SILENT_S) as connection:
                return await stopped_when_cancelled(connection, read(connection))

        async def read(connection: AsyncConnection[Any]) -> list[Any]:
            cursor = connection.cursor(binary=True)
            if not self._has_timeouts:
                await cursor.execute(sql.encode(), parameters)
                return await cursor.fetchall()
            # In a pipeline these take two round trips, not four.
            async with connection.pipeline(), connection.transaction():
                await connection.execute(f"SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}".encode())
                await cursor.execute(sql.encode(), parameters)
                return await cursor.fetchall()

        try:
            async with asyncio.timeout(seconds), self._long_reads:
                return await retried(run, read=True)
        except TimeoutError:
            raise TimedOut(f"the database did not answer within {seconds:.1f} s") from None

    async def _one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        rows = await self._all(sql, parameters)
        return rows[0] if rows else None

    async def _run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a write and return the number of rows that it affected."""
        pool = self._connections()

        async def run() -> int:
            async with pool.connection() as connection:
                return (await connection.execute(sql.encode(), parameters)).rowcount

        return await retried(run, read=False)

    async def _transaction(self, work: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run several statements in one transaction, and all of them again on contention."""
        pool = self._connections()

        async def run() -> T:
            async with pool.connection() as connection, connection.transaction():
                return await work(connection)

        return await retried(run, read=False)

    async def _whole(self, kind: str, owner: str, parts: int, data: bytes) -> bytes:
        """Return a long value: the part in its row, followed by its chunks."""
        if not parts:
            return data
        return data + b"".join(row[0] for row in await self._all(_CHUNKS, (kind, owner, parts)))


def split(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the part of a value that goes into the row, and the parts that go into `chunks`."""
    if len(data) <= CHUNK_BYTES:
        return data, []
    return data[:CHUNK_BYTES], [data[at : at + CHUNK_BYTES] for at in range(CHUNK_BYTES, len(data), CHUNK_BYTES)]


_MEMO_IN_CHUNKS = b"\xc2\x3e"
"""The tag of field 1000, which the message Memo does not have, so that release 0.1.0 reads the column as an empty
memo."""


def memo_in_chunks(parts: int) -> bytes:
    """Return the content of the column `memo` when the memo itself is in `parts` rows of `chunks`."""
    number = str(parts).encode()
    return _MEMO_IN_CHUNKS + bytes((len(number),)) + number


def memo_parts(memo: bytes) -> int:
    """Return how many rows of `chunks` hold the memo; 0 when the column holds it."""
    return int(memo[3:]) if memo.startswith(_MEMO_IN_CHUNKS) else 0
