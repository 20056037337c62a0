"""Measure a start of `whistlestop server start-dev`: CPU until the port answers, paired between checkouts.

    git worktree add --detach ../before 6715726 && (cd ../before && uv venv && uv pip install -e .)
    python benchmarks/startup.py ../before . [--repeats 7] [--at-once 1] [--flags "--db-filename FILE"]

Each checkout is a folder with a `.venv`; a path to a program (`.venv/bin/temporal`) is used as it is. They are
started in turns, after one start each that is not counted, which writes bytecode. The figures are the milliseconds of
CPU of the server's process until its port accepts connections, until it has answered its first GetSystemInfo and a
DescribeNamespace (SDKs send both when they connect), and of the starts of 20 workflows after that. `--at-once` starts
that many servers of a checkout together, as test suites do, and shows how long the last of them took to answer.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from temporalio.api.workflowservice.v1.service_pb2_grpc import WorkflowServiceStub

MOST_S = 60.0
CALLS = 20
_CPU_CLOCK_OF_PROCESS = 2


class Start(NamedTuple):
    """CPU milliseconds of a server, and the time until it answered."""

    until_listening: float
    until_answered: float
    first_calls: float
    wall_ms: float


def cpu_ms(process_id: int) -> float:
    """Return the CPU time that a process has used, including its ended threads (Linux)."""
    return time.clock_gettime((~process_id << 3) | _CPU_CLOCK_OF_PROCESS) * 1000


def free_port() -> int:
    """Return a port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(program: str, extra: list[str]) -> Start:
    """Start a server, send what an SDK sends, start some workflows, and stop it."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [program, "server", "start-dev", "--headless", "--port", str(port), *extra]
    began_s = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - as the command line says
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    try:
        while True:
            if process.poll() is not None or time.monotonic() > began_s + MOST_S:
                raise SystemExit(f"{' '.join(command)} did not start: {(process.stderr and process.stderr.read())!r}")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.002)
        listening = cpu_ms(process.pid)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = WorkflowServiceStub(channel)
            stub.GetSystemInfo(rr.GetSystemInfoRequest(), timeout=MOST_S, wait_for_ready=True)
            stub.DescribeNamespace(rr.DescribeNamespaceRequest(namespace="default"), timeout=MOST_S)
            answered, wall_s = cpu_ms(process.pid), time.monotonic() - began_s
            for number in range(CALLS):
                request = rr.StartWorkflowExecutionRequest(
                    namespace="default", workflow_id=f"w{number}", request_id=f"r{number}"
                )
                request.workflow_type.name, request.task_queue.name = "Order", "orders"
                stub.StartWorkflowExecution(request, timeout=MOST_S)
            return Start(listening, answered, cpu_ms(process.pid) - answered, wall_s * 1000)
    finally:
        process.terminate()
        process.wait()


def together(program: str, extra: list[str], count: int) -> Start:
    """Start `count` servers at once; return the median of their CPU, and the wall time of the slowest."""
    with ThreadPoolExecutor(count) as threads:
        starts = list(threads.map(lambda _: start(program, extra), range(count)))
    medians = [statistics.median(column) for column in zip(*starts, strict=True)]
    return Start(medians[0], medians[1], medians[2], max(each.wall_ms for each in starts))


def program_of(place: str) -> str:
    """Return the program of a checkout."""
    path = Path(place).resolve()
    return str(path / ".venv" / "bin" / "whistlestop") if path.is_dir() else str(path)


def main() -> None:
    """Measure in turns, and print medians and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="CHECKOUT")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--flags", default="", help="further flags of the server")
    given = parser.parse_args()
    programs = [program_of(place) for place in given.places]
    measured: dict[str, list[Start]] = {program: [] for program in programs}
    for repeat in range(given.repeats + 1):
        for program in programs:
            done = together(program, given.flags.split(), given.at_once)
            if repeat:
                measured[program].append(done)
    first: list[float] | None = None
    print(f"{'CPU ms until listening':>24}{'until answered':>16}{f'{CALLS} starts':>12}{'answered after ms':>19}")
    for place, program in zip(given.places, programs, strict=True):
        medians = [statistics.median(column) for column in zip(*measured[program], strict=True)]
        first = first or medians
        ratios = " ".join(f"{now / before:.2f}" for now, before in zip(medians, first, strict=True))
        print(f"{medians[0]:24.0f}{medians[1]:16.0f}{medians[2]:12.1f}{medians[3]:19.0f}  {place} (ratios {ratios})")


if __name__ == "__main__":
    main()
