"""What we write is for its owner alone, and what others can read is said."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.postgres import fresh_database
from tests.server.conftest import launch, run_command
from whistlestop.common import private_files
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.postgres.store import PostgresStore
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["launch", "run_command"]


@pytest.fixture(params=[0o000, 0o022], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_no_umask_takes_the_owners_rights(tmp_path: Path) -> None:
    os.umask(0o777)
    os.close(private_files.create(str(tmp_path / "a")))
    assert modes(tmp_path) == {"a": 0o600}


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_a_database_its_log_and_its_backup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(str(tmp_path / "a.db"))
    await store.open()
    await store.migrate()
    await store.backup(str(tmp_path / "copy.db"))
    assert modes(tmp_path) == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600, "copy.db": 0o600}
    await store.close()
    assert caplog.records == []


async def test_a_link_to_where_nothing_is_yet(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "there.db")
    store = SqliteStore(str(tmp_path / "link.db"))
    await store.open()
    await store.close()
    assert modes(tmp_path)["there.db"] == 0o600


async def test_a_backup_follows_no_link_and_replaces_nothing(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "a.db"))
    await store.open()
    (tmp_path / "copy.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotOpen, match="exists already"):
        await store.backup(str(tmp_path / "copy.db"))
    await store.close()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_file_that_others_can_read_keeps_its_mode_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.db"
    sqlite3.connect(path).close()
    path.touch()
    path.chmod(0o644)
    store = SqliteStore(str(path))
    await store.open()
    await store.close()
    assert modes(tmp_path)["old.db"] == 0o644
    assert f"the database {path} can be read or changed by other users of this machine (mode 0644)" in caplog.text


def test_making_a_file_leaves_locks_on_it_alone(tmp_path: Path) -> None:
    """Closing a descriptor of a file drops all locks that the process has on it."""
    path = tmp_path / "a.db"
    private_files.make(str(path))
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("r+b") as holder:
        fcntl.lockf(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        private_files.make(str(path))
        other = subprocess.run([sys.executable, "-c", take, path], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in other.stderr


def test_a_server_a_copy_and_keys(
    launch: Callable[..., Any], run_command: Callable[..., Any], tmp_path: Path, umask: int
) -> None:
    """As they are made by the commands (shared/security/file_modes.py)."""
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    database = str(folder / "t.db")
    server = launch("server", "start", "--port", "0", "--db-filename", database).until_ready()
    assert run_command("db", "backup", str(folder / "copy.db"), "--db-filename", database).returncode == 0
    keys = str(folder / "keys.json")
    for name in ("a", "b"):
        made = run_command("key", "create", name, "--grant", "default:read", "--api-keys", keys)
        assert made.returncode == 0
    assert {name: mode for name, mode in modes(folder).items() if mode != 0o600} == {}
    assert set(modes(folder)) >= {"t.db", "t.db-wal", "t.db-shm", "copy.db", "keys.json"}
    assert server.end() == 0


def test_a_file_of_keys_that_another_user_reads_can_be_read_afterwards(
    run_command: Callable[..., Any], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    keys.chmod(0o640)
    made = run_command("key", "create", "a", "--grant", "default:read", "--api-keys", str(keys))
    assert modes(tmp_path)["keys.json"] == 0o640
    assert "can be read or changed by other users of this machine (mode 0640)" in made.stderr


@pytest.mark.postgres
async def test_a_backup_of_postgres(tmp_path: Path) -> None:
    (tmp_path / "copy.sql.partial").touch()
    (tmp_path / "copy.sql.partial").chmod(0o666)
    async with fresh_database() as url:
        store = PostgresStore(url)
        await store.open()
        await store.migrate()
        await store.backup(str(tmp_path / "copy.sql"))
        await store.close()
    assert modes(tmp_path) == {"copy.sql": 0o600}


def test_secrets_that_others_can_read_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from whistlestop.frontend.auth.config import _text
    from whistlestop.server.cli.start.starting import _secret

    path = tmp_path / "secret"
    for mode, said in ((0o600, 0), (0o640, 2), (0o604, 2), (0o622, 2)):
        path.touch()
        path.chmod(0o600)
        path.write_text("a secret of more than thirty-two bytes")
        path.chmod(mode)
        caplog.clear()
        _text(str(path))
        _secret("", str(path))
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * said
