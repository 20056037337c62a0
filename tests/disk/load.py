"""Commits of many runs to a store, and what of them has to be there afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.storage.factories import close, commit, run_key, start, step, task, timer
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.disk.vfs import Disk
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionWrite

MOST_BYTES = 12_000
LAST_VERSION = 6
"""With this one a run closes."""


@asynccontextmanager
async def opened(path: Path, **pragmas: str) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(path), pragmas)
    await store.open()
    try:
        await store.migrate()
        yield store
    finally:
        await store.close()


def write_of(number: int, version: int, size: int) -> ExecutionWrite:
    """The commit that makes the run's version the one after `version`."""
    key = run_key(f"run-{number}", f"order-{number}")
    state = f"{number}/{version + 1}/".encode().ljust(size, b".")
    if version == 0:
        write = start(key, state=state, tasks_added=(task(number, key),), timer=timer(1000 + number, key))
    elif version + 1 < LAST_VERSION:
        write = step(key, version, state=state)
    else:
        write = close(key, version, state=state, tasks_removed=(task(number, key).key,), timer_removed=True)
    return write


@dataclass
class Load:
    """Clients who commit, and know what was acknowledged."""

    chance: random.Random
    disk: Disk | None = None
    asked: dict[int, int] = field(default_factory=dict)
    """By run, the highest version that somebody tried to commit."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    runs: int = 0
    refused: int = 0
    unread: int = 0

    async def work(self, store: Store, commits: int, *, together: int = 4) -> None:
        """Let so many clients commit at a time, each to runs of its own."""
        await asyncio.gather(*(self._client(store, commits // together) for _ in range(together)))

    async def _client(self, store: Store, commits: int) -> None:
        mine: list[int] = []
        for _ in range(commits):
            if not mine or self.chance.random() < 0.3:
                self.runs += 1
                mine.append(self.runs)
            number = self.chance.choice(mine)
            await self._read(store, number)
            if not await self.advance(store, number) or self.acknowledged[number] == LAST_VERSION:
                mine.remove(number)

    async def _read(self, store: Store, number: int) -> None:
        """Whoever has heard of a commit finds it, or hears that the store can't be read now."""
        known = self.acknowledged.get(number, 0)
        try:
            found = await store.get_execution(run_key(f"run-{number}", f"order-{number}"))
        except Unavailable:
            self.unread += 1
            return
        assert (found.db_record_version if found else 0) >= known

    async def advance(self, store: Store, number: int) -> bool:
        """Commit the next version; False when the store refused it, after which nobody knows whether it is there."""
        version = self.acknowledged.get(number, 0)
        self.asked[number] = version + 1
        try:
            await commit(store, write_of(number, version, self.chance.randrange(100, MOST_BYTES)))
        except Unavailable:
            self.refused += 1
            return False
        self.acknowledged[number] = version + 1
        if self.disk is not None:
            self.disk.mark((number, version + 1))
        return True

    async def check(self, store: Store) -> None:
        """Nothing acknowledged is lost, each commit is there as a whole or not at all, and the tables agree."""
        for number, asked in self.asked.items():
            found = await store.get_execution(run_key(f"run-{number}", f"order-{number}"))
            version = found.db_record_version if found else 0
            assert self.acknowledged.get(number, 0) <= version <= asked, f"run {number}: {version} of {asked}"
            if found is not None:
                assert found.state.startswith(f"{number}/{version}/".encode())
                assert found.next_event_id == 2 * version + 1
        assert await store.check(10) == []

    async def settle(self, store: Store) -> None:
        """Go on with some runs from the version that is there: the store takes writes again."""
        for number in self.asked:
            found = await store.get_execution(run_key(f"run-{number}", f"order-{number}"))
            version = self.acknowledged[number] = found.db_record_version if found else 0
            if version < LAST_VERSION and self.chance.random() < 0.1:
                assert await self.advance(store, number)

    def seen_until(self, marks: Sequence[tuple[int, int]], chance: random.Random) -> Load:
        """Return the same at an earlier moment, when no more than this had been acknowledged."""
        earlier = replace(self, chance=chance, disk=None, asked=dict(self.asked), acknowledged={})
        for number, version in marks:
            earlier.acknowledged[number] = max(version, earlier.acknowledged.get(number, 0))
        return earlier


def check_pages(path: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
