"""Apply the numbered migrations of `migrations/` (see `whistlestop.storage.migrations` for their rules)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from whistlestop.storage.migrations import (
    BASELINE,
    NOTHING,
    Applied,
    Migration,
    SchemaStatus,
    load,
    missing,
    statements,
)
from whistlestop.storage.migrations import refuse_newer as refuse
from whistlestop.storage.migrations import status as compare

if TYPE_CHECKING:
    import sqlite3

_VERSION_TABLES = (
    "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL)",
)
"""Release 0.1.0 reads only the first."""


@cache
def migrations() -> list[Migration]:
    """Return all migrations of this release, in order."""
    return load(__package__)


def applied(db: sqlite3.Connection) -> Applied:
    """Return the migrations that the database has recorded; none for a fresh database."""
    found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'schema|_%' ESCAPE '|'")
    tables = {name for (name,) in found.fetchall()}
    if "schema_version" not in tables:
        return NOTHING
    oldest = int(db.execute("SELECT max(version) FROM schema_version").fetchone()[0] or 0)
    rows = db.execute("SELECT version FROM schema_migrations").fetchall() if "schema_migrations" in tables else []
    return Applied(frozenset(range(1, min(oldest, BASELINE) + 1)) | {version for (version,) in rows}, oldest)


def status(db: sqlite3.Connection) -> SchemaStatus:
    """Compare the migrations of the database, which may have none, with those of this release."""
    return compare(migrations(), applied(db))


def refuse_newer(db: sqlite3.Connection, path: str) -> None:
    """Raise SchemaMismatch for a database that a later release changed so that this one can't serve it."""
    refuse(path, migrations(), applied(db).oldest)


def migrate(db: sqlite3.Connection, path: str, *, contract: bool = False) -> list[str]:
    """Apply the missing migrations in one transaction; return their names. Raise SchemaMismatch."""
    names: list[str] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        for table in _VERSION_TABLES:
            db.execute(table)
        refuse_newer(db, path)
        for migration in missing(migrations(), applied(db), contract=contract):
            for statement in statements(migration.sql):
                db.execute(statement)
            _record(db, migration)
            names.append(migration.name)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return names


def _record(db: sqlite3.Connection, migration: Migration) -> None:
    for table, version in (("schema_version", migration.oldest), ("schema_migrations", migration.version)):
        if version:
            db.execute(f"INSERT OR IGNORE INTO {table} (version, name) VALUES (?, ?)", (version, migration.name))
