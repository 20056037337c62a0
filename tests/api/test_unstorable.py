"""U+0000 in names and ids, and whatever else a store can never hold: refused at the entrance, alike on all stores."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests import postgres
from tests.patience import PATIENCE_S
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.messages.storable import nul_field
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.registry import REGISTRY, WORKFLOW_SERVICE
from whistlestop.server.assembly import assemble
from whistlestop.server.config import ServerConfig
from whistlestop.storage import limits
from whistlestop.storage.errors import Refused
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from tests.api.fixtures import World
    from whistlestop.storage.records import Transition

NUL = "a-\0-b"
STORES = ["sqlite", *(["postgres"] if postgres.available() else [])]


# ---- every RPC, every name -------------------------------------------------------------------------------------------


KEPT = {
    "comment", "control", "description", "details", "error_message", "message", "notes", "owner_email", "pause", "reason",
    "unpause",
}  # fmt: skip
KEPT_MESSAGES = {
    "Payload",
    "Payloads",
    "Failure",
    "Memo",
    "Header",
    "UserMetadata",
    "Command",
    "Message",
    "HandlerError",
}


def _names(request_type: type[Message]) -> list[tuple[Any, ...]]:
    """The paths to texts of a request: its own, and those of messages in it."""
    paths: list[tuple[Any, ...]] = []
    for field in request_type.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            paths.append((field,))
        elif field.message_type is not None and not field.is_repeated and field.message_type.name not in KEPT_MESSAGES:
            paths += [
                (field, inner)
                for inner in field.message_type.fields
                if inner.type == inner.TYPE_STRING and not inner.is_repeated
            ]
    return [path for path in paths if path[-1].name not in KEPT]


def _with_nul(request_type: type[Message], path: tuple[Any, ...]) -> Message:
    request = request_type()
    target: Any = request
    for field in path[:-1]:
        target = getattr(target, field.name)
    setattr(target, path[-1].name, NUL)
    return request


CASES = [(spec, path) for spec in REGISTRY.values() for path in _names(spec.request_type)]


async def test_nul_in_any_name_of_any_request_is_refused_first(world: World) -> None:
    """INVALID_ARGUMENT, and the name of the field; neither history nor matching nor the store hears of it."""
    wrong = []
    world.history.calls.clear()
    world.matching.calls.clear()
    for spec, path in CASES:
        case = f"{spec.method} {'.'.join(field.name for field in path)}"
        try:
            await world.frontend.call(spec.full_name, _with_nul(spec.request_type, path), CallContext())
        except ServiceError as error:
            if error.code is not Code.INVALID_ARGUMENT or path[-1].name not in error.message:
                wrong.append((case, repr(error)))
        else:
            wrong.append((case, "served"))
    assert len(CASES) > 300
    assert wrong == []
    assert world.history.calls == world.matching.calls == []


@pytest.mark.parametrize(
    ("name", "task_queue", "message"),
    [
        ("\0" * 300, "q", "endpoint name exceeds length limit of 200"),
        ("e", "\0" * 1001, "taskQueue length exceeds limit"),
        ("a-\0-b", "q", "endpoint name must match the regex"),
        ("letters", NUL, "taskQueue must not contain U\\+0000"),
    ],
)
async def test_too_long_names_of_an_endpoint_are_reported_before_nul(
    world: World, name: str, task_queue: str, message: str
) -> None:
    """As Temporal does."""
    request = operator_pb.CreateNexusEndpointRequest()
    request.spec.name = name
    request.spec.target.worker.namespace, request.spec.target.worker.task_queue = "default", task_queue
    with pytest.raises(ServiceError, match=message) as refused:
        await world.call("CreateNexusEndpoint", request)
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("TerminateActivityExecution", {"activity_id": "\0" * 1001}, "activity ID exceeds length limit"),
        ("DescribeActivityExecution", {"activity_id": "\0" * 1001}, "activity ID exceeds length limit"),
        (
            "SignalWorkflowExecution",
            {"workflow_execution": {"workflow_id": "w"}, "signal_name": "\0" * 1001},
            "exceeds limit",
        ),
        ("TerminateActivityExecution", {"activity_id": "\0" * 1000}, "activity_id must not contain U\\+0000"),
        ("ListWorkflowExecutions", {"query": "\0" * 1001}, "query must not contain U\\+0000"),
    ],
)
async def test_too_long_names_are_reported_before_nul(
    world: World, method: str, fields: dict[str, Any], message: str
) -> None:
    """As Temporal does; and where nothing bounds its length it is refused as what no store holds."""
    with pytest.raises(ServiceError, match=message) as refused:
        await world.call(method, _request(method, namespace="default", **fields))
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert world.history.calls == []


@pytest.mark.parametrize("field", ["reason", "details"])
async def test_fields_that_are_only_stored_may_contain_nul(world: World, field: str) -> None:
    request = rr.TerminateWorkflowExecutionRequest(namespace="default")
    request.workflow_execution.workflow_id = "w"
    if field == "reason":
        request.reason = NUL
    else:
        request.details.payloads.add(data=b"\0")
    await world.call("TerminateWorkflowExecution", request)
    assert len(world.history.calls) == 1


def _request(method: str, **fields: Any) -> Message:
    return getattr(rr, f"{method}Request")(**fields)  # type: ignore[no-any-return]  # by its name


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (_request("StartWorkflowExecution", workflow_type={"name": NUL}), "workflow_type.name"),
        (_request("StartWorkflowExecution", input={"payloads": [{"data": b"\0"}]}), ""),
        (_request("StartWorkflowExecution", memo={"fields": {NUL: {"data": b"1"}}}), ""),
        (
            _request("StartWorkflowExecution", search_attributes={"indexed_fields": {NUL: {}}}),
            "search_attributes.indexed_fields",
        ),
        (
            _request("CreateSchedule", schedule={"action": {"start_workflow": {"workflow_id": NUL}}}),
            "schedule.action.start_workflow.workflow_id",
        ),
        (_request("ListWorkflowExecutions", query=f"WorkflowId = '{NUL}'"), "query"),
        (
            _request("RespondWorkflowTaskCompleted", sticky_attributes={"worker_task_queue": {"name": NUL}}),
            "sticky_attributes.worker_task_queue.name",
        ),
    ],
)
def test_the_refusal_names_the_path_of_the_field(message: Message, found: str) -> None:
    assert nul_field(message) == found


# ---- over real stores ------------------------------------------------------------------------------------------------


class Site:
    """All services over a store, which refuses to commit what `refuses` says."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.refuses: set[str] = set()
        self._commit = store.commit
        store.commit = self._refusing

    async def _refusing(self, transition: Transition) -> None:
        if any(write.key.workflow_id in self.refuses for write in transition.writes):
            raise Refused("as the test wants it")
        await self._commit(transition)

    async def call(self, method: str, **fields: Any) -> Any:
        spec = REGISTRY[f"{WORKFLOW_SERVICE}/{method}"]
        request = spec.request_type(**{"namespace": "default", **fields})
        reply = await self.services.frontend.call(spec.full_name, request, CallContext())
        return decoded(reply, spec.response_type)

    async def start(self, workflow_id: str, queue: str = "q", **fields: Any) -> None:
        await self.call(
            "StartWorkflowExecution", workflow_id=workflow_id, request_id=workflow_id, workflow_type={"name": "W"},
            task_queue={"name": queue}, **fields,
        )  # fmt: skip

    async def task(self, queue: str = "q") -> Any:
        return await self.call("PollWorkflowTaskQueue", task_queue={"name": queue}, identity="test")

    async def complete(self, task: Any, *commands: command_pb.Command) -> None:
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=commands, identity="test")

    async def history(self, workflow_id: str) -> list[Any]:
        reply = await self.call("GetWorkflowExecutionHistory", execution={"workflow_id": workflow_id})
        return list(reply.history.events)

    async def event(self, workflow_id: str, kind: int) -> Any:
        """Wait for an event of the run."""

        async with asyncio.timeout(PATIENCE_S):
            while True:
                for each in await self.history(workflow_id):
                    if each.event_type == kind:
                        return each
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Site]:
        config = ServerConfig()
        self.services = assemble(config, self.store, LocalNotifier(SystemClock()))
        await ensure_namespace(self.services.frontend.ports, "default")
        assert self.services.history is not None
        await self.services.history.start()
        yield self
        await self.services.frontend.close()
        await self.services.close()


@pytest.fixture(params=STORES)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    if request.param == "sqlite":
        store = SqliteStore(":memory:")
        await store.open()
        await store.migrate()
        async with Site(store).open() as made:
            yield made
        await store.close()
        return
    async with postgres.migrated_database() as url:
        shared = PostgresStore(url, pool_size=2)
        await shared.open()
        async with Site(shared).open() as made:
            yield made
        await shared.close()


def _command(kind: int, field: str, **attributes: Any) -> command_pb.Command:
    return command_pb.Command(command_type=kind, **{field: attributes})  # type: ignore[arg-type]  # a number of the enum


SPAN = {"seconds": 30}
COMMANDS = {
    "activity queue": (
        _command(ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, "schedule_activity_task_command_attributes", activity_id="a",
                 activity_type={"name": "A"}, task_queue={"name": NUL}, start_to_close_timeout=SPAN),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ),
    "activity id": (
        _command(ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, "schedule_activity_task_command_attributes", activity_id=NUL,
                 activity_type={"name": "A"}, task_queue={"name": "q"}, start_to_close_timeout=SPAN),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ),
    "child id": (
        _command(ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, "start_child_workflow_execution_command_attributes",
                 workflow_id=NUL, workflow_type={"name": "C"}, task_queue={"name": "q"}),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    "child type": (
        _command(ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, "start_child_workflow_execution_command_attributes",
                 workflow_id="c", workflow_type={"name": NUL}, task_queue={"name": "q"}),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    "signalled id": (
        _command(ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, "signal_external_workflow_execution_command_attributes",
                 execution={"workflow_id": NUL}, signal_name="s"),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ),
    "cancelled id": (
        _command(ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
                 "request_cancel_external_workflow_execution_command_attributes", workflow_id=NUL),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ),
    "next type": (
        _command(ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION, "continue_as_new_workflow_execution_command_attributes",
                 workflow_type={"name": NUL}, task_queue={"name": "q"}),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES,
    ),
    "timer id": (
        _command(ct.COMMAND_TYPE_START_TIMER, "start_timer_command_attributes", timer_id=NUL, start_to_fire_timeout=SPAN),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES,
    ),
    "marker": (
        _command(ct.COMMAND_TYPE_RECORD_MARKER, "record_marker_command_attributes", marker_name=NUL),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES,
    ),
    "operation": (
        _command(ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION, "schedule_nexus_operation_command_attributes",
                 endpoint="e", service="s", operation=NUL),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES,
    ),
}  # fmt: skip


async def test_a_command_with_such_a_name_fails_the_workflow_task_with_its_cause(site: Site) -> None:
    """And the worker hears why; the same on every store."""
    for n, (what, (command, cause)) in enumerate(COMMANDS.items()):
        workflow_id, queue = f"w-{n}", f"q-{n}"
        await site.start(workflow_id, queue)
        task = await site.task(queue)
        with pytest.raises(ServiceError) as caught:
            await site.complete(task, command)
        assert (what, caught.value.code) == (what, Code.INVALID_ARGUMENT)
        assert "U+0000" in caught.value.message
        failed = (await site.history(workflow_id))[3]
        assert (what, failed.workflow_task_failed_event_attributes.cause) == (what, cause)


async def test_payloads_with_zeros_pass(site: Site) -> None:
    """They are what workers send: nobody's names."""
    payload = common_pb.Payload(metadata={"encoding": b"binary/plain"}, data=b"\0\0\0")
    await site.start("w", input={"payloads": [payload]}, memo={"fields": {"m": payload}})
    task = await site.task()
    assert task.history.events[0].workflow_execution_started_event_attributes.input.payloads[0] == payload
    done = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    done.complete_workflow_execution_command_attributes.result.payloads.append(payload)
    await site.complete(task, done)
    assert (await site.history("w"))[-1].event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED


async def test_a_value_that_the_store_refuses_affects_only_its_caller(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that the store does not take though the API's limits let it in: its caller alone hears of it."""
    monkeypatch.setattr(limits, "CHUNKED_LIMIT", 1_500_000)

    async def start(n: int) -> object:
        try:
            await site.start(f"w-{n}", memo={"fields": {"m": {"data": b"x" * (2_000_000 if n == 5 else 10)}}})
        except ServiceError as error:
            return error.code
        return None

    outcomes = await asyncio.gather(*(start(n) for n in range(10)))
    assert outcomes == [Code.INVALID_ARGUMENT if n == 5 else None for n in range(10)]


# ---- effects that can't be delivered ---------------------------------------------------------------------------------


EFFECTS = {
    "child": (
        _command(ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, "start_child_workflow_execution_command_attributes",
                 workflow_id="poison", workflow_type={"name": "C"}, task_queue={"name": "other"}),
        et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
    ),
    "signal": (
        _command(ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, "signal_external_workflow_execution_command_attributes",
                 execution={"workflow_id": "poison"}, signal_name="s"),
        et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    ),
    "cancel": (
        _command(ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
                 "request_cancel_external_workflow_execution_command_attributes", workflow_id="poison"),
        et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", EFFECTS)
async def test_an_effect_that_the_store_refuses_ends_as_a_failure_event(site: Site, what: str) -> None:
    """The sender goes on, and no row is tried again without end."""
    command, expected = EFFECTS[what]
    if what != "child":
        await site.start("poison", "nobody")
    await site.start("w")
    task = await site.task()
    site.refuses.add("poison")
    await site.complete(task, command)
    await site.event("w", expected)
    assert (await site.task()).task_token
    assert await site.store.scan_transfer_tasks(0, 16384, 2**62, 10) == []


async def test_a_result_of_a_child_that_cannot_be_stored_is_reported_as_a_failure(site: Site) -> None:
    """A parent does not wait for ever."""
    child, _ = EFFECTS["child"]
    await site.start("w")
    await site.complete(await site.task(), child)
    await site.event("w", et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
    first = site.store.commit

    async def refuse_once(transition: Transition) -> None:
        if any(write.key.workflow_id == "w" and transition.transfer_tasks_done for write in transition.writes):
            site.store.commit = first
            raise Refused("as the test wants it")
        await first(transition)

    site.store.commit = refuse_once
    done = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    done.complete_workflow_execution_command_attributes.SetInParent()
    await site.complete(await site.task("other"), done)
    failed = await site.event("w", et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED)
    assert "as the test wants it" in failed.child_workflow_execution_failed_event_attributes.failure.message
