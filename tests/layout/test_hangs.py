"""A test that hangs ends, is named, and leaves the others alone (`tests/support/hangs.py`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]

HOOKS = """
from tests.support import hangs

hangs.GRACE_S = 0.5

from tests.conftest import *
from tests.conftest import _watchdog
"""

TESTS = """
import asyncio
import time

import pytest
import uvloop


async def wait_for_ever():
    await asyncio.get_running_loop().create_future()


async def keep_busy():
    while True:
        time.sleep(0.02)
        await asyncio.sleep(0)


async def busy():
    task = asyncio.create_task(keep_busy())
    await wait_for_ever()


@pytest.mark.timeout(0.5)
def test_with_a_busy_task():
    asyncio.run(busy())


@pytest.mark.timeout(0.5)
def test_in_uvloop():
    uvloop.run(wait_for_ever())


@pytest.fixture
def stuck():
    yield
    asyncio.run(busy())


@pytest.mark.timeout(0.5)
def test_that_passes_with_a_fixture_that_hangs(stuck):
    pass


@pytest.mark.parametrize("number", range(5))
def test_that_passes(number):
    pass
"""


def test_a_hanging_test_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(HOOKS)
    (tmp_path / "test_inner.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "-v"]
    done = subprocess.run(
        [*command, f"--timeout={PATIENCE_S}", "--rootdir", str(tmp_path), str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    for hanging in ("test_with_a_busy_task", "test_in_uvloop", "test_that_passes_with_a_fixture_that_hangs"):
        assert f"crashed while running 'test_inner.py::{hanging}'" in told, told
    assert "in wait_for_ever" in told, told
    assert "3 failed, 6 passed" in told, told
