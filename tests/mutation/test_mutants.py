"""Mutants are what they say, and the same for the same seed."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutation.mutants import draw, mutants_of
from tests.planted.plant import HOME

SOURCE = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import a
def f(x: int = 1) -> int:
    if x < 2 and ready(x):
        log.info("no")
        call(x)
    return x + 1
"""


def test_each_change_is_one_and_can_be_run() -> None:
    found = mutants_of("f.py", SOURCE)
    assert {
        "Lt to LtE", "And to Or", "condition negated", "without `call(x)`", "Add to Sub", "returns None", "2 to 3",
    } <= {each.what for each in found}  # fmt: skip
    plain = ast.unparse(ast.parse(SOURCE))
    for each in found:
        assert each.source() != plain
        compile(each.source(), "f.py", "exec")
        assert "if TYPE_CHECKING:" in each.source()
        assert "log.info('no')" in each.source()


def test_the_seed_draws_the_same_again() -> None:
    folder = "services/history/whistlestop/history/core"
    names = [[str(each) for each in draw(HOME, folder, 5, seed)] for seed in ("one", "one", "two")]
    assert names[0] == names[1] != names[2]
    assert all(Path(HOME / each.split(":", 1)[0]).exists() for each in names[0])
