"""The papers of the project hold together: decision records have one form, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = RECORDS
PACKAGES = ("bridge", "common", "frontend", "history", "matching", "server")
FOLDERS = (*PACKAGES, "services", "storage", "tests", "infra", "docs", "benchmarks", "examples")
BESIDE = [ROOT, ROOT / "storage/whistlestop", *(ROOT / "services" / name / "whistlestop" for name in PACKAGES)]
"""Where a path in a page may begin."""


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_and_when_to_look_again(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Context", "Options", "Decision"} <= set(headings)
    assert {"What would change it", "When to look again", "Consequences"} & set(headings)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    """Links are relative to their page; paths in backquotes are the repository's, or a package's without its root."""
    text = path.read_text("utf-8")
    links = re.findall(r"\]\(((?!http|#)[^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*\w)(?:::\w+)?`", text)
    assert [name for name in named if not any((folder / name).exists() for folder in BESIDE)] == []
