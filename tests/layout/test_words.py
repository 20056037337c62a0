"""House words stay out of identifiers: the glossary lists them, and where one still stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
HEADING = "## House words that are banned"
SOURCES = sorted(
    path for folder in ("services", "storage") for path in ROOT.glob(f"{folder}/**/*.py") if "_pb2" not in path.name
)


def banned() -> dict[str, list[str]]:
    """Return the banned words, each with the paths and names where it still stands."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition(HEADING)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z, ]+) \| [^|]+ \|([^|]*)\|$", text, re.MULTILINE)
    return {word: re.findall(r"`([^`]+)`", places) for words, _, places in _split(rows) for word in words}


def _split(rows: list[tuple[str, str]]) -> Iterator[tuple[list[str], str, str]]:
    for words, places in rows:
        if words != "house word":
            yield words.split(", "), "", places


def words_of(name: str) -> set[str]:
    """Return the words that an identifier is made of: `LookForTasks` and `look_for_tasks` alike. A wake-up is one."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    return {word for word in re.sub(r"wake_up(?=_|s|$)", "wakeup", apart).split("_") if word}


def defined_in(tree: ast.Module) -> set[str]:
    """Return the names of functions, classes, parameters, attributes and variables that a module defines."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def findings(path: str, source: str, words: dict[str, list[str]]) -> list[str]:
    """Return the identifiers of a file that are made of a banned word, where it does not still stand."""
    names = {*defined_in(ast.parse(source)), *Path(path).with_suffix("").parts}
    bad = []
    for name in sorted(names):
        for word in words_of(name) & words.keys():
            places = words[word]
            if name not in places and not any(place in path for place in places if "/" in place or "." in place):
                bad.append(f"{path}: {name} ({word})")
    return bad


def test_no_identifier_is_made_of_a_house_word() -> None:
    words = banned()
    assert len(words) > 40
    bad = [each for path in SOURCES for each in findings(str(path.relative_to(ROOT)), path.read_text("utf-8"), words)]
    assert bad == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class HttpDoor: ...", ["HttpDoor (door)"]),
        ("async def f(look_now): ...", ["look_now (look)"]),
        ("self.due_ns = 1", ["due_ns (due)"]),
        ("for hint in x: ...", ["hint (hint)"]),
        ("LOOK_PATH: str = ''", ["LOOK_PATH (look)"]),
        ("x = service.due_ns; y = f(hint=1)", []),
        ("class WakeUps: wake_up = wake_ups_at = 1", []),
        ("outlook = lookup = indoors = residue = 1", []),
        ("def f(wake_queue): ...", []),
    ],
)
def test_what_counts_as_an_identifier(source: str, expected: list[str]) -> None:
    """Uses of others' names do not count, nor do words that only contain one."""
    path = "services/x/y.py"
    words = {"door": [], "look": ["services/z"], "due": [], "hint": ["services/history"], "wake": ["wake_queue"]}
    assert findings(path, source, words) == [f"{path}: {each}" for each in expected]


def test_a_module_name_counts() -> None:
    assert findings("services/x/http_door.py", "", {"door": []}) == ["services/x/http_door.py: http_door (door)"]
    assert findings("services/x/http_door.py", "", {"door": ["services/x"]}) == []


def test_a_word_still_stands_where_the_table_says() -> None:
    """Each place has an identifier made of a word of its row; otherwise the row is to be shortened."""
    words = banned()
    unused = {(tuple(places), place) for places in words.values() for place in places}
    for path in SOURCES:
        relative = str(path.relative_to(ROOT))
        names = {*defined_in(ast.parse(path.read_text("utf-8"))), *Path(relative).with_suffix("").parts}
        for name in names:
            for places in [words[word] for word in words_of(name) & words.keys()]:
                unused -= {(tuple(places), place) for place in places if place == name or place in relative}
    assert unused == set()
