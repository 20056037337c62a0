"""The engine owns locks, freshness, conflicts and their retries: callers say what to read or to change, and no more."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HISTORY = Path(__file__).resolve().parents[2] / "services" / "history" / "whistlestop" / "history"
CALLERS = sorted(path for path in HISTORY.rglob("*.py") if path.parent != HISTORY / "engine")
CONFLICTS = {"VersionConflict", "CurrentConflict", "MAX_CONFLICTS", "too_busy"}
LOCKS = {"lock", "locked", "forget"}


def broken_rules(source: str) -> list[str]:
    """Return what the source does that is the engine's to do, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found += [f"{node.lineno}: imports {each.name}" for each in node.names if each.name in CONFLICTS]
        elif isinstance(node, ast.Attribute) and node.attr in CONFLICTS:
            found.append(f"{node.lineno}: handles {node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr in LOCKS and "engine" in ast.unparse(node.value):
            found.append(f"{node.lineno}: calls {ast.unparse(node)}")
        elif isinstance(node, ast.Call):
            found += [
                f"{node.lineno}: passes {each.arg}=" for each in node.keywords if each.arg in ("fresh", "guarded")
            ]
    return found


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("key = await engine.resolve(namespace_id, workflow_id, fresh=True)", "passes fresh="),
        ("async with service.engine.lock(key):\n    pass", "calls service.engine.lock"),
        ("from whistlestop.storage.errors import VersionConflict", "imports VersionConflict"),
        ("self._engine.forget(key)", "calls self._engine.forget"),
        ("try:\n    pass\nexcept errors.CurrentConflict:\n    pass", "handles CurrentConflict"),
    ],
)
def test_what_callers_must_not_do_is_found(source: str, rule: str) -> None:
    assert [each.split(": ")[1] for each in broken_rules(source)] == [rule]


def test_callers_of_the_engine_take_no_lock_and_handle_no_conflict() -> None:
    assert len(CALLERS) > 100
    broken = {str(path.relative_to(HISTORY)): broken_rules(path.read_text("utf-8")) for path in CALLERS}
    assert {name: rules for name, rules in broken.items() if rules} == {}


def test_nothing_of_history_sees_the_service_but_what_builds_it() -> None:
    """Handlers, deliveries and processors get ports, or what they use by their constructors."""
    users = {
        str(path.relative_to(HISTORY))
        for path in HISTORY.rglob("*.py")
        if "whistlestop.history.service" in path.read_text("utf-8")
    }
    assert users == {"function_instance.py"}
