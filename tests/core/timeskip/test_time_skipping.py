"""A run's own clock: when it goes forward and how far, what it moves and what it leaves, and what is handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from tests.core.activity.test_activity import application_failure, fail
from tests.core.command_builders import (
    complete_workflow,
    continue_as_new,
    fail_workflow,
    schedule_activity,
    start_timer,
)
from tests.core.harness import QUEUE, START_NS, World
from whistlestop.history.core import deadlines, pending_work
from whistlestop.history.core.operations import options
from whistlestop.history.core.times import LAST_SKIPPED_TO_NS, SECOND_NS, duration_ns, timestamp_ns
from whistlestop.history.core.workflow import close

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run

HOUR_S = 3600
SKIPPED = "WorkflowExecutionTimeSkippingTransitioned"


def config(*, enabled: bool = True, forward_s: float = 0, most: int = 200) -> common_pb.TimeSkippingConfig:
    made = common_pb.TimeSkippingConfig(enabled=enabled, max_session_skip_count=most)
    if forward_s:
        made.fast_forward_config.id = "f"
        made.fast_forward_config.duration.CopyFrom(Duration(seconds=int(forward_s)))
    return made


def begun(skipping: common_pb.TimeSkippingConfig | None = None, **fields: Any) -> World:
    world = World()
    world.start(time_skipping_config=skipping or config(), **fields)
    return world


def hours(world: World) -> float:
    """How far the run is ahead."""
    return world.state().time_skipping.skipped_ns / SECOND_NS / HOUR_S


def change(world: World, skipping: common_pb.TimeSkippingConfig | None) -> None:
    wanted = workflow_pb.WorkflowExecutionOptions()
    if skipping is not None:
        wanted.time_skipping_config.CopyFrom(skipping)
    world.transact(lambda run: options.merge(run, wanted, ["time_skipping_config"], "client"))


def test_an_idle_run_skips_to_its_timer_and_its_row_fires_at_once() -> None:
    world = begun()
    world.turn(start_timer("t", 5 * HOUR_S))
    assert world.names()[-2:] == ["TimerStarted", SKIPPED]
    skipped = world.last(SKIPPED)
    assert timestamp_ns(skipped.target_time) == START_NS + 5 * HOUR_S * SECOND_NS
    assert not skipped.disabled_after_fast_forward
    assert hours(world) == 5
    assert [timer.fire_at_ns for timer in world.timers.values()] == [START_NS]
    world.advance(0)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]
    fired = world.events()[-2]
    assert timestamp_ns(fired.event_time) == START_NS + 5 * HOUR_S * SECOND_NS


def test_timestamps_outside_a_skipping_run_use_the_servers_clock() -> None:
    """Its matching tasks stand in the order in which they were written."""
    world = begun()
    world.turn(start_timer("t", 5 * HOUR_S))
    world.advance(0)
    assert [task.created_ns for task in world.offered(1)] == [START_NS]


@pytest.mark.parametrize("under_way", [True, False])
def test_an_activity_holds_the_clock_until_it_waits_for_another_attempt(*, under_way: bool) -> None:
    world = begun()
    retry = common_pb.RetryPolicy(initial_interval=Duration(seconds=2 * HOUR_S), maximum_attempts=2)
    world.turn(schedule_activity("a", retry_policy=retry), start_timer("t", 9 * HOUR_S))
    token = world.poll_activity("a")
    assert hours(world) == 0
    if under_way:
        return
    fail(world, application_failure(), token)
    assert hours(world) == 2
    world.advance(0)
    assert len(world.offered(2)) == 1


def test_a_run_timeout_is_skipped_to_only_when_the_workflow_has_begun() -> None:
    world = begun(run_timeout_s=10 * HOUR_S)
    assert hours(world) == 0
    world.turn()
    assert hours(world) == 10
    world.advance(0)
    assert world.names()[-1] == "WorkflowExecutionTimedOut"


def test_a_start_delay_is_skipped() -> None:
    world = begun(start_delay_s=3 * HOUR_S)
    assert world.names() == ["WorkflowExecutionStarted", SKIPPED]
    world.advance(0)
    assert world.names()[-1] == "WorkflowTaskScheduled"


def test_a_fast_forward_stops_at_its_target() -> None:
    world = begun(config(forward_s=4 * HOUR_S))
    world.turn(start_timer("t", 5 * HOUR_S))
    assert hours(world) == 4
    assert world.last(SKIPPED).disabled_after_fast_forward
    assert world.state().time_skipping.fast_forward_reached
    world.advance(HOUR_S - 1)
    assert "TimerFired" not in world.names()
    world.advance(1)
    assert "TimerFired" in world.names()


def test_a_fast_forward_ends_in_time_while_an_activity_runs() -> None:
    world = begun(config(forward_s=60))
    world.poll()
    world.advance(61)
    assert not pending_work.activities_under_way(world.state())
    skipping = world.state().time_skipping
    assert skipping.fast_forward_reached
    assert skipping.skipped_ns == 0
    assert not skipping.config.enabled


def test_the_session_ends_with_its_last_skip_and_another_configuration_begins_a_new_one() -> None:
    world = begun(config(most=1))
    world.turn(start_timer("t", HOUR_S), start_timer("u", 2 * HOUR_S))
    world.advance(0)
    world.turn()
    assert hours(world) == 1
    change(world, config(most=1))
    assert hours(world) == 2
    assert world.state().time_skipping.session_skips == 1
    change(world, None)
    assert not world.state().time_skipping.HasField("config")


def test_the_same_fast_forward_again_goes_on_from_now() -> None:
    world = begun(config(enabled=False))
    world.turn(start_timer("t", 10 * HOUR_S))
    for expected in (2, 4):
        change(world, config(forward_s=2 * HOUR_S))
        assert hours(world) == expected


def test_the_next_run_goes_on_with_clock_and_fast_forward() -> None:
    world = begun(config(forward_s=5 * HOUR_S))
    world.turn(start_timer("t", 2 * HOUR_S))
    world.advance(0)
    world.turn(continue_as_new())
    started = world.last("WorkflowExecutionStarted")
    propagated = started.time_skipping_state_propagation
    assert duration_ns(propagated.initial_skipped_duration) == 2 * HOUR_S * SECOND_NS
    assert timestamp_ns(propagated.fast_forward_target_time) == START_NS + 5 * HOUR_S * SECOND_NS
    assert propagated.initial_skip_count == 1
    assert timestamp_ns(world.events()[0].event_time) == START_NS + 2 * HOUR_S * SECOND_NS
    world.turn(start_timer("t", 9 * HOUR_S))
    assert hours(world) == 5


def test_a_retried_run_skips_its_back_off() -> None:
    retry = common_pb.RetryPolicy(initial_interval=Duration(seconds=HOUR_S), maximum_attempts=2)
    world = begun(retry_policy=retry)
    world.turn(fail_workflow())
    assert world.names() == ["WorkflowExecutionStarted", SKIPPED]
    assert hours(world) == 1


def test_retention_uses_the_servers_clock() -> None:
    """No skip, and nothing left of an alarm."""
    world = begun()
    world.turn(start_timer("t", 5 * HOUR_S))
    world.advance(0)
    world.turn(start_timer("u", 5 * HOUR_S), complete_workflow())
    assert hours(world) == 5
    assert not world.timers


def test_work_for_the_whole_server() -> None:
    """What keeps everybody's time from being skipped in the test server."""
    world = World()
    world.start()
    assert pending_work.other_work(world.state())
    world.turn(schedule_activity("a"), schedule_activity("b"))
    assert not pending_work.other_work(world.state())
    assert pending_work.activities_under_way(world.state()) == 2
    world.transact(_close)
    assert pending_work.activities_under_way(world.state()) == 0


def _close(run: Run) -> None:
    close.terminate(run, reason="enough", identity="client")


def test_timer_rows_use_the_servers_clock() -> None:
    world = begun(config(forward_s=4 * HOUR_S))
    world.turn(start_timer("t", 5 * HOUR_S))
    assert deadlines.timer_row_wall_ns(world.state()) == START_NS + HOUR_S * SECOND_NS
    assert world.state().timer_row_ns == START_NS + 5 * HOUR_S * SECOND_NS
    assert world.state().task_queue == QUEUE


def test_no_clock_goes_further_than_instants_are_wide() -> None:
    """What is due beyond that is not skipped to; a fast-forward that would go there ends before."""
    century_s = 100 * 365 * 24 * HOUR_S
    world = begun()
    for timer in ("first", "second"):
        world.turn(start_timer(timer, century_s))
        world.advance(0)
    assert hours(world) * HOUR_S == century_s
    change(world, config(forward_s=4 * century_s))
    assert world.last(SKIPPED).disabled_after_fast_forward
    assert timestamp_ns(world.last(SKIPPED).target_time) == LAST_SKIPPED_TO_NS
