"""Targets for bridges: a server's HTTP door, and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.bridge.targets import Front, serving
from tests.functions.client import Cloud, opened
from tests.functions.conftest import platform
from tests.server.conftest import launch, start_dev

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

__all__ = ["launch", "start_dev"]


@pytest.fixture
async def functions(tmp_path: Path) -> AsyncIterator[tuple[str, Front]]:
    """The URL of the three functions over one SQLite file, and their front."""
    env = {"WHISTLESTOP_SQLITE_PATH": str(tmp_path / "store.db")}
    async with opened(env) as store:
        await store.migrate()
    with platform("warm") as folder:
        cloud = Cloud(folder, env)
        await cloud.call(
            "RegisterNamespace", namespace="default", workflow_execution_retention_period={"seconds": 24 * 3600}
        )
        front = Front(cloud)
        async with serving(front) as url:
            yield url, front


@pytest.fixture(params=["server", "functions"])
def target(request: pytest.FixtureRequest) -> str:
    """The URL of a target, of each kind."""
    if request.param == "functions":
        url: str = request.getfixturevalue("functions")[0]
        return url
    start: Callable[..., Any] = request.getfixturevalue("start_dev")
    return f"http://127.0.0.1:{start().port('HTTP')}"
