"""The rules of schema migrations, for every adapter.

A migration is a file `migrations/NNNN_name.sql` beside its adapter. It is one of two kinds:

- **additive** (the default): new tables, new indexes, new columns that may be NULL or have a default. The previous
  release's code ignores them, so it keeps running and can be restarted on the migrated database: a rolling upgrade and
  a rollback both work. Every server applies missing additive migrations when it starts.
- **contract**: drops or changes what an older release still uses. Its first line is `-- contract: oldest NNNN`, the
  number of the newest migration that a release must know to serve the database afterwards. Only `whistlestop db migrate
  --contract` applies it, once no older process runs and no rollback is planned.

Two tables record them. `schema_migrations` has a row for each migration applied. The greatest number in
`schema_version` is the newest migration that a release must know to serve the database: a process that does not know it
refuses to start. Release 0.1.0 reads only `schema_version`, which holds its own three migrations, so additive
migrations never shut it out.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from whistlestop.storage.errors import SchemaMismatch

BASELINE = 3
"""Migrations up to this one belong to release 0.1.0, which looks for them in `schema_version`."""

_CONTRACT = re.compile(r"-- contract: oldest (\d{4})$")


class Migration(NamedTuple):
    """One numbered step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def oldest(self) -> int:
        """The newest migration that a release must know to serve the result; 0 for an additive migration."""
        if self.version <= BASELINE:
            return self.version
        found = _CONTRACT.match(self.sql.partition("\n")[0])
        return int(found[1]) if found else 0

    @property
    def is_contract(self) -> bool:
        """Whether it may break an older release."""
        return self.version > BASELINE and self.oldest > 0


class SchemaStatus(NamedTuple):
    """The state of a database's schema compared with this release."""

    version: int
    """The newest migration that was applied; 0 for a fresh database."""

    release_version: int
    """The newest migration that this release knows."""

    pending: tuple[str, ...]
    """Additive migrations not applied yet: a server of this release applies them when it starts."""

    contracts: tuple[str, ...]
    """Contract migrations not applied yet; `whistlestop db migrate --contract` applies them."""


class Applied(NamedTuple):
    """What a database has recorded about its migrations."""

    versions: frozenset[int]
    """Every migration that was applied."""

    oldest: int
    """The newest migration that a release must know to serve the database."""


NOTHING = Applied(frozenset(), 0)


def load(package: str) -> list[Migration]:
    """Return all migrations of an adapter (the package with its SQL files), in order of their numbers."""
    found = []
    (folder, *_) = import_module(package).__path__
    for entry in Path(folder, "migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text("utf-8")))
    return sorted(found)


def statements(sql: str) -> list[str]:
    """Split a migration into statements. A statement contains no semicolon; comments are on lines of their own."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in bare.split(";") if part.strip()]


def missing(known: list[Migration], applied: Applied, *, contract: bool) -> list[Migration]:
    """Return the migrations to apply, in order; contract migrations only when asked for.

    Empty when the database has them.
    """
    return [
        migration
        for migration in known
        if migration.version not in applied.versions and (contract or not migration.is_contract)
    ]


def status(known: list[Migration], applied: Applied) -> SchemaStatus:
    """Compare the migrations that a release knows with those recorded in a database."""
    absent = [migration for migration in known if migration.version not in applied.versions]
    return SchemaStatus(
        max(applied.versions, default=0),
        known[-1].version,
        tuple(migration.name for migration in absent if not migration.is_contract),
        tuple(migration.name for migration in absent if migration.is_contract),
    )


def refuse_newer(what: str, known: list[Migration], oldest: int) -> None:
    """Raise SchemaMismatch when the database requires a newer migration (`oldest`) than this release knows."""
    latest = known[-1].version
    if oldest > latest:
        raise SchemaMismatch(
            f"{what} has schema version {oldest}, this release serves up to {latest}: "
            "use the release that wrote it, or a newer one"
        )
