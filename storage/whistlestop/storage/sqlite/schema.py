"""Numbered migrations: `migrations/NNNN_name.sql`, each applied once, in order, in a transaction of its own."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from whistlestop.storage.errors import SchemaMismatch

if TYPE_CHECKING:
    import sqlite3


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


def database_version(db: sqlite3.Connection) -> int:
    """The newest migration that the database has seen; 0 for a fresh one."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'").fetchone():
        return 0
    row = db.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(row[0] or 0)


def refuse_newer(path: str, version: int) -> None:
    """Raise SchemaMismatch for a database that a later release wrote."""
    latest = latest_version()
    if version > latest:
        raise SchemaMismatch(
            f"{path} has schema version {version}, this release serves up to {latest}: "
            "use the release that wrote it, or a newer one"
        )


def migrate(db: sqlite3.Connection, path: str) -> list[str]:
    """Apply what is missing; the names of what was applied."""
    applied: list[str] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        version = database_version(db)
        refuse_newer(path, version)
        for migration in migrations():
            if migration.version <= version:
                continue
            for statement in statements(migration.sql):
                db.execute(statement)
            db.execute("INSERT INTO schema_version (version, name) VALUES (?, ?)", migration[:2])
            applied.append(migration.name)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return applied


def statements(sql: str) -> list[str]:
    """Split a migration. No statement holds a semicolon within, and comments stand on lines of their own."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in bare.split(";") if part.strip()]
