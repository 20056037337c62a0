"""What fuzzing starts from, and what it once found, runs with every other test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_input_of_the_corpus_finds_a_fault(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_something_to_start_from() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
