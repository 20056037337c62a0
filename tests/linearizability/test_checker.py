"""The checker finds orders where there are some, and tells where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.linearizability import checker, model
from tests.linearizability.checker import Call

if TYPE_CHECKING:
    from collections.abc import Iterator


def register(state: int, operation: tuple[str, int]) -> Iterator[int]:
    """A register that is written and read."""
    kind, value = operation
    if kind == "write":
        yield value
    elif state == value:
        yield state


def test_a_read_beside_a_write_may_see_either() -> None:
    for seen in (0, 1):
        assert checker.check([Call(("write", 1), 0, 10), Call(("read", seen), 5, 6)], 0, register).good


def test_a_read_after_a_write_sees_it() -> None:
    verdict = checker.check([Call(("write", 1), 0, 4), Call(("read", 0), 5, 6)], 0, register)
    assert not verdict.good
    assert verdict.stuck_at == (Call(("read", 0), 5, 6),)


def test_two_reads_do_not_go_back() -> None:
    calls = [Call(("write", 1), 0, 10), Call(("read", 1), 2, 3), Call(("read", 0), 4, 5)]
    assert not checker.check(calls, 0, register).good


def test_an_unknown_write_may_come_late_or_never() -> None:
    late = [Call(("write", 1), 0, None), Call(("read", 0), 2, 3), Call(("read", 1), 8, 9)]
    assert checker.check(late, 0, register).good
    assert checker.check(late[:2], 0, register).good
    assert not checker.check([*late, Call(("read", 0), 10, 11)], 0, register).good


def test_a_search_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "MOST_STATES", 100)
    calls = [Call(("write", number), 0, 100) for number in range(10)]
    with pytest.raises(checker.TooManyStates):
        checker.check([*calls, Call(("read", 77), 50, 60)], 0, register)


# ---- the model of a workflow id -------------------------------------------------------------------------------------


def is_good(*timed: tuple[Any, float, float | None]) -> bool:
    return checker.check([Call(*each) for each in timed], model.NOTHING, model.step, model.is_read).good


START = model.Start("r1", "a")
CLOSED = model.Inside("a", closes=model.COMPLETED)


@pytest.mark.parametrize(
    ("operation", "is_possible"),
    [
        (model.Signal("s", found=True), True),
        (model.Signal("s", found=False), False),
        (model.Terminate(found=False), False),
        (model.Current("a", model.RUNNING), True),
        (model.Current("a", model.COMPLETED), False),
        (model.Current("b", model.RUNNING), False),
        (model.Described(0), False),
        (model.Listed(frozenset({("a", model.RUNNING)})), True),
        (model.Listed(frozenset()), False),
        (model.Queried(0), True),
        (model.Queried(1), False),
        (model.Start("r1", "a"), True),
        (model.Start("r1", "b"), False),
        (model.Start("r2", "b"), False),
        (model.Start("r2", ""), True),
        (model.Start("r2", "b", terminates=True), True),
        (model.Start("r2", "a", uses_existing=True), True),
        (model.Updated("u", "a", None), False),
    ],
)
def test_answers_allowed_after_a_start(operation: Any, is_possible: bool) -> None:
    assert is_good((START, 0, 1), (operation, 2, 3)) is is_possible


@pytest.mark.parametrize(
    ("operation", "is_possible"),
    [
        (model.Signal("s", found=True), False),
        (model.Signal("s", found=False), True),
        (model.Current("a", model.COMPLETED), True),
        (model.Current("a", model.RUNNING), False),
        (model.Listed(frozenset({("a", model.RUNNING)})), False),
        (model.Start("r2", "b"), True),
        (model.Start("r2", "", rejects_closed=True), True),
        (model.Start("r2", "b", rejects_closed=True), False),
        (model.Cancel(found=True), True),
    ],
)
def test_answers_allowed_after_an_end(operation: Any, is_possible: bool) -> None:
    assert is_good((START, 0, 1), (CLOSED, 2, 2), (operation, 3, 4)) is is_possible


def test_an_answer_before_its_commit_is_found() -> None:
    accepted = model.Inside("a", accepted=("u",))
    assert is_good((START, 0, 1), (accepted, 3, 3), (model.Updated("u", "a", None), 2, 4))
    assert not is_good((START, 0, 1), (accepted, 5, 5), (model.Updated("u", "a", None), 2, 4))


def test_a_signal_that_is_acknowledged_is_counted_once() -> None:
    signals = (model.Signal("s", found=None), 2, None), (model.Signal("s", found=True), 4, 5)
    assert is_good((START, 0, 1), *signals, (model.Queried(1), 6, 7))
    assert not is_good((START, 0, 1), *signals, (model.Queried(2), 6, 7))
    assert not is_good((START, 0, 1), *signals, (model.Queried(0), 6, 7))


def test_a_start_with_a_lost_answer_happened_or_did_not() -> None:
    unknown = model.Start("r1", None, candidates=("a",))
    assert is_good((unknown, 0, None), (model.Described(0), 1, 2), (model.Current("a", 1), 3, 4))
    assert not is_good((unknown, 0, None), (model.Current("a", 1), 1, 2), (model.Described(0), 3, 4))


def test_a_call_of_unknown_outcome_may_take_effect_later() -> None:
    """A terminate of unknown outcome, while nothing runs, ends the run that is started next."""
    terminate = model.Terminate(found=None)
    assert is_good((terminate, 0, None), (START, 1, 2), (model.Signal("s", found=False), 3, 4))
    assert is_good((terminate, 0, None), (START, 1, 2), (model.Signal("s", found=True), 3, 4))


def test_a_reset_ends_the_current_run_and_carries_its_signals_over() -> None:
    reset = model.Reset("a", "r2", "b")
    good = (START, 0, 1), (model.Signal("s", found=True), 2, 3), (reset, 4, 5)
    assert is_good(*good, (model.Listed(frozenset({("a", 5), ("b", 1)})), 6, 7), (model.Queried(1), 6, 7))
    assert not is_good(*good, (model.Queried(0), 6, 7))


def test_a_repeated_reset_whose_run_was_replaced_makes_another() -> None:
    """Its first run is forgotten once a start has taken its place; what of its calls are unknown may have made either."""
    unknown = model.Reset("a", "r2", "", candidates=("b", "d"))
    start = model.Start("r3", "c", terminates=True)
    again = model.Reset("a", "r2", "d")
    later = model.Reset("c", "r4", "e")
    calls = (START, 0, 1), (unknown, 2, None), (start, 4, 5), (unknown, 6, None), (later, 8, 9), (again, 10, 11)
    assert is_good(*calls, (model.Current("e", 1), 12, 13))
    assert not is_good(*calls, (model.Current("d", 1), 12, 13), (model.Current("e", 1), 14, 15))
