"""The `cloud` of these tests: the three functions on each store, an instance for every call."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests import postgres
from tests.functions import instance
from tests.functions.client import Cloud, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

STORES = ("sqlite", "postgres")


@contextmanager
def platform(way: str) -> Iterator[Path]:
    """The listener of `instance`, and the folder of its sockets (short, for the sake of their paths' limit)."""
    with tempfile.TemporaryDirectory(prefix="ws-") as folder:
        process = subprocess.Popen(
            [sys.executable, instance.__file__, folder, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "listening\n"
                yield Path(folder)
            finally:
                process.stdin.close()


@pytest.fixture(scope="session")
def forked() -> Iterator[Path]:
    """Every call in a fresh process, a copy of one that only imported."""
    with platform("forked") as folder:
        yield folder


@pytest.fixture(scope="session")
def spawned() -> Iterator[Path]:
    """Every call in a new interpreter."""
    with platform("spawned") as folder:
        yield folder


@pytest_asyncio.fixture(params=STORES)
async def store_env(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """A fresh store with its schema, as functions are told of it."""
    async with AsyncExitStack() as stack:
        if request.param == "postgres":
            assert postgres.available()
            env = {"WHISTLESTOP_DATABASE_URL": await stack.enter_async_context(postgres.fresh_database())}
        else:
            env = {"WHISTLESTOP_SQLITE_PATH": str(tmp_path / "store.db")}
        async with opened(env) as store:
            await store.migrate()
        yield env
        async with opened(env) as store:
            # The store's invariants hold when a test is over.
            assert await store.check(10) == []


async def _cloud(folder: Path, env: dict[str, str]) -> Cloud:
    cloud = Cloud(folder, env)
    await cloud.call(
        "RegisterNamespace", namespace="default", workflow_execution_retention_period={"seconds": 24 * 3600}
    )
    return cloud


@pytest_asyncio.fixture
async def cloud(
    forked: Path, store_env: dict[str, str], record_property: Callable[[str, object], None]
) -> AsyncIterator[Cloud]:
    made = await _cloud(forked, store_env)
    yield made
    for function, used in made.cpu_ms.items():
        record_property(f"{function}: calls, CPU ms per call", (len(used), round(sum(used) / len(used), 1)))


@pytest_asyncio.fixture
async def cold_cloud(spawned: Path, store_env: dict[str, str]) -> Cloud:
    return await _cloud(spawned, store_env)


@pytest_asyncio.fixture
async def warm_cloud(store_env: dict[str, str]) -> AsyncIterator[Cloud]:
    """Instances that live on and cache, several of each function: none knows what the others did."""
    with platform("warm") as folder:
        yield await _cloud(folder, store_env)
