"""Who imports whom within the core of history."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "services" / "history" / "whistlestop" / "history" / "core"
PREFIX = "whistlestop.history.core."


def imports() -> dict[str, set[str]]:
    """Return what each module of the core imports of it: at its top, within functions, and for type checking."""
    files = {
        ".".join(path.relative_to(CORE).with_suffix("").parts): path
        for path in CORE.rglob("*.py")
        if path.name != "__init__.py"
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        imported = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            imported.update(each.removeprefix(PREFIX) for each in names if each.removeprefix(PREFIX) in files)
    return found


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return what `start` imports, directly or not."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_what_carries_out_commands_does_not_import_the_dispatcher() -> None:
    """The dispatcher knows its handlers by a table alone, and no handler reaches the dispatcher or that table."""
    graph = imports()
    handlers = graph["command_handlers"] - {"commands.context"}
    assert {"activity.decide", "child.decide", "nexus.commands", "update.decide", "workflow.close"} <= handlers
    assert {name for name in handlers if {"commands.dispatch", "command_handlers"} & reached(graph, name)} == set()
    assert reached(graph, "commands.dispatch") & handlers == set()
