"""The real command as a subprocess. Waits are bounded, and readiness is read from what the server prints."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.parity.puppet import Puppet
from tests.patience import PATIENCE_S
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.parity.servers import Server

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "whistlestop.server"]
READY_S = PATIENCE_S
EXIT_S = PATIENCE_S


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TEMPORAL_", "WHISTLESTOP_"))}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1"}


@dataclass
class Running:
    """A server process. `stdout` and `stderr` grow while it runs."""

    process: subprocess.Popen[str]
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    _readers: list[threading.Thread] = field(default_factory=list)

    def watch(self) -> None:
        for stream, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr)):
            assert stream is not None
            thread = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            thread.start()
            self._readers.append(thread)

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if line.startswith("State:"):
                self.ready.set()
        self.ready.set()

    def until_ready(self) -> Running:
        assert self.ready.wait(READY_S), f"not ready: {self.stdout} {self.stderr}"
        assert self.process.poll() is None, f"ended: {self.stdout} {self.stderr}"
        return self

    def port(self, label: str = "gRPC") -> int:
        found = re.search(rf"{label}: .*:(\d+)", "\n".join(self.stdout))
        assert found, f"no {label} in {self.stdout}"
        return int(found[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port()}"

    async def client(self, namespace: str = "default") -> Client:
        return await Client.connect(self.address, namespace=namespace)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(EXIT_S)
        for thread in self._readers:
            thread.join(EXIT_S)
        return code

    async def end_async(self, number: int = signal.SIGTERM) -> int:
        return await asyncio.to_thread(self.end, number)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start `whistlestop ARGUMENTS…` in a folder of its own; killed in the end."""
    running: list[Running] = []

    def start(*arguments: str, cwd: Path = tmp_path) -> Running:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=_environment(),
        )
        one = Running(process)
        one.watch()
        running.append(one)
        return one

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.end()
        for stream in (one.process.stdout, one.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start_dev(launch: Callable[..., Running]) -> Callable[..., Running]:
    """A ready `server start-dev` on free ports, with these flags besides."""

    def start(*arguments: str) -> Running:
        return launch("server", "start-dev", "--port", "0", "--headless", *arguments).until_ready()

    return start


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `whistlestop ARGUMENTS…` to its end."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, env=_environment(),
            timeout=EXIT_S, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """A database of its own, dropped afterwards."""
    async with fresh_database() as url:
        yield url


@pytest_asyncio.fixture
async def p(server: Server) -> AsyncIterator[Puppet]:
    """A puppet at the `server` of the test's module."""
    async with grpc.aio.insecure_channel(server) as channel:
        yield Puppet(channel)
