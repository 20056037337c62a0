"""Small decisions of a transition, by table: activities, timers, chains, resets, buffers, and what is counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.history.v1 import message_pb2 as history_pb

from tests.core.activity.test_activity import application_failure, by_id, fail, scheduled
from tests.core.command_builders import (
    cancel_activity,
    complete_workflow,
    made,
    payload,
    payloads,
    schedule_activity,
    start_timer,
)
from tests.core.external.test_other_executions import CHILD, command, transfers
from tests.core.harness import NAMESPACE_ID, START_NS, World
from tests.core.operations.test_reset import begin
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.activity import operations
from whistlestop.history.core.activity.pause import PAUSE_INFO, note_pauses
from whistlestop.history.core.chain import next_run
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.finish import finish
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import reset
from whistlestop.history.core.signal import decide as signals
from whistlestop.history.core.state_pb2 import MutableState, TaskRow, TransferData
from whistlestop.history.core.times import SECOND_NS, set_timestamp
from whistlestop.history.core.timeskip import decide as time_skipping
from whistlestop.history.core.transition import external_payloads
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID, FIRST_TASK_ID
from whistlestop.history.core.transition.namespace_policy import NamespacePolicy
from whistlestop.storage.records import CurrentExecution, TimerTask

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

BOOM = application_failure()


def a_run(limits: Limits | None = None, **fields: Any) -> Run:
    world = World(limits)
    world.start(**fields)
    return world.load()


def test_temporals_numbers() -> None:
    assert (BUFFERED_EVENT_ID, FIRST_TASK_ID) == (-123, 1_048_576)


# ---- activities ------------------------------------------------------------------------------------------------------


def pending(world: World) -> Activity:
    return world.state().activities[5]


def test_a_worker_that_takes_an_activity_is_noted() -> None:
    world = scheduled()
    [task] = world.offered(2)
    world.advance(2)
    versioned = deployment_pb.WorkerDeploymentOptions(deployment_name="d", build_id="b", worker_versioning_mode=2)  # type: ignore[arg-type]
    unversioned = deployment_pb.WorkerDeploymentOptions(deployment_name="e", worker_versioning_mode=1)  # type: ignore[arg-type]
    world.transact(lambda run: activity.start(run, 5, task.stamp, "r", "me", versioned, "", "control"))
    taken = pending(world)
    assert (taken.started_ns, taken.request_id, taken.started_identity, taken.worker_control_task_queue) == (
        START_NS + 2 * SECOND_NS, "r", "me", "control",
    )  # fmt: skip
    assert (taken.last_deployment_version.deployment_name, taken.last_deployment_version.build_id) == ("d", "b")
    assert world.offered(2) == []
    before = world.state()
    world.transact(lambda run: activity.start(run, 5, task.stamp, "r", "me", unversioned))
    assert world.state() == before
    other = scheduled()
    other.transact(lambda run: activity.start(run, 5, other.offered(2)[0].stamp, "r", "me", unversioned))
    assert not pending(other).HasField("last_deployment_version")


@pytest.mark.parametrize(
    ("case", "event_id", "more", "text"),
    [
        ("gone", 6, 0, activity.TASK_NOT_FOUND),
        ("taken", 5, 0, "Activity task already started."),
        ("stale", 5, 1, "Activity task rejected; stamp has changed. Id: a,: type: charge, current stamp: 1"),
        ("paused", 5, 0, "Activity task rejected; stamp has changed. Id: a,: type: charge, current stamp: 1"),
        ("closed", 5, 0, "workflow execution already completed"),
    ],
)
def test_tasks_of_activities_that_are_refused(case: str, event_id: int, more: int, text: str) -> None:
    world = scheduled()
    [task] = world.offered(2)
    run = world.load()
    if case == "taken":
        activity.start(run, 5, task.stamp, "first", "me")
    if case == "paused":
        run.state.activities[5].paused = True
    if case == "closed":
        run.state.status = 2
    with pytest.raises(ServiceError) as refused:
        activity.start(run, event_id, task.stamp + more, "r", "me")
    assert (refused.value.code, refused.value.message) == (Code.NOT_FOUND, text)


def test_the_events_of_an_activity_that_was_retried() -> None:
    world = scheduled()
    world.poll_activity(identity="one")
    fail(world, BOOM)
    world.advance(1)
    world.poll_activity(identity="two")
    started_ns = world.now_ns
    world.advance(1)
    stamp = common_pb.WorkerVersionStamp(build_id="b", use_versioning=True)
    world.transact(lambda run: activity.complete(run, world.activity_token, payloads("done"), "three", stamp))
    *_, started, completed, _ = world.events()
    a = started.activity_task_started_event_attributes
    assert a == made(
        type(a), scheduled_event_id=5, identity="two", request_id=a.request_id, attempt=2, last_failure=BOOM,
        worker_version=stamp,
    )  # fmt: skip
    assert a.request_id
    assert started.event_time.ToNanoseconds() == started_ns
    b = completed.activity_task_completed_event_attributes
    assert b == made(
        type(b), scheduled_event_id=5, started_event_id=started.event_id, identity="three", result=payloads("done")
    )
    assert len(world.offered(1)) == 1


def test_the_event_of_an_activity_that_failed_for_good() -> None:
    for failure in (None, application_failure(non_retryable=True)):
        world = scheduled(retry_policy=common_pb.RetryPolicy(maximum_attempts=1))
        world.poll_activity()
        token = world.activity_token
        run = world.load()
        activity.fail(run, token, failure, "me", payloads("half"))
        world.commit(run)
        failed = world.last("ActivityTaskFailed")
        state = wf.RETRY_STATE_NON_RETRYABLE_FAILURE if failure else wf.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
        assert failed == made(
            type(failed), scheduled_event_id=5, started_event_id=failed.started_event_id, identity="me",
            retry_state=state, failure=failure,
        )  # fmt: skip
        assert len(world.offered(1)) == 1


@pytest.mark.parametrize("details", [None, payloads("bye")])
def test_the_event_of_an_activity_that_was_cancelled(details: common_pb.Payloads | None) -> None:
    world = scheduled()
    world.poll_activity()
    world.transact(lambda run: signals.receive(run, name="s", input=None, identity="", request_id=""))
    world.turn(cancel_activity(5))
    requested = world.events()[-1].event_id
    world.transact(lambda run: activity.cancel(run, world.activity_token, details, "me"))
    canceled = world.last("ActivityTaskCanceled")
    assert canceled == made(
        type(canceled), scheduled_event_id=5, started_event_id=canceled.started_event_id, identity="me",
        latest_cancel_requested_event_id=requested, details=details,
    )  # fmt: skip
    assert canceled.HasField("details") == (details is not None)
    assert len(world.offered(1)) == 1


@pytest.mark.parametrize("field", ["attempt", "started_time_ns", "activity_id", "nonce", "scheduled_event_id"])
def test_each_field_of_a_token_has_to_fit_the_attempt(field: str) -> None:
    world = scheduled()
    token = world.poll_activity()
    activity.of_token(world.load(), token)
    wrong = TaskToken()
    wrong.CopyFrom(token)
    setattr(wrong, field, "x" if field == "activity_id" else getattr(token, field) + 1)
    with pytest.raises(ServiceError) as refused:
        activity.of_token(world.load(), wrong)
    assert (refused.value.code, refused.value.message) == (Code.NOT_FOUND, activity.TASK_NOT_FOUND)


def test_activities_by_id() -> None:
    world = scheduled()
    with pytest.raises(ServiceError, match="activityID cannot be empty") as refused:
        activity.of_token(world.load(), by_id(world, ""))
    assert refused.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ServiceError, match="cannot find pending activity with ActivityID b") as refused:
        activity.of_token(world.load(), by_id(world, "b"))
    assert refused.value.code is Code.NOT_FOUND
    run = world.load()
    run.state.task_queue = "temporal-sys-per-ns-tq"
    with pytest.raises(ServiceError, match="cannot find pending activity"):
        activity.of_token(run, by_id(world), completes=True)
    world.advance(3)
    world.transact(lambda run: activity.complete(run, by_id(world), None, "me"))
    started = world.last("ActivityTaskStarted")
    assert (started.identity, started.request_id) == ("me", "")
    assert world.events()[-3].event_time.ToNanoseconds() == world.now_ns


def test_an_attempt_that_failed_waits_for_the_next() -> None:
    world = scheduled()
    token = world.poll_activity(identity="me")
    world.transact(lambda run: activity.heartbeat(run, token, payloads("half"), "beater"))
    world.advance(2)
    stamp = pending(world).stamp
    fail(world, BOOM)
    waiting = pending(world)
    due_ns = world.now_ns + SECOND_NS
    assert (waiting.attempt, waiting.stamp, waiting.scheduled_ns, waiting.next_attempt_ns) == (
        2,
        stamp + 1,
        due_ns,
        due_ns,
    )
    assert (waiting.started_ns, waiting.request_id, waiting.last_worker_identity) == (0, "", "me")
    assert waiting.current_retry_interval_ns == SECOND_NS
    assert waiting.last_attempt_complete_ns == world.now_ns
    assert waiting.last_failure == BOOM
    assert waiting.heartbeat_details == payloads("half")
    run = world.load()
    run.state.activities[5].reset_heartbeat = run.state.activities[5].activity_reset = True
    activity.wait_for_attempt(run, run.state.activities[5], due_ns, 3, None)
    again = run.state.activities[5]
    assert not again.HasField("heartbeat_details")
    assert (again.last_heartbeat_ns, again.reset_heartbeat, again.activity_reset, again.attempt) == (0, False, False, 3)
    assert not again.HasField("last_failure")


def test_heartbeats_are_noted() -> None:
    world = scheduled()
    token = world.poll_activity(identity="me")
    world.advance(1)
    world.transact(lambda run: activity.heartbeat(run, token, payloads("x"), "beater"))
    noted = pending(world)
    assert (noted.heartbeat_details, noted.last_heartbeat_ns, noted.last_worker_identity) == (
        payloads("x"), world.now_ns, "beater",
    )  # fmt: skip
    world.transact(lambda run: activity.heartbeat(run, token, None, ""))
    assert not pending(world).HasField("heartbeat_details")
    assert pending(world).last_worker_identity == "beater"


@pytest.mark.parametrize(
    ("left_s", "count", "early"), [(5, 1, True), (5.001, 1, False), (5, activity.MOST_CHECKED, True),
                                   (5, activity.MOST_CHECKED + 1, False)]
)  # fmt: skip
def test_when_the_timer_row_is_moved(left_s: float, count: int, early: bool) -> None:
    run = a_run()
    for event_id in range(count):
        run.state.activities[event_id + 1].heartbeat_timeout_ns = 10 * SECOND_NS
    run.state.timer_row_ns = run.now_ns + round(left_s * SECOND_NS)
    assert activity._is_timer_too_early(run, run.state.activities[1]) == early
    run.state.timer_row_ns = 0
    assert not activity._is_timer_too_early(run, run.state.activities[1])


def test_attempts_that_wait_are_offered_again() -> None:
    run = a_run()
    forms: tuple[dict[str, Any], ...] = ({}, {"started_ns": 1}, {"paused": True}, {"next_attempt_ns": 1}, {})
    for event_id, fields in enumerate(forms, start=5):
        run.state.activities[event_id].CopyFrom(made(
            type(run.state.activities[event_id]), scheduled_event_id=event_id, scheduled_ns=100, task_queue="q", **fields
        ))  # fmt: skip
    activity.offer_again(run, 7)
    assert [task.scheduled_event_id for task in run.tasks_added] == [5, 9]
    assert [run.state.activities[event_id].scheduled_ns for event_id in range(5, 10)] == [107, 100, 100, 100, 107]


def test_an_activity_of_a_paused_workflow_is_dispatched_later() -> None:
    for paused, held in ((True, True), (True, False), (False, True)):
        run = a_run()
        run.state.paused = paused
        one = run.state.activities[5]
        one.held_by_pause, one.next_attempt_ns, one.task_queue, one.schedule_to_start_timeout_ns = (
            held,
            9,
            "q",
            SECOND_NS,
        )
        one.scheduled_ns = run.now_ns
        activity.dispatch(run, one)
        assert (one.stamp, one.next_attempt_ns) == (1, 0)
        assert bool(run.tasks_added) == (not (paused and held))
        assert run.state.timer_row_ns == run.now_ns + SECOND_NS
        assert run.is_dirty


@pytest.mark.parametrize(
    ("failure", "fields", "expected"),
    [
        (BOOM, {"cancel_requested": True}, wf.RETRY_STATE_CANCEL_REQUESTED),
        (made(failure_pb.Failure, timeout_failure_info={"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_START}), {},
         wf.RETRY_STATE_TIMEOUT),
        (made(failure_pb.Failure, timeout_failure_info={"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE}), {},
         wf.RETRY_STATE_TIMEOUT),
        (made(failure_pb.Failure, timeout_failure_info={"timeout_type": wf.TIMEOUT_TYPE_HEARTBEAT}), {},
         wf.RETRY_STATE_IN_PROGRESS),
        (None, {}, wf.RETRY_STATE_IN_PROGRESS),
        (application_failure(non_retryable=True), {"paused": True}, wf.RETRY_STATE_NON_RETRYABLE_FAILURE),
        (BOOM, {"paused": True}, wf.RETRY_STATE_IN_PROGRESS),
    ],
)  # fmt: skip
def test_what_follows_a_failed_attempt(
    failure: failure_pb.Failure | None, fields: dict[str, Any], expected: int
) -> None:
    world = scheduled()
    world.poll_activity()
    run = world.load()
    one = run.state.activities[5]
    for name, value in fields.items():
        setattr(one, name, value)
    stamp = one.stamp
    assert activity.try_again(run, one, failure) == expected
    if expected == wf.RETRY_STATE_IN_PROGRESS:
        assert (one.attempt, one.stamp, one.started_ns) == (2, stamp + 1, 0)
        assert (one.next_attempt_ns == 0) == bool(fields)
        assert run.changed
    else:
        assert (one.attempt, one.stamp) == (1, stamp)


# ---- operators -------------------------------------------------------------------------------------------------------


def test_activities_are_selected() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"), schedule_activity("b"))
    run = world.load()
    run.state.activities[6].activity_type = "ship"

    def found(**by: Any) -> list[str]:
        return sorted(each.activity_id for each in operations.selected(run, **by))

    assert found(activity_id="a") == found(activity_type="charge") == ["a"]
    assert found(every=True) == ["a", "b"]
    with pytest.raises(ServiceError, match="Can't find pending activity with such ID") as refused:
        found(activity_type="")
    assert refused.value.code is Code.NOT_FOUND
    run.state.status = 2
    with pytest.raises(ServiceError, match="workflow execution already completed"):
        found(activity_id="a")


@pytest.mark.parametrize("with_originals", [False, True])
@pytest.mark.parametrize("reset_heartbeat", [False, True])
def test_a_reset_of_an_activity(reset_heartbeat: bool, with_originals: bool) -> None:
    world = scheduled(priority=common_pb.Priority(priority_key=2), heartbeat_timeout_s=5)
    original = world.last("ActivityTaskScheduled")
    token = world.poll_activity()
    world.transact(lambda run: activity.heartbeat(run, token, payloads("half"), "w"))
    fail(world, BOOM)
    changes = made(activity_pb.ActivityOptions, heartbeat_timeout={"seconds": 3}, task_queue={"name": "other"})
    world.transact(lambda run: operations.update_options(
        run, operations.selected(run, every=True), changes, ["heartbeat_timeout", "task_queue.name", "priority"]
    ))  # fmt: skip
    assert not pending(world).HasField("priority")
    stamp = pending(world).stamp
    world.transact(lambda run: operations.reset(
        run, operations.selected(run, every=True), reset_heartbeat=reset_heartbeat, keep_paused=False,
        jitter_ns=2 * SECOND_NS, originals={5: original} if with_originals else None,
    ))  # fmt: skip
    one = pending(world)
    assert (one.attempt, one.activity_reset, one.reset_heartbeat) == (1, False, False)
    assert one.next_attempt_ns == world.now_ns + 2 * SECOND_NS
    assert one.HasField("heartbeat_details") != reset_heartbeat
    assert one.heartbeat_timeout_ns == (5 if with_originals else 3) * SECOND_NS
    assert (one.task_queue, one.priority.priority_key) == (("orders", 2) if with_originals else ("other", 0))
    assert one.stamp == stamp + 1 + with_originals
    with pytest.raises(ServiceError, match="Can't find pending activity"):
        operations.reset(
            world.load(), [one], reset_heartbeat=False, keep_paused=False, jitter_ns=0, originals={}
        )  # fmt: skip


def _noted(run: Run) -> bool:
    """Return whether lists have to be changed, and forget it."""
    assert run.visibility_changed == run.changed
    changed = run.changed
    run.visibility_changed = run.changed = False
    return changed


def test_pauses_in_lists() -> None:
    run = a_run()
    note_pauses(run)
    assert not run.changed
    run.state.activities[5].activity_type, run.state.activities[6].activity_type = "b", "a"
    run.state.activities[5].paused = run.state.activities[6].paused = run.state.paused = True
    run.state.pause.reason = "why"
    note_pauses(run)
    shown = run.state.search_attributes[PAUSE_INFO]
    assert json.loads(shown.data) == [
        "Workflow:wf", "Reason:why", "property:activityType=a", "property:activityType=b"
    ]  # fmt: skip
    assert dict(shown.metadata) == {"encoding": b"json/plain", "type": b"KeywordList"}
    assert _noted(run)
    note_pauses(run)
    assert not _noted(run)
    run.state.pause.reason = ""
    note_pauses(run)
    assert json.loads(shown.data)[0:2] == ["Workflow:wf", "property:activityType=a"]
    assert _noted(run)
    run.state.paused = run.state.activities[5].paused = run.state.activities[6].paused = False
    note_pauses(run)
    assert PAUSE_INFO not in run.state.search_attributes
    assert _noted(run)


# ---- chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "backoff_s", "expected_s"), [(0, 0, 1), (0.25, 0.5, 0.75), (0.5, 0.5, 0.5), (2, 0, 0), (0, 3, 3)]
)
def test_a_chain_has_one_run_a_second(age_s: float, backoff_s: float, expected_s: float) -> None:
    run = a_run()
    run.now_ns += round(age_s * SECOND_NS)
    assert next_run.throttled(run, round(backoff_s * SECOND_NS)) == round(expected_s * SECOND_NS)


def test_reset_points_are_handed_on_while_their_runs_are_kept() -> None:
    run = a_run()
    for run_id, expire_s in (("old", -1), ("now", 0), ("later", 5), ("never", None), (run.state.run_id, None)):
        point = run.state.reset_points.points.add(run_id=run_id)
        if expire_s is not None:
            set_timestamp(point.expire_time, run.wall_ns + expire_s * SECOND_NS)
    run.policy = NamespacePolicy(retention_ns=60 * SECOND_NS)
    handed_on = next_run.inherited(run).prev_auto_reset_points
    assert [point.run_id for point in handed_on.points] == ["now", "later", "never", run.state.run_id]
    assert handed_on.points[-1].expire_time.ToNanoseconds() == run.wall_ns + 60 * SECOND_NS
    assert not handed_on.points[2].HasField("expire_time")
    run.policy = NamespacePolicy()
    run.state.reset_points.points[-1].ClearField("expire_time")
    assert not next_run.inherited(run).prev_auto_reset_points.points[-1].HasField("expire_time")


def test_the_next_run_inherits_its_parent_and_its_time() -> None:
    run = a_run(execution_timeout_s=50)
    parent = {"namespace": "n", "namespace_id": "nid", "workflow_id": "p", "run_id": "pr", "initiated_event_id": 8}
    run.state.parent.CopyFrom(made(type(run.state.parent), **parent))
    run.state.root_workflow_id, run.state.root_run_id = "rw", "rr"
    for override, handed in (
        ({"pinned": {"version": {"build_id": "1"}}}, True), ({"auto_upgrade": True}, False),
        ({"one_time": {"target_deployment_version": {"build_id": "1"}}}, False),
    ):  # fmt: skip
        wanted = made(type(run.state.versioning_info.versioning_override), **override)
        run.state.versioning_info.versioning_override.CopyFrom(wanted)
        assert next_run.inherited(run).HasField("versioning_override") == handed
    a = next_run.inherited(run)
    assert (a.continued_execution_run_id, a.first_execution_run_id) == (run.state.run_id, run.state.first_run_id)
    assert (a.parent_workflow_namespace, a.parent_workflow_namespace_id, a.parent_initiated_event_id) == ("n", "nid", 8)
    assert (a.parent_workflow_execution.workflow_id, a.parent_workflow_execution.run_id) == ("p", "pr")
    assert (a.root_workflow_execution.workflow_id, a.root_workflow_execution.run_id) == ("rw", "rr")
    assert a.workflow_execution_timeout.seconds == 50
    assert a.workflow_execution_expiration_time.ToNanoseconds() == START_NS + 50 * SECOND_NS
    plain = next_run.inherited(a_run())
    for field in ("parent_workflow_execution", "workflow_execution_timeout", "workflow_execution_expiration_time"):
        assert not plain.HasField(field)


# ---- resets ----------------------------------------------------------------------------------------------------------


def test_what_was_pending_is_requested_again_by_a_reset_run() -> None:
    signal, cancel = "signal_external_workflow_execution", "request_cancel_external_workflow_execution"
    world = World()
    world.start()
    world.turn(
        command("start_child_workflow_execution", **CHILD),
        command("start_child_workflow_execution", **{**CHILD, "workflow_id": "second"}),
        command(
            signal, execution={"workflow_id": "o", "run_id": "7d1c3f4e-0000-4000-8000-000000000001"}, signal_name="s"
        ),
        command(cancel, workflow_id="o", run_id="7d1c3f4e-0000-4000-8000-000000000002"),
    )
    initiated = world.events()[5]
    world.transact(lambda run: children.record_started(run, initiated, "second-run"))
    world.turn()
    run = begin(world, world.events()[-1].event_id)
    world.transfers = run.transfers
    common = {"initiated_event_batch_id": 4, "target_namespace_id": NAMESPACE_ID}
    assert transfers(world) == [
        ("start_child", TransferData(initiated_event_id=5, target_workflow_id="child", **common)),  # type: ignore[arg-type]
        ("signal_external", TransferData(
            initiated_event_id=7, target_workflow_id="o", target_run_id="7d1c3f4e-0000-4000-8000-000000000001", **common  # type: ignore[arg-type]
        )),
        ("cancel_external", TransferData(
            initiated_event_id=8, target_workflow_id="o", target_run_id="7d1c3f4e-0000-4000-8000-000000000002", **common  # type: ignore[arg-type]
        )),
    ]  # fmt: skip


def test_a_reset_run_keeps_the_request_that_started_the_chain() -> None:
    world = World()
    world.start()
    world.turn()
    run = begin(world, 4)
    base = world.state()
    info = run.state.request_ids[base.create_request_id]
    assert (info.event_type, info.event_id) == (et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, 1)
    assert (run.state.create_request_id, run.state.start_ns, run.visibility_changed) == (
        "reset-request", world.now_ns, True,
    )  # fmt: skip
    assert run.state.history_size_bytes == sum(
        batch.ByteSize() for batch in world.stored[world.run_id].batches if batch.events[0].event_id < 4
    )


@pytest.mark.parametrize(
    ("execution_s", "run_s", "expected"),
    [(0, 0, (0, 0)), (0, 30, (0, 130)), (50, 30, (150, 130)), (20, 30, (120, 120)), (50, 0, (150, 0))],
)
def test_a_reset_run_has_all_its_time_again(execution_s: int, run_s: int, expected: tuple[int, int]) -> None:
    state = MutableState(execution_timeout_ns=execution_s, run_timeout_ns=run_s)
    reset._renew_deadlines(state, 100)
    assert (state.execution_expiration_ns, state.run_expiration_ns) == expected


def test_a_reset_run_shares_the_branches_before_the_point() -> None:
    base = MutableState()
    for branch_id, first, end in (("a", 1, 4), ("b", 4, 9), ("c", 9, 0)):
        base.branches.add(branch_id=branch_id, first_event_id=first, next_event_id=end)
    for point, shared in ((4, [("a", 1, 4)]), (6, [("a", 1, 4), ("b", 4, 6)]),
                          (12, [("a", 1, 4), ("b", 4, 9), ("c", 9, 12)])):  # fmt: skip
        state = MutableState(run_id="r")
        reset._share_branches(state, base, point)
        assert [(each.branch_id, each.first_event_id, each.next_event_id) for each in state.branches] == [
            *shared, ("r", point, 0)
        ]  # fmt: skip


def test_updates_are_admitted_again_once() -> None:
    run = a_run()
    request = {"meta": {"update_id": "u"}, "request_id": "q"}
    kind = et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
    again = made(
        history_pb.HistoryEvent, event_type=kind,
        workflow_execution_update_admitted_event_attributes={"request": request, "origin": 1},
    )  # fmt: skip
    accepted = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        workflow_execution_update_accepted_event_attributes={"accepted_request": {"meta": {"update_id": "v"}}},
    )  # fmt: skip
    without = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        workflow_execution_update_accepted_event_attributes={"protocol_instance_id": "w"},
    )  # fmt: skip
    assert reset.reapply(run, [again, again, accepted, without], frozenset()) == ""
    assert [(each.update_id, each.instance) for each in run.state.updates.values()] in (
        [("u", 1), ("v", 2)], [("v", 2), ("u", 1)],
    )  # fmt: skip
    assert list(run.state.in_flight_updates) == ["u", "v"]
    assert run.state.update_admissions == 2
    none = a_run()
    reset.reapply(none, [again, accepted], frozenset({reset.EXCLUDE_UPDATE}))
    assert not none.state.updates
    continued = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        workflow_execution_continued_as_new_event_attributes={"new_execution_run_id": "next"},
    )  # fmt: skip
    assert reset.reapply(none, [continued], frozenset()) == "next"
    assert reset.reapply(none, [continued, again], frozenset()) == ""


# ---- the run's own clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "idle"),
    [
        ({}, True), ({"paused": True}, False), ({"status": 2}, False), ({"workflow_task": {"scheduled_event_id": 9}}, False),
        ({"nexus_operations": {9: {}}}, False), ({"children": {9: {}}}, False), ({"external_signals": {9: {}}}, False),
        ({"external_cancels": {9: {}}}, False), ({"activities": {9: {}}}, False),
        ({"activities": {9: {"attempt": 2, "has_retry_policy": True, "next_attempt_ns": START_NS + 1}}}, True),
        ({"activities": {9: {"attempt": 2, "has_retry_policy": True, "next_attempt_ns": START_NS}}}, False),
        ({"activities": {9: {"attempt": 1, "has_retry_policy": True, "next_attempt_ns": START_NS + 1}}}, False),
        ({"activities": {9: {"attempt": 2, "next_attempt_ns": START_NS + 1}}}, False),
        ({"activities": {9: {"attempt": 2, "has_retry_policy": True, "next_attempt_ns": START_NS + 1, "paused": True}}}, False),
        ({"activities": {9: {"attempt": 2, "has_retry_policy": True, "next_attempt_ns": START_NS + 1, "started_ns": 1}}}, False),
    ],
)  # fmt: skip
def test_time_is_skipped_when_a_run_is_idle(busy: dict[str, Any], idle: bool) -> None:
    world = World()
    world.start()
    world.turn(start_timer("t", 50))
    run = world.load()
    run.state.time_skipping.config.enabled = True
    run.state.time_skipping.config.max_session_skip_count = 9
    run.state.MergeFrom(made(MutableState, **busy))
    skips = time_skipping.skip_if_idle(run)
    assert skips == idle
    if idle:
        event = run.mem_buffer[-1].workflow_execution_time_skipping_transitioned_event_attributes
        target_ns = START_NS + (1 if busy else 50 * SECOND_NS)
        assert event.target_time.ToNanoseconds() == target_ns
        assert event.wall_clock_time.ToNanoseconds() == START_NS
        assert run.now_ns == target_ns
        assert run.mem_buffer[-1].worker_may_ignore


@pytest.mark.parametrize(
    ("forward_s", "timer_s", "expected"),
    [
        (None, None, None), (20, None, (20, True)), (20, 30, (20, True)), (30, 20, (20, False)), (20, 20, (20, True)),
        (0, 20, (None, True)), (-1, None, (None, True)),
    ],
)  # fmt: skip
def test_a_fast_forward_ends_at_its_target(
    forward_s: int | None, timer_s: int | None, expected: tuple[int | None, bool] | None
) -> None:
    run = a_run()
    run.state.ClearField("workflow_task")
    skipping = run.state.time_skipping
    skipping.config.enabled, skipping.config.max_session_skip_count = True, 9
    if forward_s is not None:
        skipping.fast_forward_target_ns = run.now_ns + forward_s * SECOND_NS
    if timer_s is not None:
        run.state.timers["t"].fire_ns = run.now_ns + timer_s * SECOND_NS
    assert time_skipping.skip_if_idle(run) == (expected is not None)
    if expected is not None:
        event = run.mem_buffer[-1].workflow_execution_time_skipping_transitioned_event_attributes
        target_s, disables = expected
        assert event.disabled_after_fast_forward == disables
        assert event.HasField("target_time") == (target_s is not None)
        assert target_s is None or event.target_time.ToNanoseconds() == START_NS + target_s * SECOND_NS


# ---- buffers, rows, counts -------------------------------------------------------------------------------------------


def test_too_many_buffered_events_end_the_task() -> None:
    for limits, count in ((Limits(buffered_events=2), 2), (Limits(buffered_bytes=1), 0)):
        world = World(limits)
        world.start()
        world.poll()
        for number in range(count + 1):
            assert "WorkflowTaskFailed" not in world.names()
            world.transact(lambda run, number=number: signals.receive(  # type: ignore[misc]
                run, name=str(number), input=None, identity="", request_id=""
            ))  # fmt: skip
        assert "WorkflowTaskFailed" in world.names()
        assert len(world.offered(1)) == 1
        assert len([name for name in world.names() if name == "WorkflowExecutionSignaled"]) == count + 1


def test_a_closed_run_has_nothing_on_any_queue() -> None:
    run = a_run()
    run.version = 1
    rows = [
        run.state.activities[5].row,
        run.state.nexus_operations[6].start.row,
        run.state.nexus_operations[7].cancel.row,
    ]
    rows.append(run.state.activity_execution.row)
    for number, row in enumerate(rows, start=100):
        row.task_queue, row.task_type, row.priority, row.task_id = "q", 2, 3, number
    task_id = run.state.workflow_task.row.task_id
    run.state.status = 2
    finish(run)
    assert sorted(key.task_id for key in run.tasks_removed) == [100, 101, 102, 103, task_id]
    assert run.timer_removed == bool(run.timer_removed)
    assert (run.state.timer_row_ns, run.timer) == (0, None)


def test_the_timer_row_is_the_earliest_deadline() -> None:
    run = a_run()
    run.state.timer_row_ns = 0
    run.timer_removed = True
    for deadline_ns, row_ns in ((0, 0), (-1, 0), (50, 50), (60, 50), (50, 50), (40, 40)):
        run.arm(deadline_ns)
        assert run.state.timer_row_ns == row_ns
    assert not run.timer_removed
    run.state.time_skipping.skipped_ns = 7
    run.set_timer_row(99)
    assert run.timer == TimerTask("execution", run.slot, run.key, 92)
    assert run.state.timer_row_ns == 99


def test_a_task_is_added_and_dropped() -> None:
    run = a_run()
    row = TaskRow()
    run.add_task(row, "q", 2, 3, 5, 6, namespace_id="other", data=b"x", sticky=True)
    [task] = run.tasks_added
    assert (task.key.namespace_id, task.key.task_queue, task.key.task_type, task.key.priority) == ("other", "q", 2, 3)
    assert (task.scheduled_event_id, task.stamp, task.data, task.sticky, task.created_ns) == (
        5,
        6,
        b"x",
        True,
        run.wall_ns,
    )
    assert row == TaskRow(namespace_id="other", task_queue="q", task_type=2, priority=3, task_id=task.key.task_id)
    stored = TaskRow()
    stored.CopyFrom(row)
    run.drop_task(row)
    assert (run.tasks_added, run.tasks_removed, row) == ([], [], TaskRow())
    run.drop_task(row)
    assert run.tasks_removed == []
    run.drop_task(stored)
    assert run.tasks_removed == [task.key]


def test_buffered_events_are_found_and_taken() -> None:
    run = a_run()
    for name in ("stored", "stored", "new"):
        event = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
        event.workflow_execution_signaled_event_attributes.signal_name = name
        run.state.buffered_events.append(event) if name == "stored" else run.mem_buffer.append(event)

    def named(name: str) -> Any:
        return lambda event: event.workflow_execution_signaled_event_attributes.signal_name == name

    assert run.buffered(named("other")) is None
    for name in ("stored", "new"):
        found = run.buffered(named(name))
        assert found is not None
        assert found.workflow_execution_signaled_event_attributes.signal_name == name
    assert run.take_buffered(named("stored"))
    assert len(run.state.buffered_events) == 1
    assert run.take_buffered(named("new"))
    assert run.mem_buffer == []
    assert not run.take_buffered(named("new"))
    assert run.has_buffered_events
    assert run.take_buffered(named("stored"))
    assert not run.has_buffered_events


def test_ends_come_behind_everything_else_that_was_buffered() -> None:
    world = scheduled()
    world.transact(lambda run: signals.receive(run, name="s", input=None, identity="", request_id=""))
    world.poll_activity()
    world.poll()
    token = world.activity_token
    world.transact(lambda run: activity.complete(run, token, None, "me"))
    world.transact(lambda run: signals.receive(run, name="s", input=None, identity="", request_id="r"))
    assert [event.event_id for event in world.state().buffered_events] == [BUFFERED_EVENT_ID] * 3
    assert world.state().request_ids["r"].event_id == BUFFERED_EVENT_ID
    world.complete()
    assert world.names()[-4:] == [
        "ActivityTaskStarted", "WorkflowExecutionSignaled", "ActivityTaskCompleted", "WorkflowTaskScheduled"
    ]  # fmt: skip
    *_, started, signaled, completed, _ = world.events()
    assert completed.activity_task_completed_event_attributes.started_event_id == started.event_id
    assert world.state().request_ids["r"].event_id == signaled.event_id
    assert [event.task_id - event.event_id for event in world.events()] == [FIRST_TASK_ID] * len(world.events())


def test_the_row_of_the_current_run() -> None:
    run = a_run()
    state = run.state
    state.close_ns = 9
    assert run.current_record() == CurrentExecution(
        NAMESPACE_ID, "wf", state.run_id, state.create_request_id, 1, START_NS, 9
    )


def test_external_payloads_are_counted() -> None:
    def of(size: int) -> common_pb.Payload:
        return made(common_pb.Payload, external_payloads=[{"size_bytes": size}])

    history = made(history_pb.History, events=[
        {"workflow_execution_started_event_attributes": {
            "input": {"payloads": [of(1), payload("x"), of(2)]}, "header": {"fields": {"a": of(4)}},
            "search_attributes": {"indexed_fields": {"A": of(1000)}}, "memo": {"fields": {"m": of(8)}},
            "continued_failure": {"message": "m", "cause": {"message": "c", "application_failure_info": {
                "type": "T", "details": {"payloads": [of(16)]},
            }}},
        }, "user_metadata": {"summary": of(32)}},
        {"timer_fired_event_attributes": {"timer_id": "t"}},
        {},
        {"marker_recorded_event_attributes": {"details": {"d": {"payloads": [of(64)]}}}},
    ])  # fmt: skip
    state = MutableState()
    external_payloads.add(state, history.events, history.SerializeToString())
    assert (state.external_payload_count, state.external_payload_size_bytes) == (7, 127)
    plain = made(history_pb.History, events=[{"workflow_execution_started_event_attributes": {
        "input": {"payloads": [payload("x")]}
    }}])  # fmt: skip
    external_payloads.add(state, plain.events, plain.SerializeToString())
    assert state.external_payload_count == 7


def test_children_are_counted_and_notified_one_by_one() -> None:
    world = World(Limits(pending_children=2))
    world.start()
    first = command(
        "start_child_workflow_execution", **{**CHILD, "parent_close_policy": wf.PARENT_CLOSE_POLICY_ABANDON}
    )
    second = command("start_child_workflow_execution", **{**CHILD, "workflow_id": "second"})
    world.turn(first, second)
    for event_id, run_id in ((5, "one"), (6, "two")):
        initiated = world.events()[event_id - 1]
        world.transact(lambda run, initiated=initiated, run_id=run_id: children.record_started(run, initiated, run_id))  # type: ignore[misc]
    world.poll()
    world.transfers.clear()
    outcome = world.complete(command("start_child_workflow_execution", **{**CHILD, "workflow_id": "third"}))
    assert outcome.error is not None
    assert "has reached the per-workflow limit of 2" in outcome.error.message
    world.poll()
    world.complete(complete_workflow())
    assert [(kind, data.target_workflow_id) for kind, data in transfers(world)] == [("parent_closed", "second")]
