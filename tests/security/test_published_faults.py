"""The published authorization faults of Temporal's server, tried here. docs/security.md has a line for each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2
from temporalio.api.operatorservice.v1 import service_pb2 as operator_pb
from temporalio.api.testservice.v1 import service_pb2 as test_pb
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_pb

from tests.security.town import CALL_OPERATION, QUEUE, SCHEDULE_ACTIVITY, SPECS, Town, town
from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.frontend.endpoints import nexus
from whistlestop.net.http.answer import HttpRequest
from whistlestop.server.grpc_endpoint import _Methods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


# ---- CVE-2023-3485: a task token that was made up reaches another namespace ------------------------------------------


async def test_cve_2023_3485_a_token_that_was_made_up(place: Town) -> None:
    """All that it takes is known to the attacker: the ids of namespace, run and event."""
    run_id = await place.start()
    await place.turn("victim", SCHEDULE_ACTIVITY)
    handed = TaskToken.FromString((await place.poll("Activity")).task_token)
    made_up = TaskToken(
        namespace_id=place.ids["victim"], workflow_id="w", run_id=run_id, scheduled_event_id=5, attempt=1,
        started_time_ns=handed.started_time_ns, activity_id="a",
    ).SerializeToString()  # fmt: skip
    before = await place.stored()
    for namespace, expected in (
        ("mallory", "INVALID_ARGUMENT: Operation requested with a token from a different namespace."),
        ("victim", "PERMISSION_DENIED: Request unauthorized."),
        ("", "PERMISSION_DENIED: Request unauthorized."),
    ):
        for method in ("RespondActivityTaskCompleted", "RespondActivityTaskFailed"):
            assert await place.refusal(method, namespace, "mallory-worker", task_token=made_up) == expected
    # Nor does it help a worker of that namespace.
    refusal = await place.refusal("RespondActivityTaskCompleted", "victim", "victim-worker", task_token=made_up)
    assert refusal.startswith("NOT_FOUND")
    assert await place.stored() == before


# ---- CVE-2025-14986: what is in an envelope names another namespace --------------------------------------------------

_UPDATE = {"workflow_execution": {"workflow_id": "m"}, "request": {"input": {"name": "u"}}, "wait_policy": {}}
_START = {"workflow_id": "m", "request_id": "m", "workflow_type": {"name": "T"}, "task_queue": QUEUE}


@pytest.mark.parametrize("inner", ["start_workflow", "update_workflow"])
async def test_cve_2025_14986_the_inner_requests_are_of_the_outer_namespace(place: Town, inner: str) -> None:
    fields: dict[str, dict[str, Any]] = {"start_workflow": dict(_START), "update_workflow": dict(_UPDATE)}
    for request in fields.values():
        request["namespace"] = "mallory"
    fields[inner]["namespace"] = "victim"
    before = await place.stored()
    refusal = await place.refusal(
        "ExecuteMultiOperation", "mallory", "mallory-write", operations=[{name: fields[name]} for name in fields]
    )
    assert refusal.startswith("INVALID_ARGUMENT"), refusal
    assert await place.stored() == before


INNER_NAMESPACES = {
    "ExecuteMultiOperation.operations.start_workflow.namespace": "refused unless the outer one, above",
    "ExecuteMultiOperation.operations.update_workflow.namespace": "refused unless the outer one, above",
    "RespondWorkflowTaskCompleted.commands.start_child_workflow_execution_command_attributes.namespace": "below",
    "RespondWorkflowTaskCompleted.commands.signal_external_workflow_execution_command_attributes.namespace": "below",
    "RespondWorkflowTaskCompleted.commands.request_cancel_external_workflow_execution_command_attributes.namespace": "below",
    "ProbeBacklog.workflow_polls.namespace": "not read: the outer one counts, below",
    "ProbeBacklog.activity_polls.namespace": "not read: the outer one counts, below",
    "ProbeBacklog.nexus_polls.namespace": "not read: the outer one counts, below",
    "CreateNexusEndpoint.spec.target.worker.namespace": "an admin of the cluster's to choose",
    "UpdateNexusEndpoint.spec.target.worker.namespace": "an admin of the cluster's to choose",
}
_ONLY_SHOWN = (".link", ".links", "child_workflow_execution_failure_info")
"""Parts that say where something came from, and lead nowhere."""


def _namespaces(message: Any, path: str, seen: frozenset[str]) -> set[str]:
    found = set()
    for field in message.fields:
        here = f"{path}.{field.name}"
        if field.name in ("namespace", "namespace_id") and path.count(".") > 0:
            found.add(here)
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            found |= _namespaces(inner, here, seen | {inner.full_name})
    return {each for each in found if not any(part in each for part in _ONLY_SHOWN)}


def test_every_inner_namespace_of_the_api_is_listed() -> None:
    """Generated from the descriptors: a request that can name a second namespace fails here until that is looked at."""
    found: set[str] = set()
    for spec in SPECS.values():
        found |= _namespaces(spec.request_type.DESCRIPTOR, spec.method, frozenset())
    assert found == set(INNER_NAMESPACES)


async def test_a_probe_counts_tasks_of_its_own_namespace(place: Town) -> None:
    """Whatever the polls that it is put together of say."""
    await place.start("victim")
    polls: dict[str, Any] = {"workflow_polls": [{"namespace": "victim", "task_queue": QUEUE, "identity": "w"}]}
    assert list((await place.call("ProbeBacklog", "victim", "victim-worker", **polls)).workflow_tasks) == [1]
    assert (await place.refusal("ProbeBacklog", "victim", "mallory-worker", **polls)).startswith("PERMISSION_DENIED")
    looking = asyncio.ensure_future(place.call("ProbeBacklog", "mallory", "mallory-worker", **polls))
    await place.later(40)
    assert list((await looking).workflow_tasks) == [0]


async def test_cve_2026_5199_a_batch_acts_in_its_own_namespace(place: Town) -> None:
    """Temporal's batch worker took the namespace out of the job's input, which whoever starts its workflow can write.

    Here nobody else starts it (test_reserved_queues.py), and the input names none.
    """
    await place.start("victim", "both")
    await place.start("mallory", "both")
    await place.call(
        "StartBatchOperation", "mallory", "mallory-write", job_id="j", reason="why", termination_operation={},
        executions=[{"workflow_id": "both"}],
    )  # fmt: skip
    await place.later(5)
    ended = {
        name: (
            await place.call("DescribeWorkflowExecution", name, execution={"workflow_id": "both"})
        ).workflow_execution_info
        for name in ("victim", "mallory")
    }
    assert (ended["victim"].status, ended["mallory"].status) == (1, 5)


# ---- CVE-2025-14987: commands of a workflow that name another namespace ----------------------------------------------

_EXECUTION = {"workflow_id": "w"}
CROSSING: dict[str, dict[str, Any]] = {
    "START_CHILD_WORKFLOW_EXECUTION": {"workflow_id": "c", "workflow_type": {"name": "T"}, "task_queue": QUEUE},
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION": {"execution": _EXECUTION, "signal_name": "s"},
    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION": {"workflow_id": "w"},
}


@pytest.mark.parametrize("kind", CROSSING)
async def test_cve_2025_14987_commands_lead_into_no_other_namespace(place: Town, kind: str) -> None:
    await place.start("victim")
    await place.start("mallory", "m")
    victim = await place.call("DescribeWorkflowExecution", "victim", execution=_EXECUTION)
    task = await place.poll("Workflow", "mallory")
    attributes = f"{kind.lower()}_command_attributes"
    command = {"command_type": f"COMMAND_TYPE_{kind}", attributes: {"namespace": "victim", **CROSSING[kind]}}
    refusal = await place.refusal(
        "RespondWorkflowTaskCompleted", "mallory", "mallory-worker", task_token=task.task_token, commands=[command]
    )
    assert refusal.startswith("PERMISSION_DENIED"), refusal
    await place.history.transfers.drain()
    assert await place.call("DescribeWorkflowExecution", "victim", execution=_EXECUTION) == victim
    assert (await place.refusal("DescribeWorkflowExecution", "victim", execution={"workflow_id": "c"})).startswith(
        "NOT_FOUND"
    )


def test_every_command_that_names_a_namespace_is_tried() -> None:
    commands = SPECS["RespondWorkflowTaskCompleted"].request_type.DESCRIPTOR.fields_by_name["commands"].message_type
    assert commands is not None
    naming = {
        field.name
        for field in commands.fields
        if field.message_type is not None and "namespace" in field.message_type.fields_by_name
    }
    assert naming == {f"{kind.lower()}_command_attributes" for kind in CROSSING}


# ---- CVE-2026-5724: a stream that nobody is asked for ----------------------------------------------------------------


async def test_cve_2026_5724_no_stream_of_the_api_is_served(place: Town) -> None:
    """Streams went past Temporal's authorizer. There is none here but health and reflection, which are for everybody."""
    methods = _Methods(place.frontend, place.clock)
    streams = {path for path, method in methods._by_path.items() if method.streaming is not None}
    assert {path.rpartition("/")[0].strip("/") for path in streams} == {
        "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    for file in (workflow_pb.DESCRIPTOR, operator_pb.DESCRIPTOR, test_pb.DESCRIPTOR):
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        declared = [
            method.name for service in proto.service for method in service.method
            if method.client_streaming or method.server_streaming
        ]  # fmt: skip
        assert declared == []


@pytest.mark.parametrize(
    "name",
    [
        "temporal.server.api.adminservice.v1.AdminService/StreamWorkflowReplicationMessages",
        "temporal.server.api.adminservice.v1.AdminService/DescribeMutableState",
        "temporal.server.api.historyservice.v1.HistoryService/RecordActivityTaskStarted",
        "whistlestop.internal.v1.History/RecordNexusTaskStarted",
    ],
)
async def test_internal_services_are_not_served_by_the_public_endpoints(place: Town, name: str) -> None:
    assert name not in place.frontend.registry
    with pytest.raises(ServiceError, match="unknown method"):
        await place.frontend.call(name, TaskToken(), CallContext())


# ---- a Nexus task that was made up: ours -----------------------------------------------------------------------------


async def test_a_nexus_operation_of_another_namespace_is_not_answered(place: Town) -> None:
    """A task token named whatever run it liked: with and without the run id, before and after the task is taken."""
    run_id = await place.start("victim", "pay")
    await place.turn("victim", CALL_OPERATION)
    answer = {"start_operation": {"sync_success": {"payload": {"data": b'"paid"'}}}}
    before = await place.stored()

    async def forge(**fields: Any) -> None:
        token = TaskToken(
            namespace_id=place.ids["mallory"], caller_namespace_id=place.ids["victim"], workflow_id="pay", run_id=run_id,
            scheduled_event_id=5, stamp=1,
        )  # fmt: skip
        for name, value in fields.items():
            setattr(token, name, value)
        refusal = await place.refusal(
            "RespondNexusTaskCompleted",
            "mallory",
            "mallory-worker",
            task_token=token.SerializeToString(),
            response=answer,
        )
        assert refusal == "NOT_FOUND: Nexus task not found or already expired", fields

    for fields in ({}, {"run_id": ""}, {"nexus_cancel": True}, {"stamp": 0}, {"caller_namespace_id": ""}):
        await forge(**fields)
    assert await place.stored() == before
    handed = await place.poll("Nexus", "bank")
    before = await place.stored()
    for fields in ({}, {"run_id": ""}, {"nonce": 1}, {"nonce": TaskToken.FromString(handed.task_token).nonce}):
        await forge(**fields)
    assert await place.stored() == before
    await place.call("RespondNexusTaskCompleted", "bank", task_token=handed.task_token, response=answer)
    history = await place.call("GetWorkflowExecutionHistory", "victim", execution={"workflow_id": "pay"})
    kinds = [event.WhichOneof("attributes") for event in history.history.events]
    assert kinds.count("nexus_operation_completed_event_attributes") == 1


# ---- completion callbacks --------------------------------------------------------------------------------------------


async def _called_back(place: Town, namespace: str, header: dict[str, str], *, url: str = "temporal://system") -> str:
    """Let a workflow end that calls back with that token; what became of the call."""
    callback = {"nexus": {"url": url, "header": header}}
    workflow_id = f"handler-{len(await place.stored())}"
    await place.start(namespace, workflow_id, task_queue={"name": "handlers"}, completion_callbacks=[callback])
    done = {
        "command_type": "COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION",
        "complete_workflow_execution_command_attributes": {"result": {"payloads": [{"data": b'"paid"'}]}},
    }
    await place.turn(namespace, done, queue="handlers")
    await place.history.transfers.drain()
    described = await place.call("DescribeWorkflowExecution", namespace, execution={"workflow_id": workflow_id})
    [info] = described.callbacks
    return str(info.last_attempt_failure.message)


async def _ended(place: Town) -> bool:
    described = await place.call("DescribeWorkflowExecution", "victim", execution={"workflow_id": "pay"})
    return not described.pending_nexus_operations


async def _started(place: Town) -> dict[str, str]:
    """An operation that goes on in `bank`; the header that its handler got."""
    await place.start("victim", "pay")
    await place.turn("victim", CALL_OPERATION)
    task = await place.poll("Nexus", "bank")
    await place.call(
        "RespondNexusTaskCompleted", "bank", task_token=task.task_token,
        response={"start_operation": {"async_success": {"operation_token": "o"}}},
    )  # fmt: skip
    return dict(task.request.start_operation.callback_header)


async def test_a_callback_token_goes_with_no_other_namespace(place: Town) -> None:
    """Whoever reads the caller's history can make one up, and a workflow anywhere may carry it as its callback."""
    header = await _started(place)
    assert (await _called_back(place, "mallory", header)).endswith("operation not found")
    assert not await _ended(place)
    assert await _called_back(place, "bank", header) == ""
    assert await _ended(place)


@pytest.mark.parametrize("namespace", ["bank", "victim"])
async def test_an_altered_callback_token_is_refused(place: Town, namespace: str) -> None:
    header = await _started(place)
    [(name, token)] = header.items()
    for altered in (token[:-2], token.replace('"v": 1', '"v": 2'), "{}", "", token[:40] + "AAAA" + token[44:]):
        refused = await _called_back(place, namespace, {name: altered})
        assert refused, altered
        assert not await _ended(place)
    assert await _called_back(place, namespace, header) == ""
    assert await _ended(place)


async def test_a_callback_takes_effect_once(place: Town) -> None:
    header = await _started(place)
    assert await _called_back(place, "bank", header) == ""
    assert (await _called_back(place, "bank", header)).endswith("operation not found")


async def test_a_completion_over_http_is_of_the_namespace_of_its_address(place: Town) -> None:
    """The address says who may; a token of another namespace is none there."""
    header = await _started(place)

    async def post(path: str, caller: str) -> int:
        headers = {**header, "authorization": f"Bearer wsk_secret-of-{caller}", "nexus-operation-state": "succeeded"}
        request = HttpRequest("POST", path, "", headers, b"")
        answer = await nexus.serve(place.frontend, SystemClock(), request, can_long_poll=True)
        assert answer is not None
        return answer.status

    assert await post("/namespaces/mallory/nexus/callback", "mallory-admin") == 400
    assert await post("/namespaces/victim/nexus/callback", "mallory-admin") == 403
    assert await post("/nexus/callback", "victim-admin") == 403
    assert await post("/namespaces/victim/nexus/callback", "victim-worker") == 403
    assert not await _ended(place)
    assert await post("/namespaces/victim/nexus/callback", "victim-write") == 200
    await asyncio.sleep(0)
    assert await _ended(place)
