"""Numbered migrations: `migrations/NNNN_name.sql`, each applied once, in order."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.errors import DuplicateObject, DuplicateTable, UndefinedTable, UniqueViolation

from whistlestop.storage.errors import SchemaMismatch

if TYPE_CHECKING:
    from psycopg import AsyncConnection

VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)"


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All that this code knows, in order."""
    found = []
    for entry in resources.files(__package__).joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text("utf-8")))
    return sorted(found)


def latest_version() -> int:
    """The schema that this code serves."""
    return migrations()[-1].version


def statements(sql: str, *, dsql: bool = False) -> list[str]:
    """Split a migration, and render it for Aurora DSQL if asked. No statement holds a semicolon within."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    if dsql:
        # It collates by "C" alone, its indexes ascend, and it builds them while the table is in use.
        for ours, its in ((' COLLATE "C"', ""), (" DESC", ""), ("CREATE INDEX ", "CREATE INDEX ASYNC ")):
            bare = bare.replace(ours, its)
    return [part.strip() for part in bare.split(";") if part.strip()]


async def database_version(db: AsyncConnection[Any]) -> int:
    """The newest migration that the database has seen; 0 for a fresh one."""
    try:
        row = await (await db.execute("SELECT max(version) FROM schema_version")).fetchone()
    except UndefinedTable:
        return 0
    return int(row[0] or 0) if row else 0


def refuse_newer(version: int) -> None:
    """Raise SchemaMismatch for a database that a later release wrote."""
    latest = latest_version()
    if version > latest:
        raise SchemaMismatch(
            f"the database has schema version {version}, this release serves up to {latest}: "
            "use the release that wrote it, or a newer one"
        )


async def migrate(db: AsyncConnection[Any]) -> list[str]:
    """Apply what is missing on a connection in autocommit mode; the names of what was applied."""
    dsql = await _is_dsql(db)
    with suppress(UniqueViolation, DuplicateTable, DuplicateObject):  # Postgres's IF NOT EXISTS does not bear a rival.
        await db.execute(VERSION_TABLE)
    refuse_newer(await database_version(db))
    applied = []
    for migration in migrations():
        if dsql:
            done = await _apply_one_by_one(db, migration)
        else:
            done = await _apply(db, migration)
        if done:
            applied.append(migration.name)
    return applied


async def _is_dsql(db: AsyncConnection[Any]) -> bool:
    row = await (await db.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'sys'")).fetchone()
    return bool(row and row[0])


async def _apply(db: AsyncConnection[Any], migration: Migration) -> bool:
    """In one transaction. Others who migrate at the same time wait for the lock and then find it done."""
    async with db.transaction():
        await db.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
        if await database_version(db) >= migration.version:
            return False
        for statement in statements(migration.sql):
            await db.execute(statement.encode())
        await _record(db, migration)
    return True


async def _apply_one_by_one(db: AsyncConnection[Any], migration: Migration) -> bool:
    """Aurora DSQL takes one DDL statement per transaction: so each tolerates having been run before."""
    if await database_version(db) >= migration.version:
        return False
    for statement in statements(migration.sql, dsql=True):
        guarded = statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ").replace(
            "CREATE INDEX ASYNC ", "CREATE INDEX ASYNC IF NOT EXISTS "
        )
        await db.execute(guarded.encode())
    await _record(db, migration)
    return True


async def _record(db: AsyncConnection[Any], migration: Migration) -> None:
    await db.execute("INSERT INTO schema_version (version, name) VALUES ($1, $2)", migration[:2])
