"""One SQLite file, now with release 0.1.0 and now with this one, after clean ends and after crashes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.storage.test_sqlite_file import ROOT, opened
from tests.upgrade.release import CURRENT, Release

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """
import asyncio, os, sys
from tests.storage.factories import commit, run_key, start
from whistlestop.storage.sqlite import SqliteStore

async def work(path, n, crash):
    store = SqliteStore(path)
    await store.open()
    await store.migrate()
    await commit(store, start(run_key(f"run-{n}", f"order-{n}")))
    if crash == "crash":
        print("written", flush=True)
        os.kill(os.getpid(), 9)
    await store.close()
    print("written", flush=True)

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_upgrade_and_rollback_of_a_file(old_release: Release, tmp_path: Path) -> None:
    """Each opens what the other left, whether it closed the file or not, and has all that was acknowledged."""
    path = tmp_path / "store.db"
    ends = ("close", "crash", "crash", "close")
    steps = [(release, end) for end in ends for release in (old_release, CURRENT)]
    steps += [
        (CURRENT, "crash"),
        (old_release, "close"),
        (CURRENT, "close"),
        (old_release, "crash"),
        (CURRENT, "crash"),
    ]
    for n, (release, end) in enumerate(steps):
        done = await asyncio.to_thread(
            subprocess.run, [*release.python, "-c", _PROGRAM, str(path), str(n), end], cwd=ROOT, capture_output=True,
            text=True, check=False, env={**os.environ, **release.environment},
        )  # fmt: skip
        assert "written" in done.stdout, (n, end, release is CURRENT, done.stderr)
    async with opened(path) as store:
        assert len(await store.list_executions(None, 100)) == len(steps)
        assert await store.check(10) == []
