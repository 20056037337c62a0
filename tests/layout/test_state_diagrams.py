"""docs/architecture.md draws the state machines as their tables have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_diagrams_are_those_of_the_tables() -> None:
    """`python infra/tools/state_diagrams.py` would change nothing."""
    tool = ROOT / "infra" / "tools" / "state_diagrams.py"
    assert subprocess.run([sys.executable, str(tool), "--check"], check=False).returncode == 0
