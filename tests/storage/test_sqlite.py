"""What is SQLite's own: files that can't be opened, versions of the schema, groups, power cuts, backups."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import NAMESPACE, commit, run_key, start, step, stored
from whistlestop.storage.errors import CannotOpen, CurrentConflict, SchemaMismatch, StorageError, Unavailable
from whistlestop.storage.sqlite import SqliteStore, schema
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from pathlib import Path


async def _opened(path: Path, **pragmas: str) -> SqliteStore:
    store = SqliteStore(str(path), pragmas)
    await store.open()
    await store.migrate()
    return store


async def test_written_data_survives_a_restart(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    await commit(store, start())
    await store.close()
    again = await _opened(tmp_path / "store.db")
    assert await again.get_execution(run_key()) == stored(start())
    assert await again.migrate() == []
    await again.close()


async def test_a_fresh_database_is_refused_until_it_is_migrated(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))
    await store.open()
    assert (await store.schema_status()).version == 0
    with pytest.raises(SchemaMismatch, match="db migrate"):
        await store.get_execution(run_key())
    assert await store.migrate() == [migration.name for migration in schema.migrations()]
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("INSERT INTO schema_version VALUES (999, '0999_future')")
    db.close()
    with pytest.raises(SchemaMismatch, match="999"):
        await SqliteStore(str(tmp_path / "store.db")).open()


@pytest.mark.parametrize("content", [None, b"This is a letter, not a database. " * 50])
async def test_a_file_that_is_no_database_cannot_be_opened(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "store.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CannotOpen) as caught:
        await SqliteStore(str(path)).open()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_folder_that_is_not_there_can_not_hold_a_database(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen):
        await SqliteStore(str(tmp_path / "nowhere" / "store.db")).open()


async def test_files_are_flushed_at_every_commit(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    assert store._main is not None
    assert store._main.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._main.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


async def test_pragmas_of_the_caller_come_last(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db", synchronous="normal", cache_size="-100")
    assert store._main is not None
    assert store._main.execute("PRAGMA synchronous").fetchone() == (1,)
    assert store._main.execute("PRAGMA cache_size").fetchone() == (-100,)
    await store.close()


async def test_an_invalid_pragma_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen):
        await SqliteStore(str(tmp_path / "store.db"), {"synchronous": "off; DROP TABLE executions"}).open()


async def test_commits_that_are_ready_share_a_flush(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    keys = [run_key(f"run-{n}", f"order-{n}") for n in range(100)]
    await asyncio.gather(*(commit(store, start(key)) for key in keys))
    assert store._writer is not None
    assert store._writer.groups <= 3
    assert len(await store.list_executions(None, 200)) == 100
    await store.close()


async def test_a_commit_that_began_ends_before_its_caller_is_cancelled(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    told: list[str] = []

    async def caller() -> None:
        await commit(store, start())
        told.append("committed")
        await asyncio.sleep(0)
        told.append("went on")

    task = asyncio.ensure_future(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["committed"]
    assert await store.get_execution(run_key()) == stored(start())
    await store.close()


async def test_a_cancelled_caller_gets_the_error_of_its_commit(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    await commit(store, start())
    told: list[type[Exception]] = []

    async def caller() -> None:
        try:
            await commit(store, start())
        except StorageError as error:
            told.append(type(error))
        await asyncio.sleep(0)

    task = asyncio.ensure_future(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [CurrentConflict]
    await store.close()


async def test_a_deadline_that_passes_in_a_commit_is_a_timeout_after_it(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")

    async def caller() -> None:
        async with asyncio.timeout(0):
            await commit(store, start())
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await caller()
    assert await store.get_execution(run_key()) == stored(start())
    await store.close()


async def test_a_cancelled_waiter_affects_no_other(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    gone = asyncio.ensure_future(commit(store, start()))
    await asyncio.sleep(0)
    gone.cancel()
    await commit(store, start(run_key("run-2", "order-8")))
    assert len(await store.list_executions(None, 10)) >= 1
    await store.close()


async def test_closing_finishes_accepted_writes(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    pending = asyncio.ensure_future(commit(store, start()))
    await asyncio.sleep(0)
    await store.close()
    await pending
    with pytest.raises(Unavailable):
        await commit(store, step())
    again = await _opened(tmp_path / "store.db")
    assert await again.get_execution(run_key()) == stored(start())
    await again.close()


async def test_a_value_that_can_not_be_stored_fails_alone(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    results = await asyncio.gather(
        commit(store, start(slot=2**80)), commit(store, start(run_key("run-2", "order-8"))), return_exceptions=True
    )
    assert isinstance(results[0], StorageError)
    assert results[1] is None
    assert [run.key.run_id for run in await store.list_executions(None, 10)] == ["run-2"]
    await store.close()


async def test_a_long_list_moves_to_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whistlestop.storage.sqlite.store.INLINE_OPERATIONS", 1)
    store = await _opened(tmp_path / "store.db")
    for n in range(5):
        await commit(store, start(run_key(f"run-{n}", f"order-{n}")))
    assert await store.count_visibility(NAMESPACE, parse("", {})) == 5
    await store.close()


async def test_a_backup_is_a_store(tmp_path: Path) -> None:
    store = await _opened(tmp_path / "store.db")
    await commit(store, start())
    await store.backup(str(tmp_path / "copy.db"))
    await store.close()
    copy = await _opened(tmp_path / "copy.db")
    assert await copy.get_execution(run_key()) == stored(start())
    assert await copy.check(10) == []
    await copy.close()


_WRITER = """
import asyncio, sys
from tests.storage.factories import commit, run_key, start, step
from whistlestop.storage.sqlite import SqliteStore

async def work(store, name):
    key = run_key(f"run-{name}", f"order-{name}")
    await commit(store, start(key))
    print(name, 1, flush=True)
    for version in range(1, 10_000):
        await commit(store, step(key, version))
        print(name, version + 1, flush=True)

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.migrate()
    await asyncio.gather(*(work(store, n) for n in range(8)))

asyncio.run(main())
"""


async def test_all_that_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for _ in range(3):
        path.unlink(missing_ok=True)
        acknowledged = await _write_until_killed(path)
        store = await _opened(path)
        assert await store.check(10) == []
        versions = {run.key.run_id: run.db_record_version for run in await store.list_executions(None, 100)}
        await store.close()
        assert len(acknowledged) == 8
        assert all(versions[f"run-{name}"] >= version for name, version in acknowledged.items())


async def _write_until_killed(path: Path) -> dict[str, int]:
    """Let a process commit; kill it after some hundred acknowledgements; the last that each run was told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, str(path), stdout=asyncio.subprocess.PIPE, env=_environment()
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(400)]
    process.send_signal(signal.SIGKILL)
    lines += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    acknowledged: dict[str, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            name, version = line.split()
            acknowledged[name.decode()] = int(version)
    return acknowledged


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
