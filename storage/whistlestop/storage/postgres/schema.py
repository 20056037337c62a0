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
"""Release 0.1.0 reads only the first."""

LOCK_MS = 1000
"""How long, in milliseconds, a migration waits for a table in use before it lets other sessions go first."""
LOCK_ATTEMPTS = 30

_TABLES_THERE = (
    "SELECT relname FROM pg_class WHERE relname IN ('schema_version', 'schema_migrations')"
    " AND relkind = 'r' AND pg_table_is_visible(oid)"
)


@cache
def migrations() -> list[Migration]:
    """Return all migrations of this release, in order."""
    return load(__package__)


def statements(sql: str, *, dsql: bool = False) -> list[str]:
    """Split a migration into statements, and rewrite them for Aurora DSQL if asked."""
    if dsql:
        # DSQL collates only by "C", has only ascending indexes, and builds them while the table is in use.
        for ours, its in ((' COLLATE "C"', ""), (" DESC", ""), ("CREATE INDEX ", "CREATE INDEX ASYNC ")):
            sql = sql.replace(ours, its)
    return split(sql)


async def applied(db: AsyncConnection[Any]) -> Applied:
    """Return the migrations that the database has recorded; none for a fresh database."""
    tables = {row[0] for row in await (await db.execute(_TABLES_THERE)).fetchall()}
    oldest = await _oldest(db) if "schema_version" in tables else 0
    rows = []
    if "schema_migrations" in tables:  # release 0.1.0 does not create it
        rows = await (await db.execute("SELECT version FROM schema_migrations")).fetchall()
    return Applied(frozenset(range(1, min(oldest, BASELINE) + 1)) | {row[0] for row in rows}, oldest)


async def _oldest(db: AsyncConnection[Any]) -> int:
    row = await (await db.execute("SELECT max(version) FROM schema_version")).fetchone()
    return int(row[0] or 0) if row else 0


async def status(db: AsyncConnection[Any]) -> SchemaStatus:
    """Compare the migrations of the database, which may have none, with those of this release."""
    return compare(migrations(), await applied(db))


async def refuse_newer(db: AsyncConnection[Any]) -> None:
    """Raise SchemaMismatch for a database that a later release changed so that this one can't serve it."""
    with suppress(UndefinedTable):  # a fresh one
        refuse("the database", migrations(), await _oldest(db))


async def migrate(db: AsyncConnection[Any], *, contract: bool = False) -> list[str]:
    """Apply what is missing on a connection in autocommit mode; return the names of what was applied, if anything.

    Raise psycopg.Error.
    """
    dsql = await _is_dsql(db)
    for table in VERSION_TABLES:
        # Postgres's IF NOT EXISTS still fails when another session creates the table at the same time.
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
    """Apply one migration in a transaction; return False when another process has applied it meanwhile.

    A change of a table waits for its readers, and all others queue up behind it: so it waits only LOCK_MS at a time,
    and retries. Raise LockNotAvailable after LOCK_ATTEMPTS.
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
            await asyncio.sleep(LOCK_MS / 1000)  # for the sessions that queued up behind it
        else:
            break
    return True


async def _apply_one_by_one(db: AsyncConnection[Any], migration: Migration) -> None:
    """Apply the statements one by one, each safe to repeat: Aurora DSQL takes one DDL statement per transaction."""
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
