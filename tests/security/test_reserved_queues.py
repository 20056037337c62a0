"""The server's own task queues: nobody polls them, puts anything on them or changes their settings.

What the server works on there is done with its own rights. Which requests can name a task queue is read from the
descriptors: a new one fails here until it is tried.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.security.town import QUEUE, SPECS, Town, town
from whistlestop.common.clock import SystemClock
from whistlestop.common.errors import ServiceError
from whistlestop.common.task_queues import internal_fault, is_internal
from whistlestop.frontend.batch import worker
from whistlestop.frontend.endpoints import nexus
from whistlestop.frontend.registry import Access
from whistlestop.history.core.nexus import system as system_nexus
from whistlestop.net.http.answer import HttpRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWN = "temporal-sys-per-ns-tq"
REFUSED = f"cannot use internal per-namespace task queue:{OWN}"
_START: dict[str, Any] = {
    "workflow_id": "x",
    "request_id": "x",
    "workflow_type": {"name": "T"},
    "task_queue": {"name": OWN},
}
_SCHEDULE: dict[str, Any] = {
    "schedule_id": "s", "request_id": "r",
    "schedule": {"action": {"start_workflow": {key: _START[key] for key in ("workflow_id", "workflow_type", "task_queue")}}},
}  # fmt: skip
_TARGET: dict[str, Any] = {"spec": {"name": "ep", "target": {"worker": {"namespace": "victim", "task_queue": OWN}}}}
_OPTIONS: dict[str, Any] = {
    "activity_options": {"task_queue": {"name": OWN}},
    "update_mask": {"paths": ["task_queue.name"]},
}
_UPDATE = {"workflow_execution": {"workflow_id": "x"}, "request": {"input": {"name": "u"}}}

TRIED: dict[str, dict[str, Any]] = {
    "StartWorkflowExecution": _START,
    "SignalWithStartWorkflowExecution": {**_START, "signal_name": "s"},
    "ExecuteMultiOperation": {
        "operations": [
            {"start_workflow": {**_START, "namespace": "victim"}},
            {"update_workflow": {**_UPDATE, "namespace": "victim"}},
        ]
    },
    "StartActivityExecution": {
        "activity_id": "s", "request_id": "s", "activity_type": {"name": "A"}, "task_queue": {"name": OWN},
        "start_to_close_timeout": {"seconds": 60},
    },
    "CreateSchedule": _SCHEDULE,
    "UpdateSchedule": _SCHEDULE,
    "PollWorkflowTaskQueue": {"task_queue": {"name": OWN}},
    "PollActivityTaskQueue": {"task_queue": {"name": OWN}},
    "PollNexusTaskQueue": {"task_queue": {"name": OWN}},
    "UpdateTaskQueueConfig": {"task_queue": OWN},
    "ShutdownWorker": {"task_queue": OWN},
    "UpdateWorkerBuildIdCompatibility": {"task_queue": OWN, "add_new_build_id_in_new_default_set": "b"},
    "UpdateWorkerVersioningRules": {"task_queue": OWN, "commit_build_id": {"target_build_id": "b"}},
    "CreateNexusEndpoint": _TARGET,
    "UpdateActivityExecutionOptions": {"activity_id": "a", **_OPTIONS},
}  # fmt: skip
"""Refused by the form of the request. Those with a state of their own have tests of their own below."""
ELSEWHERE = {
    "RespondWorkflowTaskCompleted": "below: commands and the sticky queue",
    "UpdateActivityOptions": "below",
    "StartBatchOperation": "below: its activity options are those of UpdateActivityOptions",
    "UpdateNexusEndpoint": "below",
    "ProbeBacklog": "below",
    "RecordWorkerHeartbeat": "says where a worker polls, and changes no queue",
    "UpdateWorkflowExecution": "callbacks of a kind that is not served",
    "StartNexusOperationExecution": "callbacks of a kind that is not served",
    "CreateWorkerDeploymentVersion": "types of queues, no names",
    "UpdateWorkerDeploymentVersionComputeConfig": "types of queues, no names",
    "ValidateWorkerDeploymentVersionComputeConfig": "types of queues, no names",
    "SetWorkerDeploymentCurrentVersion": "a flag",
    "SetWorkerDeploymentRampingVersion": "a flag",
}


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


def _names_a_queue(message: Any, seen: frozenset[str]) -> bool:
    for field in message.fields:
        if "task_queue" in field.name:
            return True
        inner = field.message_type
        if inner is not None and inner.full_name not in seen and _names_a_queue(inner, seen | {inner.full_name}):
            return True
    return False


def test_every_request_that_can_name_a_queue_is_tried() -> None:
    """Those that read are free to look."""
    found = {
        method
        for method, spec in SPECS.items()
        if spec.access is not Access.READ and _names_a_queue(spec.request_type.DESCRIPTOR, frozenset())
    }
    assert found == TRIED.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("method", sorted(TRIED))
async def test_a_queue_of_the_servers_own_is_refused(place: Town, method: str) -> None:
    """Also to whoever may do everything: it is the server's, not somebody's."""
    before = await place.stored()
    with pytest.raises(ServiceError) as refused:
        await place.call(method, "victim", **TRIED[method])
    told = [refused.value.message, *(detail.SerializeToString().decode("latin-1") for detail in refused.value.details)]
    assert any(REFUSED in text for text in told), told
    assert await place.stored() == before


COMMANDS: dict[str, dict[str, Any]] = {
    "SCHEDULE_ACTIVITY_TASK": {
        "activity_id": "a", "activity_type": {"name": "BatchActivityWithProtobuf"},
        "start_to_close_timeout": {"seconds": 60},
    },
    "START_CHILD_WORKFLOW_EXECUTION": {"workflow_id": "c", "workflow_type": {"name": "T"}},
    "CONTINUE_AS_NEW_WORKFLOW_EXECUTION": {"workflow_type": {"name": "T"}},
}  # fmt: skip


@pytest.mark.parametrize("queue", [OWN, "temporal-sys-per-ns-other", "temporal-sys-worker-controller-per-ns-tq"])
@pytest.mark.parametrize("kind", COMMANDS)
async def test_a_command_that_names_one_fails_its_workflow_task(place: Town, kind: str, queue: str) -> None:
    await place.start()
    task = await place.poll("Workflow")
    attributes = {**COMMANDS[kind], "task_queue": {"name": queue}}
    command = {"command_type": f"COMMAND_TYPE_{kind}", f"{kind.lower()}_command_attributes": attributes}
    refusal = await place.refusal(
        "RespondWorkflowTaskCompleted", "victim", task_token=task.task_token, commands=[command]
    )
    assert f"cannot use internal per-namespace task queue:{queue} (in parent component task queue: q)" in refusal


async def test_a_sticky_queue_does_not_count_as_one_of_them(place: Town) -> None:
    """Else the server's own worker would get the workflow's tasks, and carry out what its input says."""
    await place.start()
    task = await place.poll("Workflow")
    sticky = {"worker_task_queue": {"name": OWN, "kind": 2}, "schedule_to_start_timeout": {"seconds": 5}}
    refusal = await place.refusal(
        "RespondWorkflowTaskCompleted", "victim", task_token=task.task_token, sticky_attributes=sticky
    )
    assert refusal == f"INVALID_ARGUMENT: {REFUSED}"


async def test_an_activity_is_not_moved_there(place: Town) -> None:
    await place.start()
    schedule = {
        "command_type": "COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK",
        "schedule_activity_task_command_attributes": {**COMMANDS["SCHEDULE_ACTIVITY_TASK"], "task_queue": QUEUE},
    }
    await place.turn("victim", schedule)
    refusal = await place.refusal("UpdateActivityOptions", "victim", execution={"workflow_id": "w"}, id="a", **_OPTIONS)
    assert REFUSED in refusal
    options = {"type": "BatchActivityWithProtobuf", **_OPTIONS}
    await place.call(
        "StartBatchOperation", "victim", job_id="j", reason="why", executions=[{"workflow_id": "w"}],
        update_activity_options_operation=options,
    )  # fmt: skip
    await place.later(3)
    described = await place.call("DescribeWorkflowExecution", "victim", execution={"workflow_id": "w"})
    assert described.pending_activities[0].activity_options.task_queue.name == "q"


@pytest.mark.parametrize("method", sorted(method for method in SPECS if method.endswith("ById")))
async def test_the_servers_own_activities_are_not_answered_by_their_ids(place: Town, method: str) -> None:
    """A worker could say that a batch is done, or where it is to go on."""
    for n in range(60):
        await place.start("victim", f"w{n}")
    await place.call(
        "StartBatchOperation", "victim", job_id="j", reason="why", termination_operation={},
        visibility_query="WorkflowType = 'T'",
    )  # fmt: skip
    await asyncio.sleep(0)
    await place.clock.advance(worker.GRACE_S)
    while not (pending := await _pending(place)):  # noqa: ASYNC110 - the clock stands still
        await asyncio.sleep(0)
    before = await place.stored()
    rest = {"failure": {"message": "f", "application_failure_info": {}}} if "Failed" in method else {}
    named = {"workflow_id": "j", "activity_id": pending[0].activity_id}
    assert (await place.refusal(method, "victim", "victim-worker", **named, **rest)).startswith("NOT_FOUND")
    assert [each.state for each in before if each.key.workflow_id == "j"] == [
        each.state for each in await place.stored() if each.key.workflow_id == "j"
    ]


async def _pending(place: Town) -> Any:
    described = await place.call("DescribeWorkflowExecution", "victim", execution={"workflow_id": "j"})
    return [each for each in described.pending_activities if each.heartbeat_details.payloads]


async def test_an_endpoint_is_not_led_there(place: Town) -> None:
    target = {"worker": {"namespace": "victim", "task_queue": "q"}}
    made = (await place.call("CreateNexusEndpoint", spec={"name": "ep", "target": target})).endpoint
    refusal = await place.refusal("UpdateNexusEndpoint", id=made.id, version=made.version, **_TARGET)
    assert REFUSED in refusal


async def test_a_probe_of_a_reserved_queue_counts_as_a_refused_poll(place: Town) -> None:
    """So that the poll is sent and hears why; it tells nothing of what waits there, and nobody counts as a poller."""
    reply = await place.call("ProbeBacklog", "victim", workflow_polls=[{"task_queue": {"name": OWN}, "identity": "x"}])
    assert list(reply.workflow_tasks) == [1]
    described = await place.call("DescribeTaskQueue", "victim", task_queue={"name": OWN}, task_queue_type=1)
    assert [poller.identity for poller in described.pollers if poller.identity == "x"] == []


async def test_a_request_over_http_does_not_go_there(place: Town) -> None:
    headers = {"authorization": "Bearer wsk_secret-of-victim-admin"}
    path = f"/namespaces/victim/task-queues/{OWN}/nexus-services/s/o"
    answer = await nexus.serve(
        place.frontend, SystemClock(), HttpRequest("POST", path, "", headers, b""), can_long_poll=True
    )
    assert answer is not None
    assert (answer.status, REFUSED.encode() in answer.body) == (400, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"task_queue": {"name": OWN}},
        {"workflow_id": "temporal-sys-scheduler:x"},
        {"workflow_id": "temporal-sys-activity:x"},
        {"workflow_id": "temporal-sys-nexus-operation:x"},
        {"namespace": "bank"},
    ],
)
def test_requests_through_the_system_endpoint_have_the_same_rules(fields: dict[str, Any]) -> None:
    """The endpoint `__temporal_system` carries a request of the API, with the rights of the server."""
    wanted: dict[str, Any] = {
        "namespace": "victim", "workflow_id": "x", "signal_name": "s", "workflow_type": {"name": "T"},
        "task_queue": {"name": "q"}, **fields,
    }  # fmt: skip

    class Call:
        service, operation = system_nexus.SERVICE, system_nexus.OPERATION
        input = system_nexus.result(rr.SignalWithStartWorkflowExecutionRequest(**wanted))

    with pytest.raises(ServiceError) as refused:
        system_nexus.parse(Call(), "victim")
    assert refused.value.code.name == "INVALID_ARGUMENT"


def test_names_reserved_by_the_server() -> None:
    """As Temporal has it: not every name that begins with temporal-sys-."""
    assert [
        name
        for name in (OWN, "temporal-sys-per-ns-x", "temporal-sys-worker-controller-per-ns-tq", "temporal-sys-x", "q")
        if is_internal(name)
    ] == [OWN, "temporal-sys-per-ns-x", "temporal-sys-worker-controller-per-ns-tq"]
    assert internal_fault(OWN, OWN) == ""


# ---- what is an admin's ----------------------------------------------------------------------------------------------

_VERSION = {"deployment_version": {"deployment_name": "d", "build_id": "b"}}


async def test_compute_configs_are_an_admins(place: Town) -> None:
    """They have the server start what they name, with its credentials and at its expense."""
    await place.call("CreateWorkerDeployment", "victim", deployment_name="d", request_id="r", identity="i")
    for method in ("UpdateWorkerDeploymentVersionComputeConfig", "ValidateWorkerDeploymentVersionComputeConfig"):
        for role in ("read", "worker", "write"):
            assert (await place.refusal(method, "victim", f"victim-{role}", **_VERSION)).startswith("PERMISSION_DENIED")
        assert not (await place.refusal(method, "victim", "victim-admin", **_VERSION)).startswith("PERMISSION_DENIED")
    create = "CreateWorkerDeploymentVersion"
    refusal = await place.refusal(create, "victim", "victim-write", **_VERSION, compute_config={})
    assert refusal.startswith("PERMISSION_DENIED")
    assert not (await place.refusal(create, "victim", "victim-admin", **_VERSION, compute_config={})).startswith("PERM")
    other = {"deployment_version": {"deployment_name": "d", "build_id": "c"}}
    assert await place.refusal(create, "victim", "victim-write", **other) == ""


def _with_compute(message: Any, seen: frozenset[str]) -> bool:
    for field in message.fields:
        inner = field.message_type
        if inner is None or inner.full_name in seen:
            continue
        if inner.full_name.startswith("temporal.api.compute.") or _with_compute(inner, seen | {inner.full_name}):
            return True
    return False


def test_every_request_with_a_compute_config_takes_an_admin() -> None:
    """Generated from the registry and the descriptors."""
    carrying = {method for method, spec in SPECS.items() if _with_compute(spec.request_type.DESCRIPTOR, frozenset())}
    assert carrying == {
        "CreateWorkerDeploymentVersion", "UpdateWorkerDeploymentVersionComputeConfig",
        "ValidateWorkerDeploymentVersionComputeConfig",
    }  # fmt: skip
    for method in carrying:
        assert SPECS[method].access is Access.ADMIN or SPECS[method].admin_fields, method


def _paths(message: Any, path: str, seen: frozenset[str]) -> set[str]:
    found = set()
    for field in message.fields:
        here = f"{path}.{field.name}"
        if field.name in ("url", "uri", "arn", "endpoint_url"):
            found.add(here)
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            found |= _paths(inner, here, seen | {inner.full_name})
    return found


def test_rpcs_that_make_the_server_call_an_address_are_listed() -> None:
    """Endpoints are an admin's; callbacks go where the operator's list allows (`callback_allowed_addresses`)."""
    for method, spec in SPECS.items():
        for path in _paths(spec.request_type.DESCRIPTOR, method, frozenset()):
            if path.endswith("external.url"):
                assert spec.access is Access.ADMIN, path
            else:
                assert "completion_callbacks.nexus.url" in path or ".links." in path, path
