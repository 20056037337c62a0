"""How many workers are started, and when it is looked at again."""

from __future__ import annotations

import pytest

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import PushState
from whistlestop.matching.push.scaler import Decision, Scaler, decide, failed, parse, started, worker_polled

NOW = 1_000_000 * SECOND_NS
MS = 1_000_000


def ask(
    state: PushState, backlog: int, alive: int = 0, at: int = NOW, *, again: bool = False, **settings: int
) -> Decision:
    """Decide and, as the caller does, note what is started."""
    scaler = Scaler(**settings)
    decision = decide(scaler, state, backlog, alive, at, again=again)
    if decision.count:
        started(scaler, state, decision.count, alive, at)
    return decision


def test_without_a_backlog_no_worker_starts() -> None:
    assert ask(PushState(), 0) == Decision(0, 0)


def test_a_burst_starts_workers_in_proportion_to_the_backlog_up_to_the_cap() -> None:
    assert ask(PushState(), 1) == Decision(1, 0)
    assert ask(PushState(), 25) == Decision(3, 0)
    assert ask(PushState(), 1000) == Decision(10, 0)
    assert ask(PushState(), 1000, max_workers=4) == Decision(4, 0)
    assert ask(PushState(), 7, backlog_per_worker=1) == Decision(7, 0)


def test_workers_being_started_are_not_started_again() -> None:
    state = PushState()
    assert ask(state, 20).count == 2
    decision = ask(state, 20, at=NOW + SECOND_NS)
    assert decision == Decision(0, NOW + 30 * SECOND_NS), "looked at again when they should have come"
    assert ask(state, 50, at=NOW + SECOND_NS).count == 3, "a longer backlog asks for the difference"


def test_live_workers_count_and_starts_have_a_cool_off() -> None:
    assert ask(PushState(), 10, alive=1).count == 0
    state = PushState()
    ask(state, 1)
    assert ask(state, 100, at=NOW + 40 * MS) == Decision(0, NOW + 100 * MS)
    assert ask(state, 100, at=NOW + 100 * MS).count == 9


def test_a_worker_that_polls_no_longer_counts_as_starting() -> None:
    state = PushState()
    ask(state, 20)
    ask(state, 20, alive=2, at=NOW + SECOND_NS)
    assert state.starting == 0
    assert ask(state, 20, alive=0, at=NOW + 20 * SECOND_NS).count == 2, "they have gone since"


def test_workers_that_never_come_make_the_next_start_wait_twice_as_long_each_time() -> None:
    state, at = PushState(), NOW
    waits = []
    for _ in range(11):
        assert ask(state, 1, at=at).count == 1
        at += 30 * SECOND_NS
        decision = ask(state, 1, at=at, again=True)
        waits.append((decision.again_ns - at) // SECOND_NS)
        at = decision.again_ns
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert state.failures == 11
    assert state.error == "workers were started and did not poll in time: 1"


def test_a_failure_makes_the_next_start_wait_and_a_worker_that_comes_ends_that() -> None:
    state = PushState()
    failed(state, "denied", NOW)
    assert ask(state, 5) == Decision(0, NOW + SECOND_NS)
    worker_polled(state)
    assert state == PushState(checked_ns=NOW)
    assert ask(state, 5).count == 1


def test_an_empty_backlog_ends_the_wait_for_starting_workers() -> None:
    state = PushState()
    ask(state, 5)
    assert ask(state, 0, at=NOW + 40 * SECOND_NS, again=True) == Decision(0, 0)
    assert (state.starting, state.failures) == (0, 0)


def test_a_check_without_new_tasks_applies_the_threshold() -> None:
    assert ask(PushState(), 5, again=True, scale_up_backlog_threshold=5).count == 0
    assert ask(PushState(), 5, scale_up_backlog_threshold=5).count == 1
    assert ask(PushState(), 6, again=True, scale_up_backlog_threshold=5).count == 1


def test_tasks_that_wait_longer_than_a_worker_lives_get_another() -> None:
    state = PushState(started_ns=NOW)
    assert ask(state, 3, alive=1, at=NOW + 599 * SECOND_NS).count == 0
    assert ask(state, 3, alive=1, at=NOW + 600 * SECOND_NS).count == 1
    state = PushState(started_ns=NOW)
    assert ask(state, 3, alive=10, at=NOW + 600 * SECOND_NS).count == 0, "not beyond the cap"


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"x": 1}, 'unknown config key "x" for no-sync scaling algorithm'),
        ({"scale_up_cooloff_ms": -1}, "scale_up_cooloff_ms must be at least 0"),
        ({"scale_up_cooloff_ms": "a"}, "scale_up_cooloff_ms must be an integer and at least 0"),
        ({"scale_up_backlog_threshold": [1]}, "scale_up_backlog_threshold must be an integer and at least 0"),
        ({"scale_up_dispatch_rate_epsilon": "b"}, "scale_up_dispatch_rate_epsilon must be a number and at least 0"),
        ({"metrics_poll_interval_ms": 5}, "metrics_poll_interval_ms must be at least 10000"),
        ({"max_workers": 0}, "max_workers must be at least 1"),
        (
            {"scale_up_cooloff_ms": 70000},
            (
                "metrics_poll_interval_ms (60000) must be >= scale_up_cooloff_ms (70000), otherwise metric-driven "
                "scale-ups will never fire"
            ),
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_temporal_s_words(details: dict[str, object], said: str) -> None:
    with pytest.raises(ServiceError) as refused:
        parse(details)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, said)


def test_settings_are_read_also_from_text() -> None:
    assert parse({"scale_up_cooloff_ms": "5", "max_workers": 3.0}) == Scaler(scale_up_cooloff_ms=5, max_workers=3)
