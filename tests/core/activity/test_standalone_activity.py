"""Standalone activities: what each request does in each state, each timeout, and what is shown of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import activity_pb2 as enums
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.sdk.v1 import user_metadata_pb2

from tests.core.command_builders import made, payload, payloads
from tests.core.harness import START_NS, World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history import tokens
from whistlestop.history.core.activity import standalone as core
from whistlestop.history.core.activity import standalone_describe, standalone_operations
from whistlestop.history.core.activity.machine import TERMINAL, A
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.records import visibility_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.history.core.state_pb2 import ActivityExecution
    from whistlestop.history.core.transition.run import Run

BOOM = made(failure_pb.Failure, message="boom", application_failure_info={"type": "Boom"})
OPTIONS: dict[str, Any] = {
    "task_queue": {"name": "q"},
    "start_to_close_timeout": {"seconds": 60},
    "retry_policy": {"initial_interval": {"seconds": 10}, "backoff_coefficient": 2.0},
}
START = Timestamp(seconds=START_NS // SECOND_NS)


def options(**fields: Any) -> activity_pb.ActivityOptions:
    return made(activity_pb.ActivityOptions, **(OPTIONS | fields))


def span(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * SECOND_NS))
    return duration


def at(seconds: float) -> Timestamp:
    """Return the time so many seconds after the start."""
    instant = Timestamp()
    instant.FromNanoseconds(START_NS + round(seconds * SECOND_NS))
    return instant


class Single(World):
    """A world with one standalone activity in it, named "a"."""

    def begin(self, **fields: Any) -> Single:
        wanted = options(**fields)
        more: dict[str, Any] = {"workflow_type": "T", "task_queue": "q"}
        if wanted.HasField("start_delay"):
            more["start_delay_s"] = wanted.start_delay.ToNanoseconds() / SECOND_NS
        self.start(
            first_task=False, workflow_id="temporal-sys-activity:a",
            prepare=lambda run: core.begin(run, "a", wanted), **more,
        )  # fmt: skip
        return self

    @property
    def activity(self) -> ActivityExecution:
        return self.state().activity_execution

    @property
    def status(self) -> str:
        return A.Status.Name(self.activity.status)

    def take(self, request_id: str = "poll", **fields: Any) -> TaskToken:
        """A worker takes the attempt that is offered."""
        [task] = self.offered(2)

        def decide(run: Run) -> TaskToken:
            core.start(run, task.stamp, request_id, "worker", ("sdk", "1"), **fields)
            return tokens.parse(tokens.of_activity_execution(run))

        self.activity_token = self.transact(decide)
        return self.activity_token

    def fail_attempt(self, failure: failure_pb.Failure | None = BOOM, **fields: Any) -> None:
        self.transact(lambda run: core.fail(run, self.activity_token, failure, "worker-2", **fields))

    def beat(self, *texts: str) -> None:
        details = payloads(*texts) if texts else None
        self.transact(lambda run: core.heartbeat(run, self.activity_token, details))

    def do(self, name: str, request_id: str = "r") -> None:
        """Let an operator do something."""
        self.transact(lambda run: OPERATIONS[name](run, request_id))

    def info(self, **wanted: bool) -> activity_pb.ActivityExecutionInfo:
        first = self.events()[0]
        return standalone_describe.info(self.state(), first, self.now_ns, **wanted)


def _update(run: Run, request_id: str, paths: tuple[str, ...] = ("priority",), **fields: Any) -> Any:
    changes = made(activity_pb.ActivityOptions, **({"priority": {"priority_key": 3}} | fields))
    return standalone_operations.update_options(run, changes, paths, request_id=request_id, restore=False)


def _reset(run: Run, request_id: str, **fields: Any) -> None:
    wanted = {"keep_paused": False, "reset_heartbeat": False, "restore_options": False, "jitter_ns": 0}
    standalone_operations.reset(run, request_id=request_id, **(wanted | fields))


OPERATIONS: dict[str, Callable[[Run, str], Any]] = {
    "pause": lambda run, request_id: standalone_operations.pause(run, request_id=request_id),
    "unpause": lambda run, request_id: standalone_operations.unpause(run, request_id=request_id, jitter_ns=0),
    "reset": _reset,
    "update": _update,
    "cancel": lambda run, request_id: core.request_cancel(run, reason="why", identity="me", request_id=request_id),
    "terminate": lambda run, request_id: core.terminate(run, reason="why", identity="me", request_id=request_id),
}


def in_state(name: str) -> Single:
    """An activity in that state, whose last attempt, if a worker has it, is the one of `activity_token`."""
    world = Single().begin(schedule_to_start_timeout=span(1000))
    if name == "SCHEDULED":
        pass
    elif name == "PAUSED":
        world.do("pause", "first")
    elif name == "TIMED_OUT":
        world.advance(1000)
    else:
        world.take()
        match name:
            case "CANCEL_REQUESTED":
                world.do("cancel", "first")
            case "PAUSE_REQUESTED":
                world.do("pause", "first")
            case "RESET_REQUESTED":
                world.do("reset", "first")
            case "COMPLETED":
                world.transact(lambda run: core.complete(run, world.activity_token, payloads("done"), "worker-2"))
            case "FAILED":
                final = made(failure_pb.Failure, message="no", application_failure_info={"non_retryable": True})
                world.fail_attempt(final)
            case "CANCELED":
                world.do("cancel", "first")
                world.transact(lambda run: core.cancel(run, world.activity_token, payloads("bye")))
            case "TERMINATED":
                world.do("terminate", "first")
    assert world.status == name
    return world


STATES = (
    "SCHEDULED", "STARTED", "PAUSED", "PAUSE_REQUESTED", "RESET_REQUESTED", "CANCEL_REQUESTED",
    "COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT",
)  # fmt: skip
WORDS = {name: name.title().replace("_", "") for name in STATES}
ENDED = STATES[6:]


def _refusals(text: str, states: tuple[str, ...]) -> dict[str, str]:
    return {name: text.format(WORDS[name]) for name in states}


# What each request makes of an activity in each state: the next state, or the refusal.
FOLLOWS: dict[str, dict[str, str]] = {
    "pause": {
        "SCHEDULED": "PAUSED",
        "STARTED": "PAUSE_REQUESTED",
        **_refusals("!activity is in non-pausable state {}", STATES[2:]),
    },
    "unpause": {
        "PAUSED": "SCHEDULED",
        "PAUSE_REQUESTED": "STARTED",
        **_refusals("!activity is in terminal state {}", ENDED),
        **_refusals(
            "!activity is in non-unpausable state {}", ("SCHEDULED", "STARTED", "RESET_REQUESTED", "CANCEL_REQUESTED")
        ),
    },
    "reset": {
        "SCHEDULED": "SCHEDULED",
        "STARTED": "RESET_REQUESTED",
        "PAUSED": "SCHEDULED",
        "PAUSE_REQUESTED": "RESET_REQUESTED",
        "RESET_REQUESTED": "!cannot reset an activity with a pending reset",
        "CANCEL_REQUESTED": "!cannot reset an activity with a pending cancellation",
        **_refusals("!activity execution is not running", ENDED),
    },
    "update": {
        **{name: name for name in STATES[:4]},
        **_refusals("!Cannot update options for activity in state {}", STATES[4:]),
    },
    "cancel": {
        "SCHEDULED": "CANCELED",
        "STARTED": "CANCEL_REQUESTED",
        "PAUSED": "CANCELED",
        "PAUSE_REQUESTED": "CANCEL_REQUESTED",
        "RESET_REQUESTED": "CANCEL_REQUESTED",
        "CANCEL_REQUESTED": "!cancellation already requested with request ID first",
        **_refusals("!activity is in terminal state {}", ENDED),
    },
    "terminate": {
        **dict.fromkeys(STATES[:6], "TERMINATED"),
        **_refusals("!invalid transition from {}", ENDED),
        "TERMINATED": "!already terminated with request ID first",
    },
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", FOLLOWS)
def test_a_request_of_an_operator(operation: str, state: str) -> None:
    world = in_state(state)
    before = world.state()
    expected = FOLLOWS[operation][state]
    if not expected.startswith("!"):
        world.do(operation)
        assert world.status == expected
        assert world.state().state_transition_count == before.state_transition_count + 1
        return
    with pytest.raises(ServiceError) as refused:
        world.do(operation)
    assert (refused.value.code, f"!{refused.value.message}") == (Code.FAILED_PRECONDITION, expected)
    assert world.state() == before


FIRST = {"pause": "SCHEDULED", "unpause": "PAUSED", "reset": "STARTED", "update": "PAUSED", "cancel": "STARTED"}


@pytest.mark.parametrize("operation", [*FIRST, "terminate"])
def test_a_repeated_request_changes_nothing_but_the_count_of_transitions(operation: str) -> None:
    world = in_state(FIRST.get(operation, "SCHEDULED"))
    world.do(operation)
    before = world.state()
    world.advance(1)
    world.do(operation)
    before.state_transition_count += 1
    assert world.state() == before


@pytest.mark.parametrize("operation", ["pause", "unpause", "reset", "cancel"])
def test_requests_without_an_id_are_not_taken_for_repeated_ones(operation: str) -> None:
    world = in_state(FIRST[operation])
    world.do(operation, "")
    with pytest.raises(ServiceError):
        world.do(operation, "")


RESPONSES: dict[str, Callable[[Run, TaskToken], Any]] = {
    "complete": lambda run, token: core.complete(run, token, None, "worker-2"),
    "fail": lambda run, token: core.fail(run, token, BOOM, "worker-2"),
    "cancel": lambda run, token: core.cancel(run, token, None),
    "heartbeat": lambda run, token: core.heartbeat(run, token, None),
}
GONE = "!activity not found for ID: a"
HAS_WORKER = ("STARTED", "PAUSE_REQUESTED", "RESET_REQUESTED", "CANCEL_REQUESTED")
ANSWERED: dict[str, dict[str, str]] = {
    "complete": dict.fromkeys(HAS_WORKER, "COMPLETED"),
    "fail": {
        "STARTED": "SCHEDULED", "PAUSE_REQUESTED": "PAUSED", "RESET_REQUESTED": "SCHEDULED",
        "CANCEL_REQUESTED": "FAILED",
    },
    "cancel": {
        **dict.fromkeys(HAS_WORKER, "!" + core.NOT_CANCEL_REQUESTED),
        "CANCEL_REQUESTED": "CANCELED",
    },
    "heartbeat": {name: name for name in HAS_WORKER},
}  # fmt: skip


def _by_id() -> TaskToken:
    return TaskToken(workflow_id="temporal-sys-activity:a", activity_id="a")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("by_id", [False, True], ids=["by token", "by id"])
@pytest.mark.parametrize("response", RESPONSES)
def test_a_response_of_a_worker(response: str, by_id: bool, state: str) -> None:
    world = in_state(state)
    before = world.state()
    stale = TaskToken(workflow_id="temporal-sys-activity:a", attempt=1, stamp=1)
    token = _by_id() if by_id else (world.activity_token if world.activity_token.attempt else stale)
    expected = ANSWERED[response].get(state, GONE)
    if response == "complete" and by_id and state not in HAS_WORKER:
        expected = "COMPLETED" if state in ("SCHEDULED", "PAUSED") else f"!invalid transition from {WORDS[state]}"
    if not expected.startswith("!"):
        world.transact(lambda run: RESPONSES[response](run, token))
        assert world.status == expected
        return
    with pytest.raises(ServiceError) as refused:
        RESPONSES[response](world.load(), token)
    assert f"!{refused.value.message}" == expected
    assert refused.value.code is {
        GONE: Code.NOT_FOUND, "!" + core.NOT_CANCEL_REQUESTED: Code.INVALID_ARGUMENT
    }.get(expected, Code.FAILED_PRECONDITION)  # fmt: skip
    assert world.state() == before


@pytest.mark.parametrize("field", ["attempt", "stamp", "started_time_ns", "nonce", "workflow_id"])
def test_each_field_of_a_token_has_to_fit_the_attempt(field: str) -> None:
    world = in_state("STARTED")
    token = TaskToken()
    token.CopyFrom(world.activity_token)
    core.of_token(world.load(), token)
    setattr(token, field, "other" if field == "workflow_id" else getattr(token, field) + 1)
    with pytest.raises(ServiceError, match="activity not found for ID: a"):
        core.of_token(world.load(), token)


# ---- starts ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_takes_an_attempt_is_noted() -> None:
    world = Single().begin()
    world.advance(3)
    [task] = world.offered(2)
    version = made(
        deployment_pb.WorkerDeploymentOptions,
        deployment_name="d",
        build_id="b",
        worker_versioning_mode=deployment_enums.WORKER_VERSIONING_MODE_VERSIONED,
    )
    world.take(deployment=version)
    activity = world.activity
    assert world.offered(2) == []
    assert (activity.started_ns, activity.first_started_ns) == (START_NS + 3 * SECOND_NS,) * 2
    assert (activity.request_id, activity.last_worker_identity) == ("poll", "worker")
    assert (activity.sdk_name, activity.sdk_version) == ("sdk", "1")
    assert activity.started_stamp == task.stamp == activity.stamp
    assert (activity.last_deployment_version.deployment_name, activity.last_deployment_version.build_id) == ("d", "b")
    world.fail_attempt()
    world.advance(10)
    unversioned = made(
        deployment_pb.WorkerDeploymentOptions,
        deployment_name="e",
        build_id="c",
        worker_versioning_mode=deployment_enums.WORKER_VERSIONING_MODE_UNVERSIONED,
    )
    world.take("second", deployment=unversioned)
    assert world.activity.first_started_ns == START_NS + 3 * SECOND_NS
    assert world.activity.started_ns == START_NS + 13 * SECOND_NS
    assert world.activity.last_deployment_version.deployment_name == "d"


def test_a_repeated_poll_changes_nothing_and_another_is_refused() -> None:
    world = Single().begin()
    [task] = world.offered(2)
    world.take()
    before = world.state()
    world.advance(1)
    world.transact(lambda run: core.start(run, task.stamp, "poll", "worker", ("sdk", "1")))
    assert world.state() == before
    for stamp, request_id in ((task.stamp, "other"), (task.stamp + 1, "other")):
        with pytest.raises(ServiceError, match="activity attempt stamp mismatch") as refused:
            core.start(world.load(), stamp, request_id, "worker", ("", ""))
        assert refused.value.code is Code.NOT_FOUND
    waiting = Single().begin()
    with pytest.raises(ServiceError, match="stamp mismatch"):
        core.start(waiting.load(), waiting.activity.stamp - 1, "poll", "worker", ("", ""))


# ---- times -----------------------------------------------------------------------------------------------------------


def test_an_attempt_is_dispatched_at_the_end_of_the_start_delay() -> None:
    world = Single().begin(start_delay=span(5), schedule_to_start_timeout=span(20), schedule_to_close_timeout=span(50))
    waiting = world.activity
    assert waiting.to_dispatch
    assert core.next_deadline(world.state()) == START_NS + 5 * SECOND_NS
    world.advance(4.999)
    assert world.offered(2) == []
    world.advance(0.001)
    [task] = world.offered(2)
    assert not world.activity.to_dispatch
    assert (task.key.task_queue, task.stamp, task.scheduled_event_id) == ("q", 1, 1)
    assert core.next_deadline(world.state()) == START_NS + 25 * SECOND_NS
    assert core.close_deadline_ns(world.state()) == START_NS + 55 * SECOND_NS


TIMEOUTS = {
    "schedule_to_start_timeout": (wf.TIMEOUT_TYPE_SCHEDULE_TO_START, "activity ScheduleToStart timeout"),
    "schedule_to_close_timeout": (wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, "activity ScheduleToClose timeout"),
    "start_to_close_timeout": (wf.TIMEOUT_TYPE_START_TO_CLOSE, "activity StartToClose timeout"),
    "heartbeat_timeout": (wf.TIMEOUT_TYPE_HEARTBEAT, "activity Heartbeat timeout"),
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_each_timeout_ends_it_at_its_time(name: str) -> None:
    world = Single().begin(**{name: span(7), "retry_policy": {"maximum_attempts": 1}})
    if name in ("start_to_close_timeout", "heartbeat_timeout"):
        world.advance(1)
    if name != "schedule_to_start_timeout":
        world.take()
    world.advance(6.999)
    assert world.status in ("SCHEDULED", "STARTED")
    world.advance(0.001)
    assert world.status == "TIMED_OUT"
    kind, message = TIMEOUTS[name]
    outcome = standalone_describe.outcome(world.activity)
    assert outcome is not None
    assert outcome.failure == made(failure_pb.Failure, message=message, timeout_failure_info={"timeout_type": kind})
    is_attempts_last = name in ("start_to_close_timeout", "heartbeat_timeout")
    assert outcome.retry_state == (
        wf.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED if is_attempts_last else wf.RETRY_STATE_TIMEOUT
    )
    assert world.last("WorkflowExecutionTimedOut").retry_state == wf.RETRY_STATE_TIMEOUT
    assert world.offered(2) == []
    assert core.next_deadline(world.state()) == 0 or world.state().timer_row_ns == 0


def test_a_timeout_has_the_progress_and_the_failure_before_it() -> None:
    world = Single().begin(schedule_to_close_timeout=span(40))
    world.take()
    world.fail_attempt()
    world.advance(10)
    world.take("second")
    world.beat("halfway")
    world.advance(30)
    assert world.status == "TIMED_OUT"
    assert world.activity.failure == made(failure_pb.Failure,
        message="activity ScheduleToClose timeout",
        timeout_failure_info={
            "timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, "last_heartbeat_details": payloads("halfway")
        },
        cause=BOOM,
    )  # fmt: skip
    assert world.activity.retry_state == wf.RETRY_STATE_TIMEOUT


def test_a_cancelled_one_that_runs_out_of_time_says_so() -> None:
    world = Single().begin(schedule_to_close_timeout=span(40))
    world.take()
    world.do("cancel")
    world.advance(40)
    assert world.status == "TIMED_OUT"
    assert world.activity.retry_state == wf.RETRY_STATE_CANCEL_REQUESTED


def test_no_time_for_another_attempt_counts_as_schedule_to_close() -> None:
    world = Single().begin(schedule_to_close_timeout=span(25), start_to_close_timeout=span(20))
    world.take()
    world.beat("halfway")
    world.advance(20)
    assert world.status == "TIMED_OUT"
    last = {"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, "last_heartbeat_details": payloads("halfway")}
    assert world.activity.failure == made(failure_pb.Failure, message=core.NO_TIME_LEFT, timeout_failure_info=last)
    assert world.activity.last_failure.message == "activity StartToClose timeout"
    assert world.activity.retry_state == wf.RETRY_STATE_TIMEOUT


def test_heartbeats_put_the_timeout_off() -> None:
    world = Single().begin(heartbeat_timeout=span(6))
    world.take()
    for count in (1, 2, 3):
        world.advance(5)
        world.beat("step", str(count))
        activity = world.activity
        assert activity.heartbeat_count == count
        assert activity.heartbeat_details == payloads("step", str(count))
        assert activity.last_heartbeat_ns == world.now_ns
        assert core.next_deadline(world.state()) == world.now_ns + 6 * SECOND_NS
    world.beat()
    assert not world.activity.HasField("heartbeat_details")
    world.advance(5.999)
    assert world.status == "STARTED"
    world.advance(0.001)
    assert world.status == "SCHEDULED"


@pytest.mark.parametrize(("after_s", "moved"), [(2.9, False), (3.0, True)])
def test_a_heartbeat_moves_the_timer_row_when_half_of_the_time_has_passed(after_s: float, moved: bool) -> None:
    world = Single().begin(heartbeat_timeout=span(6))
    world.take()
    world.advance(after_s)
    world.beat()
    assert world.state().timer_row_ns == START_NS + round((6 + (after_s if moved else 0)) * SECOND_NS)


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_an_attempt_that_failed_is_followed_by_another_after_its_back_off() -> None:
    world = Single().begin()
    world.take()
    stamp = world.activity.stamp
    world.advance(1)
    world.fail_attempt(last_heartbeat_details=payloads("so far"))
    activity = world.activity
    assert (activity.attempt, activity.retry_interval_ns, activity.retry_interval_is_workers) == (
        2, 10 * SECOND_NS, False,
    )  # fmt: skip
    assert activity.last_failure == BOOM
    assert activity.last_attempt_complete_ns == world.now_ns
    assert activity.stamp > stamp
    assert activity.heartbeat_details == payloads("so far")
    assert world.offered(2) == []
    world.advance(9.999)
    assert world.offered(2) == []
    world.advance(0.001)
    assert world.take("second").attempt == 2
    world.fail_attempt(None)
    assert not world.activity.HasField("last_failure")
    assert world.activity.retry_interval_ns == 20 * SECOND_NS


def _why_not(failure: failure_pb.Failure, attempts: int = 1, **fields: Any) -> int:
    world = Single().begin(**fields)
    for attempt in range(attempts):
        world.take(str(attempt))
        world.fail_attempt(failure)
        world.advance(1000 if attempt + 1 < attempts else 0)
    assert world.status == "FAILED"
    event = world.last("WorkflowExecutionFailed")
    assert event.failure == failure
    assert world.activity.last_worker_identity == "worker-2"
    assert world.activity.retry_state == event.retry_state
    outcome = standalone_describe.outcome(world.activity)
    assert outcome is not None
    assert (outcome.failure, outcome.retry_state) == (failure, event.retry_state)
    return int(event.retry_state)


def test_why_there_is_no_other_attempt() -> None:
    final = made(failure_pb.Failure, message="no", application_failure_info={"non_retryable": True})
    assert _why_not(final) == wf.RETRY_STATE_NON_RETRYABLE_FAILURE
    policy = {"initial_interval": {"seconds": 10}, "backoff_coefficient": 2.0}
    assert (
        _why_not(BOOM, retry_policy={**policy, "non_retryable_error_types": ["Boom"]})
        == wf.RETRY_STATE_NON_RETRYABLE_FAILURE
    )
    assert _why_not(BOOM, 2, retry_policy={**policy, "maximum_attempts": 2}) == wf.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    # An attempt that would begin at the deadline would have no time.
    assert _why_not(BOOM, schedule_to_close_timeout=span(10)) == wf.RETRY_STATE_TIMEOUT
    world = Single().begin(schedule_to_close_timeout=span(10.001))
    world.take()
    world.fail_attempt()
    assert world.status == "SCHEDULED"


def test_a_failure_without_details_is_one_all_the_same() -> None:
    world = Single().begin(retry_policy={"maximum_attempts": 1})
    world.take()
    world.fail_attempt(None)
    assert world.last("WorkflowExecutionFailed").failure.message == core.NO_DETAILS


def test_a_failure_may_ask_for_a_delay() -> None:
    world = Single().begin()
    world.take()
    wanted = made(failure_pb.Failure, message="later", application_failure_info={"next_retry_delay": span(77)})
    world.fail_attempt(wanted)
    assert world.activity.retry_interval_ns == 77 * SECOND_NS
    assert world.activity.retry_interval_is_workers
    world.do("update")
    assert world.activity.retry_interval_ns == 77 * SECOND_NS
    world.advance(77)
    world.take("second")
    now = made(failure_pb.Failure, message="now", application_failure_info={"next_retry_delay": span(0)})
    world.fail_attempt(now)
    assert (world.activity.retry_interval_ns, world.activity.retry_interval_is_workers) == (20 * SECOND_NS, False)


def test_a_back_off_stops_at_its_maximum() -> None:
    policy = made(common_pb.RetryPolicy, initial_interval=span(10), backoff_coefficient=2)
    assert [core.interval_behind(policy, attempt) // SECOND_NS for attempt in (1, 2, 3)] == [10, 20, 40]
    policy.maximum_interval.CopyFrom(span(30))
    assert [core.interval_behind(policy, attempt) // SECOND_NS for attempt in (1, 2, 3)] == [10, 20, 30]


def test_a_long_failure_is_cut_between_attempts_but_not_at_the_end() -> None:
    long = made(failure_pb.Failure, message="x" * 500, application_failure_info={"type": "Boom"})
    world = Single(Limits(activity_failure_size_error=100)).begin(
        retry_policy={"initial_interval": {"seconds": 1}, "maximum_attempts": 2}
    )
    world.take()
    world.fail_attempt(long)
    assert world.activity.last_failure.ByteSize() < 200
    world.advance(1)
    world.take("second")
    world.fail_attempt(long)
    assert world.activity.last_failure == long


# ---- operators -------------------------------------------------------------------------------------------------------


def test_a_pause_takes_the_attempt_back_and_shows_in_lists() -> None:
    world = Single().begin()
    stamp = world.activity.stamp
    world.do("pause")
    assert world.offered(2) == []
    assert world.activity.stamp == stamp + 1
    assert not world.activity.to_dispatch
    assert world.state().status == wf.WORKFLOW_EXECUTION_STATUS_PAUSED
    assert world.visibility[world.run_id].status == wf.WORKFLOW_EXECUTION_STATUS_PAUSED
    world.advance(50)
    world.do("unpause")
    assert world.state().status == wf.WORKFLOW_EXECUTION_STATUS_RUNNING
    assert world.visibility[world.run_id].status == wf.WORKFLOW_EXECUTION_STATUS_RUNNING
    assert len(world.offered(2)) == 1


@pytest.mark.parametrize(
    ("jitter_s", "fields", "fails", "after_s", "expected_s"),
    [
        (0, {}, False, 3, 3),
        (4, {}, False, 3, 7),
        (4, {"start_delay": span(20)}, False, 3, 20),
        (4, {"start_delay": span(5)}, False, 3, 7),
        (4, {}, True, 3, 10),  # the back-off of ten seconds
        (4, {}, True, 9, 13),
    ],
)
def test_when_an_attempt_is_dispatched_after_a_pause(
    jitter_s: int, fields: dict[str, Any], fails: bool, after_s: int, expected_s: int
) -> None:
    world = Single().begin(**fields)
    if fails:
        world.take()
        world.fail_attempt()
    world.do("pause")
    world.advance(after_s)
    jitter_ns = jitter_s * SECOND_NS
    world.transact(lambda run: standalone_operations.unpause(run, request_id="u", jitter_ns=jitter_ns))
    assert world.activity.dispatch_ns == START_NS + expected_s * SECOND_NS
    assert bool(world.offered(2)) == (expected_s == after_s)


def test_a_pause_during_an_attempt_holds_the_next_one_back() -> None:
    world = in_state("PAUSE_REQUESTED")
    stamp = world.activity.stamp
    assert world.state().status == wf.WORKFLOW_EXECUTION_STATUS_RUNNING
    world.fail_attempt()
    assert (world.status, world.activity.attempt, world.activity.stamp) == ("PAUSED", 2, stamp + 1)
    world.advance(3600)
    assert world.offered(2) == []


@pytest.mark.parametrize("keep_paused", [False, True])
@pytest.mark.parametrize("reset_heartbeat", [False, True])
@pytest.mark.parametrize("restore_options", [False, True])
@pytest.mark.parametrize("state", ["backing off", "paused", "started", "pause requested"])
def test_a_reset(state: str, keep_paused: bool, reset_heartbeat: bool, restore_options: bool) -> None:
    """At once, or when the attempt has ended."""
    world = Single().begin()
    world.take()
    world.beat("progress")
    world.transact(lambda run: _update(run, "u"))
    world.fail_attempt()
    if state in ("started", "pause requested"):
        world.advance(10)
        world.take("second")
    if state in ("paused", "pause requested"):
        world.do("pause")
    world.transact(
        lambda run: _reset(
            run, "r", keep_paused=keep_paused, reset_heartbeat=reset_heartbeat, restore_options=restore_options,
            jitter_ns=2 * SECOND_NS,
        )
    )  # fmt: skip
    waits_s = 2
    if state in ("started", "pause requested"):
        assert world.activity.attempt == 2
        assert world.activity.HasField("heartbeat_details")
        world.advance(1)
        world.fail_attempt()
        waits_s = 0
    stays = keep_paused and state in ("paused", "pause requested")
    activity = world.activity
    assert world.status == ("PAUSED" if stays else "SCHEDULED")
    assert (activity.attempt, activity.retry_interval_ns) == (1, 0)
    assert activity.HasField("heartbeat_details") != reset_heartbeat
    assert (activity.last_heartbeat_ns == 0) == reset_heartbeat
    assert activity.options.HasField("priority") != restore_options
    assert (activity.reset_options, activity.reset_heartbeat, activity.reset_keeps_paused) == (False, False, False)
    if stays:
        assert world.offered(2) == []
        assert activity.dispatch_ns == 0 or state == "pause requested"
    else:
        assert activity.dispatch_ns == world.now_ns + waits_s * SECOND_NS
        world.advance(waits_s)
        assert world.take("third").attempt == 1


def test_a_reset_waits_for_the_start_delay_of_an_attempt_that_was_never_made() -> None:
    world = Single().begin(start_delay=span(20))
    world.do("reset")
    assert world.activity.dispatch_ns == START_NS + 20 * SECOND_NS
    begun = Single().begin(start_delay=span(20))
    begun.advance(20)
    begun.take()
    begun.fail_attempt()
    begun.advance(1)
    begun.do("reset")
    assert begun.activity.dispatch_ns == begun.now_ns


def test_a_request_to_cancel_puts_a_reset_aside() -> None:
    world = in_state("STARTED")
    world.transact(lambda run: _reset(run, "r", reset_heartbeat=True, restore_options=True))
    assert (world.activity.reset_options, world.activity.reset_heartbeat) == (True, True)
    world.do("cancel")
    assert (world.activity.reset_options, world.activity.reset_heartbeat) == (False, False)


def test_cancelling_one_that_no_worker_has_ends_it_with_the_reason() -> None:
    world = Single().begin()
    world.do("cancel")
    details = payloads("why")
    assert world.activity.failure == made(
        failure_pb.Failure, message="Activity canceled", canceled_failure_info={"details": details, "identity": "me"}
    )
    assert world.last("WorkflowExecutionCanceled").details == details
    assert world.offered(2) == []
    assert (world.activity.cancel_reason, world.activity.cancel_identity, world.activity.cancel_request_id) == (
        "why", "me", "r",
    )  # fmt: skip


@pytest.mark.parametrize("details", [None, payloads("bye")])
def test_a_worker_may_say_how_far_it_came_when_it_is_cancelled(details: common_pb.Payloads | None) -> None:
    world = in_state("CANCEL_REQUESTED")
    world.transact(lambda run: core.cancel(run, world.activity_token, details))
    event = world.last("WorkflowExecutionCanceled")
    info = world.activity.failure.canceled_failure_info
    assert info.identity == "me"
    for each in (event, info):
        assert each.HasField("details") == (details is not None)
        assert each.details == (details or common_pb.Payloads())


def test_a_terminated_one_says_by_whom() -> None:
    world = in_state("STARTED")
    world.do("terminate")
    assert world.activity.failure == made(failure_pb.Failure, message="why", terminated_failure_info={"identity": "me"})
    event = world.last("WorkflowExecutionTerminated")
    assert (event.reason, event.identity) == ("why", "me")


@pytest.mark.parametrize("result", [None, payloads("done")])
@pytest.mark.parametrize("state", ["SCHEDULED", "STARTED"])
def test_a_completed_one_keeps_its_result(state: str, result: common_pb.Payloads | None) -> None:
    world = in_state(state)
    token = world.activity_token if state == "STARTED" else _by_id()
    world.advance(2)
    world.transact(lambda run: core.complete(run, token, result, "worker-2"))
    activity, event = world.activity, world.last("WorkflowExecutionCompleted")
    assert activity.result == event.result == (result or common_pb.Payloads())
    assert event.HasField("result") == (result is not None)
    assert activity.last_attempt_complete_ns == world.now_ns
    assert activity.last_worker_identity == "worker-2"
    began_ns = START_NS if state == "STARTED" else world.now_ns
    assert (activity.started_ns, activity.first_started_ns) == (began_ns, began_ns)
    outcome = standalone_describe.outcome(activity)
    assert outcome is not None
    assert outcome.WhichOneof("value") == "result"
    assert outcome.result == activity.result
    assert world.offered(2) == []


# ---- options ---------------------------------------------------------------------------------------------------------


def _updated(world: Single, *paths: str, **fields: Any) -> activity_pb.ActivityOptions:
    changes = made(activity_pb.ActivityOptions, **fields)
    updated: activity_pb.ActivityOptions = world.transact(
        lambda run: standalone_operations.update_options(run, changes, paths, request_id="", restore=False)
    )
    assert updated == world.activity.options
    return updated


def test_options_that_are_named_are_changed() -> None:
    world = Single().begin()
    _updated(world, "taskQueue.name", "retryPolicy.maximumAttempts", task_queue={"name": "other"},
             retry_policy={"maximum_attempts": 7}, priority={"priority_key": 4})  # fmt: skip
    changed = world.activity.options
    assert changed.task_queue.name == world.state().task_queue == "other"
    assert world.visibility[world.run_id].task_queue == "other"
    assert changed.retry_policy == made(
        common_pb.RetryPolicy, initial_interval=span(10), backoff_coefficient=2, maximum_attempts=7
    )
    assert not changed.HasField("priority")
    assert [task.key.task_queue for task in world.offered(2)] == ["other"]
    assert world.activity.original_options == options()


def test_a_new_policy_changes_the_back_off_that_is_waited_for() -> None:
    for pauses in (False, True):
        world = Single().begin()
        world.take()
        world.fail_attempt()
        if pauses:
            world.do("pause")
        world.advance(1)
        _updated(world, "retry_policy.initial_interval", retry_policy={"initial_interval": span(30)})
        assert world.activity.retry_interval_ns == 30 * SECOND_NS
        if not pauses:
            assert world.activity.dispatch_ns == START_NS + 30 * SECOND_NS
        _updated(world, "heartbeat_timeout", heartbeat_timeout=span(3))
        assert world.activity.retry_interval_ns == 30 * SECOND_NS
        world.transact(
            lambda run: standalone_operations.update_options(
                run, activity_pb.ActivityOptions(), (), request_id="", restore=True
            )
        )
        assert world.activity.retry_interval_ns == 10 * SECOND_NS
        assert not world.activity.options.HasField("heartbeat_timeout")


def test_a_new_policy_is_for_the_next_back_off_when_none_is_waited_for() -> None:
    world = Single().begin()
    _updated(world, "retry_policy.initial_interval", retry_policy={"initial_interval": span(30)})
    assert world.activity.retry_interval_ns == 0
    assert len(world.offered(2)) == 1


@pytest.mark.parametrize(
    ("paths", "fields", "message"),
    [
        (["retry_policy.backoff_coefficient"], {"retry_policy": {"backoff_coefficient": 0.5}},
         "BackoffCoefficient cannot be less than 1 on retry policy."),
        (["start_to_close_timeout"], {},
         "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. ActivityId=a ActivityType=T"),
        (["retry_policy"], {}, "RetryPolicy is not provided"),
        (["task_queue.name"], {}, "TaskQueue is not provided"),
    ],
)  # fmt: skip
def test_bad_options_change_nothing(paths: list[str], fields: dict[str, Any], message: str) -> None:
    world = Single().begin()
    before = world.state()
    with pytest.raises(ServiceError) as refused:
        _updated(world, *paths, **fields)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, message)
    assert world.state() == before


def test_the_start_delay_is_changed_until_the_first_dispatch() -> None:
    world = Single().begin(start_delay=span(10))
    world.advance(4)
    _updated(world, "start_delay", start_delay=span(6))
    assert world.activity.dispatch_ns == START_NS + 6 * SECOND_NS
    assert world.state().execution_start_ns == START_NS + 6 * SECOND_NS
    assert world.visibility[world.run_id].execution_time_us == (START_NS + 6 * SECOND_NS) // 1000
    world.advance(1.999)
    _updated(world, "start_delay", start_delay=span(6))
    world.advance(0.001)
    for _ in range(2):
        with pytest.raises(ServiceError, match="the first activity attempt has already been dispatched") as refused:
            _updated(world, "startDelay", start_delay=span(9))
        assert refused.value.code is Code.FAILED_PRECONDITION
        world.take() if world.status == "SCHEDULED" else None
    paused = Single().begin(start_delay=span(10))
    paused.do("pause")
    paused.advance(20)
    _updated(paused, "start_delay", start_delay=span(30))
    assert paused.state().execution_start_ns == START_NS + 30 * SECOND_NS


def test_the_start_delay_of_an_attempt_that_was_made_is_not_restored() -> None:
    world = Single().begin(start_delay=span(10))
    _updated(world, "start_delay", start_delay=span(2))

    def restore(run: Run) -> None:
        standalone_operations.update_options(run, activity_pb.ActivityOptions(), (), request_id="", restore=True)

    world.transact(restore)
    assert world.activity.options == options(start_delay=span(10))
    _updated(world, "start_delay", start_delay=span(2))
    world.advance(2)
    world.take()
    world.transact(restore)
    assert world.activity.options == options(start_delay=span(2))
    assert world.state().execution_start_ns == START_NS + 2 * SECOND_NS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # schedule to close, schedule to start, start to close, heartbeat
        ((10, 0, 0, 0), (10, 10, 10, 0)),
        ((10, 4, 3, 0), (10, 4, 3, 0)),
        ((10, 40, 30, 20), (10, 10, 10, 10)),
        ((10, 0, 3, 4), (10, 10, 3, 3)),
        ((0, 4, 3, 0), (0, 4, 3, 0)),
        ((0, 0, 3, 3), (0, 0, 3, 3)),
        ((0, 4, 0, 1), None),
    ],
)
def test_timeouts_are_completed(given: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    names = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")
    asked = {name: span(value) for name, value in zip(names, given, strict=True) if value}
    wanted = made(activity_pb.ActivityOptions, **asked)
    assert standalone_operations.complete_timeouts(wanted) == (expected is not None)
    if expected is not None:
        assert tuple(getattr(wanted, name).seconds for name in names) == expected
        assert all(wanted.HasField(name) for name in names)  # type: ignore[arg-type]


# ---- links and callbacks ---------------------------------------------------------------------------------------------


def _link(name: str) -> common_pb.Link:
    return made(common_pb.Link, activity={"activity_id": name})


def test_links_of_later_starts_are_attached_once() -> None:
    world = Single(Limits(links_per_execution=3)).begin()

    def attach(request_id: str, *names: str) -> None:
        links = [_link(name) for name in names]
        world.transact(lambda run: core.attach_links(run, links, request_id))

    attach("second", "one", "two")
    attach("second", "three")
    attach("third")
    attach(world.state().create_request_id, "four")
    assert list(world.activity.links) == [_link("one"), _link("two")]
    attach("fourth", "two")
    assert list(world.activity.links) == [_link("one"), _link("two")]
    assert list(world.activity.link_request_ids) == ["second", "fourth"]
    with pytest.raises(ServiceError) as refused:
        attach("fifth", "three", "four")
    assert (refused.value.code, refused.value.message) == (
        Code.FAILED_PRECONDITION, "cannot attach more than 3 links to an activity (2 links already attached)",
    )  # fmt: skip
    attach("sixth", "three")
    assert len(world.activity.links) == 3
    world.do("terminate")
    attach("second", "three")
    with pytest.raises(ServiceError, match="cannot attach links to a closed activity"):
        attach("seventh", "five")


def test_callbacks_are_shown_with_their_state() -> None:
    world = Single()
    world.start(
        first_task=False, workflow_id="temporal-sys-activity:a",
        prepare=lambda run: (
            run.state.completion_callbacks.add(nexus={"url": "http://there"}),
            run.state.callback_infos.add(
                state=3, attempt=4, registered_ns=START_NS, last_complete_ns=START_NS + SECOND_NS,
                last_failure=BOOM, next_attempt_ns=START_NS + 2 * SECOND_NS,
            ),
            run.state.completion_callbacks.add(nexus={"url": "http://here"}),
            run.state.callback_infos.add(registered_ns=START_NS),
            core.begin(run, "a", options()),
        ),
    )  # fmt: skip
    first, second = standalone_describe.callbacks(world.state())
    state = world.state().callback_infos[0].state
    assert first == made(activity_pb.CallbackInfo,
        trigger={"activity_closed": {}},
        info={
            "callback": {"nexus": {"url": "http://there"}}, "registration_time": START, "state": first.info.state,
            "attempt": 4, "last_attempt_complete_time": at(1), "last_attempt_failure": BOOM,
            "next_attempt_schedule_time": at(2),
        },
    )  # fmt: skip
    assert first.info.state != second.info.state
    assert state == 3
    assert not second.info.HasField("last_attempt_complete_time")
    assert not second.info.HasField("last_attempt_failure")
    assert not second.info.HasField("next_attempt_schedule_time")


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _shown(world: Single, **wanted: bool) -> activity_pb.ActivityExecutionInfo:
    shown = world.info(**wanted)
    assert shown.state_size_bytes == world.state().ByteSize()
    assert shown.state_transition_count == world.state().state_transition_count
    for field in ("state_size_bytes", "state_transition_count"):
        shown.ClearField(field)
    return shown


def test_everything_about_a_new_one() -> None:
    world = Single()
    given = options(
        schedule_to_close_timeout=span(100), schedule_to_start_timeout=span(50), heartbeat_timeout=span(5),
        priority={"priority_key": 2}, start_delay=span(3),
    )  # fmt: skip
    attributes = made(
        common_pb.SearchAttributes, indexed_fields={"City": payload("Bern"), "TemporalNamespaceDivision": payload("3")}
    )
    world.start(
        first_task=False, workflow_id="temporal-sys-activity:a", workflow_type="T", task_queue="q", start_delay_s=3,
        search_attributes=attributes, header=made(common_pb.Header, fields={"trace": payload("t")}),
        prepare=lambda run: core.begin(run, "a", given),
    )  # fmt: skip
    first = world.events()[0]
    first.user_metadata.CopyFrom(made(user_metadata_pb2.UserMetadata, summary=payload("s")))
    first.links.append(_link("one"))
    shown = standalone_describe.info(world.state(), first, world.now_ns)
    for field in ("state_size_bytes", "state_transition_count"):
        shown.ClearField(field)
    assert shown == made(activity_pb.ActivityExecutionInfo,
        activity_id="a", run_id=world.run_id, activity_type={"name": "T"},
        status=enums.ACTIVITY_EXECUTION_STATUS_RUNNING, run_state=wf.PENDING_ACTIVITY_STATE_SCHEDULED,
        task_queue="q", attempt=1, links=[_link("one")],
        schedule_to_close_timeout=span(100), schedule_to_start_timeout=span(50), start_to_close_timeout=span(60),
        heartbeat_timeout=span(5), retry_policy=given.retry_policy, priority={"priority_key": 2}, start_delay=span(3),
        header={"fields": {"trace": payload("t")}}, user_metadata={"summary": payload("s")},
        search_attributes={"indexed_fields": {"City": payload("Bern")}},
        schedule_time=START, execution_time=at(3), expiration_time=at(103), next_attempt_schedule_time=at(3),
    )  # fmt: skip


def test_everything_about_one_that_backs_off() -> None:
    world = Single().begin()
    world.advance(1)
    world.take(deployment=made(deployment_pb.WorkerDeploymentOptions,
        deployment_name="d", build_id="b", worker_versioning_mode=deployment_enums.WORKER_VERSIONING_MODE_VERSIONED
    ))  # fmt: skip
    world.advance(1)
    world.beat("progress")
    world.advance(1)
    world.fail_attempt()
    common: dict[str, Any] = {
        "activity_id": "a", "run_id": world.run_id, "activity_type": {"name": "T"},
        "status": enums.ACTIVITY_EXECUTION_STATUS_RUNNING, "run_state": wf.PENDING_ACTIVITY_STATE_SCHEDULED,
        "task_queue": "q", "attempt": 2, "last_worker_identity": "worker", "total_heartbeat_count": 1,
        "sdk_name": "sdk", "sdk_version": "1", "start_to_close_timeout": span(60),
        "retry_policy": options().retry_policy, "search_attributes": {},
        "last_deployment_version": {"deployment_name": "d", "build_id": "b"},
        "schedule_time": START, "execution_time": START, "last_started_time": at(1), "last_heartbeat_time": at(2),
        "last_attempt_complete_time": at(3),
    }  # fmt: skip
    waits = {"next_attempt_schedule_time": at(13), "current_retry_interval": span(10)}
    assert _shown(world) == made(activity_pb.ActivityExecutionInfo, **common, **waits)
    more = {"heartbeat_details": payloads("progress"), "last_failure": BOOM}
    assert _shown(world, with_heartbeat_details=True, with_last_failure=True) == made(
        activity_pb.ActivityExecutionInfo, **common, **waits, **more
    )
    world.advance(10)
    assert _shown(world) == made(activity_pb.ActivityExecutionInfo, **common)


STATUSES = {
    "COMPLETED": enums.ACTIVITY_EXECUTION_STATUS_COMPLETED, "FAILED": enums.ACTIVITY_EXECUTION_STATUS_FAILED,
    "CANCELED": enums.ACTIVITY_EXECUTION_STATUS_CANCELED, "TERMINATED": enums.ACTIVITY_EXECUTION_STATUS_TERMINATED,
    "TIMED_OUT": enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT, "PAUSED": enums.ACTIVITY_EXECUTION_STATUS_PAUSED,
}  # fmt: skip
RUN_STATES = {
    "SCHEDULED": wf.PENDING_ACTIVITY_STATE_SCHEDULED, "STARTED": wf.PENDING_ACTIVITY_STATE_STARTED,
    "CANCEL_REQUESTED": wf.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED, "PAUSED": wf.PENDING_ACTIVITY_STATE_PAUSED,
    "PAUSE_REQUESTED": wf.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED, "RESET_REQUESTED": wf.PENDING_ACTIVITY_STATE_STARTED,
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_the_state_that_is_shown(state: str) -> None:
    world = in_state(state)
    shown = world.info()
    assert shown.status == STATUSES.get(state, enums.ACTIVITY_EXECUTION_STATUS_RUNNING)
    assert shown.run_state == RUN_STATES.get(state, wf.PENDING_ACTIVITY_STATE_UNSPECIFIED)
    assert shown.HasField("close_time") == shown.HasField("execution_duration") == (state in ENDED)
    assert not shown.HasField("next_attempt_schedule_time")
    assert (standalone_describe.outcome(world.activity) is None) == (state not in ENDED)
    assert core.is_under_way(world.state()) == (state in ("SCHEDULED", *HAS_WORKER))
    assert core.is_standalone(world.state())
    assert (world.activity.status in TERMINAL) == (state in ENDED)


def test_an_attempt_to_be_reset_that_stays_paused_shows_as_one_to_be_paused() -> None:
    world = in_state("PAUSE_REQUESTED")
    world.transact(lambda run: _reset(run, "r", keep_paused=True))
    assert world.info().run_state == wf.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
    started = in_state("STARTED")
    started.transact(lambda run: _reset(run, "r", keep_paused=True))
    assert started.info().run_state == wf.PENDING_ACTIVITY_STATE_STARTED


def test_how_long_it_took() -> None:
    world = in_state("STARTED")
    world.advance(7)
    world.do("terminate")
    shown = world.info()
    assert (shown.close_time, shown.execution_duration) == (at(7), span(7))
    row = visibility_row(world.state(), {})
    assert row.close_time_us == (START_NS + 7 * SECOND_NS) // 1000


def test_one_that_waits_for_its_dispatch_is_not_under_way() -> None:
    world = Single().begin(start_delay=span(5))
    assert not core.is_under_way(world.state())
    world.advance(5)
    assert core.is_under_way(world.state())
