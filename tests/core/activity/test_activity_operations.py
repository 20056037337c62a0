"""Pausing, unpausing, resetting and changing pending activities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from tests.core.activity.test_activity import SCHEDULED_ID, application_failure, fail, refused, scheduled
from tests.core.command_builders import payloads
from whistlestop.common.errors import Code
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.activity import operations
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration

if TYPE_CHECKING:
    from tests.core.harness import World
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run


def pending(world: World) -> Activity:
    return world.state().activities[SCHEDULED_ID]


def pause(world: World, request_id: str = "request") -> None:
    world.transact(
        lambda run: operations.pause(
            run, operations.selected(run, activity_id="a"), identity="me", reason="lunch", request_id=request_id
        )
    )


def unpause(world: World, *, reset_attempts: bool = False, jitter_ns: int = 0) -> None:
    world.transact(
        lambda run: operations.unpause(
            run,
            operations.selected(run, activity_type="charge"),
            reset_attempts=reset_attempts,
            reset_heartbeat=False,
            jitter_ns=jitter_ns,
        )
    )


def reset(world: World, *, keep_paused: bool = False, reset_heartbeat: bool = False) -> None:
    world.transact(
        lambda run: operations.reset(
            run,
            operations.selected(run, every=True),
            reset_heartbeat=reset_heartbeat,
            keep_paused=keep_paused,
            jitter_ns=0,
        )
    )


def test_paused_activity_is_not_offered_and_does_not_time_out() -> None:
    world = scheduled(start_to_close_timeout_s=10, schedule_to_start_timeout_s=3)
    pause(world)
    assert world.offered(2) == []
    world.advance(3600)
    assert world.names()[-1] == "ActivityTaskScheduled"
    unpause(world)
    assert len(world.offered(2)) == 1
    assert pending(world).scheduled_ns == world.now_ns


def test_pausing_twice_is_refused_unless_it_is_the_same_request() -> None:
    world = scheduled()
    pause(world)
    pause(world)

    def again(run: Run) -> None:
        operations.pause(run, operations.selected(run, activity_id="a"), identity="", reason="", request_id="other")

    error = refused(world, again)
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "activity is already paused")


def test_running_attempt_goes_on_and_is_not_followed_while_paused() -> None:
    world = scheduled()
    token = world.poll_activity()
    pause(world)
    assert world.transact(lambda run: activity.heartbeat(run, token, None, "w")).paused
    fail(world, application_failure())
    world.advance(60)
    assert (world.offered(2), pending(world).attempt) == ([], 2)
    unpause(world, jitter_ns=5 * SECOND_NS)
    assert world.offered(2) == []
    world.advance(5)
    assert len(world.offered(2)) == 1


def test_unpausing_may_count_attempts_anew() -> None:
    world = scheduled()
    world.poll_activity()
    fail(world, application_failure())
    pause(world)
    unpause(world, reset_attempts=True)
    assert world.poll_activity().attempt == 1


def test_pauses_can_be_found_in_lists() -> None:
    world = scheduled()
    pause(world)
    assert world.state().search_attributes["TemporalPauseInfo"].data == b'["property:activityType=charge"]'
    unpause(world)
    assert "TemporalPauseInfo" not in world.state().search_attributes


def test_reset_while_a_retry_is_awaited_offers_the_first_attempt_at_once() -> None:
    world = scheduled()
    token = world.poll_activity()
    world.transact(lambda run: activity.heartbeat(run, token, payloads("half"), "w"))
    fail(world, application_failure())
    reset(world, reset_heartbeat=True)
    assert world.poll_activity().attempt == 1
    assert not pending(world).HasField("heartbeat_details")


def test_running_attempt_learns_of_a_reset() -> None:
    world = scheduled()
    token = world.poll_activity()
    reset(world)
    assert world.transact(lambda run: activity.heartbeat(run, token, None, "w")).activity_reset


def test_reset_may_keep_the_pause() -> None:
    world = scheduled()
    pause(world)
    reset(world, keep_paused=True)
    assert (pending(world).paused, world.offered(2)) == (True, [])
    reset(world)
    assert (pending(world).paused, len(world.offered(2))) == (False, 1)


@pytest.mark.parametrize(
    "paths", [["task_queue.name", "start_to_close_timeout"], ["taskQueue.name", "startToCloseTimeout"]]
)
def test_options_change_and_the_attempt_is_offered_anew(paths: list[str]) -> None:
    world = scheduled(start_to_close_timeout_s=10)
    (before,) = world.offered(2)
    changes = activity_pb.ActivityOptions()
    changes.task_queue.name = "elsewhere"
    set_duration(changes.start_to_close_timeout, 7 * SECOND_NS)
    options = world.transact(
        lambda run: operations.update_options(run, operations.selected(run, activity_id="a"), changes, paths)
    )
    assert (options.task_queue.name, duration_ns(options.start_to_close_timeout)) == ("elsewhere", 7 * SECOND_NS)
    (after,) = world.offered(2)
    assert after.key.task_queue == "elsewhere"
    assert after.stamp > before.stamp


def test_shorter_timeout_holds_for_the_running_attempt() -> None:
    world = scheduled(start_to_close_timeout_s=600, schedule_to_close_timeout_s=600)
    world.poll_activity()
    changes = activity_pb.ActivityOptions()
    set_duration(changes.schedule_to_close_timeout, 5 * SECOND_NS)
    world.transact(
        lambda run: operations.update_options(
            run, operations.selected(run, activity_id="a"), changes, ["schedule_to_close_timeout"]
        )
    )
    world.advance(5)
    a = world.last("ActivityTaskTimedOut")
    assert a.failure.timeout_failure_info.timeout_type == wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE


def test_bad_options_are_refused() -> None:
    world = scheduled()
    changes = activity_pb.ActivityOptions()
    changes.retry_policy.maximum_attempts = -1

    def change(run: Run) -> None:
        operations.update_options(
            run, operations.selected(run, activity_id="a"), changes, ["retry_policy.maximum_attempts"]
        )

    error = refused(world, change)
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "MaximumAttempts cannot be negative on retry policy.")


def test_original_options_come_back() -> None:
    world = scheduled(start_to_close_timeout_s=10)
    original = world.last("ActivityTaskScheduled")
    changes = activity_pb.ActivityOptions()
    changes.task_queue.name = "elsewhere"
    world.transact(
        lambda run: operations.update_options(run, operations.selected(run, every=True), changes, ["task_queue.name"])
    )
    world.transact(
        lambda run: operations.restore_options(run, operations.selected(run, every=True), {SCHEDULED_ID: original})
    )
    assert [task.key.task_queue for task in world.offered(2)] == ["orders"]


def test_an_operation_that_selects_nothing() -> None:
    world = scheduled()
    error = refused(world, lambda run: operations.selected(run, activity_id="zzz"))
    assert (error.code, error.message) == (Code.NOT_FOUND, operations.NOT_PENDING)
