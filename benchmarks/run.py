"""Measure a workflow's server CPU and latency, ours beside Temporal's own development server.

    make bench                          # ours on a SQLite file; the real one in memory, if it is installed
    python benchmarks/run.py --ours-only --workloads echo,start --count 500

Server CPU per workflow is the reliable figure: the load generator (the official SDK) runs in this process, the
servers in their own, and their CPU time is read from the system before and after. Wall time depends on the whole
machine. The servers take turns (A B B A …), and medians are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.table import Table
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

QUEUE = "bench"
READY_S = 20.0
IN_FLIGHT = 16


@activity.defn
async def echo(text: str) -> str:
    """Return the text."""
    return text


@workflow.defn(sandboxed=False)
class Steps:
    """Runs a number of activities, one after the other or all at once."""

    @workflow.run
    async def run(self, count: int, together: bool) -> int:  # noqa: FBT001 - workflow arguments are positional
        """Return how many ran."""
        limit = timedelta(seconds=60)
        work = [
            workflow.start_activity(echo, "x", start_to_close_timeout=limit) for _ in range(count if together else 0)
        ]
        for handle in work:
            await handle
        for _ in range(0 if together else count):
            await workflow.execute_activity(echo, "x", start_to_close_timeout=limit)
        return count


@workflow.defn(sandboxed=False)
class Signalled:
    """Completes at the tenth signal."""

    def __init__(self) -> None:
        self._count = 0

    @workflow.run
    async def run(self) -> int:
        """Wait for the signals."""
        await workflow.wait_condition(lambda: self._count >= 10)
        return self._count

    @workflow.signal
    def tick(self) -> None:
        """Count a signal."""
        self._count += 1


@dataclass
class Server:
    """A server process, and its measurements."""

    name: str
    command: list[str]
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    wall_ms: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """How a workflow is run, how many, and how many at a time."""

    count: int
    in_flight: int
    one: Callable[[Client, str], Awaitable[object]]
    needs_worker: bool = True


async def _steps(client: Client, name: str, count: int, together: bool) -> None:  # noqa: FBT001
    await client.execute_workflow(Steps.run, args=[count, together], id=name, task_queue=QUEUE)


async def _start_only(client: Client, name: str) -> None:
    await client.start_workflow("Nobody", id=name, task_queue="nobody")


async def _signal(client: Client, name: str) -> None:
    handle = await client.start_workflow(Signalled.run, id=name, task_queue=QUEUE)
    for _ in range(10):
        await handle.signal(Signalled.tick)
    await handle.result()


WORKLOADS = {
    "start": Workload(400, IN_FLIGHT, _start_only, needs_worker=False),
    "echo": Workload(200, IN_FLIGHT, lambda client, name: _steps(client, name, 1, together=False)),
    "echo1": Workload(50, 1, lambda client, name: _steps(client, name, 1, together=False)),
    "seq3": Workload(100, IN_FLIGHT, lambda client, name: _steps(client, name, 3, together=False)),
    "fanout50": Workload(10, 2, lambda client, name: _steps(client, name, 50, together=True)),
    "signal10": Workload(50, IN_FLIGHT, _signal),
}


@contextlib.asynccontextmanager
async def serving(server: Server, folder: Path) -> AsyncIterator[tuple[Client, psutil.Process]]:
    """Yield a client and the process of a server on a free port; kill it in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(folder=folder, port=port) for part in server.command]
    with (folder / f"{server.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220, S603 - our own command
    try:
        yield await _connected(f"127.0.0.1:{port}", process), psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def _connected(address: str, process: subprocess.Popen[bytes]) -> Client:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def measure(server: Server, names: list[str], scale: float) -> None:
    """Run a round of the workloads on a new server."""
    with tempfile.TemporaryDirectory(prefix="whistlestop-bench-") as folder:
        async with (
            serving(server, Path(folder)) as (client, process),
            Worker(client, task_queue=QUEUE, workflows=[Steps, Signalled], activities=[echo]),
        ):
            await _run(client, WORKLOADS["echo"], 20)
            for name in names:
                workload = WORKLOADS[name]
                count = max(int(workload.count * scale), 1)
                before = _cpu_ms(process)
                times = await _run(client, workload, count)
                server.cpu_ms.setdefault(name, []).append((_cpu_ms(process) - before) / count)
                server.wall_ms.setdefault(name, []).append(statistics.median(times))


async def _run(client: Client, workload: Workload, count: int) -> list[float]:
    gate = asyncio.Semaphore(workload.in_flight)
    times: list[float] = []

    async def one() -> None:
        async with gate:
            began = time.perf_counter()
            await workload.one(client, f"bench-{uuid.uuid4()}")
            times.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(one() for _ in range(count)))
    return times


def _cpu_ms(process: psutil.Process) -> float:
    used = process.cpu_times()
    return (used.user + used.system) * 1000


def report(servers: list[Server], names: list[str]) -> None:
    """Print the table."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    table = Table(title=machine)
    table.add_column("workload")
    for server in servers:
        table.add_column(f"{server.name}: server CPU ms", justify="right")
        table.add_column("p50 ms", justify="right")
    for name in names:
        cells = [
            f"{statistics.median(values[name]):.2f}" for server in servers for values in (server.cpu_ms, server.wall_ms)
        ]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


async def main() -> None:
    """Parse the command line, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of workflows")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument(
        "--database-url", help="ours over this Postgres instead of a file; an empty database each time is best"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    names = options.workloads.split(",")
    ours = [sys.executable, "-m", "whistlestop.server", "server"]
    if options.database_url:
        ours += ["start", "--port", "{port}", "--database-url", options.database_url]
    else:
        ours += ["start-dev", "--headless", "--port", "{port}", "--db-filename", "{folder}/state.db"]
    servers = [Server("whistlestop", ours)]
    real = shutil.which("temporal", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if real and not options.ours_only:
        servers.append(
            Server("temporal", [real, "server", "start-dev", "--headless", "--port", "{port}", "--log-level", "error"])
        )
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            await measure(server, names, options.scale)
    report(servers, names)
    if options.json:
        figures = {server.name: {"server_cpu_ms": server.cpu_ms, "p50_ms": server.wall_ms} for server in servers}
        options.json.write_text(json.dumps(figures, indent=2), "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    # The SDK's native threads sometimes crash the interpreter at shutdown.
    os._exit(0)
