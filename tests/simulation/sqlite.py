"""SQLite files in the simulation: the group commit of `storage.sqlite.writer`, on the simulated loop instead of a thread.

A server over a file commits in groups, whose COMMIT takes its time while the next group gathers, and no write can be
cancelled. A database in memory has none of that.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.sqlite import SqliteStore
from whistlestop.storage.sqlite.writer import GroupWriter

if TYPE_CHECKING:
    import random
    import sqlite3
    from collections.abc import Callable

    from tests.simulation.faults import Weather
    from tests.simulation.loop import SimulatedLoop
    from whistlestop.storage.errors import StorageError

_FAST = Path("/dev/shm")
_templates: list[bytes] = []
"""A database with all tables, made once in a process."""


class SimulatedWriter(GroupWriter):
    """Commits after some simulated time."""

    def __init__(
        self, db: sqlite3.Connection, path: str, loop: SimulatedLoop, chance: random.Random, weather: Weather
    ) -> None:
        self._simulated = loop
        self._chance = chance
        self._weather = weather
        self._begun: tuple[Any, Callable[[], None], Callable[[StorageError | None], None]] | None = None
        super().__init__(db, path)

    def _start_thread(self) -> None:
        return

    def _stop_thread(self) -> None:
        return

    def _hand_over(self, work: Callable[[], None], then: Callable[[StorageError | None], None]) -> None:
        takes_s = self._chance.choice([0, 0.001, 0.001, 0.01])
        if self._strikes(self._weather.slow, "a flush to disk is slow"):
            takes_s = self._chance.choice([0.2, 2, 12])
        timer = self._simulated.call_at_ns(self._simulated.now_ns + round(takes_s * SECOND_NS), self._do)
        self._begun = timer, work, then

    def _do(self) -> None:
        assert self._begun is not None
        (_, work, then), self._begun = self._begun, None
        fails = work == self._commit and self._strikes(self._weather.before, "the commit of a group fails")
        if not fails:
            work()
        then(Unavailable("the disk does not write") if fails else None)

    def _strikes(self, probability: float, what: str) -> bool:
        return not self._weather.calm and self._weather.strike(probability, what)

    def crash(self) -> None:
        """The process is killed: what was not committed yet is lost, except that the running COMMIT may have ended."""
        pending, self._pending = self._pending, []
        if self._begun is not None:
            (timer, work, then), self._begun = self._begun, None
            timer.cancel()
            ends = self._chance.random() < 0.5
            if ends:
                work()
            then(None if ends else Unavailable("the process was killed in the commit"))
        for job in pending:
            job.settle(Unavailable("the process was killed before the commit"))


class SimulatedFile(SqliteStore):
    """A store over a file of its own, which is deleted when it is closed. It starts no thread."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, weather: Weather) -> None:
        self._folder = tempfile.mkdtemp(prefix="whistlestop-simulation-", dir=_FAST if _FAST.is_dir() else None)
        super().__init__(f"{self._folder}/store.db", {"synchronous": "OFF"})
        self._made_of = loop, chance, weather

    def _group_writer(self, main: sqlite3.Connection) -> GroupWriter:
        return SimulatedWriter(main, self.path, *self._made_of)

    def copy_of(self, template: bytes) -> None:
        """Begin with these bytes."""
        file = Path(self.path)
        file.touch(0o600)
        file.write_bytes(template)

    def read(self) -> bytes:
        """Return the bytes of the closed file, and delete it."""
        data = Path(self.path).read_bytes()
        shutil.rmtree(self._folder)
        return data

    async def open(self) -> None:
        await super().open()
        assert self._slow_threads is not None
        self._slow_threads.shutdown()
        self._slow_threads = None

    async def close(self) -> None:
        await super().close()
        shutil.rmtree(self._folder)

    def crash(self) -> None:
        """See SimulatedWriter."""
        if isinstance(self._writer, SimulatedWriter):
            self._writer.crash()


async def open_file(loop: SimulatedLoop, chance: random.Random, weather: Weather) -> SimulatedFile:
    """Return an open store with all tables."""
    if not _templates:
        first = SimulatedFile(loop, chance, weather)
        await first.open()
        await first.migrate()
        await SqliteStore.close(first)
        _templates.append(first.read())
    store = SimulatedFile(loop, chance, weather)
    store.copy_of(_templates[0])
    await store.open()
    return store
