"""Worker versioning by table: which version a run has, where its tasks go, what it hands on, and what lists show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import made, schedule_activity
from tests.core.harness import World
from tests.core.versioning.test_build_ids import rules, sets
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.common.versioning.build_ids import NEW_WORK, build_queue, set_queue
from whistlestop.common.versioning.deployments import Version, versioned_queue
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.state_pb2 import Activity, MutableState
from whistlestop.history.core.transition.namespace_policy import NamespacePolicy
from whistlestop.history.core.versioning import build_ids, reset_points
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import version_transition

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run

PINNED, AUTO, NONE = wf.VERSIONING_BEHAVIOR_PINNED, wf.VERSIONING_BEHAVIOR_AUTO_UPGRADE, 0
WORKFLOW, ACTIVITY = 1, 2
V1, V2, V3 = (Version(deployment_name="d", build_id=build_id) for build_id in ("1", "2", "3"))
VERSIONED = deployment_enums.WORKER_VERSIONING_MODE_VERSIONED


def _version(version: Version) -> dict[str, str]:
    return {"deployment_name": version.deployment_name, "build_id": version.build_id}


def routing(
    current: Version | None = None, ramping: Version | None = None, percentage: float = 0.0, revision: int = 5,
    queues: tuple[tuple[str, int], ...] = (("orders", WORKFLOW), ("orders", ACTIVITY)),
) -> NamespaceDeployments:  # fmt: skip
    """A deployment "d" with three versions that serve these queues."""
    found = NamespaceDeployments()
    data = found.deployments.add()
    info = data.description.worker_deployment_info
    info.name = "d"
    config = info.routing_config
    config.revision_number = revision
    if current is not None:
        config.current_deployment_version.CopyFrom(current)
        config.current_version_changed_time.seconds = 1
    if ramping is not None:
        config.ramping_deployment_version.CopyFrom(ramping)
        config.ramping_version_percentage = percentage
        config.ramping_version_changed_time.seconds = 2
    for version in (V1, V2, V3):
        stored = data.versions.add().worker_deployment_version_info
        stored.deployment_version.CopyFrom(version)
        for name, kind in queues:
            stored.task_queue_infos.add(name=name, type=kind)
    return found


def override(**fields: Any) -> workflow_pb.VersioningOverride:
    return made(workflow_pb.VersioningOverride, **fields)


OF_V2 = {"behavior": 1, "version": _version(V2)}
ONE_TIME_V2 = {"target_deployment_version": _version(V2)}


def state_of(**info: Any) -> MutableState:
    """The state of a run on queue "orders" with this versioning info."""
    made_state = made(MutableState, workflow_id="wf", task_queue="orders", run_id="run")
    if info:
        made_state.versioning_info.CopyFrom(made(workflow_pb.WorkflowExecutionVersioningInfo, **info))
    return made_state


def run_of(limits: Limits | None = None, **info: Any) -> Run:
    world = World(limits)
    world.start()
    run = world.load()
    if info:
        run.state.versioning_info.CopyFrom(made(workflow_pb.WorkflowExecutionVersioningInfo, **info))
    return run


# ---- which version a run has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "pinned", "behavior", "own"),
    [
        ({}, None, NONE, None),
        ({"behavior": PINNED}, None, PINNED, None),
        ({"behavior": PINNED, "deployment_version": _version(V1)}, V1, PINNED, V1),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, None, AUTO, V1),
        ({"deployment_version": _version(V1)}, None, NONE, None),
        ({"versioning_override": override(pinned=OF_V2)}, V2, PINNED, None),
        ({"behavior": AUTO, "deployment_version": _version(V1), "versioning_override": override(pinned=OF_V2)},
         V2, PINNED, V1),
        ({"versioning_override": override(pinned_version="d.2")}, V2, PINNED, None),
        ({"versioning_override": override(one_time=ONE_TIME_V2)}, V2, PINNED, None),
        ({"behavior": PINNED, "deployment_version": _version(V1), "versioning_override": override(auto_upgrade=True)},
         None, AUTO, V1),
        ({"behavior": PINNED, "deployment_version": _version(V1), "versioning_override": override(behavior=AUTO)},
         None, AUTO, V1),
        ({"behavior": AUTO, "deployment_version": _version(V1),
          "version_transition": {"deployment_version": _version(V3)}}, None, AUTO, V3),
        ({"behavior": AUTO, "deployment_version": _version(V1), "version_transition": {}}, None, AUTO, None),
    ],
)  # fmt: skip
def test_the_version_of_a_run(info: dict[str, Any], pinned: Version | None, behavior: int, own: Version | None) -> None:
    state = state_of(**info)
    assert versioning_state.pinned_version(state) == pinned
    assert versioning_state.behavior_of(state) == behavior
    assert versioning_state.own_version(state) == own
    standing = version_transition.standing(state)
    moves = "version_transition" in info
    assert standing == (own if moves else pinned or own, AUTO if moves else behavior, moves)


# ---- where tasks go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "deployments", "queue", "kind", "wanted"),
    [
        ({}, NamespaceDeployments(), "orders", WORKFLOW, None),
        ({}, routing(V1), "orders", WORKFLOW, V1),
        ({}, routing(V1), "other", WORKFLOW, None),
        ({}, routing(V1, V2, 100), "orders", WORKFLOW, V2),
        ({}, routing(V1, V2, 0), "orders", WORKFLOW, V1),
        # Of a run that continued as new to the ramping version.
        ({"continue_as_new_initial_versioning_behavior": 2}, routing(V1, V2, 0), "orders", WORKFLOW, V2),
        ({"continue_as_new_initial_versioning_behavior": 1}, routing(V1, V2, 0), "orders", WORKFLOW, V1),
        ({"versioning_override": override(pinned=OF_V2)}, routing(V1), "orders", WORKFLOW, V2),
        ({"versioning_override": override(pinned=OF_V2)}, routing(V1), "other", WORKFLOW, V2),
        ({"versioning_override": override(pinned=OF_V2)}, routing(V1), "orders", ACTIVITY, V2),
        ({"versioning_override": override(pinned=OF_V2)}, routing(V1), "other", ACTIVITY, None),
        ({"behavior": AUTO, "deployment_version": _version(V2)}, routing(V1), "orders", ACTIVITY, V1),
        # In a transition nothing is pinned.
        ({"versioning_override": override(pinned=OF_V2), "version_transition": {}}, routing(V1), "orders", WORKFLOW, V1),
    ],
)  # fmt: skip
def test_the_version_that_gets_a_task(
    info: dict[str, Any], deployments: NamespaceDeployments, queue: str, kind: int, wanted: Version | None
) -> None:
    state = state_of(**info)
    assert versioning.wanted_version(state, deployments, queue, kind) == wanted
    assert versioning.place_of(state, deployments, queue, kind, None) == (versioned_queue(queue, wanted), "")


def test_a_completed_task_ends_the_ramping_of_a_new_run() -> None:
    state = state_of(continue_as_new_initial_versioning_behavior=2)
    state.last_completed_started_event_id = 3
    assert versioning.wanted_version(state, routing(V1, V2, 0), "orders", WORKFLOW) == V1


def _with_rules(deployments: NamespaceDeployments) -> NamespaceDeployments:
    deployments.versioning["orders"].CopyFrom(rules(("a", 100)))
    return deployments


@pytest.mark.parametrize(
    ("info", "deployments", "build_id", "place"),
    [
        ({}, _with_rules(NamespaceDeployments()), NEW_WORK, (build_queue("a", "orders"), "a")),
        ({}, _with_rules(NamespaceDeployments()), None, ("orders", "")),
        ({}, _with_rules(NamespaceDeployments()), "b", (build_queue("b", "orders"), "")),
        # A build id counts if no deployment decides.
        ({}, _with_rules(routing(V1)), "b", (build_queue("b", "orders"), "")),
        ({"behavior": AUTO}, _with_rules(routing(V1)), "b", (versioned_queue("orders", V1), "")),
        ({"behavior": AUTO}, _with_rules(routing()), "b", ("orders", "")),
        ({"version_transition": {}}, _with_rules(routing(V1)), "b", (versioned_queue("orders", V1), "")),
        ({}, _with_rules(routing(V1)), "", (versioned_queue("orders", V1), "")),
        ({}, _with_rules(routing()), NEW_WORK, (build_queue("a", "orders"), "a")),
    ],
)
def test_the_queue_of_a_task(
    info: dict[str, Any], deployments: NamespaceDeployments, build_id: str | None, place: tuple[str, str]
) -> None:
    assert versioning.place_of(state_of(**info), deployments, "orders", WORKFLOW, build_id) == place


@pytest.mark.parametrize(
    ("info", "deployments", "elsewhere"),
    [
        ({}, NamespaceDeployments(), False),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, routing(V1), False),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, routing(V2), True),
        ({"behavior": PINNED, "deployment_version": _version(V1)}, routing(V2), False),
        ({"behavior": PINNED, "deployment_version": _version(V1), "versioning_override": override(pinned=OF_V2)},
         routing(V1), True),
        ({"deployment_version": _version(V1), "versioning_override": override(pinned=OF_V2)}, routing(V1), True),
        ({}, routing(V1), True),
    ],
)  # fmt: skip
def test_a_worker_of_another_version_loses_the_cache(
    info: dict[str, Any], deployments: NamespaceDeployments, elsewhere: bool
) -> None:
    run = run_of(**info)
    run.state.last_completed_started_event_id = 3
    run.state.sticky_task_queue = "sticky"
    assert versioning.changes_version(run.state, deployments) == elsewhere
    assert versioning.keeps_cache(run.state, deployments) == (not elsewhere)
    run.policy = NamespacePolicy(deployments=deployments)
    versioning.leave_sticky_queue(run)
    assert run.state.sticky_task_queue == ("" if elsewhere else "sticky")


def test_the_cache_is_kept_as_the_build_id_says() -> None:
    deployments = NamespaceDeployments()
    deployments.versioning["orders"].CopyFrom(sets("1 1.1"))
    state = state_of()
    state.last_completed_started_event_id = 3
    for build_id, keeps in (("1", False), ("1.1", True)):
        state.most_recent_worker_version_stamp.build_id = build_id
        state.most_recent_worker_version_stamp.use_versioning = True
        assert not versioning.changes_version(state, deployments)
        assert versioning.keeps_cache(state, deployments) == keeps
    state.versioning_info.behavior = AUTO
    state.versioning_info.deployment_version.CopyFrom(V1)
    assert not versioning.keeps_cache(state, deployments)


# ---- tasks of a run --------------------------------------------------------------------------------------------------


def test_new_tasks_are_moved_to_the_queues_of_their_version() -> None:
    world = World()
    world.start()
    world.poll()
    world.complete(schedule_activity("a"))
    run = world.load()
    run.policy = NamespacePolicy(deployments=routing(V1))
    versioning.leave_sticky_queue(run)
    world_run = world.load()
    [offered] = world.offered(2)
    activity = world_run.state.activities[5]
    assert versioning.redispatch(world_run, offered, routing(V1))
    assert activity.row.task_queue == versioned_queue("orders", V1)
    assert activity.stamp == offered.stamp + 1
    assert world_run.tasks_removed == [offered.key]
    [task] = world_run.tasks_added
    assert (task.stamp, task.scheduled_event_id) == (offered.stamp + 1, 5)
    assert world_run.changed
    assert not versioning.redispatch(world_run, offered, routing(V1))  # it is stale by now
    assert not versioning.redispatch(world_run, task, routing(V1))  # it is there
    assert versioning.redispatch(world_run, task, routing(V2))


@pytest.mark.parametrize("kind", [WORKFLOW, ACTIVITY])
def test_rules_assign_a_build_id_to_a_new_task(kind: int) -> None:
    world = World()
    world.start()
    if kind == ACTIVITY:
        world.poll()
        world.complete(schedule_activity("a"))
    run = world.load()
    [offered] = world.offered(kind)
    run.tasks_added.append(offered)
    count = run.transitions
    versioning.route_tasks(run, offered.key.namespace_id, _with_rules(NamespaceDeployments()))
    assert run.tasks_added[0].key.task_queue == build_queue("a", "orders")
    assert run.tasks_added[0].stamp == offered.stamp
    assert run.transitions == count + 1
    if kind == WORKFLOW:
        assert run.state.assigned_build_id == "a"
        assert run.state.workflow_task.row.task_queue == build_queue("a", "orders")
        assert run.visibility_changed
    else:
        assert run.state.activities[5].last_build_id == "a"
        assert not run.state.assigned_build_id
    again = world.load()
    again.tasks_added.append(offered)
    versioning.route_tasks(again, "another namespace", _with_rules(NamespaceDeployments()))
    assert again.tasks_added == [offered]
    again.state.workflow_task.row.task_id = again.state.activities[5].row.task_id = 1
    versioning.route_tasks(again, offered.key.namespace_id, _with_rules(NamespaceDeployments()))
    assert again.tasks_added == [offered]


def test_a_sticky_task_stays_unless_it_is_for_another_version() -> None:
    world = World()
    world.start()
    [offered] = world.offered(1)
    for deployments, stays in ((NamespaceDeployments(), True), (routing(V1), False)):
        run = world.load()
        run.state.last_completed_started_event_id = 3
        run.state.sticky_task_queue = "orders"
        run.state.workflow_task.sticky = True
        run.state.workflow_task.schedule_to_start_deadline_ns = 9
        run.tasks_added.append(offered)
        versioning.route_tasks(run, offered.key.namespace_id, deployments)
        assert (run.tasks_added == [offered]) == stays
        assert run.state.workflow_task.sticky == stays
        assert (run.state.workflow_task.schedule_to_start_deadline_ns == 9) == stays


# ---- notices of a new version ----------------------------------------------------------------------------------------

PINNED_TO_V1: dict[str, Any] = {"behavior": PINNED, "deployment_version": _version(V1)}


def _noted(run: Run, deployments: NamespaceDeployments) -> tuple[Version | None, int] | None:
    run.policy = NamespacePolicy(deployments=deployments)
    versioning.note_target(run)
    if not run.state.HasField("notified_target"):
        return None
    target = run.state.notified_target
    return target.deployment_version if target.HasField("deployment_version") else None, target.revision_number


def test_a_pinned_run_is_notified_of_the_version_that_new_work_goes_to() -> None:
    run = run_of(**PINNED_TO_V1)
    assert _noted(run, routing(V2, revision=5)) == (V2, 5)
    assert versioning.is_informed_of_target(run.state)
    assert _noted(run, routing(V3, revision=4)) == (V2, 5)  # older
    assert _noted(run, routing(V3, revision=6)) == (V3, 6)
    assert _noted(run, routing(None, revision=7)) == (None, 7)
    assert _noted(run, routing(V1, revision=8)) is None
    assert not versioning.is_informed_of_target(run.state)


def test_who_is_not_notified_of_new_versions() -> None:
    to_v2 = routing(V2)
    assert _noted(run_of(), to_v2) is None
    assert _noted(run_of(Limits(send_target_version_changed=False), **PINNED_TO_V1), to_v2) is None
    assert _noted(run_of(behavior=AUTO, deployment_version=_version(V1)), to_v2) is None
    assert _noted(run_of(**PINNED_TO_V1, version_transition={}), to_v2) is None
    run = run_of(**PINNED_TO_V1)
    assert _noted(run, to_v2) is not None
    run.state.versioning_info.versioning_override.CopyFrom(override(pinned=OF_V2))
    assert _noted(run, to_v2) is None
    run.state.declined_target.SetInParent()
    assert _noted(run, to_v2) is None
    assert not run.state.HasField("declined_target")


def test_a_run_that_declined_a_version_is_notified_of_later_ones() -> None:
    run = run_of(**PINNED_TO_V1)
    run.state.declined_target.revision_number = 5
    assert _noted(run, routing(V2, revision=5)) is None
    assert run.state.HasField("declined_target")
    assert _noted(run, routing(V2, revision=6)) == (V2, 6)
    assert not run.state.HasField("declined_target")


# ---- completions -----------------------------------------------------------------------------------------------------


def _completion(**fields: Any) -> service_pb.RespondWorkflowTaskCompletedRequest:
    return made(service_pb.RespondWorkflowTaskCompletedRequest, **fields)


def test_a_behavior_needs_a_version() -> None:
    versioned = {"deployment_name": "d", "build_id": "1", "worker_versioning_mode": VERSIONED}
    versioning.check_completion(_completion())
    versioning.check_completion(_completion(versioning_behavior=PINNED, deployment_options=versioned))
    versioning.check_completion(_completion(versioning_behavior=PINNED, deployment={"series_name": "d"}))
    with pytest.raises(ServiceError, match="versioning behavior cannot be specified") as refused:
        versioning.check_completion(_completion(versioning_behavior=PINNED, deployment_options={"build_id": "1"}))
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_completed_event_names_the_version() -> None:
    a = history_pb.WorkflowTaskCompletedEventAttributes()
    versioned = {"deployment_name": "d", "build_id": "1", "worker_versioning_mode": VERSIONED}
    versioning.describe_completion(a, _completion(versioning_behavior=AUTO, deployment_options=versioned))
    assert a == made(
        history_pb.WorkflowTaskCompletedEventAttributes, versioning_behavior=AUTO, worker_deployment_name="d",
        deployment_version=_version(V1),
    )  # fmt: skip
    for request in (
        _completion(deployment_options={"deployment_name": "e"}, versioning_behavior=AUTO),
        _completion(deployment={"series_name": "e"}),
    ):
        a.Clear()
        versioning.describe_completion(a, request)
        assert a == history_pb.WorkflowTaskCompletedEventAttributes(worker_deployment_name="e")


def _lists(state: MutableState) -> dict[str, Any]:
    return {name: json.loads(payload.data) for name, payload in state.search_attributes.items()}


def test_a_run_takes_the_version_of_the_worker_that_completes_its_task() -> None:
    state = state_of(
        version_transition={"deployment_version": _version(V2)},
        versioning_override=override(one_time=ONE_TIME_V2), continue_as_new_initial_versioning_behavior=2,
    )  # fmt: skip
    completed = made(
        history_pb.WorkflowTaskCompletedEventAttributes, versioning_behavior=AUTO, deployment_version=_version(V1)
    )
    versioning_state.note_completion(state, completed)
    info = state.versioning_info
    assert info.HasField("version_transition")
    assert info.HasField("versioning_override")
    assert (info.behavior, info.deployment_version, info.version) == (AUTO, V1, "d.1")
    assert info.continue_as_new_initial_versioning_behavior == 0
    completed.deployment_version.CopyFrom(V2)
    versioning_state.note_completion(state, completed)
    assert not info.HasField("version_transition")
    assert not info.HasField("versioning_override")
    assert (info.deployment_version, info.version) == (V2, "d.2")
    assert _lists(state) == {
        "TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:2",
        "TemporalUsedWorkerDeploymentVersions": ["d:1", "d:2"], "TemporalWorkflowVersioningBehavior": "AutoUpgrade",
        "BuildIds": [],
    }  # fmt: skip


def test_a_run_leaves_versioning_with_an_unversioned_completion() -> None:
    state = state_of(behavior=PINNED, deployment_version=_version(V1), version="d.1")
    versioning_state.index(state, V1)
    assert _lists(state)["BuildIds"] == ["pinned:d:1"]
    state.versioning_info.version_transition.SetInParent()
    versioning_state.note_completion(state, history_pb.WorkflowTaskCompletedEventAttributes())
    assert state.versioning_info == workflow_pb.WorkflowExecutionVersioningInfo()
    assert _lists(state) == {"TemporalUsedWorkerDeploymentVersions": ["d:1"], "BuildIds": ["unversioned"]}
    plain = state_of()
    versioning_state.note_completion(plain, history_pb.WorkflowTaskCompletedEventAttributes())
    assert not plain.HasField("versioning_info")
    assert _lists(plain) == {}


@pytest.mark.parametrize(
    ("info", "used", "before", "expected"),
    [
        ({"behavior": PINNED, "deployment_version": _version(V1)}, None, {},
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalWorkflowVersioningBehavior": "Pinned", "BuildIds": ["pinned:d:1"]}),
        ({"behavior": PINNED, "deployment_version": _version(V1)}, None,
         {"BuildIds": ["unversioned", "pinned:d:0", "versioned:b"]},
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalWorkflowVersioningBehavior": "Pinned", "BuildIds": ["pinned:d:1", "versioned:b"]}),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, V1,
         {"BuildIds": ["pinned:d:0", "versioned:b"], "TemporalUsedWorkerDeploymentVersions": ["d:0"]},
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalUsedWorkerDeploymentVersions": ["d:0", "d:1"],
          "TemporalWorkflowVersioningBehavior": "AutoUpgrade", "BuildIds": ["versioned:b"]}),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, V1,
         {"TemporalUsedWorkerDeploymentVersions": ["d:1"]},
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalUsedWorkerDeploymentVersions": ["d:1"], "TemporalWorkflowVersioningBehavior": "AutoUpgrade"}),
        ({"behavior": AUTO, "deployment_version": _version(V1)}, V1,
         {"TemporalUsedWorkerDeploymentVersions": [f"x:{number}" for number in range(20)]},
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalUsedWorkerDeploymentVersions": [*(f"x:{number}" for number in range(1, 20)), "d:1"],
          "TemporalWorkflowVersioningBehavior": "AutoUpgrade"}),
        ({"versioning_override": override(auto_upgrade=True)}, None,
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1"},
         {"TemporalWorkflowVersioningBehavior": "AutoUpgrade"}),
        ({"deployment_version": _version(V1)}, None,
         {"TemporalWorkerDeployment": "d", "TemporalWorkerDeploymentVersion": "d:1",
          "TemporalWorkflowVersioningBehavior": "Pinned", "BuildIds": ["pinned:d:1", "assigned:b", "versioned:b"]},
         {"BuildIds": ["unversioned", "versioned:b"]}),
    ],
)  # fmt: skip
def test_what_lists_show_of_a_version(
    info: dict[str, Any], used: Version | None, before: dict[str, Any], expected: dict[str, Any]
) -> None:
    state = state_of(**info)
    for name, value in before.items():
        state.search_attributes[name].data = json.dumps(value).encode()
    versioning_state.index(state, used)
    assert _lists(state) == expected
    for name, payload in state.search_attributes.items():
        if name not in before or before[name] != expected[name]:
            kind = b"KeywordList" if isinstance(expected[name], list) else b"Keyword"
            assert payload.metadata == {"encoding": b"json/plain", "type": kind}


def test_an_override_is_indexed_at_once_but_not_in_a_transition() -> None:
    state = state_of(behavior=AUTO, deployment_version=_version(V1), versioning_override=override(pinned=OF_V2))
    state.worker_deployment_name = "x"
    versioning_state.index_override(state)
    assert state.worker_deployment_name == "d"
    assert _lists(state)["TemporalWorkerDeploymentVersion"] == "d:2"
    state.worker_deployment_name = "x"
    state.versioning_info.versioning_override.CopyFrom(override(auto_upgrade=True))
    versioning_state.index_override(state)
    assert state.worker_deployment_name == "x"
    state.versioning_info.ClearField("versioning_override")
    state.versioning_info.version_transition.SetInParent()
    versioning_state.index_override(state)
    assert state.worker_deployment_name == "d"
    assert _lists(state)["TemporalWorkerDeploymentVersion"] == "d:1"
    state.versioning_info.deployment_version.build_id = "9"
    versioning_state.index_override(state)
    assert _lists(state)["TemporalWorkerDeploymentVersion"] == "d:1"


# ---- handing on ------------------------------------------------------------------------------------------------------


def _started(queue: str = "orders", **fields: Any) -> history_pb.WorkflowExecutionStartedEventAttributes:
    return made(history_pb.WorkflowExecutionStartedEventAttributes, task_queue={"name": queue}, **fields)


AUTO_ON_V1: dict[str, Any] = {"behavior": AUTO, "deployment_version": _version(V1), "revision_number": 4}
INHERITED: dict[str, Any] = {"source_deployment_version": _version(V1), "source_deployment_revision_number": 4}


@pytest.mark.parametrize(
    ("info", "queue", "initial", "expected"),
    [
        ({}, "orders", 0, {}),
        (PINNED_TO_V1, "orders", 0, {"inherited_pinned_version": _version(V1)}),
        (PINNED_TO_V1, "served", 0, {"inherited_pinned_version": _version(V1)}),
        (PINNED_TO_V1, "other", 0, {}),
        (PINNED_TO_V1, "orders", 1, {}),
        ({**PINNED_TO_V1, "revision_number": 4}, "orders", 1, {"inherited_auto_upgrade_info": {
            **INHERITED, "continue_as_new_initial_versioning_behavior": 1}}),
        (AUTO_ON_V1, "orders", 0, {"inherited_auto_upgrade_info": INHERITED}),
        (AUTO_ON_V1, "served", 0, {"inherited_auto_upgrade_info": INHERITED}),
        (AUTO_ON_V1, "other", 0, {}),
        ({**AUTO_ON_V1, "revision_number": 0}, "orders", 0, {}),
        ({**AUTO_ON_V1, "version_transition": {}}, "orders", 0, {}),
        ({**PINNED_TO_V1, "revision_number": 4, "version_transition": {"deployment_version": _version(V2)}}, "orders", 0,
         {"inherited_auto_upgrade_info": {**INHERITED, "source_deployment_version": _version(V2)}}),
    ],
)  # fmt: skip
def test_what_is_handed_on(info: dict[str, Any], queue: str, initial: int, expected: dict[str, Any]) -> None:
    deployments = routing(V1, queues=(("orders", WORKFLOW), ("served", WORKFLOW)))
    a = _started(queue)
    versioning.hand_on(state_of(**info), a, deployments, initial_behavior=initial)
    assert a == _started(queue, **expected)


@pytest.mark.parametrize(
    ("info", "queue", "initial", "keeps"),
    [
        (PINNED_TO_V1, "orders", 0, True), (PINNED_TO_V1, "served", 0, True), (PINNED_TO_V1, "other", 0, False),
        (PINNED_TO_V1, "served", 1, False), (AUTO_ON_V1, "served", 0, False), (AUTO_ON_V1, "orders", 0, True),
    ],
)  # fmt: skip
def test_a_pinning_override_is_handed_on_to_queues_that_are_served(
    info: dict[str, Any], queue: str, initial: int, keeps: bool
) -> None:
    deployments = routing(V1, queues=(("orders", WORKFLOW), ("served", WORKFLOW)))
    a = _started(queue, versioning_override=override(pinned=OF_V2))
    versioning.hand_on(state_of(**info), a, deployments, initial_behavior=initial)
    assert a.HasField("versioning_override") == keeps


def test_what_a_retry_inherits() -> None:
    state = state_of(**PINNED_TO_V1)
    a = _started()
    versioning.hand_on_to_retry(state, _started(), a, routing(V1))
    assert a == _started()  # it was pinned by its own task
    declined = {"deployment_version": _version(V2), "revision_number": 3}
    previous = _started(inherited_pinned_version=_version(V1), declined_target_version_upgrade=declined)
    versioning.hand_on_to_retry(state, previous, a, routing(V1))
    assert a == previous
    auto = state_of(**AUTO_ON_V1)
    auto.initial_versioning_behavior = 2
    b = _started()
    versioning.hand_on_to_retry(auto, _started(), b, routing(V1))
    assert b == _started(inherited_auto_upgrade_info={**INHERITED, "continue_as_new_initial_versioning_behavior": 2})


def test_a_declined_version_is_handed_on_by_a_pinned_run() -> None:
    state = state_of(**PINNED_TO_V1)
    pinned: dict[str, Any] = {"inherited_pinned_version": _version(V1)}
    a = _started(**pinned)
    versioning.hand_on_declined(state, a)
    assert a == _started(**pinned)
    state.declined_target.revision_number = 3
    versioning.hand_on_declined(state, a)
    assert a.declined_target_version_upgrade.revision_number == 3
    state.notified_target.revision_number = 4
    versioning.hand_on_declined(state, a)
    assert a.declined_target_version_upgrade.revision_number == 4
    b = _started()
    versioning.hand_on_declined(state, b)
    assert b == _started()


@pytest.mark.parametrize("continues", [False, True])
def test_a_run_starts_on_what_it_inherits(continues: bool) -> None:
    declined = {"revision_number": 3}
    state = state_of()
    versioning_state.note_start(state, _started(
        inherited_pinned_version=_version(V1), declined_target_version_upgrade=declined,
        continued_execution_run_id="before" if continues else "",
    ))  # fmt: skip
    info = state.versioning_info
    assert (info.behavior, info.deployment_version, state.worker_deployment_name) == (PINNED, V1, "d")
    assert state.HasField("declined_target") == continues
    assert _lists(state)["BuildIds"] == ["pinned:d:1"]
    auto = state_of()
    versioning_state.note_start(auto, _started(
        inherited_auto_upgrade_info={**INHERITED, "continue_as_new_initial_versioning_behavior": 2}
    ))  # fmt: skip
    info = auto.versioning_info
    assert (info.behavior, info.deployment_version, info.revision_number) == (AUTO, V1, 4)
    assert info.continue_as_new_initial_versioning_behavior == auto.initial_versioning_behavior == 2
    assert auto.worker_deployment_name == "d"
    assert _lists(auto)["TemporalWorkerDeploymentVersion"] == "d:1"
    bare = state_of()
    versioning_state.note_start(bare, _started(inherited_auto_upgrade_info={}))
    assert not bare.versioning_info.HasField("deployment_version")
    assert bare.worker_deployment_name == ""
    plain = state_of()
    versioning_state.note_start(plain, _started(declined_target_version_upgrade=declined))
    assert plain == state_of()


# ---- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "version", "begins"),
    [
        ({}, V1, True), ({}, None, False), (PINNED_TO_V1, V2, False), (AUTO_ON_V1, V1, False),
        (AUTO_ON_V1, V2, True), (AUTO_ON_V1, None, True),
        ({**AUTO_ON_V1, "version_transition": {"deployment_version": _version(V2)}}, V2, False),
        ({**AUTO_ON_V1, "version_transition": {"deployment_version": _version(V2)}}, None, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("speculative", [False, True])
def test_a_transition_begins_when_another_versions_worker_takes_the_workflow_task(
    info: dict[str, Any], version: Version | None, begins: bool, speculative: bool
) -> None:
    run = run_of(**info)
    run.policy = NamespacePolicy(deployments=routing(V2, revision=9))
    run.state.workflow_task.speculative = speculative
    run.state.sticky_task_queue = "sticky"
    before = run.state.versioning_info.version_transition.SerializeToString()
    version_transition.begin_with_workflow_task(run, version)
    after = run.state.versioning_info
    if not begins or speculative:
        assert after.version_transition.SerializeToString() == before
        assert not run.changed
        return
    assert after.HasField("version_transition")
    moving = after.version_transition
    assert (moving.deployment_version if moving.HasField("deployment_version") else None) == version
    assert after.revision_number == (9 if version is not None else 0)
    assert run.state.sticky_task_queue == ""
    assert run.changed


@pytest.mark.parametrize(
    ("info", "current", "version", "holds"),
    [
        ({}, None, None, False), ({}, V1, V1, True), ({}, V2, V1, False), (PINNED_TO_V1, V2, V2, False),
        (AUTO_ON_V1, V2, V2, True), (AUTO_ON_V1, V2, V1, False), (AUTO_ON_V1, V1, V2, False),
        ({**AUTO_ON_V1, "version_transition": {}}, V1, V1, True),
    ],
)  # fmt: skip
def test_an_activity_waits_for_a_transition(
    info: dict[str, Any], current: Version | None, version: Version | None, holds: bool
) -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"))
    run = world.load()
    if info:
        run.state.versioning_info.CopyFrom(made(workflow_pb.WorkflowExecutionVersioningInfo, **info))
    run.policy = NamespacePolicy(deployments=routing(current))
    activity = run.state.activities[5]
    stamp = activity.stamp
    for event_id, wrong in ((6, stamp), (5, stamp + 1)):
        assert not version_transition.holds_activity(run, event_id, wrong, version)
    assert version_transition.holds_activity(run, 5, stamp, version) == holds
    assert activity.stamp == stamp + holds
    assert (activity.row.task_id == 0) == holds
    begins = holds and "version_transition" not in info
    assert run.has_pending_workflow_task == begins
    assert run.changed == holds
    if begins:
        assert run.state.versioning_info.version_transition.deployment_version == version
    started = world.load()
    started.state.activities[5].started_ns = 1
    started.policy = NamespacePolicy(deployments=routing(current))
    assert not version_transition.holds_activity(started, 5, stamp, version)


# ---- build ids -------------------------------------------------------------------------------------------------------


def _stamp(build_id: str, versioned: bool = True) -> common_pb.WorkerVersionStamp:
    return common_pb.WorkerVersionStamp(build_id=build_id, use_versioning=versioned)


def test_the_build_id_of_a_stamp() -> None:
    assert build_ids.stamped(None) == ""
    assert build_ids.stamped(_stamp("b", versioned=False)) == ""
    assert build_ids.stamped(_stamp("b")) == "b"


@pytest.mark.parametrize(
    ("build", "options", "expected"),
    [
        ({}, {}, None),
        ({"build_id": "b"}, {}, _stamp("b", versioned=False)),
        ({"build_id": "b", "use_versioning": True}, {}, _stamp("b")),
        ({"build_id": "b", "use_versioning": True, "deployment_series_name": "d"}, {}, None),
        ({"build_id": "b", "deployment_series_name": "d"}, {}, _stamp("b", versioned=False)),
        ({"build_id": "b"}, {"worker_versioning_mode": VERSIONED, "deployment_name": "d"}, None),
        ({"build_id": "b"}, {"worker_versioning_mode": VERSIONED}, _stamp("b", versioned=False)),
        ({"build_id": "b"}, {"deployment_name": "d"}, _stamp("b", versioned=False)),
    ],
)
def test_the_stamp_of_a_worker_that_polls(
    build: dict[str, Any], options: dict[str, Any], expected: common_pb.WorkerVersionStamp | None
) -> None:
    poll = made(service_pb.PollWorkflowTaskQueueRequest, worker_version_capabilities=build, deployment_options=options)
    assert build_ids.stamp_of(poll) == expected


@pytest.mark.parametrize(
    ("fields", "workflow", "activity"),
    [
        ({}, NEW_WORK, None),
        ({"last_completed_started_event_id": 3}, None, None),
        ({"inherited_build_id": "i"}, None, None),
        ({"assigned_build_id": "a"}, NEW_WORK, "a"),
        ({"assigned_build_id": "a", "last_completed_started_event_id": 3}, "a", "a"),
        ({"assigned_build_id": "a", "inherited_build_id": "i"}, "a", "a"),
        ({"most_recent_worker_version_stamp": _stamp("s")}, "s", "s"),
        ({"most_recent_worker_version_stamp": _stamp("s", versioned=False)}, NEW_WORK, None),
        ({"most_recent_worker_version_stamp": _stamp("s"), "assigned_build_id": "a",
          "last_completed_started_event_id": 3}, "a", "a"),
    ],
)  # fmt: skip
def test_the_build_id_of_a_task(fields: dict[str, Any], workflow: str | None, activity: str | None) -> None:
    state = made(MutableState, **fields)
    assert build_ids.of_workflow_task(state) == workflow
    assert build_ids.of_activity(state, Activity(use_workflow_build_id=True)) == activity
    assert build_ids.of_activity(state, Activity()) == NEW_WORK


def test_a_build_id_is_assigned_once() -> None:
    state = MutableState(sticky_task_queue="sticky")
    build_ids.assign(state, "a")
    assert (state.assigned_build_id, state.sticky_task_queue) == ("a", "")
    assert _lists(state) == {"BuildIds": ["assigned:a", "versioned:a"]}
    state.sticky_task_queue = "sticky"
    build_ids.assign(state, "a")
    assert state.sticky_task_queue == "sticky"


def test_a_run_starts_with_the_build_id_that_it_inherits() -> None:
    state = MutableState()
    build_ids.note_start(state, _started(inherited_build_id="i", source_version_stamp=_stamp("s")))
    assert (state.inherited_build_id, state.assigned_build_id) == ("i", "i")
    assert state.most_recent_worker_version_stamp == _stamp("s")
    assert _lists(state) == {"BuildIds": ["assigned:i", "versioned:i"]}
    of_set = MutableState()
    build_ids.note_start(of_set, _started(source_version_stamp=_stamp("s")))
    assert _lists(of_set) == {"BuildIds": ["versioned:s"]}
    plain = MutableState()
    build_ids.note_start(plain, _started(source_version_stamp=_stamp("s", versioned=False)))
    assert _lists(plain) == {}
    assert plain.HasField("most_recent_worker_version_stamp")


def test_redirects_are_counted() -> None:
    state = MutableState()
    assert build_ids.next_redirect_counter(state, "a") == 0  # the first
    build_ids.note_task_started(state, "a", 0)
    assert (state.assigned_build_id, state.workflow_task.build_id) == ("a", "a")
    assert build_ids.next_redirect_counter(state, "a") == 0
    assert build_ids.next_redirect_counter(state, "b") == 1
    build_ids.note_task_started(state, "b", 1)
    assert (state.assigned_build_id, state.build_id_redirect_counter) == ("b", 1)
    assert state.workflow_task.build_id_redirect_counter == 1
    build_ids.redirect(state, "c", 1)
    assert state.assigned_build_id == "b"
    build_ids.note_task_started(state, "", 0)
    assert (state.workflow_task.build_id, state.workflow_task.build_id_redirect_counter) == ("", 0)
    assert state.assigned_build_id == "b"
    completed = MutableState(last_completed_started_event_id=3)
    assert build_ids.next_redirect_counter(completed, "a") == 1


@pytest.mark.parametrize("follows", [False, True])
def test_a_worker_that_takes_an_activity_may_redirect_its_workflow(follows: bool) -> None:
    run = run_of()
    build_ids.assign(run.state, "a")
    activity = Activity(follows_assigned_build_id=follows)
    build_ids.note_activity_started(run, activity, "")
    assert activity == Activity(follows_assigned_build_id=follows)
    build_ids.note_activity_started(run, activity, "a")
    assert not run.visibility_changed
    build_ids.note_activity_started(run, activity, "b")
    assert activity.last_build_id == "b"
    assert run.state.assigned_build_id == ("b" if follows else "a")
    assert activity.last_redirect_counter == (1 if follows else 0)
    assert run.visibility_changed == follows


def test_stamps_of_events() -> None:
    assert build_ids.activity_stamp(Activity(), None) is None
    assert build_ids.activity_stamp(Activity(last_build_id="b"), None) == _stamp("b")
    assert build_ids.activity_stamp(Activity(last_build_id="b"), _stamp("c")) == _stamp("c")
    state = MutableState()
    assert build_ids.own_stamp(state, _stamp("b")) is None
    assert build_ids.own_stamp(state, _stamp("b", versioned=False)) == _stamp("b", versioned=False)
    state.assigned_build_id = "b"
    assert build_ids.own_stamp(state, _stamp("b")) == _stamp("b")


def test_build_ids_are_handed_on() -> None:
    for fields, expected in (
        ({}, {}),
        ({"assigned_build_id": "a", "most_recent_worker_version_stamp": _stamp("s")}, {"inherited_build_id": "a"}),
        ({"most_recent_worker_version_stamp": _stamp("s")}, {"source_version_stamp": _stamp("s")}),
        ({"most_recent_worker_version_stamp": _stamp("s", versioned=False)}, {}),
    ):
        a = _started()
        build_ids.hand_on(made(MutableState, **fields), a)
        assert a == _started(**expected)
    a = _started()
    build_ids.hand_on_stamp(made(MutableState, assigned_build_id="a", most_recent_worker_version_stamp=_stamp("s")), a)
    assert a == _started()


def test_only_the_build_that_got_a_task_may_complete_it() -> None:
    state = MutableState(assigned_build_id="a")
    state.workflow_task.build_id = "a"
    build_ids.check_completion(state, _completion(worker_version_stamp=_stamp("a")), deployed=False)
    with pytest.raises(ServiceError) as refused:
        build_ids.check_completion(state, _completion(worker_version_stamp=_stamp("b")), deployed=False)
    assert (refused.value.code, refused.value.message) == (
        Code.NOT_FOUND, "this workflow task was dispatched to Build ID a, not b",
    )  # fmt: skip
    state.sticky_task_queue = "sticky"
    build_ids.check_completion(state, _completion(worker_version_stamp=_stamp("b")), deployed=False)
    of_set = made(MutableState, most_recent_worker_version_stamp=_stamp("s"))
    build_ids.check_completion(of_set, _completion(), deployed=True)
    build_ids.check_completion(of_set, _completion(worker_version_stamp=_stamp("t")), deployed=False)
    with pytest.raises(ServiceError, match="must continue to use versioning") as refused:
        build_ids.check_completion(of_set, _completion(), deployed=False)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert set_queue("x", "q")


# ---- builds in lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "build_id", "versioned", "expected"),
    [
        (None, "", False, ["unversioned"]),
        (None, "b", False, ["unversioned", "unversioned:b"]),
        (None, "b", True, ["versioned:b"]),
        (None, "", True, None),
        (["unversioned"], "", True, None),
        (["unversioned", "unversioned:b"], "b", False, ["unversioned", "unversioned:b"]),
        (["versioned:b", "unversioned:b"], "b", False, ["versioned:b", "unversioned:b"]),
        (["versioned:a"], "b", True, ["versioned:a", "versioned:b"]),
        (["assigned:a", "versioned:a"], "b", True, ["versioned:a", "versioned:b"]),
        (["versioned:b"], "b", True, ["versioned:b"]),
    ],
)
def test_builds_that_worked_on_a_run(
    known: list[str] | None, build_id: str, versioned: bool, expected: list[str] | None
) -> None:
    state = MutableState()
    if known is not None:
        state.search_attributes["BuildIds"].data = json.dumps(known, separators=(",", ":")).encode()
    reset_points.note_build(state, build_id, use_versioning=versioned)
    assert _lists(state).get("BuildIds") == expected


def test_builds_in_lists_are_bounded_by_their_size() -> None:
    state = MutableState()
    for number in range(40):
        reset_points.note_build(state, f"{number:02}" + "x" * 100, use_versioning=False)
    builds = _lists(state)["BuildIds"]
    assert builds[0] == "unversioned"
    assert builds[-1].startswith("unversioned:39")
    assert builds[1].startswith(f"unversioned:{41 - len(builds):02}")
    assert len(json.dumps(builds)) <= reset_points.MOST_BYTES
    assert len(json.dumps([*builds, builds[-1]])) > reset_points.MOST_BYTES
