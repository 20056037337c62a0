"""`make demo` in the test run: the program itself asserts on histories and results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.sdk
def test_the_demo_ends_well() -> None:
    """The server is killed on the way, and both orders finish."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed the server with SIGKILL" in done.stdout
    assert "order 1002 was undone" in done.stdout
    assert "no findings" in done.stdout
    assert done.stdout.rstrip().endswith("Both orders finished although the server was killed on the way.")
