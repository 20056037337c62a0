"""Files and functions stay small enough to be read at one go."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
MOST_FILE_LINES = 600
MOST_FUNCTION_LINES = 75
SOURCES = sorted(
    path
    for pattern in ("services/**/*.py", "storage/**/*.py", "infra/**/*.py", "examples/**/*.py")
    for path in ROOT.glob(pattern)
    if not path.name.endswith("_pb2.py")
)


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text("utf-8"))
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_files_stay_small(record_property: Callable[[str, object], None]) -> None:
    """No source file is longer than the ceiling; the longest are in the test's report."""
    sizes = sorted(
        ((len(path.read_text("utf-8").splitlines()), str(path.relative_to(ROOT))) for path in SOURCES), reverse=True
    )
    record_property("longest files", sizes[:10])
    assert [entry for entry in sizes if entry[0] > MOST_FILE_LINES] == []


def test_functions_fit_a_screen(record_property: Callable[[str, object], None]) -> None:
    """No function is longer than a (tall) screen."""
    sizes = sorted(
        ((lines, f"{path.relative_to(ROOT)}:{name}") for path in SOURCES for name, lines in functions(path)),
        reverse=True,
    )
    record_property("longest functions", sizes[:10])
    assert [entry for entry in sizes if entry[0] > MOST_FUNCTION_LINES] == []


MOST_MODULES = 20


def test_packages_stay_small(record_property: Callable[[str, object], None]) -> None:
    """A package has so few modules that their names are read at one glance; `__init__.py` does not count."""
    modules = Counter(str(path.parent.relative_to(ROOT)) for path in SOURCES if path.name != "__init__.py")
    record_property("largest packages", modules.most_common(10))
    assert [entry for entry in modules.most_common() if entry[1] > MOST_MODULES] == []
