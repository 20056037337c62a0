"""Server processes that share one Postgres database."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client

from tests.postgres import available, fresh_database
from tests.server.conftest import EXIT_S, Running, _environment
from tests.upgrade.release import CURRENT, Release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if not available():
    pytest.skip("no Postgres here", allow_module_level=True)


@dataclass
class Cluster:
    """Processes by name. `kill` is `kill -9`, `stop` is SIGTERM."""

    url: str
    folder: Path
    servers: dict[str, Running] = field(default_factory=dict)
    release: Release = CURRENT
    """What is started next."""

    def start(self, *names: str) -> None:
        """Whole servers."""
        for name in names:
            self.launch(name, "--port", "0")
        for name in names:
            self.servers[name].until_ready()

    def launch(self, name: str, *flags: str) -> None:
        """Start one, or one of that name again; when it is ready is for the caller to wait."""
        if name in self.servers:
            _let_go(self.servers[name])
        process = subprocess.Popen(
            [*self.release.command, "server", "start", "--database-url", self.url, "--log-level", "warn", *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
            env={**_environment(), **self.release.environment},
        )  # fmt: skip
        self.servers[name] = Running(process)
        self.servers[name].watch()

    async def client(self, name: str, namespace: str = "default") -> Client:
        return await Client.connect(self.servers[name].address, namespace=namespace)

    def kill(self, name: str) -> None:
        self.servers[name].end(signal.SIGKILL)

    async def stop(self, name: str) -> int:
        """The exit code; what the process said is printed, for a test that fails by it."""
        code = await self.servers[name].end_async()
        if code:
            print(f"{name} ended with {code}:", *self.servers[name].stderr, sep="\n")
        return code

    async def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`whistlestop ARGUMENTS… --database-url URL`."""
        return await asyncio.to_thread(
            subprocess.run, [*self.release.command, *arguments, "--database-url", self.url],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.folder,
            env={**_environment(), **self.release.environment}, timeout=EXIT_S, check=False,
        )  # fmt: skip

    async def members(self) -> list[dict[str, Any]]:
        """As `cluster members` shows them."""
        done = await self.command("cluster", "members", "--output", "json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        for one in self.servers.values():
            _let_go(one)


def _let_go(one: Running) -> None:
    if one.process.poll() is None:
        one.process.kill()
    one.end()
    for stream in (one.process.stdout, one.process.stderr):
        if stream is not None:
            stream.close()


@contextmanager
def a_cluster(folder: Path) -> Iterator[Cluster]:
    with ExitStack() as closing:
        runner = closing.enter_context(asyncio.Runner())
        database = fresh_database()
        cluster = Cluster(runner.run(database.__aenter__()), folder)
        closing.callback(lambda: runner.run(database.__aexit__(None, None, None)))
        closing.callback(cluster.close)
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """No process yet, over an empty database."""
    with a_cluster(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two processes, a and b, for the tests of a module that kill none."""
    with a_cluster(tmp_path_factory.mktemp("pair")) as made:
        made.start("a")
        made.start("b")
        yield made
