"""Imports go one way, those for type checkers alone included, which import-linter leaves out."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (
    {"common"}, {"net"}, {"storage"}, {"functions"}, {"frontend", "history", "matching"}, {"bridge", "deploy"}, {"server"},
)  # fmt: skip
"""From the lowest; packages of one layer do not know each other."""


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports, wherever it does so."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for root in (*ROOT.glob("services/*"), ROOT / "storage")
        for path in root.glob("whistlestop/**/*.py")
    }
    return {module: _imported(path, paths.keys()) - {module} for module, path in paths.items()}


def _imported(path: Path, known: Collection[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                name = f"{node.module}.{each.name}"
                found.add(name if name in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found & set(known)


def package_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", sorted(package for layer in LAYERS for package in layer))
def test_a_package_has_no_cycle(package: str) -> None:
    within = {
        module: {each for each in imported if package_of(each) == package}
        for module, imported in imports().items()
        if package_of(module) == package
    }
    try:
        TopologicalSorter(within).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_imports_lead_to_lower_layers() -> None:
    height = {package: number for number, layer in enumerate(LAYERS) for package in layer}
    upwards = [
        f"{module} -> {each}"
        for module, imported in imports().items()
        for each in imported
        if package_of(each) != package_of(module) and height[package_of(each)] >= height[package_of(module)]
    ]
    assert upwards == []
