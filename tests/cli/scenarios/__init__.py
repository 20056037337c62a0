"""Scenarios by command group; importing this package registers all of them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cli.terminal import Terminal

    Play = Callable[[Terminal], Awaitable[None]]

SCENARIOS: dict[str, Play] = {}
# Method of the terminal -> which of its arguments is the command.
_PLACE = {"run": 0, "until": 1}


def scenario(play: Play) -> Play:
    """Register a scenario under its module's and its own name."""
    name = f"{play.__module__.rsplit('.', 1)[1]}/{play.__name__}"
    assert name not in SCENARIOS, name
    SCENARIOS[name] = play
    return play


def load() -> dict[str, Play]:
    """All scenarios, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return SCENARIOS


def commands() -> set[str]:
    """The leaves that scenarios call, as far as they are written out."""
    found: set[str] = set()
    for file in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PLACE:
                words = node.args[_PLACE[node.func.attr] :]
                if words and isinstance(words[0], ast.Constant):
                    found.add(str(words[0].value))
    return found
