"""Children, signals and cancellations of other executions: what is requested, and how each outcome is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import reset_pb2 as kinds
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.command_builders import complete_workflow, made, payload, payloads, schedule_activity, start_timer
from tests.core.harness import NAMESPACE, NAMESPACE_ID, World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import options, pause, reset
from whistlestop.history.core.signal import decide as signals
from whistlestop.history.core.state_pb2 import MutableState, TransferData
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.history.core.transition.run import Run

RUN_ID = "7d1c3f4e-0000-4000-8000-000000000001"


def command(kind: str, **fields: Any) -> command_pb.Command:
    return made(
        command_pb.Command, command_type=ct.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"),
        **{f"{kind}_command_attributes": fields},
    )  # fmt: skip


CHILD: dict[str, Any] = {"workflow_id": "child", "workflow_type": {"name": "Ship"}, "task_queue": {"name": "orders"}}
SIGNAL: dict[str, Any] = {
    "execution": {"workflow_id": "other", "run_id": RUN_ID}, "signal_name": "go", "control": "c",
    "child_workflow_only": True,
}  # fmt: skip
CANCEL: dict[str, Any] = {
    "workflow_id": "other",
    "run_id": RUN_ID,
    "control": "c",
    "child_workflow_only": True,
    "reason": "why",
}


def after(kind: str, fields: dict[str, Any]) -> tuple[World, history_pb.HistoryEvent]:
    """A world whose workflow has given this command; and its event."""
    world = World()
    world.start()
    world.turn(command(kind, **fields))
    return world, world.events()[-1]


def transfers(world: World) -> list[tuple[str, TransferData]]:
    return [(row.kind, TransferData.FromString(row.data)) for row in world.transfers]


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "transfer", "target"),
    [
        ("start_child_workflow_execution", CHILD, "start_child", ("child", "")),
        ("signal_external_workflow_execution", SIGNAL, "signal_external", ("other", RUN_ID)),
        ("request_cancel_external_workflow_execution", CANCEL, "cancel_external", ("other", RUN_ID)),
    ],
)
def test_a_request_is_delivered_after_the_commit(
    kind: str, fields: dict[str, Any], transfer: str, target: tuple[str, str]
) -> None:
    world, event = after(kind, fields)
    assert transfers(world) == [
        (transfer, TransferData(
            initiated_event_id=event.event_id, initiated_event_batch_id=4, target_namespace_id=NAMESPACE_ID,
            target_workflow_id=target[0], target_run_id=target[1],
        ))
    ]  # fmt: skip
    attributes: Any = getattr(event, str(event.WhichOneof("attributes")))
    assert attributes.workflow_task_completed_event_id == 4
    assert attributes.namespace_id == NAMESPACE_ID
    if "control" in fields:
        assert (attributes.control, attributes.child_workflow_only) == ("c", True)


def test_a_child_has_defaults() -> None:
    _, event = after("start_child_workflow_execution", CHILD)
    a = event.start_child_workflow_execution_initiated_event_attributes
    assert a.namespace == NAMESPACE
    assert a.parent_close_policy == wf.PARENT_CLOSE_POLICY_TERMINATE
    assert a.workflow_id_reuse_policy == wf.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    assert a.workflow_task_timeout.seconds == 10
    assert not a.HasField("workflow_execution_timeout")


OUTCOMES: dict[str, tuple[str, dict[str, Any], Callable[[Run, history_pb.HistoryEvent], None], str, dict[str, Any]]] = {
    "signaled": (
        "signal_external_workflow_execution", SIGNAL, external.record_signaled, "ExternalWorkflowExecutionSignaled",
        {"control": "c"},
    ),
    "signal failed": (
        "signal_external_workflow_execution", SIGNAL,
        lambda run, event: external.record_signal_failed(
            run, event,
            fc.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND,
        ),
        "SignalExternalWorkflowExecutionFailed", {"control": "c", "cause": 1},
    ),
    "cancel requested": (
        "request_cancel_external_workflow_execution", CANCEL, external.record_cancel_requested,
        "ExternalWorkflowExecutionCancelRequested", {},
    ),
    "cancel failed": (
        "request_cancel_external_workflow_execution", CANCEL,
        lambda run, event: external.record_cancel_failed(
            run, event, fc.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
        ),
        "RequestCancelExternalWorkflowExecutionFailed", {"control": "c", "cause": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_outcome_of_a_request_is_recorded(name: str) -> None:
    kind, fields, record, event_name, expected = OUTCOMES[name]
    world, event = after(kind, fields)
    world.transact(lambda run: record(run, event))
    recorded = world.last(event_name)
    assert recorded == made(
        type(recorded), initiated_event_id=event.event_id, namespace=NAMESPACE, namespace_id=NAMESPACE_ID,
        workflow_execution={"workflow_id": "other", "run_id": RUN_ID}, **expected,
    )  # fmt: skip
    assert len(world.offered(1)) == 1
    assert not world.state().external_signals
    assert not world.state().external_cancels


# ---- children --------------------------------------------------------------------------------------------------------

CHILD_IS: dict[str, Any] = {
    "namespace": NAMESPACE, "namespace_id": NAMESPACE_ID, "workflow_type": {"name": "Ship"}, "initiated_event_id": 5,
}  # fmt: skip
HEADER = {"fields": {"trace": payload("t")}}


def test_a_child_that_was_started() -> None:
    for header in ({}, {"header": HEADER}):
        world, event = after("start_child_workflow_execution", CHILD | header)
        world.transact(lambda run, event=event: children.record_started(run, event, RUN_ID))  # type: ignore[misc]
        started = world.last("ChildWorkflowExecutionStarted")
        assert started == made(
            type(started), **CHILD_IS, **header, workflow_execution={"workflow_id": "child", "run_id": RUN_ID}
        )
        assert len(world.offered(1)) == 1


def test_a_child_that_could_not_be_started() -> None:
    world, event = after("start_child_workflow_execution", {**CHILD, "control": "c"})
    cause = fc.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
    world.transact(lambda run: children.record_start_failed(run, event, cause))
    failed = world.last("StartChildWorkflowExecutionFailed")
    assert failed == made(type(failed), **CHILD_IS, workflow_id="child", control="c", cause=cause)
    assert len(world.offered(1)) == 1
    assert not world.state().children


CLOSINGS: dict[str, dict[str, Any]] = {
    "completed": {"result": payloads("done")},
    "failed": {"failure": {"message": "no"}, "retry_state": 3},
    "canceled": {"details": payloads("why")},
    "timed_out": {"retry_state": 3},
    "terminated": {},
}


@pytest.mark.parametrize("end", CLOSINGS)
def test_a_child_that_closed(end: str) -> None:
    world, event = after("start_child_workflow_execution", CHILD)
    world.transact(lambda run: children.record_started(run, event, RUN_ID))
    started_id = world.state().children[5].started_event_id
    fields = CLOSINGS[end]
    closing = made(
        history_pb.HistoryEvent, event_type=et.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{end.upper()}"),
        **{f"workflow_execution_{end}_event_attributes": {**fields, **({"reason": "x"} if end == "terminated" else {})}},
    )  # fmt: skip
    world.transact(lambda run: children.record_closed(run, run.state.children[5], "child-run", closing))
    recorded = world.last(f"ChildWorkflowExecution{end.title().replace('_', '')}")
    assert recorded == made(
        type(recorded), **CHILD_IS, **fields, workflow_execution={"workflow_id": "child", "run_id": "child-run"},
        started_event_id=started_id,
    )  # fmt: skip
    assert not world.state().children


@pytest.mark.parametrize("policy", [wf.PARENT_CLOSE_POLICY_TERMINATE, wf.PARENT_CLOSE_POLICY_ABANDON,
                                    wf.PARENT_CLOSE_POLICY_REQUEST_CANCEL])  # fmt: skip
@pytest.mark.parametrize("starts", [False, True])
def test_the_policy_for_children_of_a_closed_parent(starts: bool, policy: int) -> None:
    world, event = after("start_child_workflow_execution", {**CHILD, "parent_close_policy": policy})
    if starts:
        world.transact(lambda run: children.record_started(run, event, RUN_ID))
    else:
        world.transact(signal)
    world.transfers.clear()
    world.turn(complete_workflow())
    expected = [
        ("parent_closed", TransferData(
            initiated_event_id=5, target_namespace_id=NAMESPACE_ID, target_workflow_id="child", target_run_id=RUN_ID,
            parent_close_policy=policy, namespace=NAMESPACE,
        ))
    ]  # fmt: skip
    assert transfers(world) == (expected if starts and policy != wf.PARENT_CLOSE_POLICY_ABANDON else [])


def signal(run: Run, request_id: str = "", name: str = "go", **fields: Any) -> None:
    signals.receive(run, name=name, input=None, identity="me", request_id=request_id, **fields)


def test_a_parent_is_notified_of_the_end_of_its_child() -> None:
    run_of: dict[str, Any] = {"namespace_id": "p-id", "workflow_id": "p", "run_id": "pr", "initiated_event_id": 8}
    for notify, closing in ((True, "completed"), (False, "completed"), (True, "continued_as_new")):
        world = World()
        world.start()
        run = world.load()
        run.state.parent.CopyFrom(made(type(run.state.parent), **run_of))
        kind = et.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{closing.upper()}")
        event = history_pb.HistoryEvent(event_type=kind)
        children.on_close(run, event, notify_parent=notify)
        told = [TransferData.FromString(row.data) for row in run.transfers]
        if notify and closing == "completed":
            assert told == [TransferData(
                initiated_event_id=8, target_namespace_id="p-id", target_workflow_id="p", target_run_id="pr",
                request_id=run.state.first_run_id, close_event=event,
            )]  # fmt: skip
        else:
            assert told == []


def test_a_child_inherits_the_priority_of_its_parent() -> None:
    parent = common_pb.Priority(priority_key=2, fairness_key="a", fairness_weight=3)
    assert children.merged_priority(parent, common_pb.Priority()) == parent
    own = common_pb.Priority(priority_key=4, fairness_key="b", fairness_weight=5)
    assert children.merged_priority(parent, own) == own


@pytest.mark.parametrize(
    ("execution_s", "run_s", "task_s", "expected"),
    [(0, 0, 0, (None, 0, 10)), (60, 0, 5, (60, 60, 5)), (60, 90, 0, (60, 60, 10)), (0, 4, 9, (None, 4, 4))],
)
def test_the_timeouts_of_a_child(
    execution_s: int, run_s: int, task_s: int, expected: tuple[int | None, int, int]
) -> None:
    fields: dict[str, Any] = {
        "workflow_run_timeout": {"seconds": run_s}, "workflow_task_timeout": {"seconds": task_s}, "namespace_id": "n",
        "cron_schedule": "@every 1h", "time_skipping_state_propagation": {"initial_skipped_duration": {"seconds": 7}},
    }  # fmt: skip
    if execution_s:
        fields["workflow_execution_timeout"] = {"seconds": execution_s}
    event = made(history_pb.HistoryEvent, event_id=8, start_child_workflow_execution_initiated_event_attributes=fields)
    parent = made(MutableState, namespace="ns", namespace_id="ns-id", workflow_id="p", run_id="pr", root_workflow_id="rw",
                  root_run_id="rr")  # fmt: skip
    a = children.started_attributes(
        parent, event, now_ns=100 * SECOND_NS, limits=Limits(), deployments=NamespaceDeployments()
    )
    assert a.HasField("workflow_execution_timeout") == (expected[0] is not None)
    assert (a.workflow_execution_timeout.seconds, a.workflow_run_timeout.seconds, a.workflow_task_timeout.seconds) == (
        expected[0] or 0, expected[1], expected[2],
    )  # fmt: skip
    assert a.workflow_execution_expiration_time.seconds == (107 + execution_s if execution_s else 0)
    assert a.initiator == wf.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    assert a.first_workflow_task_backoff.seconds > 0
    assert (a.parent_workflow_namespace, a.parent_workflow_namespace_id, a.parent_initiated_event_id, a.attempt) == (
        "ns", "ns-id", 8, 1,
    )  # fmt: skip
    assert (a.parent_workflow_execution.workflow_id, a.parent_workflow_execution.run_id) == ("p", "pr")
    assert (a.root_workflow_execution.workflow_id, a.root_workflow_execution.run_id) == ("rw", "rr")
    assert not a.HasField("priority")


# ---- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_from_a_workflow_names_it() -> None:
    sender, event = after("signal_external_workflow_execution", {**SIGNAL, "input": payloads("x"), "header": HEADER})
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    world = World()
    world.start(workflow_id="other")
    run = world.load()
    with pytest.raises(ServiceError, match="workflow parent does not match") as refused:
        signals.from_workflow(run, attributes, 5, sender.load())
    assert refused.value.code is Code.NOT_FOUND
    run.state.parent.workflow_id, run.state.parent.run_id = "wf", sender.run_id
    signals.from_workflow(run, attributes, 5, sender.load())
    signaled = run.mem_buffer[-1].workflow_execution_signaled_event_attributes
    assert signaled == made(
        type(signaled), signal_name="go", input=payloads("x"), header=HEADER, identity="history-service",
        request_id=sender.state().external_signals[5].request_id,
        external_workflow_execution={"workflow_id": "wf", "run_id": sender.run_id},
    )  # fmt: skip


def test_signals_are_limited() -> None:
    size = payloads("x" * 50).ByteSize()
    for limits, text in (
        (Limits(blob_size_error=size - 1), "Blob data size exceeds limit."),
        (Limits(signals_per_execution=1), "exceeded workflow execution limit for signal events"),
    ):
        world = World(limits)
        world.start()
        if limits.signals_per_execution == 1:
            world.transact(signal)
        with pytest.raises(ServiceError) as refused:
            signals.check(world.load(), payloads("x" * 50))
        assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, text)
    for warn, warned in ((size, False), (size - 1, True)):
        world = World(Limits(blob_size_error=size, blob_size_warn=warn, signals_per_execution=0))
        world.start()
        run = world.load()
        signals.check(run, payloads("x" * 50))
        assert bool(run.warnings) == warned


def test_requests_are_known_in_the_next_run() -> None:
    state, following = MutableState(), MutableState()
    state.signal_request_ids.append("older")
    state.signal_with_start_digests.extend([1, 2])
    for number in range(2 * signals.HANDED_ON):
        info = state.request_ids[f"r{number:04}"]
        info.event_type, info.event_id = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, number
    state.request_ids["start"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    signals.hand_on_requests(state, following)
    numbers = range(signals.HANDED_ON, 2 * signals.HANDED_ON)
    assert list(following.signal_request_ids) == [f"r{number:04}" for number in numbers]
    assert list(following.signal_with_start_digests) == [1, 2]
    assert signals.is_known(following, f"r{numbers[0]:04}")
    assert not signals.is_known(following, "start")
    assert signals.is_known(state, "older")


def test_a_signal_with_start_is_known_by_its_content() -> None:
    state = MutableState()
    state.signal_request_ids.append("r")
    assert signals.is_same_request(state, "r", 7)
    assert not signals.is_same_request(state, "q", 7)
    signals.note_request(state, 7)
    signals.note_request(state, 7)
    assert list(state.signal_with_start_digests) == [7]
    assert signals.is_same_request(state, "r", 7)
    assert not signals.is_same_request(state, "r", 8)
    for digest in range(100, 100 + signals.HANDED_ON):
        signals.note_request(state, digest)
    assert list(state.signal_with_start_digests) == list(range(100, 100 + signals.HANDED_ON))


@pytest.mark.parametrize("with_start", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_a_signal_schedules_a_task_unless_the_workflow_is_paused(paused: bool, with_start: bool) -> None:
    world = World()
    world.start(start_delay_s=50)
    run = world.load()
    run.state.paused = paused
    signal(run, with_start=with_start)
    assert run.has_pending_workflow_task == (with_start and not paused)


# ---- pause, options, reset -------------------------------------------------------------------------------------------


def test_a_paused_workflow_takes_its_activities_back() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"), schedule_activity("b"), start_timer())
    world.poll_activity("b")
    stamps = {event_id: each.stamp for event_id, each in world.state().activities.items()}
    request = rr.PauseWorkflowExecutionRequest(identity="me", reason="why", request_id="p")
    world.transact(lambda run: pause.pause(run, request))
    assert world.offered(2) == []
    held = {
        event_id: (each.held_by_pause, each.stamp - stamps[event_id])
        for event_id, each in world.state().activities.items()
    }
    assert held == {5: (True, 1), 6: (False, 0)}


def test_options_of_a_run() -> None:
    world = World()
    world.start()
    run = world.load()
    assert options.of_run(run) == workflow_pb.WorkflowExecutionOptions()
    wanted = made(
        workflow_pb.WorkflowExecutionOptions,
        versioning_override={"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "1"}}},
        priority={"priority_key": 2, "fairness_key": "k", "fairness_weight": 3}, time_skipping_config={"enabled": True},
    )  # fmt: skip
    paths = ("versioning_override", "priority", "time_skipping_config")
    options.merge(run, wanted, paths, "me")
    assert options.of_run(run) == wanted
    event = run.mem_buffer[-1].workflow_execution_options_updated_event_attributes
    assert (event.identity, event.time_skipping_config_updated, event.unset_versioning_override) == ("me", True, False)
    count = len(run.mem_buffer)
    options.merge(run, wanted, paths, "me")
    assert len(run.mem_buffer) == count
    only = made(workflow_pb.WorkflowExecutionOptions, priority={"priority_key": 9, "fairness_key": "x"})
    options.merge(run, only, ("priority.priority_key",), "me")
    assert options.of_run(run).priority == common_pb.Priority(priority_key=9, fairness_key="k", fairness_weight=3)
    event = run.mem_buffer[-1].workflow_execution_options_updated_event_attributes
    assert not event.time_skipping_config_updated
    nothing = workflow_pb.WorkflowExecutionOptions()
    options.merge(run, nothing, ("versioning_override", "time_skipping_config"), "me")
    event = run.mem_buffer[-1].workflow_execution_options_updated_event_attributes
    assert (event.unset_versioning_override, event.time_skipping_config_updated) == (True, True)
    assert not options.of_run(run).HasField("versioning_override")
    assert not options.of_run(run).HasField("time_skipping_config")
    forward = made(workflow_pb.WorkflowExecutionOptions, time_skipping_config={"fast_forward_config": {"id": "f"}})
    for _ in range(2):
        count = len(run.mem_buffer)
        options.merge(run, forward, ("time_skipping_config",), "me")
        assert len(run.mem_buffer) == count + 1  # it starts again from now


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (("time_skipping_config.enabled",), "time_skipping_config doesn't support partial update"),
        (("versioning_override.pinned",), "versioning_override doesn't support partial updates"),
        (("versioning_override.behavior",), "versioning_override fields must be updated together"),
    ],
)
def test_masks_that_name_parts(paths: tuple[str, ...], text: str) -> None:
    world = World()
    world.start()
    with pytest.raises(ServiceError) as refused:
        options.merge(world.load(), workflow_pb.WorkflowExecutionOptions(), paths, "")
    assert (refused.value.code, refused.value.message) == (
        Code.INVALID_ARGUMENT, f"error applying update_options: {text}",
    )  # fmt: skip


def test_an_override_that_pins_a_run_where_it_is() -> None:
    world = World()
    world.start()
    run = world.load()
    pin = made(workflow_pb.WorkflowExecutionOptions, versioning_override={"pinned": {"behavior": 1}})
    pair = ("versioning_override.deployment", "versioning_override.behavior")
    with pytest.raises(ServiceError, match="has behavior Unspecified and is not yet pinned to any version") as refused:
        options.merge(run, pin, pair, "")
    assert refused.value.code is Code.FAILED_PRECONDITION
    info = run.state.versioning_info
    info.behavior = wf.VERSIONING_BEHAVIOR_PINNED
    info.deployment_version.deployment_name, info.deployment_version.build_id = "d", "1"
    options.merge(run, pin, ("versioning_override",), "")
    assert options.of_run(run).versioning_override.pinned.version == info.deployment_version
    assert run.pinned_to == info.deployment_version
    assert run.visibility_changed


@pytest.mark.parametrize(("sticky", "started"), [(True, False), (True, True), (False, False)])
def test_another_override_takes_the_pending_task_off_the_sticky_queue(sticky: bool, started: bool) -> None:
    world = World()
    world.start()
    if started:
        world.poll()
    run = world.load()
    run.state.sticky_task_queue = "sticky" if sticky else ""
    stamp = run.state.workflow_task.stamp
    override = made(workflow_pb.VersioningOverride, auto_upgrade=True)
    options.update(run, options.Change(versioning_override=override))
    assert run.state.sticky_task_queue == ("sticky" if started else "")
    assert run.state.workflow_task.stamp == stamp + (not started)
    assert len(run.tasks_added) == (not started)


def test_what_a_reset_leaves_out() -> None:
    for kind, expected in (
        (0, set()), (kinds.RESET_REAPPLY_TYPE_SIGNAL, {reset.EXCLUDE_UPDATE}),
        (kinds.RESET_REAPPLY_TYPE_NONE, {reset.EXCLUDE_SIGNAL, reset.EXCLUDE_UPDATE}),
    ):  # fmt: skip
        request = made(rr.ResetWorkflowExecutionRequest, reset_reapply_type=kind)
        assert reset.excluded(request) == expected
    request = made(rr.ResetWorkflowExecutionRequest, reset_reapply_exclude_types=[reset.EXCLUDE_NEXUS])
    assert reset.excluded(request) == {reset.EXCLUDE_NEXUS}
    bad = made(rr.ResetWorkflowExecutionRequest, post_reset_operations=[{"signal_workflow": {}}])
    for wrong, name in ((bad, "*workflow.PostResetOperation_SignalWorkflow_"),
                        (made(rr.ResetWorkflowExecutionRequest, post_reset_operations=[{}]), "<nil>")):  # fmt: skip
        with pytest.raises(ServiceError) as refused:
            reset.check_operations(MutableState(), wrong, NamespaceDeployments())
        assert refused.value.message == f"unsupported post reset operation: {name}"
        assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_reset_is_known_by_its_request() -> None:
    world = World()
    world.start()
    run = world.load()
    state = run.state
    state.create_request_id, state.original_run_id = "r", "base"
    assert reset.made_by(state, "r") == state.run_id
    assert reset.made_by(state, "q") == ""
    state.original_run_id = state.run_id
    assert reset.made_by(state, "r") == ""
    previous = MutableState()
    for number in range(reset.REMEMBERED_REQUESTS + 3):
        previous.reset_requests.add(request_id=f"q{number}", run_id=f"run{number}")
    reset.remember(run, "new", previous)
    remembered = [each.request_id for each in state.reset_requests]
    assert remembered == [*(f"q{number}" for number in range(4, 13)), "new"]
    assert reset.made_by(state, "q12") == "run12"
    assert reset.made_by(state, "new") == state.run_id
