"""Workflow tasks field by field: what is written of each kind of task, which tokens fit, and when the next one follows."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import task_queue_pb2 as tq
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.command_builders import complete_workflow, made, schedule_activity, start_timer
from tests.core.harness import START_NS, World
from tests.core.test_updates import admit, message, rejection
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core import completion, history_limits
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal import decide as signals
from whistlestop.history.core.state_pb2 import WorkflowTask
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import short_timers

STICKY = taskqueue_pb.StickyExecutionAttributes(worker_task_queue=taskqueue_pb.TaskQueue(name="sticky"))


def signal(world: World) -> None:
    world.transact(lambda run: signals.receive(run, name="go", input=None, identity="", request_id=""))


@pytest.mark.parametrize("field", ["scheduled_event_id", "started_event_id", "started_time_ns", "attempt", "nonce"])
def test_each_field_of_a_token_has_to_fit_the_task(field: str) -> None:
    world = World()
    world.start()
    token = world.poll()
    completion.check_token(world.load(), token)
    wrong = TaskToken()
    wrong.CopyFrom(token)
    setattr(wrong, field, getattr(token, field) + 1)
    with pytest.raises(ServiceError, match=r"Workflow task not found\.") as refused:
        completion.check_token(world.load(), wrong)
    assert refused.value.code is Code.NOT_FOUND
    world.complete(complete_workflow())
    with pytest.raises(ServiceError, match=r"Workflow task not found\."):
        completion.check_token(world.load(), token)
    none = World()
    none.start()
    none.turn()
    with pytest.raises(ServiceError, match=r"Workflow task not found\."):
        completion.check_token(none.load(), TaskToken())


def test_the_events_of_a_task() -> None:
    world = World()
    world.start(task_timeout_s=7)
    world.advance(1)
    world.poll(identity="me")
    scheduled, started = world.last("WorkflowTaskScheduled"), world.last("WorkflowTaskStarted")
    assert scheduled == made(
        type(scheduled), task_queue={"name": "orders", "kind": tq.TASK_QUEUE_KIND_NORMAL},
        start_to_close_timeout={"seconds": 7}, attempt=1,
    )  # fmt: skip
    assert started == made(
        type(started), scheduled_event_id=2, identity="me", request_id=started.request_id,
        history_size_bytes=started.history_size_bytes,
    )  # fmt: skip
    assert started.history_size_bytes > 0
    world.complete(
        binary_checksum="sum", worker_version_stamp=common_pb.WorkerVersionStamp(build_id="b"),
        sdk_metadata={"sdk_name": "sdk"}, metering_metadata={"nonfirst_local_activity_execution_attempts": 3},
    )  # fmt: skip
    completed = world.last("WorkflowTaskCompleted")
    assert completed == made(
        type(completed), scheduled_event_id=2, started_event_id=3, identity="worker", binary_checksum="sum",
        worker_version={"build_id": "b"}, sdk_metadata={"sdk_name": "sdk"},
        metering_metadata={"nonfirst_local_activity_execution_attempts": 3},
    )  # fmt: skip


def test_a_task_that_fails_says_why() -> None:
    world = World()
    world.start()
    world.poll()
    failure = failure_pb.Failure(message="no")
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    world.transact(lambda run: workflow_task.fail(
        run, cause, failure, "me", binary_checksum="sum", base_run_id="b", new_run_id="n"
    ))  # fmt: skip
    failed = world.last("WorkflowTaskFailed")
    assert failed == made(
        type(failed), scheduled_event_id=2, started_event_id=3, cause=cause, failure=failure, identity="me",
        binary_checksum="sum", base_run_id="b", new_run_id="n",
    )  # fmt: skip
    assert world.state().workflow_close_attempted
    assert world.state().workflow_task.attempt == 2


@pytest.mark.parametrize(
    ("cause", "attempt", "closes"),
    [
        (fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, 2, True),
        (fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW, 1, False),
        (fc.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND, 1, False),
        (fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, 2, False),
    ],
)
def test_the_attempt_after_a_failure(cause: Any, attempt: int, closes: bool) -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    workflow_task.fail(run, cause, None, "me")
    assert (run.state.workflow_task.attempt, run.state.workflow_close_attempted) == (attempt, closes)
    failed = run.batch[-1].workflow_task_failed_event_attributes
    assert not failed.HasField("failure")


def test_a_transient_task_writes_nothing_until_it_completes() -> None:
    world = World()
    world.start()
    world.poll()
    world.transact(lambda run: workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, None, "me"))
    world.transact(workflow_task.schedule)
    names = world.names()
    task = world.state().workflow_task
    assert (task.write_events, task.attempt, task.scheduled_event_id, task.scheduled_ns) == (
        False, 2, len(names) + 1, world.now_ns,
    )  # fmt: skip
    [scheduled] = workflow_task.unwritten_events(world.load())
    a = scheduled.workflow_task_scheduled_event_attributes
    assert (scheduled.event_id, a.attempt, a.task_queue.name, a.start_to_close_timeout.seconds) == (
        len(names) + 1, 2, "orders", 10,
    )  # fmt: skip
    assert scheduled.event_time.ToNanoseconds() == world.now_ns
    world.advance(1)
    world.poll(identity="me")
    assert world.names() == names
    run = world.load()
    run.state.workflow_task.build_id = "b"
    run.state.workflow_task.suggest_continue_as_new = True
    run.state.workflow_task.suggest_continue_as_new_reasons.append(1)
    _, started = workflow_task.unwritten_events(run)
    b = started.workflow_task_started_event_attributes
    assert b == made(
        type(b), scheduled_event_id=len(names) + 1, identity="me", request_id=b.request_id,
        suggest_continue_as_new=True, suggest_continue_as_new_reasons=[1], history_size_bytes=b.history_size_bytes,
        worker_version={"build_id": "b", "use_versioning": True},
    )  # fmt: skip
    assert (b.history_size_bytes > 0, bool(b.request_id), started.event_id) == (True, True, len(names) + 2)
    assert started.event_time.ToNanoseconds() == world.now_ns
    world.complete()
    assert world.names() == [*names, "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]
    scheduled_event, started_event = world.events()[-3:-1]
    assert scheduled_event.event_time.ToNanoseconds() == world.now_ns - SECOND_NS
    assert started_event.event_time.ToNanoseconds() == world.now_ns
    assert scheduled_event.workflow_task_scheduled_event_attributes.attempt == 2
    assert workflow_task.unwritten_events(world.load()) == []


def test_a_transient_task_that_fails_leaves_no_event() -> None:
    world = World()
    world.start()
    world.poll()
    world.transact(lambda run: workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, None, "me"))
    for attempt in (2, 3):
        world.transact(workflow_task.schedule)
        names = world.names()
        world.poll()
        if attempt == 2:
            world.transact(workflow_task.time_out)
        else:
            world.transact(lambda run: workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, None, "me"))
        assert world.names() == names
        assert world.state().workflow_task.attempt == attempt + 1
        assert world.state().workflow_task.attempts_since_last_success == attempt


@pytest.mark.parametrize("attempt", [1, 3, 4, 5, 40])
def test_a_task_that_keeps_failing_may_take_longer(attempt: int) -> None:
    limits = Limits()
    world = World(limits)
    world.start()
    run = world.load()
    longer_ns = workflow_task._start_to_close_ns(run, attempt) - run.state.task_timeout_ns
    expected = {1: 0, 3: 0, 4: limits.workflow_task_retry_initial_ns, 5: 2 * limits.workflow_task_retry_initial_ns}
    assert longer_ns == expected.get(attempt, limits.workflow_task_retry_max_ns)


def test_a_short_timeout_is_no_shorter_than_a_timer() -> None:
    most_ns = short_timers.MOST_WAIT_NS
    assert workflow_task.times_out_ns(WorkflowTask(started_ns=5, timeout_ns=most_ns - 1)) == 5 + most_ns
    assert workflow_task.times_out_ns(WorkflowTask(started_ns=5, timeout_ns=most_ns + 1)) == 6 + most_ns


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("speculative", [True, False])
def test_how_long_a_task_waits_on_its_queue(speculative: bool, sticky: bool) -> None:
    limits = Limits(sticky_timeout_default_ns=7 * SECOND_NS)
    world = World(limits)
    world.start()
    world.turn(**({"sticky_attributes": STICKY} if sticky else {}))
    run = world.load()
    workflow_task.schedule(run, speculative=speculative)
    task = run.state.workflow_task
    [offered] = run.tasks_added
    waits_s = 7 if sticky else 5 if speculative else 0
    assert task.schedule_to_start_deadline_ns == (run.now_ns + waits_s * SECOND_NS if waits_s else 0)
    assert (offered.key.task_queue, offered.sticky, task.sticky) == ("sticky" if sticky else "orders", sticky, sticky)
    assert run.state.timer_row_ns == run.now_ns + (waits_s or 10) * SECOND_NS
    for keeps in (True, False):
        before = task.schedule_to_start_deadline_ns
        stamp = task.stamp
        workflow_task.move_to_normal_queue(run, keep_timeout=keeps)
        assert task.schedule_to_start_deadline_ns == (
            before if keeps else run.now_ns + 5 * SECOND_NS if speculative else 0
        )
        [moved] = run.tasks_added
        assert (moved.key.task_queue, moved.stamp, moved.sticky, task.sticky) == ("orders", stamp + 1, False, False)
        assert task.stamp == stamp + 1
    assert run.changed


@pytest.mark.parametrize("kind", ["normal", "speculative", "transient"])
def test_a_task_that_nobody_took_off_a_sticky_queue(kind: str) -> None:
    world = World()
    world.start()
    world.turn(sticky_attributes=STICKY)
    run = world.load()
    if kind == "transient":
        run.state.workflow_task.attempt = 2
    workflow_task.schedule(run, speculative=kind == "speculative")
    run.new_batch()
    workflow_task.time_out_before_start(run)
    assert run.tasks_added == []
    assert run.state.sticky_task_queue == ""
    assert run.state.workflow_task.attempt == 1
    events = run.batch
    if kind == "transient":
        assert events == []
        assert run.changed
    else:
        timed_out = events[-1].workflow_task_timed_out_event_attributes
        assert timed_out.timeout_type == wf.TIMEOUT_TYPE_SCHEDULE_TO_START
        assert timed_out.scheduled_event_id == events[-1].event_id - 1
        assert timed_out.started_event_id == 0
        assert len(events) == (2 if kind == "speculative" else 1)


def test_a_task_that_takes_too_long() -> None:
    world = World()
    world.start()
    world.poll()
    world.transact(workflow_task.time_out)
    timed_out = world.last("WorkflowTaskTimedOut")
    assert timed_out == made(
        type(timed_out), scheduled_event_id=2, started_event_id=3, timeout_type=wf.TIMEOUT_TYPE_START_TO_CLOSE
    )


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("end", ["signal", "fail", "time out"])
def test_a_speculative_task_becomes_a_normal_one_when_something_happens(end: str, started: bool) -> None:
    world = World()
    world.start()
    world.turn()
    admit(world)
    names = world.names()
    if started:
        world.poll()
    assert world.names() == names
    if end == "signal":
        signal(world)
    elif started:
        if end == "fail":
            world.transact(lambda run: workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, None, "me"))
        else:
            world.transact(workflow_task.time_out)
    added = world.names()[len(names) :]
    if end == "signal" and not started:
        assert added == ["WorkflowTaskScheduled", "WorkflowExecutionSignaled"]
        assert not world.state().workflow_task.speculative
    elif end == "signal":
        assert added == ["WorkflowTaskScheduled", "WorkflowTaskStarted"]
        assert len(world.state().buffered_events) == 1
    elif started:
        assert added[:2] == ["WorkflowTaskScheduled", "WorkflowTaskStarted"]
        assert len(added) == 3


@pytest.mark.parametrize(
    ("events", "discards", "fields", "leaves"),
    [
        (0, False, {}, True), (1, False, {}, False), (1, True, {}, True), (10, True, {}, True), (11, True, {}, False),
        (0, False, {"commands": [start_timer()]}, False), (0, False, {"force_create_new_workflow_task": True}, False),
        (0, False, {"messages": [message(rejection(), "other")]}, True),
    ],
)  # fmt: skip
def test_a_speculative_task_without_effect_leaves_no_trace(
    events: int, discards: bool, fields: dict[str, Any], leaves: bool
) -> None:
    world = World()
    world.start()
    world.turn()
    admit(world)
    world.poll()
    run = world.load()
    run.state.next_event_id += events
    request = made(
        rr.RespondWorkflowTaskCompletedRequest, **fields,
        capabilities={"discard_speculative_workflow_task_with_events": discards},
    )  # fmt: skip
    assert workflow_task._is_without_effect(run, request) == leaves


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({}, []),
        ({"history_size_suggest_continue_as_new": 1}, [wf.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE]),
        ({"history_count_suggest_continue_as_new": 3}, [wf.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS]),
        ({"history_count_suggest_continue_as_new": 4}, []),
        ({"total_updates": 2, "total_updates_suggest_continue_as_new_percent": 50},
         [wf.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES]),
        ({"total_updates": 2, "total_updates_suggest_continue_as_new_percent": 51}, []),
        ({"total_updates": 0}, []),
    ],
)  # fmt: skip
def test_when_continue_as_new_is_suggested(limits: dict[str, Any], reasons: list[int]) -> None:
    world = World(Limits(**limits))
    world.start()
    run = world.load()
    run.state.updates["u"].update_id = "u"
    run.state.workflow_task.suggest_continue_as_new_reasons.append(9)
    workflow_task.start(run, request_id="r", identity="me")
    started = run.batches[-1][-1].workflow_task_started_event_attributes
    assert list(started.suggest_continue_as_new_reasons) == reasons
    assert started.suggest_continue_as_new == bool(reasons)
    transient = world.load()
    transient.state.updates["u"].update_id = "u"
    transient.state.workflow_task.write_events = False
    transient.state.workflow_task.scheduled_event_id = transient.state.next_event_id
    transient.state.workflow_task.suggest_continue_as_new_reasons.append(9)
    workflow_task.start(transient, request_id="r", identity="me")
    assert list(transient.state.workflow_task.suggest_continue_as_new_reasons) == reasons
    assert transient.state.workflow_task.suggest_continue_as_new == bool(reasons)


# ---- what follows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
def test_a_task_follows_when_something_happened_meanwhile(inline: bool) -> None:
    world = World()
    world.start()
    world.poll()
    signal(world)
    outcome = world.complete(return_new_workflow_task=inline)
    assert (outcome.completed, outcome.new_task_started) == (True, inline)
    assert len(world.offered(1)) == (not inline)
    idle = World()
    idle.start()
    idle.poll()
    outcome = idle.complete(return_new_workflow_task=inline)
    assert not outcome.new_task_started
    assert idle.offered(1) == []


@pytest.mark.parametrize(("seconds", "ends"), [(1800, False), (1800.001, True)])
def test_a_task_is_kept_alive_for_a_limited_time(seconds: float, ends: bool) -> None:
    world = World()
    world.start()
    world.turn(sticky_attributes=STICKY)
    signal(world)
    world.poll()
    run = world.load()
    run.now_ns = START_NS + round(seconds * SECOND_NS)
    token = world.workflow_token
    request = rr.RespondWorkflowTaskCompletedRequest(force_create_new_workflow_task=True)
    outcome = completion.respond_completed(run, token, request)
    assert (outcome.error is not None) == ends
    if outcome.error is not None:
        assert (outcome.error.code, outcome.error.message) == (Code.NOT_FOUND, "workflow task heartbeat timeout")
        assert run.state.sticky_task_queue == ""
        assert run.has_pending_workflow_task
    else:
        assert run.state.workflow_task.original_scheduled_ns == START_NS


def test_a_pinned_run_does_not_go_on_at_a_worker_of_another_version() -> None:
    world = World()
    world.start()
    world.poll()
    signal(world)
    override = {"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "1"}}}
    run = world.load()
    options.update(run, options.Change(versioning_override=made(
        workflow_pb.VersioningOverride, **override
    )))  # fmt: skip
    request = rr.RespondWorkflowTaskCompletedRequest(return_new_workflow_task=True)
    assert completion._is_pinned_to_other_version(run, request)
    request.force_create_new_workflow_task = True
    assert not completion._is_pinned_to_other_version(run, request)
    own = made(
        rr.RespondWorkflowTaskCompletedRequest,
        deployment_options={"deployment_name": "d", "build_id": "1", "worker_versioning_mode": 2},
    )
    assert not completion._is_pinned_to_other_version(run, own)
    assert not completion._is_pinned_to_other_version(world.load(), rr.RespondWorkflowTaskCompletedRequest())


def test_an_answer_that_is_too_large_ends_the_run() -> None:
    world = World()
    world.start()
    token = world.poll()
    outcome = world.transact(
        lambda run: completion.respond_too_large(run, token, rr.RespondWorkflowTaskCompletedRequest(identity="me"))
    )
    assert outcome.error is not None
    assert outcome.error.message.endswith("workflow task completion buffer size exceeds the per-workflow limit")
    assert world.names()[-2:] == ["WorkflowTaskFailed", "WorkflowExecutionTerminated"]
    assert world.last("WorkflowTaskFailed").cause == fc.WORKFLOW_TASK_FAILED_CAUSE_REQUEST_TOO_LARGE
    assert world.last("WorkflowTaskFailed").failure.HasField("server_failure_info")
    assert world.last("WorkflowExecutionTerminated").identity == "history-service"


def test_a_second_bad_answer_leaves_no_event() -> None:
    world = World()
    world.start()
    world.poll()
    bad = start_timer("")
    assert world.complete(bad).error is not None
    assert len(world.offered(1)) == 1
    world.poll()
    names = world.names()
    with pytest.raises(ServiceError, match="TimerId is not set on StartTimerCommand"):
        world.complete(bad)
    assert world.names() == names


def test_a_paused_workflow_is_given_no_new_task() -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    run.state.paused = True
    request = rr.RespondWorkflowTaskCompletedRequest(force_create_new_workflow_task=True)
    with pytest.raises(ServiceError, match="force create new workflow task is not allowed") as refused:
        completion.respond_completed(run, world.workflow_token, request)
    assert refused.value.code is Code.FAILED_PRECONDITION
    outcome = completion.respond_completed(run, world.workflow_token, rr.RespondWorkflowTaskCompletedRequest())
    assert not run.has_pending_workflow_task
    assert outcome.completed


def test_buffered_queries_wait_for_the_next_task_only_if_there_is_one() -> None:
    for has_next in (False, True):
        world = World()
        world.start()
        world.poll()
        if has_next:
            signal(world)
        run = world.load()
        run.state.buffered_queries = 2
        completion.respond_completed(run, world.workflow_token, rr.RespondWorkflowTaskCompletedRequest())
        assert run.state.buffered_queries == (2 if has_next else 0)


# ---- the ends of a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason", "word"),
    [
        ({"history_size_error": 10}, history_limits.HISTORY_SIZE, "bytes of history"),
        ({"history_count_error": 2}, history_limits.HISTORY_COUNT, "events"),
        ({"mutable_state_size_error": 100}, history_limits.MUTABLE_STATE_SIZE, "bytes of mutable state"),
    ],
)
def test_a_run_that_grows_beyond_a_limit_is_ended(limits: dict[str, int], reason: str, word: str) -> None:
    world = World()
    world.start()
    world.turn()
    run = world.load()
    run.limits = Limits(**limits)  # type: ignore[arg-type]
    assert history_limits.enforce(run, 101) == reason
    assert not run.is_open
    assert run.warnings == [f"terminated: {reason}"]
    assert history_limits.enforce(run, 101) == ""
    warned = world.load()
    [name] = limits
    names: dict[str, Any] = {name.replace("error", "warn"): limits[name]}
    warned.limits = Limits(**names)
    assert history_limits.enforce(warned, 101) == ""
    [warning] = warned.warnings
    assert f" {word} are over the warning limit of {limits[name]}" in warning
    count = world.state().next_event_id - 1
    exact = world.load()
    exact.limits = Limits(history_count_error=count, history_count_warn=count)
    assert history_limits.enforce(exact, 0) == ""
    assert exact.warnings == []


def test_closing_writes_what_happened_during_the_task() -> None:
    world = World()
    world.start()
    world.poll()
    signal(world)
    world.transact(lambda run: close.terminate(
        run, reason="why", identity="me", details=common_pb.Payloads(payloads=[common_pb.Payload(data=b"x")]),
        links=[made(common_pb.Link, workflow={"workflow_id": "w"})],
    ))  # fmt: skip
    assert world.names()[-3:] == ["WorkflowTaskFailed", "WorkflowExecutionSignaled", "WorkflowExecutionTerminated"]
    terminated = world.last("WorkflowExecutionTerminated")
    assert (terminated.reason, terminated.identity, terminated.details.payloads[0].data) == ("why", "me", b"x")
    assert world.events()[-1].links[0].workflow.workflow_id == "w"
    failed = world.last("WorkflowTaskFailed")
    assert (failed.cause, failed.identity) == (
        fc.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, close.HISTORY_SERVICE,
    )  # fmt: skip


def test_eager_activities_are_named_in_the_outcome() -> None:
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(schedule_activity("a", request_eager_execution=True), schedule_activity("b"))
    assert outcome.eager_activities == [5]
    assert len(world.offered(2)) == 1
