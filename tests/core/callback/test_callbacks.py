"""Completion callbacks: when they are due, what they carry, and how their attempts are recorded and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from tests.core.command_builders import made, payload, payloads
from tests.core.harness import NAMESPACE, START_NS, World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.callback.describe import callback as described
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.state_pb2 import CallbackInfo, MutableState, TransferData
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run

FAILURE = failure_pb.Failure(message="broken")


def _callback(host: str = "there") -> common_pb.Callback:
    return made(common_pb.Callback, nexus={"url": f"http://{host}/path"})


def _world(limits: Limits | None = None) -> World:
    world = World(limits)
    world.start()
    return world


def _attach(run: Run, count: int = 1, **fields: Any) -> None:
    for _ in range(count):
        run.state.completion_callbacks.append(_callback())
        run.state.callback_infos.add(**({"registered_ns": START_NS} | fields))


def _closing(name: str, **fields: Any) -> history_pb.HistoryEvent:
    kind = et.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name.upper()}")
    return made(history_pb.HistoryEvent, event_type=kind, **{f"workflow_execution_{name}_event_attributes": fields})


ENDS: dict[str, tuple[dict[str, Any], failure_pb.Failure | None]] = {
    "completed": ({"result": payloads("done", "more")}, None),
    "failed": ({"failure": FAILURE}, FAILURE),
    "canceled": (
        {"details": payloads("why")},
        made(failure_pb.Failure, message="operation canceled", canceled_failure_info={"details": payloads("why")}),
    ),
    "terminated": ({}, made(failure_pb.Failure, message="operation terminated", terminated_failure_info={})),
    "timed_out": (
        {}, made(failure_pb.Failure, message="operation exceeded internal timeout", timeout_failure_info={})
    ),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_callback_has_the_end_of_the_run(end: str) -> None:
    fields, failure = ENDS[end]
    run = _world().load()
    closing = _closing(end, **fields)
    _attach(run)
    callbacks.on_close(run, closing)
    [row] = run.transfers
    data = TransferData.FromString(row.data)
    assert row.kind == callbacks.KIND
    assert data.close_event == closing
    assert run.state.callback_infos[0].state == CallbackInfo.SCHEDULED
    assert callbacks.failure_of(data) == failure
    assert callbacks.result_of(data) == (payload("done") if end == "completed" else None)


def test_details_of_a_cancellation_may_be_absent() -> None:
    failure = callbacks.failure_of(TransferData(close_event=_closing("canceled")))
    assert failure == made(failure_pb.Failure, message="operation canceled", canceled_failure_info={})
    assert callbacks.result_of(TransferData(close_event=_closing("completed"))) is None


@pytest.mark.parametrize(
    ("closing", "goes_on"),
    [
        (_closing("completed"), False),
        (_closing("continued_as_new"), True),
        (_closing("failed", retry_state=wf.RETRY_STATE_IN_PROGRESS), True),
        (_closing("failed", retry_state=wf.RETRY_STATE_TIMEOUT), False),
        (_closing("timed_out", retry_state=wf.RETRY_STATE_IN_PROGRESS), True),
        (_closing("terminated"), False),
    ],
)
def test_callbacks_of_a_run_that_goes_on_wait_and_those_of_updates_do_not(
    closing: history_pb.HistoryEvent, goes_on: bool
) -> None:
    loaded = _world().load()
    _attach(loaded)
    _attach(loaded, update_id="u")
    _attach(loaded, state=CallbackInfo.SUCCEEDED)
    callbacks.on_close(loaded, closing)
    called = [TransferData.FromString(row.data) for row in loaded.transfers]
    assert [data.callback_index for data in called] == ([1] if goes_on else [0, 1])
    of_update = called[-1]
    assert of_update.outcome.failure == callbacks.CLOSED_BEFORE_COMPLETED
    assert not of_update.HasField("close_event")
    assert callbacks.failure_of(of_update) == callbacks.CLOSED_BEFORE_COMPLETED


@pytest.mark.parametrize("outcome", ["success", "failure", "last failure"])
def test_callbacks_of_a_standalone_activity_have_its_outcome(outcome: str) -> None:
    run = _world().load()
    _attach(run)
    activity = run.state.activity_execution
    activity.result.CopyFrom(payloads("done"))
    activity.last_failure.message = "last"
    if outcome == "failure":
        activity.failure.message = "final"
    callbacks.on_close(run, _closing("completed" if outcome == "success" else "failed"))
    [row] = run.transfers
    data = TransferData.FromString(row.data)
    assert not data.HasField("close_event")
    if outcome == "success":
        assert data.outcome == made(update_pb.Outcome, success=payloads("done"))
        assert callbacks.result_of(data) == payload("done")
        assert callbacks.failure_of(data) is None
    else:
        assert data.outcome.failure.message == ("final" if outcome == "failure" else "last")
        assert callbacks.failure_of(data) == data.outcome.failure
        assert callbacks.result_of(data) is None


def test_an_update_calls_its_own_callbacks_once() -> None:
    run = _world().load()
    for update_id in ("a", "b", "a"):
        _attach(run, update_id=update_id, registered_ns=1)
    run.state.callback_infos[2].state = CallbackInfo.SUCCEEDED
    outcome = update_pb.Outcome(success=payloads("done"))
    for _ in range(2):
        callbacks.on_update_completed(run, "a", outcome)
    assert [TransferData.FromString(row.data).callback_index for row in run.transfers] == [0]
    assert TransferData.FromString(run.transfers[0].data).outcome == outcome


def test_only_callbacks_by_nexus_are_called() -> None:
    run = _world().load()
    run.state.completion_callbacks.append(made(common_pb.Callback, internal={"data": b"x"}))
    callbacks.on_close(run, _closing("completed"))
    assert run.transfers == []
    assert run.state.callback_infos[0].state == CallbackInfo.STANDBY


# ---- attempts --------------------------------------------------------------------------------------------------------


def test_attempts_are_recorded() -> None:
    limits = Limits()
    run = _world(limits).load()
    _attach(run)
    info = run.state.callback_infos[0]
    run.now_ns += 5
    due_ns = callbacks.put_off(run, 0, "busy")
    assert due_ns == info.next_attempt_ns > run.now_ns
    assert (info.state, info.attempt, info.last_complete_ns) == (CallbackInfo.BACKING_OFF, 1, run.now_ns)
    assert info.last_failure == made(failure_pb.Failure, message="busy", application_failure_info={})
    assert run.changed
    first_ns = due_ns - run.now_ns
    assert callbacks.put_off(run, 0, "busy") - run.now_ns > first_ns
    for _ in range(50):
        due_ns = callbacks.put_off(run, 0, "busy")
    assert due_ns - run.now_ns <= limits.callback_retry_max_ns
    callbacks.failed(run, 0, "gone")
    assert (info.state, info.next_attempt_ns, info.attempt) == (CallbackInfo.FAILED, 0, 53)
    assert info.last_failure == made(
        failure_pb.Failure, message="gone", application_failure_info={"non_retryable": True}
    )
    callbacks.succeeded(run, 0)
    assert (info.state, info.attempt) == (CallbackInfo.SUCCEEDED, 54)
    assert not info.HasField("last_failure")


@pytest.mark.parametrize("state", CallbackInfo.State.values())
def test_callbacks_that_are_owed(state: int) -> None:
    world = MutableState(start_ns=7)
    world.completion_callbacks.append(_callback())
    world.callback_infos.add(state=state)
    assert callbacks.is_owed(world, 0) == (state in (CallbackInfo.SCHEDULED, CallbackInfo.BACKING_OFF))
    assert not callbacks.is_owed(world, 1)


def test_callbacks_of_the_first_release_have_no_record() -> None:
    state = MutableState(start_ns=7)
    state.completion_callbacks.extend([_callback("a"), _callback("b")])
    shown = described(state, 1)
    assert shown.registration_time.nanos == 7
    assert shown.state == common_enums.CALLBACK_STATE_STANDBY
    assert callbacks.handed_on(state) == [_callback("a"), _callback("b")]
    assert callbacks.info_of(state, 1).registered_ns == 7
    assert len(state.callback_infos) == 2
    assert callbacks.info_of(state, 0).registered_ns == 7
    assert len(state.callback_infos) == 2
    state.callback_infos[0].update_id = "u"
    assert callbacks.handed_on(state) == [_callback("b")]
    with pytest.raises(IndexError):
        described(state, 2)


def test_everything_about_a_callback_is_shown() -> None:
    state = MutableState()
    state.completion_callbacks.extend([_callback()] * 5)
    names = ("STANDBY", "SCHEDULED", "BACKING_OFF", "FAILED", "SUCCEEDED")
    for name in names:
        state.callback_infos.add(registered_ns=SECOND_NS, state=CallbackInfo.State.Value(name))
    info = state.callback_infos[2]
    info.attempt, info.last_complete_ns, info.next_attempt_ns, info.update_id = 3, 2 * SECOND_NS, 4 * SECOND_NS, "u"
    info.last_failure.CopyFrom(FAILURE)
    for index, name in enumerate(names):
        expected: dict[str, Any] = {"trigger": {"workflow_closed": {}}}
        if index == 2:
            expected = {
                "trigger": {"update_workflow_execution_completed": {"update_id": "u"}}, "attempt": 3,
                "last_attempt_complete_time": {"seconds": 2}, "last_attempt_failure": FAILURE,
                "next_attempt_schedule_time": {"seconds": 4},
            }  # fmt: skip
        assert described(state, index) == made(
            workflow_pb.CallbackInfo, callback=_callback(), registration_time={"seconds": 1},
            state=common_enums.CallbackState.Value(f"CALLBACK_STATE_{name}"), **expected,
        )  # fmt: skip


# ---- limits and links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a workflow", "an activity"])
def test_the_number_of_callbacks_is_limited(kind: str) -> None:
    run = _world(Limits(callbacks_per_execution=3)).load()
    _attach(run, 2)
    if kind == "an activity":
        run.state.activity_execution.SetInParent()
    callbacks.check_number(run, 1)
    with pytest.raises(ServiceError) as refused:
        callbacks.check_number(run, 2)
    assert (refused.value.code, refused.value.message) == (
        Code.FAILED_PRECONDITION, f"cannot attach more than 3 callbacks to {kind} (2 callbacks already attached)",
    )  # fmt: skip
    _attach(run, 2)
    callbacks.check_number(run, 0)


def test_the_number_of_callbacks_of_an_update_is_limited() -> None:
    run = _world(Limits(callbacks_per_update=3)).load()
    callbacks.check_number_of_update(run, "u", 2, 1)
    callbacks.check_number_of_update(run, "u", 9, 0)
    with pytest.raises(ServiceError) as refused:
        callbacks.check_number_of_update(run, "u", 2, 2)
    assert (refused.value.code, refused.value.message) == (
        Code.FAILED_PRECONDITION, 'cannot attach more than 3 callbacks to update "u" (2 callbacks already attached)',
    )  # fmt: skip


def test_a_destination_is_scheme_and_host() -> None:
    assert callbacks.destination_of(made(common_pb.Callback.Nexus, url="https://a:1/b?c")) == "https://a:1"


def test_where_a_callback_was_registered() -> None:
    world = _world()
    state = world.state()
    state.completion_callbacks.extend([_callback()] * 3)
    state.callback_infos.add()
    state.callback_infos.add(request_id="r")
    state.callback_infos.add(request_id="q", event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
    common: dict[str, Any] = {"namespace": NAMESPACE, "workflow_id": "wf", "run_id": world.run_id}
    started = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    options_updated = et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    accepted = et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    forms: tuple[dict[str, Any], ...] = (
        {"event_ref": {"event_id": 1, "event_type": started}},
        {"request_id_ref": {"request_id": "r", "event_type": options_updated}},
        {"request_id_ref": {"request_id": "q", "event_type": accepted}},
    )
    for index, expected in enumerate(forms):
        assert callbacks.link_of(state, index) == made(common_pb.Link, workflow_event={**common, **expected})
    state.activity_execution.activity_id = "a"
    assert callbacks.link_of(state, 0) == made(
        common_pb.Link, activity={"namespace": NAMESPACE, "activity_id": "a", "run_id": world.run_id}
    )
