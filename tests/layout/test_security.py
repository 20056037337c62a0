"""docs/security.md says what the code and the tests say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_the_table_of_roles_is_what_access_control_answers() -> None:
    """`python infra/tools/access.py` would change nothing."""
    tool = ROOT / "infra" / "tools" / "access.py"
    assert subprocess.run([sys.executable, str(tool), "--check"], check=False).returncode == 0, (
        "the table is outdated: run `python infra/tools/access.py`"
    )


def _attacks() -> list[str]:
    lines = PAGE.read_text("utf-8").partition("\n## Attacks tried")[2].splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| attack ")]


def test_each_attack_names_a_test() -> None:
    """A row without one is a claim that nothing checks."""
    rows = _attacks()
    assert rows
    assert [row for row in rows if not _TEST.search(row.split(" | ")[-1])] == []


def test_each_test_that_is_named_exists() -> None:
    """A renamed test takes its row along."""
    functions: dict[str, set[str]] = {}
    missing = []
    for path, name in (found for row in _attacks() for found in _TEST.findall(row)):
        if path not in functions:
            tree = ast.parse((ROOT / path).read_text("utf-8")) if (ROOT / path).exists() else ast.Module([], [])
            functions[path] = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if name not in functions[path]:
            missing.append(f"{path}::{name}")
    assert missing == []
