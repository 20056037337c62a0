"""Migrations: additive ones leave the release before at work, contract ones come only when asked for."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import postgres
from whistlestop.storage import migrations
from whistlestop.storage.errors import CannotOpen, SchemaMismatch
from whistlestop.storage.migrations import BASELINE, Migration
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.postgres import schema as postgres_schema
from whistlestop.storage.sqlite import SqliteStore
from whistlestop.storage.sqlite import schema as sqlite_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import ModuleType

ADDITIVE = Migration(9001, "9001_more", "ALTER TABLE queue ADD COLUMN extra TEXT; CREATE TABLE extras (id BIGINT)")
CONTRACT = Migration(9002, "9002_less", "-- contract: oldest 9001\nDROP TABLE queue")
LATER = Migration(9003, "9003_later", "CREATE TABLE later_extras (id BIGINT)")

SCHEMAS = pytest.mark.parametrize("schema", [sqlite_schema, postgres_schema], ids=["sqlite", "postgres"])


@SCHEMAS
def test_a_migration_is_additive_or_marked_as_a_contract(schema: ModuleType) -> None:
    """What the code of the release before could stumble over is not additive."""
    for migration in schema.migrations()[BASELINE:]:
        if migration.is_contract:
            assert migration.oldest < migration.version
            continue
        for statement in migrations.statements(migration.sql):
            flat = " ".join(statement.split())
            made = re.findall(r"CREATE TABLE (\w+)", migration.sql)
            indexed = re.match(r"CREATE UNIQUE INDEX \w+ ON (\w+)", flat)
            added = re.match(r"ALTER TABLE \w+ ADD COLUMN [^,]+$", flat)
            assert (
                flat.startswith(("CREATE TABLE ", "CREATE INDEX "))
                or (indexed and indexed[1] in made)
                or (added and ("NOT NULL" not in flat or "DEFAULT" in flat))
            ), f"{migration.name} is not additive: {flat}"


def test_both_adapters_have_the_same_migrations() -> None:
    """A number means the same change everywhere."""
    assert [m.name for m in sqlite_schema.migrations()] == [m.name for m in postgres_schema.migrations()]


@SCHEMAS
def test_the_baseline_is_what_release_0_1_0_has(schema: ModuleType) -> None:
    """It knows three migrations and refuses a greater number in schema_version."""
    assert [m.oldest for m in schema.migrations()[:BASELINE]] == [1, 2, 3]


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A function that opens the same database with the code of another release: one that knows these migrations."""
    schema = {"sqlite": sqlite_schema, "postgres": postgres_schema}[request.param]
    known = schema.migrations()
    stores: list[Any] = []

    async def open_with(make: Callable[[], Any], *more: Migration) -> Any:
        monkeypatch.setattr(schema, "migrations", lambda: [*known, *more])
        stores.append(make())
        await stores[-1].open()
        return stores[-1]

    if request.param == "sqlite":
        yield lambda *more: open_with(lambda: SqliteStore(str(tmp_path / "store.db")), *more)
    else:
        async with postgres.fresh_database() as url:
            yield lambda *more: open_with(lambda: PostgresStore(url, pool_size=1), *more)
            for store in stores:
                await store.close()


async def _reopen(opened: Any, store: Any, *more: Migration) -> Any:
    await store.close()
    return await opened(*more)


async def test_an_additive_migration_does_not_shut_the_release_before_out(opened: Any) -> None:
    """It opens the database, finds nothing to do, and serves."""
    store = await opened()
    await store.migrate()
    store = await _reopen(opened, store, ADDITIVE)
    assert (await store.schema_status()).pending == (ADDITIVE.name,)
    assert await store.migrate() == [ADDITIVE.name]
    assert await store.migrate() == []

    store = await _reopen(opened, store)
    assert await store.migrate() == []
    schema = await store.schema_status()
    assert (schema.version, schema.pending) == (ADDITIVE.version, ())
    assert schema.version > schema.release_version
    await store.close()


async def test_a_lower_number_that_comes_later_is_applied(opened: Any) -> None:
    """Branches merge in any order."""
    store = await opened(LATER)
    await store.migrate()
    store = await _reopen(opened, store, ADDITIVE, LATER)
    assert await store.migrate() == [ADDITIVE.name]
    await store.close()


async def test_a_contract_is_applied_only_on_request(opened: Any) -> None:
    """A server that starts leaves it alone."""
    store = await opened(ADDITIVE, CONTRACT)
    assert CONTRACT.name not in await store.migrate()
    assert (await store.schema_status()).contracts == (CONTRACT.name,)
    assert await store.migrate(contract=True) == [CONTRACT.name]
    assert (await store.schema_status()).contracts == ()
    await store.close()


async def test_a_release_with_the_named_migration_serves_after_a_contract(opened: Any) -> None:
    """The release before the contract goes on and restarts; one older than that is refused."""
    store = await opened(ADDITIVE, CONTRACT)
    await store.migrate(contract=True)
    store = await _reopen(opened, store, ADDITIVE)
    assert await store.migrate() == []
    await store.close()
    with pytest.raises(SchemaMismatch, match="9001"):
        await opened()


async def test_a_contract_may_be_the_first_thing_that_a_fresh_database_sees(opened: Any) -> None:
    """All migrations at once, in order."""
    store = await opened(ADDITIVE, CONTRACT, LATER)
    assert (await store.migrate(contract=True))[-3:] == [ADDITIVE.name, CONTRACT.name, LATER.name]
    await store.close()


async def test_a_backup_by_a_release_that_does_not_know_all_tables_is_refused(tmp_path: Path) -> None:
    """It would restore into a database that says it has what it lacks."""
    async with postgres.migrated_database() as url:
        async with await psycopg.AsyncConnection.connect(url) as db:
            await db.execute("INSERT INTO schema_migrations VALUES (9001, '9001_more')")
        store = PostgresStore(url, pool_size=1)
        await store.open()
        with pytest.raises(CannotOpen, match="newer release"):
            await store.backup(str(tmp_path / "copy.sql"))
        await store.close()


async def test_a_file_of_release_0_1_0_is_taken_over(tmp_path: Path) -> None:
    """It has schema_version alone."""
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        for migration in sqlite_schema.migrations()[:BASELINE]:
            for statement in migrations.statements(migration.sql):
                db.execute(statement)
            db.execute("INSERT INTO schema_version VALUES (?, ?)", migration[:2])
    db.close()
    store = SqliteStore(str(path))
    await store.open()
    assert await store.migrate() == [m.name for m in sqlite_schema.migrations()[BASELINE:]]
    await store.close()


async def test_a_migration_does_not_block_others_behind_a_long_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads the table for long, it comes again and again, and others get on in between."""
    monkeypatch.setattr(postgres_schema, "LOCK_MS", 50)
    monkeypatch.setattr(postgres_schema, "LOCK_ATTEMPTS", 1000)
    known = postgres_schema.migrations()
    async with postgres.migrated_database() as url:  # before there is one more: it is a copy that others get as well
        monkeypatch.setattr(postgres_schema, "migrations", lambda: [*known, ADDITIVE])
        store = PostgresStore(url, pool_size=1)
        await store.open()
        async with await psycopg.AsyncConnection.connect(url) as reading:
            await reading.execute("SELECT count(*) FROM queue")
            migrating = asyncio.create_task(store.migrate())
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
                await other.execute("SET lock_timeout = '20s'")
                for _ in range(5):
                    await other.execute("SELECT count(*) FROM queue")
                    await asyncio.sleep(0.03)
            assert not migrating.done()
        assert await migrating == [ADDITIVE.name]
        await store.close()
