"""The official TypeScript SDK, from the npm registry, against our server: its sample's own tests say what works."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import postgres
from tests.parity import servers

pytestmark = pytest.mark.timeout(1200)

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / "build" / "typescript"
OLDEST_NODE = 20
# The sample asks for nothing that the real server hasn't: it runs on that one, too.
SERVERS = (
    "real",
    "memory",
    "sqlite",
    pytest.param(
        "postgres",
        marks=[pytest.mark.postgres, pytest.mark.skipif(not postgres.available(), reason="no Postgres here")],
    ),
)


async def _run(*words: str, **environment: str) -> str:
    """What a command of Node's printed; it has to leave with 0."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=BUILT, env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    text = printed.decode(errors="replace")
    assert process.returncode == 0, f"{' '.join(words)} left with {process.returncode}:\n{text}"
    return text


async def _tests(file: str, **environment: str) -> int:
    """How many tests of the file passed: all."""
    printed = await _run("node", "--test", "--test-reporter=tap", file, **environment)
    counts = dict(re.findall(r"^# (\w+) (\d+)$", printed, re.MULTILINE))
    assert counts["pass"] == counts["tests"], printed
    return int(counts["pass"])


@pytest.fixture(scope="module")
def built() -> None:
    """The sample, and beside it the packages that the lock file names: installed when that has changed."""
    assert shutil.which("npm"), "the TypeScript SDK needs node and npm"
    BUILT.mkdir(parents=True, exist_ok=True)
    for source in [*HERE.glob("*.js"), *HERE.glob("*.ts"), *HERE.glob("*.json")]:
        shutil.copy(source, BUILT)
    version = asyncio.run(_run("node", "--version")).strip()
    assert int(version.removeprefix("v").split(".")[0]) >= OLDEST_NODE, f"node {version} is too old"
    stamp = BUILT / ".installed"
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text("ascii") != wanted:
        asyncio.run(_run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"))
        stamp.write_text(wanted, "ascii")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("server", SERVERS)
async def test_the_sample(server: str) -> None:
    """Activities, signals, queries, updates, children, timers, a schedule, Nexus: one test each, in Node."""
    starting = servers.real_server() if server == "real" else servers.our_server(server)
    async with starting as address:
        assert await _tests("sample.test.js", WHISTLESTOP_ADDRESS=address) >= 11


@pytest.mark.usefixtures("built")
async def test_the_sdks_test_environments_start_our_executables() -> None:
    """The development server, and the one whose time skips."""
    bin_ = Path(sys.executable).parent
    executables = {
        "WHISTLESTOP_EXECUTABLE": str(bin_ / "whistlestop"), "WHISTLESTOP_TEST_SERVER": str(bin_ / "whistlestop-test-server")
    }  # fmt: skip
    assert await _tests("local.test.js", **executables) == 2
