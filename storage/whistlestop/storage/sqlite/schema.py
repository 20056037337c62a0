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

_ROWS_PER_KEY = {
    "executions_visibility": "1000000 1000000 1",
    "executions_visibility_by_workflow": "1000000 1000000 5",
    "executions_visibility_by_division": "1000000 1000000 1000000 1000 1 1",
}
"""What `ANALYZE` would find for lists in a namespace of a million runs, in the format of sqlite_stat1: the number of
rows, then how many rows share the first column of the index, the first two, and so on.

Without statistics SQLite takes it that a namespace has ten runs, and reads all of them to find those of a workflow id.
"""


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
        _store_statistics(db)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return names


def _store_statistics(db: sqlite3.Connection) -> None:
    """Store statistics of the lists' indexes, unless there are some, so that the planner chooses the right one."""
    found = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone()[0]
    wanted = "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'executions_visibility'"
    if found and db.execute(wanted).fetchone()[0]:
        return
    db.execute("ANALYZE schema_version")  # the only way to create sqlite_stat1
    rows = list(_ROWS_PER_KEY.items())
    db.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('executions_visibility', ?, ?)", rows)
    db.execute("ANALYZE sqlite_master")  # reads them again


def _record(db: sqlite3.Connection, migration: Migration) -> None:
    for table, version in (("schema_version", migration.oldest), ("schema_migrations", migration.version)):
        if version:
            db.execute(f"INSERT OR IGNORE INTO {table} (version, name) VALUES (?, ?)", (version, migration.name))
