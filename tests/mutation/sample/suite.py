"""Not collected by itself."""

from __future__ import annotations

from tests.mutation.sample import subject


def test_it_counts() -> None:
    assert subject.count(7) == 7


def test_few() -> None:
    assert not subject.is_many(3)


def test_many() -> None:
    assert subject.is_many(20)


def test_a_problem_says_what_is_wrong() -> None:
    assert str(subject.Problem(3)) == "3 is wrong"
