"""Mutants are what they say, the same for the same seed, and found by the tests that run them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutation.__main__ import Options, Target, run
from tests.mutation.choose import Choice
from tests.mutation.forks import Measured
from tests.mutation.mutants import Mutant, draw, mutants_of
from tests.patience import PATIENCE_S
from tests.planted.plant import HOME

SOURCE = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import a
Number: TypeAlias = int | str
@cache(maxsize=5)
def f(x: int = 1) -> int:
    if x < 2 and ready(x):
        log.info("no")
        call(x)
    else:
        raise Error(f"{x + 1} is too much")
    return x + 1
"""


def test_each_change_is_one_and_can_be_run() -> None:
    found = mutants_of("f.py", SOURCE)
    assert {
        "Lt to LtE", "And to Or", "condition negated", "without `call(x)`", "Add to Sub", "returns None", "2 to 3",
        "1 to 2", "without `raise Error(f'{x + 1} is too much')`",
    } == {each.what for each in found}  # fmt: skip
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


def test_a_place_names_the_lines_that_have_to_run() -> None:
    text = SOURCE.replace("x < 2 and ready(x)", "(\n        x < 2\n        and ready(x)\n    )")
    places = {each.what: each.place for each in mutants_of("f.py", text)}
    lines = text.splitlines()
    assert (places["Lt to LtE"].first, places["Lt to LtE"].last) == (lines.index("        x < 2") + 1,) * 2
    assert (places["And to Or"].first, places["And to Or"].last) == (
        places["Lt to LtE"].first,
        places["Lt to LtE"].first + 1,
    )
    assert places["without `call(x)`"].first == lines.index("        call(x)") + 1
    function = places["Add to Sub"].function
    assert function is not None
    assert (function.name, function.first, function.body) == (
        "f",
        lines.index("@cache(maxsize=5)") + 1,
        function.first + 2,
    )
    default = next(each.place for each in mutants_of("f.py", text) if each.line == function.first + 1)
    assert default.function is None
    assert default.names == {"f"}


def test_what_was_measured_is_kept_for_tests_that_have_not_changed(tmp_path: Path) -> None:
    for file in ("a.py", "test_a.py", "test_b.py"):
        (tmp_path / file).write_text(file)
    choice = Choice({})
    lines = {"a.py": {1: ["test_a.py::one", "test_b.py::two"], 2: ["test_b.py::two"]}}
    choice.add(Measured({"test_a.py::one": 1.0, "test_b.py::two": 2.0}, ["test_a.py::broken"], lines))
    kept = tmp_path / "map"
    choice.save(kept, tmp_path)

    def loaded() -> Measured:
        again = Choice({})
        again.load(kept, tmp_path)
        return again.measured

    assert loaded() == Measured(choice.measured.seconds, [], lines)
    (tmp_path / "test_b.py").write_text("other")
    assert loaded() == Measured({"test_a.py::one": 1.0}, [], {"a.py": {1: ["test_a.py::one"], 2: []}})
    (tmp_path / "a.py").write_text("other")
    assert loaded() == Measured()


def _sample() -> list[Mutant]:
    file = "tests/mutation/sample/subject.py"
    return mutants_of(file, (HOME / file).read_text())


def test_the_tests_that_run_the_line_are_chosen_and_quick_ones_come_first() -> None:
    loop, table = (next(each for each in _sample() if each.what == what) for what in ("Lt to LtE", "1 to 2"))
    choice = Choice({loop.file: {1, 3, 6, 13, 17}})
    lines = {loop.line: ["slow", "quick"], loop.line + 1: ["slow"], loop.line + 11: ["other"]}
    choice.add(Measured({"slow": 3.0, "quick": 1.0, "other": 0.1}, [], {loop.file: lines}))
    folder = "tests/mutation/sample"
    assert choice.tests(loop, HOME, folder, 100.0) == ["quick", "slow"]
    assert choice.tests(loop, HOME, folder, 2.0) == ["quick"]
    assert not choice.is_imported(loop)
    # What an import runs is for all that run the file, those first that run a line with its name.
    assert choice.is_imported(table)
    assert choice.tests(table, HOME, folder, 100.0) == ["slow", "other", "quick"]
    choice.imported[loop.file].add(loop.line)
    assert choice.is_imported(loop)
    choice.learn(loop, "slow")
    assert choice.tests(loop, HOME, folder, 100.0) == ["slow", "quick"]


@pytest.mark.slow
def test_mutants_are_found_in_forks(capsys: pytest.CaptureFixture[str]) -> None:
    """By an assertion, by not ending, and in a new process; those survive that no test runs to where they differ."""
    folder = "tests/mutation/sample"
    target = Target(folder, (f"{folder}/suite.py",), seeds=0, measured=(folder,))
    survivors = run(_sample(), target, Options(jobs=1, patience_s=PATIENCE_S, cpu_s=1.0))
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("killed by")]
    assert {(each.place.function.name if each.place.function else "", each.what) for each in survivors} == {
        ("count", "0 to 1"), ("unused", "Add to Sub"), ("unused", "1 to 2"), ("unused", "returns None"),
        ("is_many", "Gt to GtE"), ("is_many", "10 to 11"),
    }  # fmt: skip
    assert any("test_it_counts in" in line and "Lt to LtE" in line for line in found)
    # By its processor time or, on a busy machine, by the time limit of a test.
    assert any("test_it_counts" in line and "Add to Sub" in line for line in found)
    assert any("test_it_counts in" in line and "1 to 2" in line for line in found)
    # Without `super()` the function has other free variables, so that it is tried in a new process.
    assert any("test_a_problem_says_what_is_wrong" in line and "without" in line for line in found)
    assert len(found) == len(_sample()) - len(survivors)
