"""What may happen to a database file: copies, moves, restores and damage lose nothing without a word."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tests.patience import PATIENCE_S
from tests.storage.factories import commit, run_key, start
from whistlestop.storage.errors import CannotOpen, PermanentError, StorageError, Unavailable
from whistlestop.storage.migrations import BASELINE, statements
from whistlestop.storage.sqlite import SqliteStore, file, schema, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).resolve().parents[2]


async def _write(store: SqliteStore, *numbers: int) -> None:
    for n in numbers:
        await commit(store, start(run_key(f"run-{n}", f"order-{n}")))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(path))
    await store.open()
    await store.migrate()
    try:
        yield store
    finally:
        await store.close()


async def runs(path: Path) -> int:
    async with opened(path) as store:
        return len(await store.list_executions(None, 100))


_CRASH = """
import asyncio, os, sys
from tests.storage.factories import commit, run_key, start
from whistlestop.storage.sqlite import SqliteStore

async def work(path, numbers):
    store = SqliteStore(path)
    await store.open()
    await store.migrate()
    for n in numbers:
        await commit(store, start(run_key(f"run-{n}", f"order-{n}")))
    print("written", flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(work(sys.argv[1], sys.argv[2:]))
"""


def crashed(path: Path, *numbers: int, release: tuple[str, ...] = (sys.executable,)) -> None:
    """Write, and die without closing: as a server that is killed, or one that still runs when its files are copied."""
    done = subprocess.run(
        [*release, "-c", _CRASH, str(path), *map(str, numbers)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "written" in done.stdout, done.stderr


async def _refused(path: Path, *words: str) -> None:
    """One line that tells what to do; and looking at it changes nothing."""
    before = {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    with pytest.raises(CannotOpen) as caught:
        await SqliteStore(str(path)).open()
    text = str(caught.value)
    assert "\n" not in text
    for word in (path.name, *words):
        assert word in text
    for each, data in before.items():
        assert each.name.endswith("-shm") or each.read_bytes() == data


# ---- copies ----------------------------------------------------------------------------------------------------------


async def test_a_copy_without_its_wal_is_refused(tmp_path: Path) -> None:
    """`cp whistlestop.db` beside a server."""
    async with opened(tmp_path / "store.db") as store:
        await _write(store, 1, 2, 3)
        (tmp_path / "copy").mkdir()
        copy = tmp_path / "copy" / "store.db"
        shutil.copy(tmp_path / "store.db", copy)
        await _refused(copy, "has lost", "-wal", "db backup")
    # What the message says for those who want to go on with what there is.
    (tmp_path / "copy" / "store.db-wal").touch()
    assert await runs(copy) == 0
    assert await runs(tmp_path / "store.db") == 3


def test_a_file_closed_by_its_last_user_during_the_check_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header still says that it needs its WAL, and the WAL is gone: another process has closed it in between."""
    path = str(tmp_path / "db")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    file.claim(other)
    other.execute("CREATE TABLE schema_version (n)")
    file.seal(other)
    header_of = file._header

    def leaves(path: str, data: bytes) -> file._Header:
        other.close()
        return header_of(path, data)

    monkeypatch.setattr(file, "_header", leaves)
    file.check(path)


class _Interrupted:
    """A connection that lets something happen before or after one of its statements."""

    def __init__(self, db: sqlite3.Connection, statement: str, meanwhile: Callable[[], None], *, before: bool) -> None:
        self._db, self._statement, self._meanwhile, self._before = db, statement, meanwhile, before
        self.came_to_it = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, sql: str) -> sqlite3.Cursor:
        if sql != self._statement or self.came_to_it:
            return self._db.execute(sql)
        self.came_to_it = True
        if self._before:
            self._meanwhile()
        rows = self._db.execute(sql).fetchall()
        if not self._before:
            self._meanwhile()
        return cast("sqlite3.Cursor", _Rows(rows))


class _Rows(list[tuple[int, ...]]):
    def fetchone(self) -> tuple[int, ...]:
        return self[0]


def _takes_part(db: sqlite3.Connection) -> None:
    """Do all that another process may do to the marks, unless the database is locked."""
    with suppress(sqlite3.OperationalError):
        file.claim(db)
        file.seal(db)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


@pytest.mark.parametrize(
    ("change", "statement", "before"),
    [
        (file.seal, "PRAGMA wal_checkpoint(PASSIVE)", True),
        (file.settle, "PRAGMA user_version", False),
        (file.claim, "PRAGMA user_version", False),
    ],
    ids=["as it seals", "as it settles", "as it claims"],
)
def test_a_process_does_not_take_back_the_generation_of_another(
    tmp_path: Path, change: Callable[[sqlite3.Connection], object], statement: str, before: bool
) -> None:
    """Another process changed the marks at the same time: the file then had a generation that its WAL lacked."""
    path = str(tmp_path / "db")
    one, other = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(2))
    one.execute("PRAGMA journal_mode = WAL")
    one.execute("CREATE TABLE schema_version (n)")
    if change is not file.claim:
        file.claim(one)
        file._put(one, file._mark_of(one)[0], file.IN_USE)
    interrupted = _Interrupted(one, statement, lambda: _takes_part(other), before=before)
    change(cast("sqlite3.Connection", interrupted))
    assert interrupted.came_to_it
    file.check(path)
    assert file._mark_of(other)[1] == file.COMPLETE
    for db in (one, other):
        db.close()


async def test_a_copy_with_its_wal_has_everything(tmp_path: Path) -> None:
    crashed(tmp_path / "store.db", 1, 2, 3)
    (tmp_path / "copy").mkdir()
    for name in ("store.db", "store.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "copy")
    assert await runs(tmp_path / "copy" / "store.db") == 3


async def test_the_tables_are_in_the_file_itself_once_it_is_migrated(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db"):
        assert (tmp_path / "store.db").stat().st_size > 100_000


async def test_written_data_is_checkpointed_into_the_file_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_S", 0.05)
    async with opened(tmp_path / "store.db") as store:
        await _write(store, 1, 2)
        async with asyncio.timeout(PATIENCE_S):
            while b"order-2" not in (tmp_path / "store.db").read_bytes():  # noqa: ASYNC110 - of a thread
                await asyncio.sleep(0.02)
        await _write(store, 3)
    assert await runs(tmp_path / "store.db") == 3


async def test_the_wal_stays_small_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_FRAMES", 100)
    monkeypatch.setattr(writer, "JOBS_PER_WAL_CHECK", 16)
    sealed: list[int] = []
    seal = file.seal

    def counted(db: sqlite3.Connection) -> None:
        sealed.append(file.frames_in_wal(str(path)))
        seal(db)

    monkeypatch.setattr(file, "seal", counted)
    path = tmp_path / "w.db"
    async with opened(path) as store:
        await _write(store, *range(200))
        assert path.with_name("w.db-wal").stat().st_size < 2_000_000
        # After the first one, at each hundred frames and not at each look: the WAL's file stays as long as it was.
        assert len(sealed) > 3
        assert min(sealed[1:]) > 100


async def test_after_a_crash_the_wal_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    crashed(path, 1, 2)
    crashed(path, 3)
    assert await runs(path) == 3


async def test_a_wal_that_was_deleted_after_a_crash_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    crashed(path, 1, 2)
    (tmp_path / "store.db-wal").unlink()
    await _refused(path, "has lost")


async def test_a_file_that_another_program_closed_after_a_crash_is_taken(tmp_path: Path) -> None:
    """The `sqlite3` command moves the WAL into the file and deletes it, and so does release 0.1.0."""
    path = tmp_path / "store.db"
    crashed(path, 1, 2)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM executions").fetchone() == (2,)
    db.close()
    assert not (tmp_path / "store.db-wal").exists()
    assert await runs(path) == 2


# ---- moves and restores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["move", "delete", "replace"])
async def test_a_file_that_goes_away_under_a_server_stops_its_writes(tmp_path: Path, deed: str) -> None:
    """Nothing is acknowledged that would be lost; and it goes on when the file is back."""
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, 1)
        kept = path.rename(tmp_path / "elsewhere.db")
        if deed == "replace":
            shutil.copy(kept, path)
        with pytest.raises(PermanentError, match="in use"):
            await _write(store, 2)
        assert len(await store.list_executions(None, 10)) == 1
        if deed == "move":
            kept.rename(path)
            await _write(store, 3)
    if deed == "move":
        assert await runs(path) == 2


async def test_a_file_that_was_moved_while_open_wants_its_wal(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    crashed(path, 1, 2)
    moved = tmp_path / "moved.db"
    path.rename(moved)
    await _refused(moved, "has lost")
    (tmp_path / "store.db-wal").rename(tmp_path / "moved.db-wal")
    assert await runs(moved) == 2


async def test_a_backup_over_a_file_whose_wal_was_left_is_refused(tmp_path: Path) -> None:
    """SQLite would write the old WAL over it."""
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, 1, 2)
        await store.backup(str(tmp_path / "backup.db"))
    crashed(path, 3, 4, 5)
    shutil.copy(tmp_path / "backup.db", path)
    await _refused(path, "-wal", "move the -wal")
    for name in ("store.db-wal", "store.db-shm"):
        (tmp_path / name).unlink()
    assert await runs(path) == 2


async def test_an_older_copy_over_a_file_whose_wal_was_left_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, 1)
    shutil.copy(path, tmp_path / "older.db")
    for n in range(2, 5):
        async with opened(path) as store:
            await _write(store, n)
    crashed(path, 5)
    shutil.copy(tmp_path / "older.db", path)
    await _refused(path, "move the -wal")


async def test_a_backup_is_whole_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        await _write(store, 1, 2)
        await store.backup(str(tmp_path / "backup.db"))
        assert not (tmp_path / "backup.db-wal").exists()
    assert await runs(tmp_path / "backup.db") == 2


async def test_a_wal_without_its_database_is_kept(tmp_path: Path) -> None:
    """SQLite would delete it."""
    path = tmp_path / "store.db"
    crashed(path, 1, 2)
    kept = path.rename(tmp_path / "kept.db")
    with pytest.raises(CannotOpen, match="put the database back"):
        await SqliteStore(str(path)).open()
    assert not path.exists()
    kept.rename(path)
    assert await runs(path) == 2


# ---- damage ----------------------------------------------------------------------------------------------------------


async def test_a_file_that_is_cut_off_at_any_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, 1, 2, 3)
    whole = path.read_bytes()
    pages = len(whole) // 4096
    for size in [*(page * 4096 for page in range(1, pages)), len(whole) - 1, 5000, 4095, 99, 16, 3]:
        path.write_bytes(whole[:size])
        with pytest.raises(CannotOpen, match="cut off") as caught:
            await SqliteStore(str(path)).open()
        assert str(path) in str(caught.value)
        assert path.stat().st_size == size
    path.write_bytes(whole)
    assert await runs(path) == 3


async def test_a_file_that_is_cut_off_beside_its_wal_is_refused_or_whole(tmp_path: Path) -> None:
    """Pages that are in the WAL are not missed in the file, as after a checkpoint that a crash has cut short."""
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, *range(40))
    crashed(path, 41)
    whole = path.read_bytes()
    refused = 0
    for n, size in enumerate(
        (4096, len(whole) // 2 // 4096 * 4096, len(whole) // 2 + 77, len(whole) - 4096, len(whole) - 100)
    ):
        case = tmp_path / str(n)
        case.mkdir()
        (case / "store.db").write_bytes(whole[:size])
        shutil.copy(tmp_path / "store.db-wal", case)
        try:
            assert await runs(case / "store.db") == 41
        except CannotOpen as error:
            assert "cut off" in str(error)  # noqa: PT017 - one or the other
            assert (case / "store.db-wal").stat().st_size == (tmp_path / "store.db-wal").stat().st_size
            refused += 1
    assert refused >= 3
    assert await runs(path) == 41


def _with_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    db.close()


def _with_application_id(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 252006674")
    db.close()


def _schema_0(path: Path) -> None:
    """As `cp` beside a server of release 0.1.0 made it: one page that says WAL, and no table."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA user_version = 0")
    db.close()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "of another program": (_with_table, "songs"),
    "of another program, by its mark": (_with_application_id, "another program"),
    "without tables": (_schema_0, "without any table"),
    "text": (lambda path: path.write_text("This is a letter.\n" * 400), "is not a database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "is not a database"),
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_a_foreign_file_is_refused_and_stays_as_it_is(tmp_path: Path, what: str) -> None:
    make, word = FOREIGN[what]
    make(tmp_path / "store.db")
    await _refused(tmp_path / "store.db", word)


@pytest.mark.parametrize("there", [False, True])
async def test_a_new_or_empty_file_becomes_a_database(tmp_path: Path, *, there: bool) -> None:
    if there:
        (tmp_path / "store.db").touch()
    assert await runs(tmp_path / "store.db") == 0


async def test_a_new_file_that_was_never_migrated_can_still_be(tmp_path: Path) -> None:
    """A crash came first."""
    store = SqliteStore(str(tmp_path / "store.db"))
    await store.open()
    await store.close()
    assert await runs(tmp_path / "store.db") == 0


async def test_a_file_of_release_0_1_0_is_marked_when_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        for migration in schema.migrations()[:BASELINE]:
            for statement in statements(migration.sql):
                db.execute(statement)
            db.execute("INSERT INTO schema_version VALUES (?, ?)", migration[:2])
    db.close()
    assert await runs(path) == 0
    assert path.read_bytes()[68:72] == file.APPLICATION_ID.to_bytes(4, "big")


# ---- the machine -----------------------------------------------------------------------------------------------------


async def test_a_symlink_leads_to_one_file_and_one_wal(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "store.db", tmp_path / "link.db"
    link.symlink_to(real)
    crashed(link, 1, 2)
    assert not (tmp_path / "link.db-wal").exists()
    assert await runs(real) == 2
    crashed(real, 3)
    assert await runs(link) == 3


async def test_a_file_that_may_not_be_written_is_refused() -> None:
    """By somebody else than root, who may write everything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        async with opened(path) as store:
            await _write(store, 1)
        for each, mode in ((folder, 0o755), (path, 0o444)):
            os.chmod(each, mode)  # noqa: PTH101
        code = (
            "import asyncio, os, sys, encodings.idna\n"
            "from whistlestop.storage.sqlite import SqliteStore\n"
            "os.geteuid() or os.seteuid(65534)\n"
            "asyncio.run(SqliteStore(sys.argv[1]).open())"
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert f"CannotOpen: can't use the database {path}" in done.stderr, done.stderr
        assert "readonly" in done.stderr


async def test_a_full_disk_refuses_writes_and_passes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await _write(store, 1)
        assert store._main is not None
        pages = store._main.execute("PRAGMA page_count").fetchone()[0]
        store._main.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Unavailable, match="full"):
            await _write(store, *range(10, 80))
        written = len(await store.list_executions(None, 100))
        store._main.execute("PRAGMA max_page_count = 1000000")
        await _write(store, 99)
        assert len(await store.list_executions(None, 100)) == written + 1
    assert await runs(path) == written + 1


async def test_two_servers_on_one_file(tmp_path: Path) -> None:
    """The second is refused, by whatever name it finds the file."""
    from whistlestop.server.config import BadConfig, ServerConfig, StoreConfig
    from whistlestop.server.process import Server

    path = tmp_path / "store.db"
    (tmp_path / "link.db").symlink_to(path)

    def config(name: str) -> ServerConfig:
        return ServerConfig(StoreConfig(str(tmp_path / name)), port=0, http_port=None, metrics_port=None)

    async with Server(config("store.db")):
        for name in ("store.db", "link.db"):
            with pytest.raises((BadConfig, StorageError), match="another server"):
                async with Server(config(name)):
                    pass
