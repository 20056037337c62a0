"""What a schedule decides, on its data alone."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.schedule import policy, spec
from whistlestop.history.schedule.schedule_pb2 import BufferedStart, ScheduleData

HOUR_NS = 3600 * SECOND_NS
START_NS = 1_700_000_000 * SECOND_NS // HOUR_NS * HOUR_NS
HOURLY = {"interval": [{"interval": {"seconds": 3600}}]}


def schedule(now_ns: int = START_NS, **fields: Any) -> ScheduleData:
    wanted: dict[str, Any] = {"spec": HOURLY, "action": {"start_workflow": {"workflow_id": "w"}}}
    return policy.create("s", schedule_pb.Schedule(**(wanted | fields)), None, now_ns)


def compiled(data: ScheduleData) -> spec.CompiledSpec | None:
    return policy.compiled(data, "ns")


def advance(data: ScheduleData, now_ns: int) -> list[int]:
    """Hours after the start of what is buffered then."""
    policy.advance(data, compiled(data), now_ns)
    return [(start.nominal_ns - START_NS) // HOUR_NS for start in data.buffered]


def buffered(data: ScheduleData, *policies: int) -> None:
    for n, each in enumerate(policies):
        data.buffered.add(nominal_ns=n, actual_ns=n, overlap_policy=each)


def taken(data: ScheduleData, most: int = 10) -> tuple[list[int], list[int], bool, bool]:
    """Numbers of the starts, numbers of what stays buffered, cancel, terminate."""
    result = policy.take(data, most)
    return (
        [start.nominal_ns for start, _ in result.starts],
        [start.nominal_ns for start in data.buffered],
        result.cancel,
        result.terminate,
    )


def test_actions_are_buffered_once() -> None:
    data = schedule()
    assert advance(data, START_NS + 2 * HOUR_NS) == [1, 2]
    assert advance(data, START_NS + 2 * HOUR_NS) == [1, 2]
    assert advance(data, START_NS + 3 * HOUR_NS) == [1, 2, 3]


def test_actions_beyond_the_catch_up_window_are_counted_once() -> None:
    data = schedule(policies={"catchup_window": {"seconds": 3700}})
    assert advance(data, START_NS + 5 * HOUR_NS) == [4, 5]
    assert advance(data, START_NS + 5 * HOUR_NS) == [4, 5]
    assert data.info.missed_catchup_window == 3


def test_the_catch_up_window_has_a_least_and_a_default() -> None:
    assert schedule(policies={"catchup_window": {"seconds": 1}}).schedule.policies.catchup_window.seconds == 10
    unset: tuple[dict[str, Any], ...] = ({}, {"catchup_window": {}}, {"catchup_window": {"seconds": -5}})
    for policies in unset:
        assert schedule(policies=policies).schedule.policies.catchup_window.seconds == 365 * 24 * 3600


def test_times_that_pass_during_a_pause_are_not_caught_up() -> None:
    data = schedule(state={"paused": True})
    assert advance(data, START_NS + 2 * HOUR_NS) == []
    policy.patch(data, schedule_pb.SchedulePatch(unpause="go"), START_NS + 2 * HOUR_NS)
    assert advance(data, START_NS + 3 * HOUR_NS) == [3]
    assert (data.schedule.state.notes, data.conflict_token) == ("go", 2)


def test_an_update_does_not_bring_back_times_before_it() -> None:
    data = schedule()
    fresh = schedule(spec={"interval": [{"interval": {"seconds": 60}}]}).schedule
    policy.update(data, fresh, START_NS + HOUR_NS // 2)
    policy.advance(data, compiled(data), START_NS + HOUR_NS // 2 + 61 * SECOND_NS)
    assert [(each.nominal_ns - START_NS) // SECOND_NS for each in data.buffered] == [1800, 1860]


def test_limited_actions_run_out() -> None:
    data = schedule(state={"limited_actions": True, "remaining_actions": 1})
    start = BufferedStart()
    assert policy.spend(data, start) is True
    assert policy.spend(data, start) is False
    assert policy.spend(data, BufferedStart(manual=True)) is True
    assert (data.schedule.state.remaining_actions, data.conflict_token) == (0, 2)
    assert policy.future_times(data, compiled(data), 5) == []


@pytest.mark.parametrize(
    ("each", "running", "expected", "skipped"),
    [
        (policy.SKIP, False, ([0], [], False, False), 2),
        (policy.SKIP, True, ([], [], False, False), 3),
        (policy.BUFFER_ONE, False, ([0], [1], False, False), 1),
        (policy.BUFFER_ONE, True, ([], [0], False, False), 2),
        (policy.BUFFER_ALL, False, ([0], [1, 2], False, False), 0),
        (policy.BUFFER_ALL, True, ([], [0, 1, 2], False, False), 0),
        (policy.CANCEL_OTHER, False, ([2], [], False, False), 0),
        (policy.CANCEL_OTHER, True, ([], [0, 1, 2], True, False), 0),
        (policy.TERMINATE_OTHER, False, ([2], [], False, False), 0),
        (policy.TERMINATE_OTHER, True, ([], [0, 1, 2], False, True), 0),
        (policy.ALLOW_ALL, False, ([0, 1, 2], [], False, False), 0),
        (policy.ALLOW_ALL, True, ([0, 1, 2], [], False, False), 0),
    ],
)
def test_overlaps(each: int, running: bool, expected: tuple[list[int], list[int], bool, bool], skipped: int) -> None:
    data = schedule()
    if running:
        data.info.running_workflows.add(workflow_id="w", run_id="r")
    buffered(data, each, each, each)
    assert (taken(data), data.info.overlap_skipped) == (expected, skipped)


def test_a_start_without_a_policy_has_that_of_the_schedule_as_it_is_now() -> None:
    data = schedule(policies={"overlap_policy": policy.BUFFER_ALL})
    data.info.running_workflows.add(workflow_id="w", run_id="r")
    buffered(data, 0, 0)
    assert taken(data)[1] == [0, 1]
    data.schedule.policies.overlap_policy = policy.SKIP
    assert taken(data)[1] == []


def test_no_more_than_so_many_runs_are_started_at_once() -> None:
    data = schedule()
    buffered(data, *[policy.ALLOW_ALL] * 5)
    assert taken(data, 3)[:2] == ([0, 1, 2], [3, 4])
    assert policy.next_check(data, compiled(data), START_NS) == START_NS + 1
    assert taken(data, 3)[:2] == ([3, 4], [])


def test_the_buffer_is_bounded() -> None:
    data = schedule(spec={"interval": [{"interval": {"seconds": 1}}]})
    for now_s in (900, 1800, 2700):
        policy.advance(data, compiled(data), START_NS + now_s * SECOND_NS)
    assert (len(data.buffered), data.info.buffer_dropped) == (policy.MAX_BUFFER, 1700)


def test_a_backfill_goes_bit_by_bit_and_includes_both_ends() -> None:
    data = schedule(now_ns=START_NS + 100 * HOUR_NS)
    request: Any = {
        "start_time": {"seconds": START_NS // SECOND_NS},
        "end_time": {"seconds": START_NS // SECOND_NS + 12 * 3600},
    }
    policy.patch(data, schedule_pb.SchedulePatch(backfill_request=[request]), START_NS + 100 * HOUR_NS)
    policy.backfill(data, compiled(data))
    assert [(each.nominal_ns - START_NS) // HOUR_NS for each in data.buffered] == list(range(10))
    policy.backfill(data, compiled(data))
    assert [(each.nominal_ns - START_NS) // HOUR_NS for each in data.buffered] == list(range(13))
    assert not data.backfills


def test_a_failure_pauses_once() -> None:
    data = schedule(policies={"pause_on_failure": True})
    data.info.running_workflows.add(workflow_id="w", run_id="r")
    policy.record_closed(data, "w", "r", wf.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, None)
    assert (data.schedule.state.paused, data.schedule.state.notes) == (True, "paused due to workflow timeout: w")
    assert not data.info.running_workflows
    policy.record_closed(data, "w", "r", wf.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, None)
    assert data.conflict_token == 2


def test_a_schedule_with_nothing_left_to_do_goes_after_a_week() -> None:
    data = schedule(state={"limited_actions": True})
    assert policy.next_check(data, compiled(data), START_NS) == START_NS + policy.RETENTION_NS
    assert policy.is_over(data, compiled(data), START_NS + policy.RETENTION_NS - 1) is False
    assert policy.is_over(data, compiled(data), START_NS + policy.RETENTION_NS) is True
    data.schedule.state.paused = True
    assert policy.is_over(data, compiled(data), START_NS + policy.RETENTION_NS) is False


def test_a_request_is_carried_out_once() -> None:
    data = schedule()
    assert [policy.is_repeated(data, each) for each in ("a", "b", "a", "", "")] == [False, False, True, False, False]
