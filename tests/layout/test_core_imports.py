"""Who imports whom within the core of history."""

from __future__ import annotations

import ast
from pathlib import Path

from whistlestop.history.core import appliers

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


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = imports()
    assert len(graph) > 60
    assert [name for name in graph if name in reached(graph, name)] == []


def test_no_package_imports_itself_by_way_of_others() -> None:
    """Modules that stand in the core itself, in no package, count for themselves."""
    packages: dict[str, set[str]] = {}
    for name, imported in imports().items():
        package = name.partition(".")[0]
        packages.setdefault(package, set()).update(each.partition(".")[0] for each in imported)
    for package, imported in packages.items():
        imported.discard(package)
    assert len(packages) > 20
    assert [package for package in packages if package in reached(packages, package)] == []


def test_every_event_has_one_applier() -> None:
    """The tables of the concepts do not overlap: `appliers.APPLIERS` would keep the last one without a word."""
    tables = [module.APPLIERS for module in vars(appliers).values() if hasattr(module, "APPLIERS")]
    assert sum(len(table) for table in tables) == len(appliers.APPLIERS) == 54


def test_what_applies_events_imports_no_decision() -> None:
    graph = imports()
    states = [name for name in graph if name.endswith(".state")]
    assert len(states) == 12
    assert {name for name in states if any(each.endswith(".decide") for each in reached(graph, name))} == set()
