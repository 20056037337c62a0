"""docs/testing.md as somebody uses it: its blocks copied into a test file of their own, without an activated environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
THEIR_CODE = """
import asyncio
from datetime import timedelta
import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, UnsandboxedWorkflowRunner

@activity.defn
async def send() -> str:
    return "sent"

@workflow.defn
class Reminder:
    @workflow.run
    async def run(self, days: int) -> str:
        await workflow.sleep(timedelta(days=days))
        return await workflow.execute_activity(send, start_to_close_timeout=timedelta(minutes=1))
"""


PATIENT = f"timedelta(seconds={PATIENCE_S})"
"""The SDK gives a server 5 s to come up, which a busy machine may not."""


def imports_of(block: str) -> str:
    return "\n".join(line for line in block.splitlines() if line.startswith(("import ", "from ", "WHISTLESTOP")))


def run(folder: Path, program: str) -> None:
    """Run a test file by an interpreter whose folder is not on the path, where no download could succeed."""
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = strict\n")
    program = re.sub(r"\b(dev|test)_server_existing_path=", rf"\1_server_startup_timeout={PATIENT}, \g<0>", program)
    (folder / "test_theirs.py").write_text(program)
    environment = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    environment |= {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)], env=environment,
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def in_a_test(block: str) -> str:
    body = "\n".join(line for line in block.splitlines() if not line.startswith(("import ", "from ")))
    return f"@pytest.mark.asyncio\nasync def test_it():\n{textwrap.indent(body, '    ')}\n"


def block_with(text: str) -> str:
    (found,) = [str(block) for block in BLOCKS if text in block]
    return found


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 6


def test_a_server_for_a_session(tmp_path: Path) -> None:
    run(tmp_path, "\n".join((THEIR_CODE, block_with("start_local"), block_with("async def test_reminder"))))


@pytest.mark.parametrize("text", ["start_time_skipping(", "start_time_skipping_v2", "locked=False"])
def test_time_that_skips(tmp_path: Path, text: str) -> None:
    imports = imports_of(block_with("start_local")) + "\n" + imports_of(block_with("async def client"))
    run(tmp_path, "\n".join((THEIR_CODE, imports, imports_of(block_with(text)), in_a_test(block_with(text)))))


def test_a_server_inside_the_test(tmp_path: Path) -> None:
    use = "@pytest.mark.asyncio\nasync def test_it(client):\n    assert await client.count_workflows('') is not None\n"
    run(tmp_path, "\n".join((THEIR_CODE, block_with("async def client"), use)))
