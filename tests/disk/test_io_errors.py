"""A disk that is full or broken for a while: calls are refused, nothing acknowledged is lost, and no restart is needed.

DISK_SEEDS says how many seeds each trouble has; `make long` has more.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.disk import power, vfs
from tests.disk.load import Load, check_pages, opened
from whistlestop.storage.sqlite import writer

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = int(os.environ.get("DISK_SEEDS", "3"))
FIRST = int(os.environ.get("DISK_SEED", "0"))


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_FRAMES", 40)
    monkeypatch.setattr(writer, "JOBS_PER_WAL_CHECK", 2)


def _fails(kinds: dict[vfs.Kind, int], chance: random.Random, share: float) -> vfs.Fault:
    """Calls of these kinds fail now and then, with that result."""

    def fault(kind: vfs.Kind, path: str) -> int:
        return kinds[kind] if kind in kinds and chance.random() < share else vfs.OK

    return fault


TROUBLES: dict[str, dict[vfs.Kind, int]] = {
    "full": {"write": vfs.FULL},
    "writes fail": {"write": vfs.IOERR},
    "flushes fail": {"sync": vfs.IOERR},
    "truncations fail": {"truncate": vfs.IOERR},
    "reads fail": {"read": vfs.IOERR},
    "anything fails": dict.fromkeys(("write", "sync", "truncate", "read", "delete"), vfs.IOERR),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_calls_are_refused_until_it_passes(trouble: str, tmp_path: Path) -> None:
    """Then the same store goes on; and had the power gone instead, nothing acknowledged would be missing either."""
    refused = 0
    for seed in range(FIRST, FIRST + SEEDS):
        with vfs.disk() as disk:
            chance = random.Random(f"{seed} {trouble}")
            load = Load(random.Random(f"{seed} load"), disk)
            path = tmp_path / f"{seed}.db"
            try:
                async with opened(path) as store:
                    await load.work(store, 20)
                    assert not load.refused
                    for _ in range(3):
                        disk.fault = _fails(TROUBLES[trouble], chance, chance.choice((0.05, 0.3, 1)))
                        await load.work(store, 30)
                        disk.fault = vfs.nothing_fails
                        await load.check(store)
                        await load.settle(store)
                        await load.work(store, 10)
                    await load.check(store)
                files = power.after(disk.log, chance)
                async with opened(path) as store:
                    await load.check(store)
                check_pages(path)
                power.lay_out(files, tmp_path / "after")
                async with opened(tmp_path / "after" / path.name) as store:
                    await load.check(store)
                refused += load.refused + load.unread
            except BaseException as error:
                error.add_note(f"DISK_SEED={seed}")
                raise
    # A truncation that fails is none that anybody waits for.
    assert refused or trouble == "truncations fail", "nothing has failed"


@pytest.mark.parametrize("deed", ["checkpoint", "mark"])
async def test_a_checkpoint_that_failed_leaves_a_file_that_opens(tmp_path: Path, deed: str) -> None:
    """The last one before the store is closed: the file says that it needs its WAL, which is no more."""
    path = tmp_path / "store.db"
    failed = False

    def fault(kind: vfs.Kind, where: str) -> int:
        nonlocal failed
        fails = kind == "sync" and (where == str(path) or (deed == "mark" and failed))
        failed = failed or fails
        return vfs.IOERR if fails else vfs.OK

    with vfs.disk() as disk:
        load = Load(random.Random(1), disk)
        async with opened(path) as store:
            await load.work(store, 10)
            disk.fault = fault
            for _ in range(20):
                await load.work(store, 10)
                if failed:
                    break
            disk.fault = vfs.nothing_fails
        assert failed
        assert not _wal_of(path).exists(), "a connection is still open"
        async with opened(path) as store:
            await load.check(store)


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
