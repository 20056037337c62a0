"""What is due, in its order: timers of the workflow, timeouts of activities."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from tests.core.activity.test_activity import SCHEDULED_ID, application_failure, fail, scheduled
from tests.core.command_builders import cancel_timer, complete_workflow, payloads, schedule_activity, start_timer
from tests.core.harness import World
from whistlestop.common.errors import ServiceError
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.times import SECOND_NS, set_duration

TIMEOUT = wf_enums.RETRY_STATE_TIMEOUT


def kinds(world: World) -> tuple[int, str, int]:
    """Of the newest activity timeout: its type, its message and the retry state."""
    a = world.last("ActivityTaskTimedOut")
    return a.failure.timeout_failure_info.timeout_type, a.failure.message, a.retry_state


# ---- timers of the workflow -------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_times() -> None:
    world = World()
    world.start()
    world.turn(start_timer("late", 2), start_timer("soon", 1), start_timer("also", 2))
    world.advance(1)
    world.poll()
    world.advance(1)
    world.complete()
    fired = [
        event.timer_fired_event_attributes.timer_id
        for event in world.events()
        if event.HasField("timer_fired_event_attributes")
    ]
    assert fired == ["soon", "late", "also"]


def test_timer_fires_at_its_time_and_not_before() -> None:
    world = World()
    world.start()
    world.turn(start_timer("t", 5))
    world.advance(4.999)
    assert "TimerFired" not in world.names()
    world.advance(0.001)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]
    assert world.last("TimerFired").started_event_id == 5


def test_second_timer_of_a_pending_id_fails_the_task() -> None:
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(start_timer("t"), start_timer("t"))
    assert outcome.error is not None
    assert outcome.error.message == (
        "StartTimerDuplicateId: invalid history builder state for action: add-timer-started-event, TimerID: t"
    )


def test_cancelled_timer_never_fires() -> None:
    world = World()
    world.start()
    world.turn(start_timer("t", 5), start_timer("wake", 1))
    world.advance(1)
    world.turn(cancel_timer("t"))
    assert world.last("TimerCanceled").started_event_id == 5
    world.advance(60)
    assert world.names().count("TimerFired") == 1


def test_cancelling_an_unknown_timer_fails_the_task() -> None:
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(cancel_timer("nope"))
    assert outcome.error is not None
    assert outcome.error.message == (
        "BadCancelTimerAttributes: invalid history builder state for action: add-timer-canceled-event, TimerID: nope"
    )


def test_timer_that_fired_during_the_task_can_be_cancelled_and_the_workflow_may_end() -> None:
    world = World()
    world.start()
    world.turn(start_timer("t", 5), start_timer("wake", 4))
    world.advance(4)
    world.poll()
    world.advance(1)
    assert len(world.state().buffered_events) == 1
    outcome = world.complete(cancel_timer("t"), complete_workflow())
    assert outcome.error is None
    assert world.names()[-2:] == ["TimerCanceled", "WorkflowExecutionCompleted"]
    assert world.last("TimerCanceled").started_event_id == 5


# ---- timeouts of activities -------------------------------------------------------------------------------------------


def test_schedule_to_start_is_not_retried() -> None:
    world = scheduled(start_to_close_timeout_s=10, schedule_to_start_timeout_s=3)
    world.advance(3)
    assert kinds(world) == (wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START, "activity ScheduleToStart timeout", TIMEOUT)
    assert world.names()[-2:] == ["ActivityTaskTimedOut", "WorkflowTaskScheduled"]
    assert world.last("ActivityTaskTimedOut").started_event_id == 0
    assert world.offered(2) == []


def test_start_to_close_is_retried_and_then_written() -> None:
    world = scheduled(start_to_close_timeout_s=10, retry_policy=common_pb.RetryPolicy(maximum_attempts=2))
    world.poll_activity()
    world.advance(10)
    assert world.state().activities[SCHEDULED_ID].attempt == 2
    world.advance(1)
    world.poll_activity()
    world.advance(10)
    assert kinds(world) == (
        wf_enums.TIMEOUT_TYPE_START_TO_CLOSE,
        "activity StartToClose timeout",
        wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED,
    )
    a = world.last("ActivityTaskTimedOut")
    assert a.failure.source == "Server"
    assert a.failure.cause.message == "activity StartToClose timeout"
    assert world.names()[-3:] == ["ActivityTaskStarted", "ActivityTaskTimedOut", "WorkflowTaskScheduled"]


def test_schedule_to_close_ends_all_attempts_with_the_last_failure_as_cause() -> None:
    world = scheduled(schedule_to_close_timeout_s=5, start_to_close_timeout_s=4)
    world.poll_activity()
    fail(world, application_failure("declined"))
    world.advance(1)
    world.poll_activity()
    world.advance(4)
    timeout_type, message, state = kinds(world)
    assert timeout_type == wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert message.startswith("Not enough time to schedule next retry before activity ScheduleToClose timeout")
    assert state == TIMEOUT
    assert world.last("ActivityTaskTimedOut").failure.cause.message == "declined"


def test_no_time_for_another_attempt_counts_as_schedule_to_close() -> None:
    policy = common_pb.RetryPolicy()
    set_duration(policy.initial_interval, 30 * SECOND_NS)
    world = scheduled(schedule_to_close_timeout_s=20, start_to_close_timeout_s=4, retry_policy=policy)
    world.poll_activity()
    world.advance(4)
    assert kinds(world)[0] == wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert kinds(world)[2] == TIMEOUT


def test_heartbeat_timeout_counts_from_the_last_heartbeat() -> None:
    world = scheduled(
        start_to_close_timeout_s=60, heartbeat_timeout_s=2, retry_policy=common_pb.RetryPolicy(maximum_attempts=1)
    )
    token = world.poll_activity()
    world.advance(1.5)
    world.transact(lambda run: activity.heartbeat(run, token, payloads("step 1"), "w"))
    world.advance(1.9)
    assert "ActivityTaskTimedOut" not in world.names()
    world.advance(0.1)
    assert kinds(world) == (
        wf_enums.TIMEOUT_TYPE_HEARTBEAT,
        "activity Heartbeat timeout",
        wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED,
    )
    info = world.last("ActivityTaskTimedOut").failure.timeout_failure_info
    assert info.last_heartbeat_details == payloads("step 1")


@pytest.mark.parametrize("name", ["TemporalTimeout:StartToClose", "TemporalTimeout:Heartbeat"])
def test_a_timeout_can_be_declared_not_retryable(name: str) -> None:
    world = scheduled(
        start_to_close_timeout_s=10,
        heartbeat_timeout_s=2 if name.endswith("Heartbeat") else 0,
        retry_policy=common_pb.RetryPolicy(non_retryable_error_types=[name]),
    )
    world.poll_activity()
    world.advance(10)
    assert kinds(world)[2] == wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_most_timeouts_cost_no_timer_write() -> None:
    world = scheduled(start_to_close_timeout_s=60, heartbeat_timeout_s=30)
    token = world.poll_activity()
    alarms = set(world.timers.values())
    for _ in range(50):
        world.advance(1)
        world.transact(lambda run: activity.heartbeat(run, token, None, "w"))
        alarms.update(world.timers.values())
    # The workflow task's, and one whenever less than half of the heartbeat timeout was left.
    assert len(alarms) == 4


@pytest.mark.parametrize("interval_s", [1, 8, 16, 24, 29])
def test_a_heartbeat_is_one_transition_and_one_commit(interval_s: int) -> None:
    """However long its worker waits between them: the timer row does not fire in between."""
    world = scheduled(start_to_close_timeout_s=10_000, heartbeat_timeout_s=30)
    token = world.poll_activity()
    world.advance(interval_s)
    world.transact(lambda run: activity.heartbeat(run, token, None, "w"))
    commits, transitions = world.stored[world.run_id].version, world.state().state_transition_count
    for _ in range(20):
        world.advance(interval_s)
        world.transact(lambda run: activity.heartbeat(run, token, None, "w"))
    assert world.stored[world.run_id].version == commits + 20
    assert world.state().state_transition_count == transitions + 20


def test_a_check_without_an_expired_deadline_is_no_transition() -> None:
    """The row is a lower bound: at the workflow task's timeout, nothing is due any more."""
    world = World()
    world.start()
    world.turn(start_timer("t", 3600))
    commits, transitions = world.stored[world.run_id].version, world.state().state_transition_count
    world.advance(60)
    assert world.stored[world.run_id].version == commits + 1
    assert world.state().state_transition_count == transitions
    world.advance(3600)
    assert "TimerFired" in world.names()
    assert world.state().state_transition_count == transitions + 1


# ---- the run itself ---------------------------------------------------------------------------------------------------


def test_run_timeout_ends_the_run_before_anything_else_fires() -> None:
    world = World()
    world.start(run_timeout_s=5)
    world.turn(start_timer("t", 5), schedule_activity(start_to_close_timeout_s=5))
    world.advance(5)
    assert world.names()[-1] == "WorkflowExecutionTimedOut"
    assert "TimerFired" not in world.names()


def test_activity_timeouts_are_bounded_by_the_run() -> None:
    world = World()
    world.start(run_timeout_s=5)
    world.turn(schedule_activity(start_to_close_timeout_s=60))
    a = world.last("ActivityTaskScheduled")
    assert [
        a.schedule_to_close_timeout.seconds,
        a.schedule_to_start_timeout.seconds,
        a.start_to_close_timeout.seconds,
    ] == [5, 5, 5]


def test_an_answer_counts_until_the_timeout_and_no_longer() -> None:
    world = World()
    world.start(task_timeout_s=1)
    world.poll()
    world.advance(0.9)
    assert world.complete().error is None
    world.transact(lambda run: signal.receive(run, name="go", input=payloads(), identity="c", request_id="r"))
    token = world.poll()
    world.advance(1)
    assert world.names()[-1] == "WorkflowTaskTimedOut"
    with pytest.raises(ServiceError, match="Workflow task not found"):
        world.complete(token=token)


def test_a_timeout_of_less_than_a_second_leaves_the_worker_most_of_a_second() -> None:
    world = World()
    world.start(task_timeout_s=0.25)
    world.poll()
    world.advance(0.89)
    assert "WorkflowTaskTimedOut" not in world.names()
    assert world.complete().error is None
    world.transact(lambda run: signal.receive(run, name="go", input=payloads(), identity="c", request_id="r"))
    world.poll()
    world.advance(0.9)
    assert world.names()[-1] == "WorkflowTaskTimedOut"


def test_workflow_task_times_out_and_is_offered_again() -> None:
    world = World()
    world.start(task_timeout_s=7)
    world.poll()
    world.advance(8)
    assert world.names()[-1] == "WorkflowTaskTimedOut"
    assert len(world.offered(1)) == 1
    assert world.state().workflow_task.attempt == 2
