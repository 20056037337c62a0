"""Write a consistent copy of a Postgres database to one file, which `psql -f` restores into an empty database."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from whistlestop.common import private_files
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.postgres import schema

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_TABLES = (
    "SELECT c.table_name, string_agg(quote_ident(c.column_name), ', ' ORDER BY c.ordinal_position)"
    " FROM information_schema.columns c WHERE c.table_schema = current_schema() AND c.table_name = ANY($1::text[])"
    " GROUP BY c.table_name ORDER BY c.table_name"
)
_BLOCK_BYTES = 1 << 20


def table_names() -> list[str]:
    """Return the names of all tables that the migrations create, and of those that record the migrations."""
    found = ["schema_migrations", "schema_version"]
    for migration in schema.migrations():
        for statement in schema.statements(migration.sql):
            words = statement.split()
            if words[:2] == ["CREATE", "TABLE"]:
                found.append(words[2])
    return found


async def write_backup(db: AsyncConnection[Any], target: str) -> None:
    """Copy every table in one snapshot. The file gets its name only when it is complete.

    Raise CannotOpen when the file exists, can't be written, or a newer release has migrated the database.
    """
    if await asyncio.to_thread(os.path.lexists, target):
        raise CannotOpen(f"the backup {target} exists already: name a new file")
    partial = Path(f"{target}.partial")
    try:
        with await asyncio.to_thread(_create, partial) as file:
            await _copy_all(db, file)
            await asyncio.to_thread(_flush, file)
        await asyncio.to_thread(partial.rename, target)
    except OSError as error:
        raise CannotOpen(f"can't write the backup {target}: {error}") from error


async def _copy_all(db: AsyncConnection[Any], file: BinaryIO) -> None:
    await db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        applied = await schema.applied(db)
        known = {migration.version for migration in schema.migrations()}
        if unknown := applied.versions - known:
            raise CannotOpen(
                f"a newer release has migrated the database (migration {max(unknown)}), and a backup by this one would "
                "lack its tables: take the backup with that release"
            )
        head = ["-- A backup of Whistlestop. Restore it into an empty database: psql --single-transaction -f FILE URL"]
        head += [table + ";" for table in schema.VERSION_TABLES]
        head += [migration.sql for migration in schema.migrations() if migration.version in applied.versions]
        await asyncio.to_thread(file.write, "\n".join([*head, ""]).encode())
        tables = await (await db.execute(_TABLES, (table_names(),))).fetchall()
        for table, columns in tables:
            await _copy_table(db, file, f"{table} ({columns})")
    finally:
        await db.execute("ROLLBACK")


async def _copy_table(db: AsyncConnection[Any], file: BinaryIO, relation: str) -> None:
    await asyncio.to_thread(file.write, f"\nCOPY {relation} FROM stdin;\n".encode())
    block = bytearray()
    async with db.cursor().copy(f"COPY {relation} TO STDOUT".encode()) as copy:
        async for data in copy:
            block += data
            if len(block) >= _BLOCK_BYTES:
                await asyncio.to_thread(file.write, bytes(block))
                block.clear()
    await asyncio.to_thread(file.write, bytes(block) + b"\\.\n")


def _create(path: Path) -> BinaryIO:
    """Create the file, replacing one that an earlier attempt may have left."""
    path.unlink(missing_ok=True)
    return os.fdopen(private_files.create(str(path)), "wb")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
