"""Pauses double, from the first to the longest."""

from __future__ import annotations

from whistlestop.common.timing.backoff import backoff


def test_a_pause_doubles_with_each_failure_up_to_the_longest() -> None:
    assert [backoff(5, failures, 60) for failures in range(1, 7)] == [5, 10, 20, 40, 60, 60]


def test_without_a_failure_it_is_the_first_pause() -> None:
    assert backoff(0.2, 0, 30.0) == backoff(0.2, 1, 30.0) == 0.2


def test_the_longest_may_be_less_than_the_first() -> None:
    assert backoff(5, 1, 3) == 3


def test_any_number_of_failures_is_no_large_number() -> None:
    """A counter of failures may have no bound."""
    assert backoff(0.2, 10**9, 30.0) == 30.0
    assert backoff(1, 10**9, 10**9) == 10**9
