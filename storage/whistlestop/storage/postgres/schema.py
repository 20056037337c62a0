"""Apply the numbered migrations of `migrations/` (see `whistlestop.storage.migrations` for their rules)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from psycopg.errors import DuplicateObject, DuplicateTable, LockNotAvailable, UndefinedTable, UniqueViolation

from whistlestop.storage.migrations import BASELINE, Applied, Migration, SchemaStatus, load, missing
from whistlestop.storage.migrations import refuse_newer as refuse
from whistlestop.storage.migrations import statements as split
from whistlestop.storage.migrations import status as compare

if TYPE_CHECKING:
    from psycopg import AsyncConnection

VERSION_TABLES = (
    "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)",
)
"""The first is what release 0.1.0 reads."""

LOCK_MS = 1000
"""How long a migration waits for a table that is in use, before it lets others go first."""
LOCK_ATTEMPTS = 30

_TABLES_THERE = (
    "SELECT relname FROM pg_class WHERE relname IN ('schema_version', 'schema_migrations')"
    " AND relkind = 'r' AND pg_table_is_visible(oid)"
)


@cache
def migrations() -> list[Migration]:
    """Return all that this code knows, in order."""
    return load(__package__)


def statements(sql: str, *, dsql: bool = False) -> list[str]:
    """Split a migration, and render it for Aurora DSQL if asked."""
    if dsql:
        # It collates by "C" alone, its indexes ascend, and it builds them while the table is in use.
        for ours, its in ((' COLLATE "C"', ""), (" DESC", ""), ("CREATE INDEX ", "CREATE INDEX ASYNC ")):
            sql = sql.replace(ours, its)
    return split(sql)


async def applied(db: AsyncConnection[Any]) -> Applied:
    """Return what the database remembers."""
    tables = {row[0] for row in await (await db.execute(_TABLES_THERE)).fetchall()}
    oldest = await _oldest(db) if "schema_version" in tables else 0
    rows = []
    if "schema_migrations" in tables:  # release 0.1.0 makes none
        rows = await (await db.execute("SELECT version FROM schema_migrations")).fetchall()
    return Applied(frozenset(range(1, min(oldest, BASELINE) + 1)) | {row[0] for row in rows}, oldest)


async def _oldest(db: AsyncConnection[Any]) -> int:
    row = await (await db.execute("SELECT max(version) FROM schema_version")).fetchone()
    return int(row[0] or 0) if row else 0


async def status(db: AsyncConnection[Any]) -> SchemaStatus:
    """Compare the database with this release."""
    return compare(migrations(), await applied(db))


async def refuse_newer(db: AsyncConnection[Any]) -> None:
    """Raise SchemaMismatch for a database that a later release changed beyond what this one can serve."""
    with suppress(UndefinedTable):  # a fresh one
        refuse("the database", migrations(), await _oldest(db))


async def migrate(db: AsyncConnection[Any], *, contract: bool = False) -> list[str]:
    """Apply what is missing on a connection in autocommit mode; return the names of what was applied."""
    dsql = await _is_dsql(db)
    for table in VERSION_TABLES:
        # Postgres's IF NOT EXISTS does not bear a rival.
        with suppress(UniqueViolation, DuplicateTable, DuplicateObject):
            await db.execute(table.encode())
    await refuse_newer(db)
    names = []
    for migration in missing(migrations(), await applied(db), contract=contract):
        if dsql:
            await _apply_one_by_one(db, migration)
        elif not await _apply(db, migration):
            continue
        names.append(migration.name)
    return names


async def _is_dsql(db: AsyncConnection[Any]) -> bool:
    row = await (await db.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'sys'")).fetchone()
    return bool(row and row[0])


async def _apply(db: AsyncConnection[Any], migration: Migration) -> bool:
    """Apply in one transaction. Others who migrate at the same time wait for the lock and then find it done.

    A change of a table waits for those who read it, and everybody else waits behind it: so it waits for a moment only,
    and comes again.
    """
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with db.transaction():
                await db.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
                if migration.version in (await applied(db)).versions:
                    return False
                await db.execute(f"SET LOCAL lock_timeout = {LOCK_MS}".encode())
                for statement in statements(migration.sql):
                    await db.execute(statement.encode())
                await _record(db, migration)
        except LockNotAvailable:
            if attempt == LOCK_ATTEMPTS:
                raise
            await asyncio.sleep(LOCK_MS / 1000)  # for those who queued up behind it
        else:
            break
    return True


async def _apply_one_by_one(db: AsyncConnection[Any], migration: Migration) -> None:
    """Aurora DSQL takes one DDL statement per transaction: so each tolerates having been run before."""
    for statement in statements(migration.sql, dsql=True):
        for ours, guarded in (
            ("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS "),
            ("CREATE INDEX ASYNC ", "CREATE INDEX ASYNC IF NOT EXISTS "),
            (" ADD COLUMN ", " ADD COLUMN IF NOT EXISTS "),
            ("DROP INDEX ", "DROP INDEX IF EXISTS "),
        ):
            statement = statement.replace(ours, guarded)  # noqa: PLW2901  # one after the other
        await db.execute(statement.encode())
    await _record(db, migration)


async def _record(db: AsyncConnection[Any], migration: Migration) -> None:
    for table, version in (("schema_version", migration.oldest), ("schema_migrations", migration.version)):
        if version:
            await db.execute(
                f"INSERT INTO {table} (version, name) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING".encode(),
                (version, migration.name),
            )
