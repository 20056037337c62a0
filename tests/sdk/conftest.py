"""One server per store for the whole session: start-dev in memory, `server start` on a SQLite file and on Postgres."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client

from tests.postgres import available, fresh_database
from tests.sdk.support import DUE, FRAGILE, LABELS, NOTE, PARTS, SHOP, WEIGHT
from tests.server.conftest import COMMAND, Running, _environment

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent
GIVEN = os.environ.get("WHISTLESTOP_TEST_SDK_ADDRESS", "")
"""A server to test instead: run against Temporal's own, the tests show that they ask for nothing else."""
EVERY_STORE = (
    "sqlite",
    "memory",
    pytest.param(
        "postgres", marks=[pytest.mark.postgres, pytest.mark.skipif(not available(), reason="no Postgres here")]
    ),
)
ATTRIBUTES = ("Keyword", SHOP), ("Int", PARTS), ("Double", WEIGHT), ("Bool", FRAGILE), ("Datetime", DUE), (
    "KeywordList", LABELS,
), ("Text", NOTE)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames:
        stores = ["given"] if GIVEN else EVERY_STORE if hasattr(metafunc.function, "every_store") else EVERY_STORE[:1]
        metafunc.parametrize("store", stores, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.sdk)


@dataclass
class Servers:
    """Servers by store, each started when it is first asked for."""

    folder: Path
    stack: ExitStack
    running: dict[str, Running] = field(default_factory=dict)

    def address(self, store: str) -> str:
        if GIVEN:
            return GIVEN
        if store not in self.running:
            self.running[store] = self._start(self._arguments(store))
        return self.running[store].address

    def _arguments(self, store: str) -> list[str]:
        if store == "memory":
            return ["start-dev", "--headless"]
        if store == "sqlite":
            return ["start", "--db-filename", str(self.folder / "sdk.db")]
        runner = self.stack.enter_context(asyncio.Runner())
        database = fresh_database()
        url = runner.run(database.__aenter__())
        self.stack.callback(lambda: runner.run(database.__aexit__(None, None, None)))
        return ["start", "--database-url", url]

    def _start(self, arguments: list[str]) -> Running:
        attributes = [word for kind, key in ATTRIBUTES for word in ("--search-attribute", f"{key.name}={kind}")]
        process = subprocess.Popen(
            [*COMMAND, "server", *arguments, "--port", "0", "--log-level", "warn", *attributes],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
            env=_environment(),
        )  # fmt: skip
        one = Running(process)
        self.stack.callback(self._end, one)
        one.watch()
        return one.until_ready()

    def _end(self, one: Running) -> None:
        """Whatever went wrong on a worker's side, the server has no traceback to show, and leaves with 0."""
        try:
            code = one.end()
        finally:
            if one.process.poll() is None:
                one.process.kill()
            for stream in (one.process.stdout, one.process.stderr):
                if stream is not None:
                    stream.close()
        said = "\n".join(one.stderr)
        assert "Traceback" not in said, said
        assert code == 0, said


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("sdk"), stack)


@pytest.fixture
def address(servers: Servers, store: str) -> str:
    """Where the store's server listens. Not asynchronous, for a first start has a loop of its own."""
    return servers.address(store)


@pytest.fixture
async def client(address: str) -> Client:
    return await Client.connect(address)
