"""Measure how late timers of 100 ms fire on busy cores: ours beside Temporal's own development server.

    python benchmarks/lateness.py [--seconds 10] [--rate 10] [--busy 2] [--server NAME=PROGRAM …]

Both servers run side by side, and as many loops as there are cores keep the machine busy, for a bounded time. For
each server, a worker of the official SDK in a process of its own runs workflows that sleep for 100 ms, at the same
rate. Lateness is read from the events: when the timer fired, and when a worker got the following workflow task, minus
the start of the timer and its 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

SLEEP_S = 0.1
READY_S = 60.0


@workflow.defn
class Sleeper:
    """Sleeps for 100 ms."""

    @workflow.run
    async def run(self) -> None:
        """Sleep."""
        await asyncio.sleep(SLEEP_S)


async def load(port: int, seconds: float, rate: float) -> None:
    """Run the workflows on one server, and print the latenesses in milliseconds as JSON."""
    client = await Client.connect(f"127.0.0.1:{port}")
    queue = str(uuid.uuid4())
    fired: list[float] = []
    started: list[float] = []

    async def sleep_once(number: int) -> None:
        await asyncio.sleep(number / rate)
        handle = await client.start_workflow(Sleeper.run, id=f"{queue}-{number}", task_queue=queue)
        await handle.result()
        at: dict[int, list[int]] = {}
        for event in (await handle.fetch_history()).events:
            at.setdefault(event.event_type, []).append(event.event_time.ToNanoseconds())
        due_ns = at[EventType.EVENT_TYPE_TIMER_STARTED][0] + round(SLEEP_S * 1e9)
        fired.append((at[EventType.EVENT_TYPE_TIMER_FIRED][0] - due_ns) / 1e6)
        started.append((at[EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED][-1] - due_ns) / 1e6)

    runner = UnsandboxedWorkflowRunner()
    async with Worker(client, task_queue=queue, workflows=[Sleeper], workflow_runner=runner):
        await asyncio.gather(*(sleep_once(number) for number in range(round(seconds * rate))))
    print(json.dumps({"fired": fired, "started": started}), flush=True)
    os._exit(0)  # the SDK's threads and the end of the interpreter do not go together


def free_port() -> int:
    """Return a port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quantile(values: list[float], part: float) -> float:
    """Return the value below which that fraction of the values is."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def serve(program: str, real: bool) -> tuple[subprocess.Popen[bytes], int]:  # noqa: FBT001 - two kinds of servers
    """Start an in-memory server; return its process and port."""
    port = free_port()
    flags = ["--http-port", str(free_port()), "--metrics-port", str(free_port())] if real else []
    command = [program, "server", "start-dev", "--headless", "--port", str(port), "--log-level", "error", *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port  # noqa: S603 - ours


async def ready(port: int) -> None:
    """Wait until the server answers."""
    end_s = time.monotonic() + READY_S
    while True:
        try:
            await Client.connect(f"127.0.0.1:{port}")
        except RuntimeError:
            if time.monotonic() > end_s:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def main() -> None:
    """Measure both side by side, and print medians and 99th percentiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=10, help="workflows a second, for each server")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="loops that keep cores busy")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--load", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        asyncio.run(load(given.load, given.seconds, given.rate))
        return
    programs = Path(sys.executable).parent
    named = dict(each.split("=", 1) for each in given.server)
    named = named or {"ours": str(programs / "whistlestop"), "Temporal": str(programs / "temporal")}
    running: list[subprocess.Popen[bytes]] = []
    try:
        ports = {}
        for name, program in named.items():
            server, ports[name] = serve(program, Path(program).name == "temporal")
            running.append(server)
        for port in ports.values():
            asyncio.run(ready(port))
        spin = f"import time\nend = time.monotonic() + {given.seconds + 5}\nwhile time.monotonic() < end: pass"
        running += [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(given.busy)]  # noqa: S603 - as it stands
        pace = ["--seconds", str(given.seconds), "--rate", str(given.rate)]
        loads = {
            name: subprocess.Popen(  # noqa: S603 - this very file
                [sys.executable, __file__, "--load", str(port), *pace], stdout=subprocess.PIPE
            )
            for name, port in ports.items()
        }
        print(f"{'ms late:':12}{'fired p50':>12}{'p99':>10}{'started p50':>14}{'p99':>10}")
        for name, process in loads.items():
            text, _ = process.communicate(timeout=given.seconds * 10 + READY_S)
            found = json.loads(text)
            figures = [quantile(found[kind], part) for kind in ("fired", "started") for part in (0.5, 0.99)]
            print(f"{name:12}{figures[0]:12.1f}{figures[1]:10.1f}{figures[2]:14.1f}{figures[3]:10.1f}")
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait()


if __name__ == "__main__":
    main()
