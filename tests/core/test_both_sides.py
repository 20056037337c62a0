"""The other side of decisions of which stories take one: what every closing command waits for, and what is wired late."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.command_builders import made, payload, schedule_activity, start_timer
from tests.core.harness import World
from tests.core.versioning.test_versioning import V1, routing
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.common.proto.nexus_pb2 import NexusTaskData
from whistlestop.common.versioning.build_ids import build_queue
from whistlestop.history.core import completion
from whistlestop.history.core.activity import deadlines, standalone
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.operations import options, pause, reset
from whistlestop.history.core.signal import decide as signals
from whistlestop.history.core.state_pb2 import Activity, MutableState
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.run import StartEventNeeded
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import nexus as nexus_routing
from whistlestop.history.core.versioning import reset_points
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.storage.records import MatchingTask, TaskKey

UPSERT = common_pb.SearchAttributes(indexed_fields={"City": payload("Bern")})
MEMO = common_pb.Memo(fields={"note": payload("n")})
COMMANDS: dict[str, dict[str, Any]] = {
    "schedule_activity_task": {
        "activity_id": "a", "activity_type": {"name": "T"}, "task_queue": {"name": "q"},
        "start_to_close_timeout": {"seconds": 9},
    },
    "start_timer": {"timer_id": "t", "start_to_fire_timeout": {"seconds": 9}},
    "record_marker": {"marker_name": "m"},
    "upsert_workflow_search_attributes": {"search_attributes": UPSERT},
    "modify_workflow_properties": {"upserted_memo": MEMO},
    "start_child_workflow_execution": {"workflow_id": "c", "workflow_type": {"name": "T"}},
    "signal_external_workflow_execution": {"execution": {"workflow_id": "o"}, "signal_name": "s"},
    "request_cancel_external_workflow_execution": {"workflow_id": "o"},
    "schedule_nexus_operation": {"endpoint": "payments", "service": "s", "operation": "o"},
    "complete_workflow_execution": {},
    "fail_workflow_execution": {"failure": {"message": "no"}},
    "cancel_workflow_execution": {},
    "continue_as_new_workflow_execution": {"workflow_type": {"name": "T"}},
}  # fmt: skip


def command(kind: str, fields: dict[str, Any] | None = None) -> command_pb.Command:
    given: dict[str, Any] = {f"{kind}_command_attributes": COMMANDS[kind] if fields is None else fields}
    return made(command_pb.Command, command_type=ct.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"), **given)


def signal(world: World) -> None:
    world.transact(lambda run: signals.receive(run, name="s", input=None, identity="", request_id=""))


@pytest.mark.parametrize("kind", COMMANDS)
def test_user_metadata_of_every_command_stands_in_its_event(kind: str) -> None:
    world = World()
    run_id = world.start()
    given = command(kind)
    given.user_metadata.summary.CopyFrom(payload("s"))
    world.turn(given)
    [event] = [each for each in world.events(run_id) if each.HasField("user_metadata")]
    assert event.event_id == 5
    assert event.user_metadata.summary == payload("s")


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind.endswith("workflow_execution") and not
                                  kind.startswith(("start", "signal", "request"))])  # fmt: skip
def test_a_run_closes_when_its_worker_has_seen_everything(kind: str) -> None:
    world = World()
    world.start()
    world.poll()
    signal(world)
    outcome = world.complete(command(kind))
    assert outcome.error is not None
    assert world.last("WorkflowTaskFailed").cause == fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    assert world.load().is_open


@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [
        ("upsert_workflow_search_attributes", {"search_attributes": UPSERT}, len("City") + len(payload("Bern").data)),
        ("modify_workflow_properties", {"upserted_memo": MEMO}, len("note") + len(payload("n").data)),
        ("record_marker", {"marker_name": "m", "details": {"d": common_pb.Payloads(payloads=[payload("x")])}},
         1 + common_pb.Payloads(payloads=[payload("x")]).ByteSize()),
    ],
)  # fmt: skip
def test_maps_of_payloads_are_measured(kind: str, fields: dict[str, Any], size: int) -> None:
    for limit, is_taken in ((size, True), (size - 1, False)):
        world = World(Limits(blob_size_error=limit))
        world.start()
        world.poll()
        outcome = world.complete(command(kind, fields))
        assert (outcome.error is None) == is_taken
        assert world.load().is_open == is_taken


# ---- late ids --------------------------------------------------------------------------------------------------------


def test_events_that_were_buffered_are_known_by_their_ids() -> None:
    world = World()
    world.start()
    world.turn(command("start_child_workflow_execution"), schedule_activity("a"))
    initiated = world.events()[4]
    signal(world)
    world.poll_activity()
    world.poll()
    world.transact(lambda run: children.record_started(run, initiated, "child-run"))
    world.transact(lambda run: options.update(run, options.Change(attached_request_id="r")))
    world.transact(lambda run: signals.receive(run, name="s", input=None, identity="", request_id="q"))
    admitted = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
        workflow_execution_update_admitted_event_attributes={
            "request": {"meta": {"update_id": "u"}, "request_id": "p"}, "origin": 1,
        },
    )  # fmt: skip
    world.transact(lambda run: reset.reapply(run, [admitted], frozenset()))
    token = world.activity_token
    world.transact(lambda run: activity.complete(run, token, None, "me"))
    world.complete()
    ids = {name: event.event_id for name, event in zip(world.names(), world.events(), strict=True)}
    state = world.state()
    assert state.children[5].started_event_id == ids["ChildWorkflowExecutionStarted"]
    assert state.request_ids["r"].event_id == ids["WorkflowExecutionOptionsUpdated"]
    assert state.request_ids["q"].event_id == ids["WorkflowExecutionSignaled"]
    assert state.request_ids["p"].event_id == ids["WorkflowExecutionUpdateAdmitted"]
    assert state.updates["u"].admitted_event_id == ids["WorkflowExecutionUpdateAdmitted"]
    assert world.last("ActivityTaskCompleted").started_event_id == ids["ActivityTaskStarted"]
    assert all(event_id > 0 for event_id in ids.values())


def test_the_first_event_is_read_or_is_in_the_batch() -> None:
    seen: list[int] = []
    world = World()
    world.start(prepare=lambda run: seen.append(run.first_event().event_id))
    assert seen == [1]
    run = world.load()
    run.start_event = None
    with pytest.raises(StartEventNeeded):
        run.first_event()


def test_children_of_a_reset_run() -> None:
    world = World()
    world.start()
    world.turn(command("start_child_workflow_execution"))
    initiated = world.events()[4]
    run = world.load()
    closed = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        child_workflow_execution_completed_event_attributes={"initiated_event_id": 5, "started_event_id": 99},
    )  # fmt: skip
    began = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        child_workflow_execution_started_event_attributes={"initiated_event_id": 5, "workflow_execution": {"run_id": "r"}},
    )  # fmt: skip
    unknown = made(
        history_pb.HistoryEvent, event_type=et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        child_workflow_execution_started_event_attributes={"initiated_event_id": 7},
    )  # fmt: skip
    reset.reapply(run, [unknown, began], frozenset())
    run.flush_buffer()
    started_id = run.state.children[5].started_event_id
    count = len(run.batch)
    reset.reapply(run, [began], frozenset())
    assert len(run.batch) + len(run.mem_buffer) == count
    reset.reapply(run, [closed], frozenset())
    again = run.mem_buffer[-1].child_workflow_execution_completed_event_attributes
    assert (again.initiated_event_id, again.started_event_id) == (5, started_id)
    assert 5 not in run.state.children
    assert initiated.event_id == 5


def test_operations_of_a_reset_run() -> None:
    world = World()
    world.start()
    world.turn(command("schedule_nexus_operation"))
    request_id = world.state().nexus_operations[5].request_id

    def event(kind: str, event_id: int = 5, asked: str = request_id) -> history_pb.HistoryEvent:
        fields: dict[str, Any] = {f"nexus_operation_{kind}_event_attributes": {
            "scheduled_event_id": event_id, "request_id": asked
        }}  # fmt: skip
        number = et.EventType.Value(f"EVENT_TYPE_NEXUS_OPERATION_{kind.upper()}")
        return made(history_pb.HistoryEvent, event_type=number, **fields)

    run = world.load()
    reset.reapply(run, [event("started", 7), event("started", asked="other")], frozenset())
    reset.reapply(run, [event("started")], frozenset({reset.EXCLUDE_NEXUS}))
    assert run.mem_buffer == []
    reset.reapply(run, [event("started")], frozenset())
    assert len(run.mem_buffer) == 1
    assert run.state.nexus_operations[5].started_ns == run.now_ns
    reset.reapply(run, [event("started")], frozenset())
    assert len(run.mem_buffer) == 1
    reset.reapply(run, [event("completed", asked="")], frozenset())
    assert not run.state.nexus_operations


# ---- routing ---------------------------------------------------------------------------------------------------------


def _rules() -> NamespaceDeployments:
    deployments = NamespaceDeployments()
    data = deployments.versioning["orders"]
    data.clock_ns = 1
    rule = data.assignment_rules.add(created_ns=1).rule
    rule.target_build_id, rule.percentage_ramp.ramp_percentage = "a", 100
    return deployments


def test_versioning_info_without_a_behavior_is_no_deployment() -> None:
    state = MutableState(task_queue="orders")
    state.versioning_info.revision_number = 3
    assert versioning.place_of(state, _rules(), "orders", 1, "b") == (build_queue("b", "orders"), "")
    state.versioning_info.behavior = 1  # type: ignore[assignment]
    assert versioning.place_of(state, _rules(), "orders", 1, "b") == ("orders", "")


@pytest.mark.parametrize("named", ["", "orders"])
@pytest.mark.parametrize("cancel", [False, True])
def test_the_queue_of_a_nexus_request(cancel: bool, named: str) -> None:
    world = World()
    world.start()
    run = world.load()
    operation = run.state.nexus_operations[5]
    attempt = operation.cancel if cancel else operation.start
    attempt.row.task_id = 9
    data = NexusTaskData(cancel=cancel, task_queue=named, namespace_id="caller").SerializeToString()

    def task(task_id: int, queue: str) -> MatchingTask:
        return MatchingTask(TaskKey("ns", queue, 3, 3, task_id), "wf", "run", 5, 1, 1, data=data)

    # A row of the first release does not name the queue: it waits on it.
    moved = task(9, "orders" if not named else "elsewhere")
    assert nexus_routing.queue_of(run, moved, _rules()) == build_queue("a", "orders")
    assert nexus_routing.queue_of(run, task(8, "elsewhere"), _rules()) == "elsewhere"
    assert nexus_routing.caller_namespace(moved) == "caller"
    found = nexus_routing.attempt_with(run, moved)
    assert found is not None
    assert found[1] is not None


def test_short_timers_wait_no_longer_for_an_attempt_that_is_retried() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"), start_timer("t", 0.1))
    world.poll_activity()
    run = world.load()
    run.state.timer_row_ns = run.now_ns + 5 * SECOND_NS
    fire_ns = run.state.timers["t"].fire_ns
    assert run.state.timers["t"].waits_until_ns
    activity.fail(run, world.activity_token, None, "me")
    assert run.state.timer_row_ns == fire_ns


def test_short_timers_wait_no_longer_for_an_attempt_that_is_held_back() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"), start_timer("t", 0.1))
    world.poll_activity()
    run = world.load()
    run.state.activities[5].paused = True
    run.state.timer_row_ns = run.now_ns + 5 * SECOND_NS
    activity.fail(run, world.activity_token, None, "me")
    assert run.state.timer_row_ns == run.state.timers["t"].fire_ns


def test_a_single_build_that_is_too_long_is_left_out_of_lists() -> None:
    state = MutableState()
    reset_points.note_build(state, "x" * reset_points.MOST_BYTES, use_versioning=False)
    assert state.search_attributes["BuildIds"].data == b'["unversioned"]'


@pytest.mark.parametrize(("initiator", "attempt"), [(0, 1), (1, 1), (2, 4), (3, 1)])
def test_the_attempt_of_a_run_that_continues(initiator: int, attempt: int) -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    run.state.attempt = 3
    fields = {**COMMANDS["continue_as_new_workflow_execution"], "initiator": initiator}
    request = made(
        rr.RespondWorkflowTaskCompletedRequest, commands=[command("continue_as_new_workflow_execution", fields)]
    )
    assert completion.respond_completed(run, world.workflow_token, request).error is None
    assert run.next_run is not None
    started = run.next_run.batch[0].workflow_execution_started_event_attributes
    assert started.attempt == attempt
    assert started.initiator == (initiator or 1)


@pytest.mark.parametrize(
    ("inherits", "behavior", "namespace_id", "build_id", "pinned"),
    [
        (True, 0, "n", "a", False), (False, 0, "n", "", False), (True, 1, "n", "", True), (True, 0, "other", "a", False),
        (False, 1, "n", "", True), (False, 1, "other", "", False),
    ],
)  # fmt: skip
def test_what_a_child_inherits_of_its_parents_version(
    inherits: bool, behavior: int, namespace_id: str, build_id: str, pinned: bool
) -> None:
    parent = MutableState(namespace_id="n", task_queue="q", assigned_build_id="a")
    if behavior:
        parent.versioning_info.behavior = behavior  # type: ignore[assignment]
        parent.versioning_info.deployment_version.build_id = "1"
    event = made(
        history_pb.HistoryEvent,
        start_child_workflow_execution_initiated_event_attributes={
            "inherit_build_id": inherits, "namespace_id": namespace_id, "task_queue": {"name": "q"},
        },
    )  # fmt: skip
    a = children.started_attributes(parent, event, now_ns=1, limits=Limits(), deployments=NamespaceDeployments())
    assert a.inherited_build_id == build_id
    assert a.HasField("inherited_pinned_version") == pinned


def test_a_standalone_activity_without_a_result_has_an_empty_one() -> None:
    world = World()
    world.start(first_task=False, prepare=lambda run: standalone.begin(run, "a", activity_pb.ActivityOptions()))
    run = world.load()
    standalone.complete(run, TaskToken(workflow_id="wf"), None, "me")
    assert run.state.activity_execution.HasField("result")


@pytest.mark.parametrize("kind", ["schedule_to_close", "schedule_to_start", "start_to_close", "heartbeat"])
def test_the_deadlines_of_an_activity(kind: str) -> None:
    one = made(Activity, first_scheduled_ns=10, scheduled_ns=20, **{f"{kind}_timeout_ns": 5})
    waits = {"schedule_to_close": [(15, 3)], "schedule_to_start": [(25, 2)]}
    number = {"schedule_to_close": 3, "schedule_to_start": 2, "start_to_close": 1, "heartbeat": 4}[kind]
    assert deadlines.deadlines(one) == waits.get(kind, [])
    assert deadlines.next_deadline(one) == {"schedule_to_close": 15, "schedule_to_start": 25}.get(kind, 0)
    one.started_ns, one.last_heartbeat_ns = 30, 40
    began = {"schedule_to_close": 15, "start_to_close": 35, "heartbeat": 45}
    assert deadlines.deadlines(one) == ([(began[kind], number)] if kind in began else [])
    one.next_attempt_ns = 12
    assert deadlines.next_deadline(one) == 12
    one.paused = True
    assert deadlines.deadlines(one) == []
    assert deadlines.next_deadline(one) == 0


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind.startswith(("start_child", "signal", "request"))])
def test_commands_stay_in_their_namespace(kind: str) -> None:
    for namespace, is_taken in (("", True), ("default", True), ("other", False)):
        world = World()
        world.start()
        world.poll()
        outcome = world.complete(command(kind, {**COMMANDS[kind], "namespace": namespace}))
        assert (outcome.error is None) == is_taken
        assert outcome.error is None or "cross namespace commands are not allowed" in outcome.error.message


@pytest.mark.parametrize("kind", ["timer", "activity", "marker", "signal", "child"])
def test_ids_are_as_long_as_the_limit_allows(kind: str) -> None:
    for length, is_taken in ((20, True), (21, False)):
        name = "x" * length
        fields: dict[str, tuple[str, dict[str, Any]]] = {
            "timer": ("start_timer", {"timer_id": name}), "activity": ("schedule_activity_task", {"activity_id": name}),
            "marker": ("record_marker", {"marker_name": name}),
            "signal": ("signal_external_workflow_execution", {"execution": {"workflow_id": name}}),
            "child": ("start_child_workflow_execution", {"workflow_id": name}),
        }  # fmt: skip
        chosen, changed = fields[kind]
        world = World(Limits(id_length=20))
        world.start()
        world.poll()
        assert (world.complete(command(chosen, {**COMMANDS[chosen], **changed})).error is None) == is_taken


def test_a_pause_is_ended_once() -> None:
    world = World()
    world.start()

    def unpause(request_id: str) -> None:
        request = rr.UnpauseWorkflowExecutionRequest(identity="me", reason="why", request_id=request_id)
        world.transact(lambda run: pause.unpause(run, request))

    def paused() -> None:
        request = rr.PauseWorkflowExecutionRequest(identity="me", reason="why", request_id="p")
        world.transact(lambda run: pause.pause(run, request))

    paused()
    assert (world.last("WorkflowExecutionPaused").identity, world.last("WorkflowExecutionPaused").reason) == (
        "me",
        "why",
    )
    unpause("u")
    ended = world.last("WorkflowExecutionUnpaused")
    assert (ended.identity, ended.reason, ended.request_id) == ("me", "why", "u")
    names = world.names()
    unpause("u")
    assert world.names() == names
    for request_id in ("", "other"):
        with pytest.raises(ServiceError, match="workflow is not paused"):
            unpause(request_id)


def test_reset_points_are_bounded() -> None:
    state = MutableState()
    for number in range(25):
        completed = made(
            history_pb.HistoryEvent, event_id=number + 1,
            workflow_task_completed_event_attributes={"binary_checksum": str(number)},
        )  # fmt: skip
        reset_points.note_completion(state, completed)
    assert [point.binary_checksum for point in state.reset_points.points] == [str(number) for number in range(5, 25)]


def test_waiting_tasks_of_standalone_executions_are_moved() -> None:
    world = World()
    options_ = made(activity_pb.ActivityOptions, task_queue={"name": "orders"})
    world.start(first_task=False, prepare=lambda run: standalone.begin(run, "a", options_))
    run = world.load()
    [task] = world.offered(2)
    assert versioning.redispatch(run, task, routing(V1))
    assert run.state.activity_execution.stamp == task.stamp + 1 == run.tasks_added[0].stamp


def test_requests_of_ended_operations_are_forgotten_at_their_deadline() -> None:
    world = World()
    world.start()
    run = world.load()
    for deadline_ns in (run.now_ns - 1, run.now_ns, run.now_ns + 1):
        run.state.ended_nexus_requests.add(deadline_ns=deadline_ns)
    nexus_operations._leave_request(run, run.state.nexus_operations[5], cancel=False)
    assert [request.deadline_ns for request in run.state.ended_nexus_requests] == [run.now_ns + 1]


def test_options_are_changed_again_by_a_reset() -> None:
    callback = made(common_pb.Callback, nexus={"url": "http://there"})
    fields: dict[str, Any] = {
        "versioning_override": {"auto_upgrade": True}, "priority": {"priority_key": 2},
        "time_skipping_config": {"enabled": True, "max_session_skip_count": 3}, "time_skipping_config_updated": True,
        "attached_request_id": "r", "attached_completion_callbacks": [callback], "identity": "me",
        "workflow_update_options": [{"update_id": "u"}],
    }  # fmt: skip
    for changes in (fields, {"unset_versioning_override": True, "identity": "me"}):
        event = made(
            history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
            workflow_execution_options_updated_event_attributes=changes, links=[{"workflow": {"workflow_id": "w"}}],
        )  # fmt: skip
        world = World()
        world.start()
        run = world.load()
        reset.reapply(run, [event], frozenset())
        assert run.mem_buffer[-1].workflow_execution_options_updated_event_attributes == (
            event.workflow_execution_options_updated_event_attributes
        )
        assert list(run.mem_buffer[-1].links) == list(event.links)
        count = len(run.mem_buffer)
        reset.reapply(run, [event], frozenset())
        assert len(run.mem_buffer) == count + ("attached_request_id" not in changes)
        everything = frozenset({reset.EXCLUDE_SIGNAL, reset.EXCLUDE_UPDATE, reset.EXCLUDE_NEXUS, 4})
        assert reset._excludes_everything(everything - {4}) or reset._excludes_everything(everything)
        before = len(run.mem_buffer)
        reset.reapply(run, [event], everything)
        assert len(run.mem_buffer) == before


@pytest.mark.parametrize(("build_id", "attempt"), [("b", 2), ("c", 1), ("", 2)])
def test_a_task_that_another_build_takes_is_a_first_attempt(build_id: str, attempt: int) -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, None, "me")
    workflow_task.schedule(run)
    run.state.workflow_task.build_id = "b"
    run.new_batch()
    stamp = common_pb.WorkerVersionStamp(build_id=build_id, use_versioning=bool(build_id))
    workflow_task.start(run, request_id="r", identity="me", stamp=stamp)
    assert run.state.workflow_task.attempt == attempt
    written = [event.event_type for batch in run.batches[1:] for event in batch]
    scheduled, started = et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, et.EVENT_TYPE_WORKFLOW_TASK_STARTED
    assert written == ([scheduled, started] if attempt == 1 else [])


def test_requests_of_updates_that_are_known_for_something_else() -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    for kind in (et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED, et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED):
        run.state.request_ids["p"].event_type, run.state.request_ids["p"].event_id = kind, 1
        event = made(
            history_pb.HistoryEvent, event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED, event_id=9,
            workflow_execution_update_admitted_event_attributes={"request": {"request_id": "p"}},
        )  # fmt: skip
        run._wire(event)
        is_own = kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
        assert run.state.request_ids["p"].event_id == (9 if is_own else 1)
