"""docs/compatibility.md tells what the registry says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_are_those_of_the_registry() -> None:
    """`python infra/tools/compatibility.py` would change nothing."""
    tool = ROOT / "infra" / "tools" / "compatibility.py"
    assert subprocess.run([sys.executable, str(tool), "--check"], check=False).returncode == 0, (
        "the table is outdated: run `python infra/tools/compatibility.py`"
    )
