"""The oldest and the current release of SDKs take the same steps against our server, and against the real one."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.cluster.conftest import Cluster
from tests.cluster.services import Deployment
from tests.parity import servers
from tests.patience import PATIENCE_S
from tests.releases.installed import BUILT, install, run
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.timeout(1200), pytest.mark.sdk]

# What each release lacks: the names of the steps that it is to skip.
NEITHER = {"update", "schedule"}
RELEASES: dict[tuple[str, str], set[str]] = {
    ("python", "1.0.0"): NEITHER,
    ("python", "1.35.0"): set(),
    ("typescript", "1.0.0"): NEITHER,
    ("typescript", "1.24.0"): set(),
    ("go", "1.0.0"): NEITHER,
    ("go", "1.48.0"): set(),
    ("java", "1.0.0"): NEITHER,
    ("java", "1.38.0"): set(),
}
STEPS = 11
TOOLS = {"python": sys.executable, "typescript": "npm", "go": "go", "java": "mvn"}
SERVERS = (
    "real",
    "sqlite",
    *(
        pytest.param(
            name, marks=[pytest.mark.postgres, pytest.mark.skipif(not postgres.available(), reason="no Postgres")]
        )
        for name in ("postgres", "bridge")
    ),
)


@asynccontextmanager
async def _bridge(folder: Path) -> AsyncIterator[str]:
    """The address of a bridge before a frontend, a history and a matching process over Postgres."""
    command = [sys.executable, "-m", "whistlestop.server", "bridge"]
    async with postgres.fresh_database() as url:
        cluster = Cluster(url, folder)
        bridge = None
        try:
            deployment = Deployment(cluster, [free_port()], [free_port()], http=free_port())
            await asyncio.to_thread(deployment.start, *deployment.names)
            target = f"http://127.0.0.1:{deployment.http}"
            bridge = await asyncio.create_subprocess_exec(
                *command, "--target", target, "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
            )
            assert bridge.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                said = ""
                while "Target:" not in said:
                    said += (await bridge.stdout.readline()).decode()
            yield said.partition("gRPC:")[2].split()[0]
        finally:
            if bridge is not None:
                bridge.terminate()
                await bridge.wait()
            await asyncio.to_thread(cluster.close)


@asynccontextmanager
async def _server(name: str, folder: Path) -> AsyncIterator[str]:
    if name == "bridge":
        starting = _bridge(folder)
    else:
        starting = servers.real_server() if name == "real" else servers.our_server(name)
    async with starting as address:
        yield address


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(("sdk", "release"), RELEASES)
async def test_a_release(sdk: str, release: str, server: str, tmp_path: Path) -> None:
    """Take every step that the release has: workflows, activities, signals, queries, updates, children, a schedule, …"""
    assert shutil.which(TOOLS[sdk]), f"the {sdk} SDK needs {TOOLS[sdk]}"
    command = await install(sdk, release)
    async with _server(server, tmp_path) as address:
        code, printed = await run(*command, address, folder=BUILT / f"{sdk}-{release}")
    steps = dict(re.findall(r"^(?:ok|skip) (\w+)(.*)$", printed, re.MULTILINE))
    assert code == 0, printed
    assert len(steps) == STEPS, printed
    assert {name for name, why in steps.items() if why} == RELEASES[sdk, release], printed
