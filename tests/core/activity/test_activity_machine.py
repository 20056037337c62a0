"""The table of a standalone activity's states, by itself; what requests and workers do is in tests/history."""

from __future__ import annotations

import pytest

from whistlestop.history.core.activity.machine import IN_PROGRESS, INITIAL, TERMINAL, TRANSITIONS, A, Event, after


def test_every_state_is_reached_and_every_event_happens() -> None:
    assert set(TRANSITIONS.values()) | {INITIAL} == set(A.Status.values())
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_nothing_happens_after_the_end() -> None:
    assert TERMINAL.isdisjoint(status for status, _ in TRANSITIONS)
    for status in TERMINAL:
        with pytest.raises(ValueError, match="can't complete"):
            after(status, Event.COMPLETE)


def test_every_open_state_can_be_ended_by_an_operator_and_by_time() -> None:
    for status in set(A.Status.values()) - TERMINAL - {INITIAL}:
        assert after(status, Event.TERMINATE) == A.TERMINATED
        assert after(status, Event.TIME_OUT) == A.TIMED_OUT


def test_only_an_attempt_that_a_worker_has_fails_or_is_cancelled_by_it() -> None:
    ends = {status for status, event in TRANSITIONS if event in (Event.FAIL, Event.CANCEL)}
    assert ends <= IN_PROGRESS
    assert [status for status, event in TRANSITIONS if event is Event.CANCEL] == [A.CANCEL_REQUESTED]
