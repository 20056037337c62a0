"""After a power loss a database has all that was acknowledged, whatever the disk made of the rest.

What SQLite writes and flushes is recorded; the power goes at some point of it, and the files are laid out as a disk may
hold them then (`tests.disk.power`). DISK_LOSSES says how many losses are tried; `make long` tries more. DISK_KEEP names a file for
the recording of a test that fails.
"""

from __future__ import annotations

import os
import pickle
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.disk import power, vfs
from tests.disk.load import Load, check_pages, opened
from whistlestop.storage.sqlite import writer

LOSSES = int(os.environ.get("DISK_LOSSES", "0"))
SEED = int(os.environ.get("DISK_SEED", "1"))


@dataclass(frozen=True, slots=True)
class _Recording:
    load: Load
    log: list[vfs.Operation]


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_FRAMES", 60)
    monkeypatch.setattr(writer, "JOBS_PER_WAL_CHECK", 4)


async def _recorded(path: Path, seed: int, **pragmas: str) -> _Recording:
    """A database is made, written to by clients at once, checkpointed now and then, closed and opened again."""
    with vfs.disk() as disk:
        load = Load(random.Random(f"{seed} load"), disk)
        for _ in range(3):
            async with opened(path, **pragmas) as store:
                await load.work(store, 60)
    return _Recording(load, disk.log)


async def _lose_power(recording: _Recording, at: int, folder: Path, chance: random.Random, how: str = "") -> None:
    before = recording.log[:at]
    files = power.after(before, chance, how)
    power.lay_out(files, folder)
    then = recording.load.seen_until([each.mark for each in before if each.kind == "mark"], chance)
    path = folder / "store.db"
    with vfs.disk() as disk:
        disk.recording = False
        try:
            async with opened(path) as store:
                await then.check(store)
                await then.settle(store)
            async with opened(path) as store:
                await then.check(store)
            check_pages(path)
        except BaseException as error:
            error.add_note(f"the power went behind operation {at} of {len(recording.log)}, DISK_SEED={SEED}")
            if (kept := os.environ.get("DISK_KEEP")) and not Path(kept).exists():  # noqa: ASYNC240 - the test is over
                Path(kept).write_bytes(pickle.dumps((recording.log, at, files)))  # noqa: ASYNC240 - the same
            raise


async def _lose_it_often(recording: _Recording, losses: int, folder: Path, last: int = 0) -> None:
    chance = random.Random(f"{SEED} losses")
    for number in range(losses):
        at = chance.randrange(1, (last or len(recording.log)) + 1)
        await _lose_power(recording, at, folder, random.Random(f"{SEED} {number}"))


@pytest.mark.skipif(not LOSSES, reason="for make long: DISK_LOSSES is not set")
async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    recording = await _recorded(tmp_path / "store.db", SEED)
    checkpoints = sum(each.kind == "sync" and each.path.endswith(".db") for each in recording.log)
    assert checkpoints > 5, "nothing can be lost between the WAL and the file"
    await _lose_it_often(recording, LOSSES, tmp_path / "after")


async def test_a_database_that_was_just_being_made_is_made(tmp_path: Path) -> None:
    """The power goes in the first transactions, which a journal guards: not one page of the file need be whole."""
    recording = await _recorded(tmp_path / "store.db", SEED)
    last = next(i for i, each in enumerate(recording.log) if each.path.endswith("-wal"))
    assert last > 5
    await _lose_it_often(recording, 15, tmp_path / "after", last)


async def test_a_wal_that_is_begun_anew_over_another(tmp_path: Path) -> None:
    """Of its first frame nothing but the header was written: behind it stands a page of the time before."""
    recording = await _recorded(tmp_path / "store.db", SEED)
    begun = [
        i
        for i, each in enumerate(recording.log)
        if each.kind == "write" and each.path.endswith("-wal") and (each.offset, len(each.data)) == (32, 24)
    ]
    assert len(begun) > 5
    for at in begun:
        await _lose_power(recording, at + 1, tmp_path / "after", random.Random(SEED), "all")


async def test_a_commit_that_is_not_flushed_is_found_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: this SQLite leaves it to the system when the WAL gets to the disk."""
    monkeypatch.delenv("DISK_KEEP", raising=False)
    recording = await _recorded(tmp_path / "store.db", SEED, synchronous="NORMAL")
    with pytest.raises(AssertionError, match="run"):
        await _lose_it_often(recording, 200, tmp_path / "after")
