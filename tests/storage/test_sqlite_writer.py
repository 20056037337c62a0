"""Every write that was accepted ends, with a result or an error, whatever fails in the writer."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import PATIENCE_S
from tests.storage.factories import commit, run_key, start
from tests.support.waiting import eventually
from whistlestop.storage.errors import CannotOpen, StorageError, Unavailable
from whistlestop.storage.sqlite import SqliteStore, file, writer
from whistlestop.storage.sqlite.writer import DirectWriter, GroupWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

WAITS_S = PATIENCE_S
"""Only a write that is never settled takes as long."""


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(path))
    await store.open()
    await store.migrate()
    await _started(store, 0)
    yield store
    await _in_time(store.close())


async def _in_time(waits: Coroutine[Any, Any, object]) -> None:
    """Let the coroutine end; a write can't be cancelled, so a task that is left over is not waited for."""
    task = asyncio.ensure_future(waits)
    done, _ = await asyncio.wait({task}, timeout=WAITS_S)
    assert done, "it waits for ever"
    task.result()


async def _started(store: SqliteStore, number: int) -> None:
    await _in_time(commit(store, start(run_key(f"run-{number}", f"order-{number}"))))


def _writer_of(store: SqliteStore) -> GroupWriter:
    assert isinstance(store._writer, GroupWriter)
    return store._writer


def _raises(error: BaseException, times: int = 1) -> Callable[..., Any]:
    left = [times]

    def fails(*_: object, **__: object) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "" if isinstance(error, OSError) else None

    return fails


ERRORS = [
    OSError(errno.EMFILE, "Too many open files"), PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError(errno.ENOENT, "No such file"), MemoryError(), RuntimeError("a defect"),
]  # fmt: skip
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@each_error
async def test_a_file_that_cannot_be_read(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _opened(tmp_path / "store.db") as store:
        fails = _raises(error)
        monkeypatch.setattr(file.Identity, "problem", lambda _: fails() or "")
        with pytest.raises(StorageError) as raised:
            await _started(store, 1)
        assert isinstance(raised.value, Unavailable) == isinstance(error, OSError)
        await _started(store, 2)


async def test_a_file_that_cannot_be_read_for_a_moment_is_not_taken_for_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, refused = os.stat, [tmp_path / "store.db"]

    def fails(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if refused and path == str(refused[0]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *arguments, **keywords)

    async with _opened(tmp_path / "store.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", fails)
            with pytest.raises(Unavailable, match="Permission denied"):
                await _started(store, 1)
        refused.clear()
        await _started(store, 2)


@each_error
async def test_the_size_of_the_wal_cannot_be_read(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is acknowledged, and the next writes are taken."""
    monkeypatch.setattr(writer, "JOBS_PER_WAL_CHECK", 1)
    async with _opened(tmp_path / "store.db") as store:
        monkeypatch.setattr(file, "frames_in_wal", _raises(error, times=2))
        loop = asyncio.get_running_loop()
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        for number in range(1, 4):
            await _started(store, number)
        assert told.count(error) == 2, "the error is not logged"
        assert len(await store.list_executions(None, 10)) == 4


@each_error
async def test_a_checkpoint_fails(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _opened(tmp_path / "store.db") as store:
        monkeypatch.setattr(file, "seal", _raises(error))
        _writer_of(store)._seal_soon()
        await _started(store, 1)
        await _started(store, 2)


class _Cursor:
    """A cursor whose COMMIT raises."""

    def __init__(self, inner: Any, fails: Callable[..., Any]) -> None:
        self._inner = inner
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT":
            self._fails()
        return self._inner.execute(sql, *arguments)


@pytest.mark.parametrize("error", [*ERRORS, SystemExit(1)], ids=lambda error: type(error).__name__)
async def test_a_commit_raises_anything(tmp_path: Path, error: BaseException) -> None:
    async with _opened(tmp_path / "store.db") as store:
        _writer_of(store)._cursor = _Cursor(_writer_of(store)._cursor, _raises(error))  # type: ignore[assignment]
        with pytest.raises(StorageError):
            await _started(store, 1)
        await _started(store, 2)
        assert {run.key.run_id for run in await store.list_executions(None, 10)} == {"run-0", "run-2"}


async def test_the_thread_ends_unexpectedly(tmp_path: Path) -> None:
    """Writes in flight and those that wait are refused, as are all later ones, and the store can be closed."""
    async with _opened(tmp_path / "store.db") as store:
        held, ends = threading.Event(), _writer_of(store)

        def hold() -> None:
            held.wait(PATIENCE_S)
            ends._work = _Broken()  # type: ignore[assignment]

        ends._cursor = _Cursor(ends._cursor, hold)  # type: ignore[assignment]
        first = asyncio.ensure_future(commit(store, start(run_key("run-1", "order-1"))))
        await eventually(lambda: ends._busy)
        second = asyncio.ensure_future(commit(store, start(run_key("run-2", "order-2"))))
        await asyncio.sleep(0)
        held.set()
        done, _ = await asyncio.wait({first, second}, timeout=WAITS_S)
        assert done == {first, second}, "somebody waits for ever"
        assert isinstance(second.exception(), Unavailable)
        with pytest.raises(Unavailable):
            await _started(store, 3)


async def test_writes_that_come_during_a_commit_are_begun_when_it_ends(tmp_path: Path) -> None:
    async with _opened(tmp_path / "store.db") as store:
        held, writes = threading.Event(), _writer_of(store)
        writes._cursor = _Cursor(writes._cursor, lambda: held.wait(PATIENCE_S))  # type: ignore[assignment]
        first = asyncio.ensure_future(commit(store, start(run_key("run-1", "order-1"))))
        await eventually(lambda: writes._busy)
        second = asyncio.ensure_future(commit(store, start(run_key("run-2", "order-2"))))
        await asyncio.sleep(0)
        held.set()
        await first
        try:
            assert writes._scheduled or writes._busy or second.done()
        finally:
            writes._schedule()
            await second


class _Broken:
    def get(self) -> object:
        raise MemoryError

    def put(self, item: object) -> None:
        return


def test_a_store_whose_event_loop_is_closed(tmp_path: Path) -> None:
    """A write is refused, and closing ends, though the loop was closed in the middle of a commit."""
    held = threading.Event()
    loop = asyncio.new_event_loop()
    store = SqliteStore(str(tmp_path / "store.db"))
    unsettled: list[asyncio.Future[None]] = []

    async def begin() -> None:
        await store.open()
        await store.migrate()
        await _started(store, 0)
        ends = _writer_of(store)
        ends._cursor = _Cursor(ends._cursor, lambda: held.wait(PATIENCE_S))  # type: ignore[assignment]
        unsettled.append(asyncio.ensure_future(commit(store, start(run_key("run-1", "order-1")))))
        await eventually(lambda: ends._busy)

    async def go_on() -> None:
        with pytest.raises(Unavailable):
            await _started(store, 2)
        await _in_time(store.close())

    loop.run_until_complete(begin())
    loop.close()
    held.set()
    _writer_of(store)._thread.join(WAITS_S)
    asyncio.run(go_on())


async def test_a_writer_without_a_thread_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections are closed: the file can be opened again, and its WAL is gone when that is closed."""
    store = SqliteStore(str(tmp_path / "store.db"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _raises(RuntimeError("can't start new thread")))
        with pytest.raises(CannotOpen, match="can't start new thread"):
            await store.open()
    async with _opened(tmp_path / "store.db"):
        pass
    assert not (tmp_path / "store.db-wal").exists()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_commit_in_memory_raises_anything(error: Exception) -> None:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    assert isinstance(store._writer, DirectWriter)
    store._writer._cursor = _Cursor(store._writer._cursor, _raises(error))  # type: ignore[assignment]
    with pytest.raises(StorageError):
        await _started(store, 1)
    await _started(store, 2)
    await store.close()
