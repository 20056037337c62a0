"""Measure the cost of a transition: CPU of this process (and of Postgres) and wall time, for both adapters.

    python benchmarks/storage.py [--runs 2000] [--concurrency 16] [--store sqlite-file]

The workload is an echo workflow as the engine writes it: a start, then workflow task started, workflow task completed
with an activity, activity started, activity completed, and the close. It needs the project's source roots on the
path.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
from tests import postgres

from whistlestop.common.ids import RandomIds
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.records import (
    CurrentExecution,
    CurrentWrite,
    ExecutionKey,
    ExecutionWrite,
    HistoryBatch,
    MatchingTask,
    TaskKey,
    TimerTask,
    Transition,
    VisibilityRow,
)
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.storage.interface import Store

NAMESPACE = "0190a0b0-0000-7000-8000-000000000000"
STATE = b"s" * 1500
NOW_NS = 1_700_000_000_000_000_000
STEPS = ("start", "task started", "task completed", "activity started", "activity completed", "close")


class Run:
    """An echo workflow."""

    def __init__(self, n: int, ids: RandomIds) -> None:
        self.n = n
        self.ids = ids
        self.key = ExecutionKey(NAMESPACE, f"order-{n}-{ids.uuid()[-8:]}", ids.uuid())
        self.task: MatchingTask | None = None

    def transition(self, step: int) -> Transition:
        """Return the write of a step, 0 to 5."""
        first = 2 * step + 1
        removed = (self.task.key,) if self.task is not None else ()
        self.task = self._task() if step in (0, 2, 4) else None
        write = ExecutionWrite(
            key=self.key, slot=self.n % 16384, expected_version=step, state=STATE, next_event_id=first + 2,
            status=1 if step < len(STEPS) - 1 else 2, branch_id=self.key.run_id,
            history=(HistoryBatch(first, first + 2, b"h" * 350),),
            tasks_added=(self.task,) if self.task is not None else (), tasks_removed=removed,
            timer=TimerTask("execution", self.n % 16384, self.key, NOW_NS + self.n + step),
            visibility=self._visibility(step) if step in (0, len(STEPS) - 1) else None,
            current=self._current(step) if step in (0, len(STEPS) - 1) else None,
        )  # fmt: skip
        return Transition((write,))

    def _task(self) -> MatchingTask:
        key = TaskKey(NAMESPACE, "orders", 1, 3, self.ids.task_id(time.time_ns()))
        return MatchingTask(key, self.key.workflow_id, self.key.run_id, 2, 1, NOW_NS)

    def _visibility(self, step: int) -> VisibilityRow:
        close_us = NOW_NS // 1000 + self.n if step else None
        return VisibilityRow(
            self.key, "Order", "orders", 2 if step else 1, NOW_NS // 1000 + self.n, NOW_NS // 1000, close_us,
            1000 if step else None, 11, 2000, 6, None, None, self.key.workflow_id, self.key.run_id, "{}", b"",
        )  # fmt: skip

    def _current(self, step: int) -> CurrentWrite:
        row = CurrentExecution(
            NAMESPACE, self.key.workflow_id, self.key.run_id, "request", 2 if step else 1, NOW_NS, NOW_NS if step else 0
        )
        return CurrentWrite(row, self.key.run_id if step else None)


async def measure(name: str, store: Store, runs: int, concurrency: int, server_cpu_s: Callable[[], float]) -> None:
    """Measure every step of all runs, step by step."""
    ids = RandomIds()
    work = [Run(n, ids) for n in range(runs)]
    own_total = server_total = 0.0
    print(f"\n{name}, {runs} runs, {concurrency} at once" + " " * 10 + "CPU us  server us  wall us")
    for step, label in enumerate(STEPS):
        pending = iter([run.transition(step) for run in work])

        async def commit_all(source: object = pending) -> None:
            for transition in source:  # type: ignore[attr-defined]
                await store.commit(transition)

        cpu, server, wall = time.process_time(), server_cpu_s(), time.perf_counter()
        await asyncio.gather(*(commit_all() for _ in range(concurrency)))
        cpu, server, wall = time.process_time() - cpu, server_cpu_s() - server, time.perf_counter() - wall
        own_total += cpu
        server_total += server
        print(f"  {label:40}{cpu / runs * 1e6:8.0f}{server / runs * 1e6:11.0f}{wall / runs * 1e6:9.0f}")
    print(f"  {'workflow':40}{own_total / runs * 1e6:8.0f}{server_total / runs * 1e6:11.0f}")


async def sqlite(path: str, name: str, runs: int, concurrency: int) -> None:
    """Measure a SQLite file, or memory."""
    store = SqliteStore(path)
    await store.open()
    await store.migrate()
    await measure(name, store, runs, concurrency, lambda: 0.0)
    await store.close()


async def on_postgres(folder: Path, runs: int, concurrency: int) -> None:
    """Measure a Postgres of its own, with default flushing."""
    url = postgres.durable_server(folder)
    store = PostgresStore(url)
    await store.open()
    await store.migrate()
    with psycopg.connect(url) as connection:
        backend = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert backend is not None
    postmaster = next(
        p for p in psutil.process_iter() if p.name() == "postgres" and str(folder) in " ".join(p.cmdline())
    )

    def server_cpu_s() -> float:
        family = [postmaster, *postmaster.children()]
        return sum(sum(process.cpu_times()[:2]) for process in family)

    await measure("postgres", store, runs, concurrency, server_cpu_s)
    await store.close()


async def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--store", choices=("sqlite-file", "sqlite-memory", "postgres"))
    options = parser.parse_args()
    chosen = (options.store,) if options.store else ("sqlite-file", "sqlite-memory", "postgres")
    with tempfile.TemporaryDirectory() as folder:
        if "sqlite-file" in chosen:
            path = f"{folder}/store.db"
            await sqlite(path, "sqlite-file", options.runs, options.concurrency)
            size = await asyncio.to_thread(Path(path).stat)
            print(f"  bytes of the file per workflow {size.st_size // options.runs:>17}")
        if "sqlite-memory" in chosen:
            await sqlite(":memory:", "sqlite-memory", options.runs, options.concurrency)
    if "postgres" in chosen:
        await on_postgres(Path(tempfile.mkdtemp()), options.runs, options.concurrency)


if __name__ == "__main__":
    asyncio.run(main())
