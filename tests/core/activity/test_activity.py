"""Activities as the workflow's history tells of them."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from tests.core.command_builders import (
    cancel_activity,
    complete_workflow,
    payloads,
    schedule_activity,
    start_timer,
)
from tests.core.harness import World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration

SCHEDULED_ID = 5


def application_failure(message: str = "no", kind: str = "Declined", **fields: Any) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message)
    failure.application_failure_info.type = kind
    for name, value in fields.items():
        if name == "next_retry_delay_s":
            set_duration(failure.application_failure_info.next_retry_delay, round(value * SECOND_NS))
        else:
            setattr(failure.application_failure_info, name, value)
    return failure


def scheduled(**fields: Any) -> World:
    """A world whose workflow has scheduled activity `a`."""
    world = World()
    world.start()
    world.turn(schedule_activity(**fields))
    return world


def fail(world: World, failure: failure_pb.Failure, token: TaskToken | None = None) -> None:
    token = token or world.activity_token
    world.transact(lambda run: activity.fail(run, token, failure, "activity-worker"))


def by_id(world: World, activity_id: str = "a") -> TaskToken:
    state = world.state()
    return TaskToken(
        namespace_id=state.namespace_id, workflow_id=state.workflow_id, run_id=state.run_id, activity_id=activity_id
    )


def refused(world: World, call: object) -> ServiceError:
    """The refusal, which leaves everything as it was."""
    before = world.stored[world.run_id].state
    with pytest.raises(ServiceError) as refusal:
        world.transact(call)  # type: ignore[arg-type]
    assert world.stored[world.run_id].state == before
    return refusal.value


# ---- scheduling -------------------------------------------------------------------------------------------------------


def test_scheduled_event_has_all_defaults() -> None:
    world = scheduled(start_to_close_timeout_s=10)
    a = world.last("ActivityTaskScheduled")
    assert (a.retry_policy.initial_interval.seconds, a.retry_policy.maximum_interval.seconds) == (1, 100)
    assert a.retry_policy.backoff_coefficient == 2
    assert a.HasField("schedule_to_close_timeout")
    assert duration_ns(a.schedule_to_close_timeout) == 0
    assert a.HasField("heartbeat_timeout")


def test_second_activity_of_a_pending_id_fails_the_task() -> None:
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(schedule_activity("a"), schedule_activity("a"))
    assert outcome.error is not None
    assert outcome.error.message == (
        "ScheduleActivityDuplicateId: invalid history builder state for action: "
        "add-activitytask-scheduled-event, ActivityID: a"
    )
    assert (
        world.names()[-2:] == ["WorkflowTaskFailed", "WorkflowTaskScheduled"]
        or world.names()[-1] == "WorkflowTaskFailed"
    )
    assert not world.state().activities


def test_id_is_free_again_when_the_activity_is_over() -> None:
    world = scheduled()
    token = world.poll_activity()
    world.transact(lambda run: activity.complete(run, token, None, "w"))
    world.turn(schedule_activity("a"))
    assert [a.activity_id for a in world.state().activities.values()] == ["a"]


def test_eager_activity_is_not_offered_on_its_queue() -> None:
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(schedule_activity(request_eager_execution=True))
    assert outcome.eager_activities == [SCHEDULED_ID]
    assert world.offered(2) == []
    started = world.transact(lambda run: activity.start_eagerly(run, SCHEDULED_ID, "request", "worker"))
    assert started is not None
    assert started.started_ns == world.now_ns


def test_eager_activity_is_offered_as_usual_when_switched_off() -> None:
    world = World(Limits(eager_activities=False))
    world.start()
    world.turn(schedule_activity(request_eager_execution=True))
    assert len(world.offered(2)) == 1


# ---- starting ---------------------------------------------------------------------------------------------------------


def test_start_writes_no_event_until_the_end() -> None:
    world = scheduled()
    world.poll_activity(identity="me")
    assert world.names()[-1] == "ActivityTaskScheduled"
    started_ns = world.now_ns
    world.advance(3)
    world.transact(lambda run: activity.complete(run, world.activity_token, payloads("paid"), "me"))
    assert world.names()[-3:] == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
    started = world.events()[SCHEDULED_ID]
    assert started.event_time.seconds * SECOND_NS == started_ns
    assert started.activity_task_started_event_attributes.identity == "me"
    completed = world.last("ActivityTaskCompleted")
    assert (completed.scheduled_event_id, completed.started_event_id) == (SCHEDULED_ID, SCHEDULED_ID + 1)
    assert completed.result == payloads("paid")


def test_same_request_starts_once() -> None:
    world = scheduled()
    (task,) = world.offered(2)
    start = lambda run: activity.start(run, task.scheduled_event_id, task.stamp, "same", "w")  # noqa: E731
    first = world.transact(start).started_ns
    world.advance(1)
    assert world.transact(start).started_ns == first
    error = refused(world, lambda run: activity.start(run, task.scheduled_event_id, task.stamp, "other", "w"))
    assert error.code == Code.NOT_FOUND


def test_stale_task_is_refused() -> None:
    world = scheduled()
    (task,) = world.offered(2)
    error = refused(world, lambda run: activity.start(run, task.scheduled_event_id, task.stamp - 1, "r", "w"))
    assert error.code == Code.NOT_FOUND


def test_priority_falls_back_to_the_workflows() -> None:
    world = World()
    world.start(priority=common_pb.Priority(priority_key=2))
    world.turn(schedule_activity("a"), schedule_activity("b", priority=common_pb.Priority(priority_key=5)))
    assert sorted(task.key.priority for task in world.offered(2)) == [2, 5]


# ---- buffering --------------------------------------------------------------------------------------------------------


def test_completion_during_a_workflow_task_is_buffered_and_wired() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"), start_timer("t", 1))
    world.poll_activity()
    world.advance(1)
    world.poll()
    world.transact(lambda run: activity.complete(run, world.activity_token, None, "w"))
    assert len(world.state().buffered_events) == 2
    assert world.complete(start_timer("u", 60)).error is None
    assert world.names()[-4:] == [
        "TimerStarted",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]
    events = world.events()
    assert events[-2].activity_task_completed_event_attributes.started_event_id == events[-3].event_id


# ---- failing and retrying ---------------------------------------------------------------------------------------------


def test_retries_back_off_and_leave_no_event() -> None:
    world = scheduled(retry_policy=common_pb.RetryPolicy(maximum_attempts=4, backoff_coefficient=3))
    length = len(world.events())
    for attempt, wait_s in ((1, 1), (2, 3), (3, 9)):
        token = world.poll_activity()
        assert token.attempt == attempt
        fail(world, application_failure())
        assert world.offered(2) == []
        world.advance(wait_s - 0.001)
        assert world.offered(2) == []
        world.advance(0.001)
        assert len(world.offered(2)) == 1
    assert len(world.events()) == length
    world.poll_activity()
    fail(world, application_failure("last"))
    a = world.last("ActivityTaskFailed")
    assert a.retry_state == wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert a.failure.message == "last"
    started = world.last("ActivityTaskStarted")
    assert started.attempt == 4
    assert started.last_failure.message == "no"
    assert world.names()[-1] == "WorkflowTaskScheduled"


@pytest.mark.parametrize(
    ("policy", "failure", "state"),
    [
        ({}, application_failure(non_retryable=True), wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE),
        (
            {"non_retryable_error_types": ["Declined"]},
            application_failure(),
            wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE,
        ),
        ({"maximum_attempts": 1}, application_failure(), wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED),
        ({}, application_failure(next_retry_delay_s=0), wf_enums.RETRY_STATE_TIMEOUT),
        ({}, application_failure(next_retry_delay_s=3600), wf_enums.RETRY_STATE_TIMEOUT),
    ],
)
def test_why_there_is_no_other_attempt(policy: dict[str, object], failure: failure_pb.Failure, state: int) -> None:
    world = scheduled(schedule_to_close_timeout_s=60, retry_policy=common_pb.RetryPolicy(**policy))  # type: ignore[arg-type]
    world.poll_activity()
    fail(world, failure)
    assert world.last("ActivityTaskFailed").retry_state == state


def test_requested_delay_replaces_even_the_maximum_interval() -> None:
    world = scheduled()
    world.poll_activity()
    fail(world, application_failure(next_retry_delay_s=500))
    world.advance(499)
    assert world.offered(2) == []
    world.advance(1)
    assert len(world.offered(2)) == 1


def test_interval_stops_at_its_maximum() -> None:
    policy = common_pb.RetryPolicy()
    set_duration(policy.initial_interval, 2 * SECOND_NS)
    set_duration(policy.maximum_interval, 3 * SECOND_NS)
    world = scheduled(retry_policy=policy)
    for wait_s in (2, 3, 3):
        world.poll_activity()
        fail(world, application_failure())
        world.advance(wait_s - 1)
        assert world.offered(2) == []
        world.advance(1)


def test_long_failure_is_cut_in_what_a_retry_keeps() -> None:
    world = scheduled()
    world.poll_activity()
    fail(world, application_failure("x" * 10_000))
    kept = world.state().activities[SCHEDULED_ID].last_failure
    assert kept.message == "Failure exceeds size limit."
    assert kept.HasField("server_failure_info")
    assert kept.cause.application_failure_info.type == "Declined"
    assert 3_900 < kept.cause.ByteSize() <= 4_096


def test_answer_to_an_earlier_attempt_is_refused() -> None:
    world = scheduled()
    first = world.poll_activity()
    fail(world, application_failure())
    world.advance(1)
    world.poll_activity()
    error = refused(world, lambda run: activity.complete(run, first, None, "w"))
    assert (error.code, error.message) == (
        Code.NOT_FOUND,
        "invalid activityID or activity already timed out or invoking workflow is completed",
    )


def test_answer_after_the_workflow_closed_is_refused() -> None:
    world = scheduled()
    token = world.poll_activity()
    other = schedule_activity("b")
    world.transact(lambda run: activity.complete(run, token, None, "w"))
    world.turn(other)
    token = world.poll_activity()
    world.transact(lambda run: run.arm(world.now_ns + 1))
    world.start(workflow_id="other")
    world.turn(schedule_activity("c"), complete_workflow())
    closed = TaskToken(scheduled_event_id=5, attempt=1)
    error = refused(world, lambda run: activity.complete(run, closed, None, "w"))
    assert (error.code, error.message) == (Code.NOT_FOUND, "workflow execution already completed")


# ---- by id ------------------------------------------------------------------------------------------------------------


def test_completing_by_id_needs_no_start() -> None:
    world = scheduled()
    world.transact(lambda run: activity.complete(run, by_id(world), payloads("by hand"), "a person"))
    assert world.names()[-3:] == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
    assert world.last("ActivityTaskStarted").identity == "a person"
    assert world.offered(2) == []


@pytest.mark.parametrize("call", ["fail", "cancel", "heartbeat"])
def test_other_operations_by_id_need_a_started_attempt(call: str) -> None:
    world = scheduled()
    calls = {
        "fail": lambda run: activity.fail(run, by_id(world), application_failure(), "p"),
        "cancel": lambda run: activity.cancel(run, by_id(world), None, "p"),
        "heartbeat": lambda run: activity.heartbeat(run, by_id(world), None, "p"),
    }
    assert refused(world, calls[call]).message == activity.TASK_NOT_FOUND


def test_unknown_id() -> None:
    world = scheduled()
    error = refused(world, lambda run: activity.complete(run, by_id(world, "zzz"), None, "p"))
    assert error.message == (
        "cannot find pending activity with ActivityID zzz, check workflow execution history for more details"
    )


# ---- cancellation -----------------------------------------------------------------------------------------------------


def test_cancelling_an_unstarted_activity_ends_it_at_once() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(), start_timer("t", 1))
    world.advance(1)
    world.turn(cancel_activity(SCHEDULED_ID))
    assert world.names()[-3:] == ["ActivityTaskCancelRequested", "ActivityTaskCanceled", "WorkflowTaskScheduled"]
    a = world.last("ActivityTaskCanceled")
    assert a.details.payloads[0].data == b'"ACTIVITY_ID_NOT_STARTED"'
    assert a.started_event_id == 0
    assert a.latest_cancel_requested_event_id == world.events()[-3].event_id
    assert world.offered(2) == []


def test_cancelling_what_waits_for_a_retry_ends_it_at_once() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(), start_timer("t", 0.5))
    world.poll_activity()
    fail(world, application_failure())
    world.advance(0.5)
    world.turn(cancel_activity(SCHEDULED_ID))
    assert world.names()[-2:] == ["ActivityTaskCanceled", "WorkflowTaskScheduled"]
    world.advance(10)
    assert world.offered(2) == []


def test_started_activity_learns_by_its_heartbeat() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(heartbeat_timeout_s=5), start_timer("t", 1))
    token = world.poll_activity()
    world.advance(1)
    assert not world.transact(lambda run: activity.heartbeat(run, token, None, "w")).cancel_requested
    error = refused(world, lambda run: activity.cancel(run, token, None, "w"))
    assert (error.code, error.message) == (
        Code.INVALID_ARGUMENT,
        "unable to mark activity as canceled without activity being request canceled first",
    )
    world.turn(cancel_activity(SCHEDULED_ID))
    assert world.transact(lambda run: activity.heartbeat(run, token, None, "w")).cancel_requested
    world.transact(lambda run: activity.cancel(run, token, payloads("bye"), "w"))
    assert world.names()[-4:] == [
        "ActivityTaskCancelRequested",
        "ActivityTaskStarted",
        "ActivityTaskCanceled",
        "WorkflowTaskScheduled",
    ]
    a = world.last("ActivityTaskCanceled")
    assert a.started_event_id == world.events()[-3].event_id
    assert a.details == payloads("bye")


def test_failure_after_a_cancel_request_is_not_retried() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(), start_timer("t", 1))
    world.poll_activity()
    world.advance(1)
    world.turn(cancel_activity(SCHEDULED_ID))
    fail(world, application_failure())
    assert world.last("ActivityTaskFailed").retry_state == wf_enums.RETRY_STATE_CANCEL_REQUESTED


@pytest.mark.parametrize("wrong", [99, SCHEDULED_ID])
def test_cancelling_an_unknown_activity_or_twice_fails_the_task(wrong: int) -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(), start_timer("t", 1))
    world.poll_activity()
    world.advance(1)
    world.poll()
    outcome = world.complete(cancel_activity(SCHEDULED_ID), cancel_activity(wrong))
    assert outcome.error is not None
    assert outcome.error.message.startswith("BadRequestCancelActivityAttributes: ")
    assert not world.state().activities[SCHEDULED_ID].cancel_requested


def test_cancelling_what_ended_during_the_task_only_writes_the_request() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity(), start_timer("t", 1))
    world.poll_activity()
    world.advance(1)
    world.poll()
    world.transact(lambda run: activity.complete(run, world.activity_token, None, "w"))
    assert world.complete(cancel_activity(SCHEDULED_ID)).error is None
    assert world.names()[-4:] == [
        "ActivityTaskCancelRequested",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]


# ---- heartbeats -------------------------------------------------------------------------------------------------------


def test_heartbeat_details_reach_the_next_attempt() -> None:
    world = scheduled()
    token = world.poll_activity()
    world.transact(lambda run: activity.heartbeat(run, token, payloads("half"), "w"))
    fail(world, application_failure())
    world.advance(1)
    world.poll_activity()
    assert world.state().activities[SCHEDULED_ID].heartbeat_details == payloads("half")


def test_failure_may_carry_the_last_heartbeat() -> None:
    world = scheduled()
    token = world.poll_activity()
    world.transact(lambda run: activity.fail(run, token, application_failure(), "w", payloads("late")))
    assert world.state().activities[SCHEDULED_ID].heartbeat_details == payloads("late")
