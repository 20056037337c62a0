"""The table of a Nexus operation's states. `harness.check_operations` compares each commit with it."""

from __future__ import annotations

import pytest

from tests.core.harness import check_operations, reachable
from whistlestop.history.core.nexus.machine import TRANSITIONS, Event, State
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.storage.records import ExecutionKey, ExecutionWrite

ENDS = {State.COMPLETED, State.FAILED, State.CANCELED, State.TIMED_OUT}


def test_every_state_is_reached_and_every_event_happens() -> None:
    assert reachable(State.SCHEDULED) == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_nothing_happens_after_the_end() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - ENDS


def test_a_started_operation_is_never_requested_again() -> None:
    assert reachable(State.STARTED) == {State.STARTED, *ENDS}


def test_the_harness_sees_a_change_that_the_table_does_not_allow() -> None:
    started, backing_off = MutableState(), MutableState()
    started.nexus_operations[5].started_ns = 1
    backing_off.nexus_operations[5].start.next_attempt_ns = 1

    def written(state: MutableState) -> ExecutionWrite:
        key = ExecutionKey("n", "w", "r")
        return ExecutionWrite(key, 0, 1, state.SerializeToString(), 2, 1)

    check_operations(backing_off.SerializeToString(), written(started))
    with pytest.raises(AssertionError, match="Started became BackingOff"):
        check_operations(started.SerializeToString(), written(backing_off))
