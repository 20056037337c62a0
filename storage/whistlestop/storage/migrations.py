"""The rules of schema migrations, for every adapter.

A migration is a file `migrations/NNNN_name.sql` beside its adapter. It is one of two kinds:

- **additive** (the default): new tables, new indexes, new columns that may be NULL or have a default. The code of
  the release before neither sees nor misses them, so it goes on and starts again on the migrated database: a rolling
  upgrade and a rollback both work. Every server applies what is missing when it starts.
- **contract**: drops or changes what an older release still uses. Its first line is `-- contract: oldest NNNN`, the
  number of the newest migration that a release must know to serve the database afterwards. Only
  `whistlestop db migrate --contract` applies it, once no older process is left and nobody wants to go back.

Two tables remember them. `schema_migrations` has a row for each migration applied. The greatest number in
`schema_version` is what a release must know to serve the database: a process that knows less refuses to start. Release
0.1.0 reads `schema_version` alone, and there its own three migrations stand, so additive migrations never shut it out.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from whistlestop.storage.errors import SchemaMismatch

BASELINE = 3
"""Migrations up to this one are release 0.1.0's. They are remembered in `schema_version`, where it looks for them."""

_CONTRACT = re.compile(r"-- contract: oldest (\d{4})$")


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def oldest(self) -> int:
        """0 for an additive migration; else the newest migration that a release must know to serve what it leaves."""
        if self.version <= BASELINE:
            return self.version
        found = _CONTRACT.match(self.sql.partition("\n")[0])
        return int(found[1]) if found else 0

    @property
    def is_contract(self) -> bool:
        """Whether an older release may break by it."""
        return self.version > BASELINE and self.oldest > 0


class SchemaStatus(NamedTuple):
    """How a database and this release stand to each other."""

    version: int
    """The newest migration that was applied; 0 for a fresh database."""

    release_version: int
    """The newest migration that this release knows."""

    pending: tuple[str, ...]
    """Additive migrations that this release lacks: its servers apply them when they start."""

    contracts: tuple[str, ...]
    """Contract migrations that wait for `whistlestop db migrate --contract`."""


class Applied(NamedTuple):
    """What a database remembers."""

    versions: frozenset[int]
    """Every migration that was applied."""

    oldest: int
    """The newest migration that a release must know to serve the database."""


NOTHING = Applied(frozenset(), 0)


def load(package: str) -> list[Migration]:
    """Return all migrations of an adapter, in order."""
    found = []
    (folder, *_) = import_module(package).__path__
    for entry in Path(folder, "migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text("utf-8")))
    return sorted(found)


def statements(sql: str) -> list[str]:
    """Split a migration. No statement holds a semicolon within, and comments stand on lines of their own."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in bare.split(";") if part.strip()]


def missing(known: list[Migration], applied: Applied, *, contract: bool) -> list[Migration]:
    """Return what has to be applied, in order; contract migrations only when asked for."""
    return [
        migration
        for migration in known
        if migration.version not in applied.versions and (contract or not migration.is_contract)
    ]


def status(known: list[Migration], applied: Applied) -> SchemaStatus:
    """Compare what a release knows with what a database remembers."""
    absent = [migration for migration in known if migration.version not in applied.versions]
    return SchemaStatus(
        max(applied.versions, default=0),
        known[-1].version,
        tuple(migration.name for migration in absent if not migration.is_contract),
        tuple(migration.name for migration in absent if migration.is_contract),
    )


def refuse_newer(what: str, known: list[Migration], oldest: int) -> None:
    """Raise SchemaMismatch when a later release changed what this one needs."""
    latest = known[-1].version
    if oldest > latest:
        raise SchemaMismatch(
            f"{what} has schema version {oldest}, this release serves up to {latest}: "
            "use the release that wrote it, or a newer one"
        )
