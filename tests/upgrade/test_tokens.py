"""Tokens between releases: handed out by a process of 0.1.0 and answered at one of this release, and the reverse.

0.1.0 knows no nonces: it hands out tokens without one, and keeps those that it finds in states as fields that it does
not know. What a process of this release handed out takes its nonce all the while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from temporalio.service import RPCError, RPCStatusCode

from tests.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.upgrade.release import CURRENT, Release
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from temporalio.client import Client

    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

DIRECTIONS = [("old", "new"), ("new", "old"), ("new", "new")]
"""Who hands out, and who is answered."""


class Two:
    """A server of each release over one database. Ids and queues are made up anew for each test."""

    def __init__(self, clients: dict[str, Client]) -> None:
        self.clients = clients
        self.n = 0

    def fresh(self) -> str:
        self.n += 1
        return f"t{self.n}"

    async def call(self, at: str, method: str, **fields: Any) -> Any:
        """A call of the API at the process of that release."""
        module: Any = rr if hasattr(rr, f"{method}Request") else operator_pb
        request = getattr(module, f"{method}Request")(**fields)
        if "namespace" in request.DESCRIPTOR.fields_by_name:
            request.namespace = "default"
        client = self.clients[at]
        service = client.workflow_service if module is rr else client.operator_service
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method).strip("_")
        async with asyncio.timeout(PATIENCE_S):
            return await getattr(service, name)(request)

    async def poll(self, at: str, kind: str, queue: str) -> Any:
        """The task of that queue, handed out by that process."""
        while True:
            task = await self.call(at, f"Poll{kind}TaskQueue", task_queue={"name": queue}, identity="w")
            if task.task_token:
                return task

    async def start(self, name: str) -> None:
        await self.call(
            "old", "StartWorkflowExecution", workflow_id=name, request_id=name, workflow_type={"name": "T"},
            task_queue={"name": name},
        )  # fmt: skip

    async def turn(self, name: str, *commands: dict[str, Any]) -> None:
        task = await self.poll("new", "Workflow", name)
        await self.call("new", "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=list(commands))


@pytest_asyncio.fixture
async def two(cluster: Cluster, old_release: Release) -> AsyncIterator[Two]:
    ports = dict(zip(("old", "new"), free_ports(2), strict=True))
    for name, release in (("old", old_release), ("new", CURRENT)):
        cluster.release = release
        await asyncio.to_thread(cluster.launch, name, "--port", str(ports[name]))
        await asyncio.to_thread(cluster.servers[name].until_ready)
    yield Two({name: await cluster.client(name) for name in ports})


async def workflow_task(two: Two, giver: str, taker: str) -> None:
    name = two.fresh()
    await two.start(name)
    task = await two.poll(giver, "Workflow", name)
    await two.call(taker, "RespondWorkflowTaskCompleted", task_token=task.task_token)


def _activity(name: str) -> dict[str, Any]:
    return {
        "command_type": "COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK",
        "schedule_activity_task_command_attributes": {
            "activity_id": "a", "activity_type": {"name": "A"}, "task_queue": {"name": name},
            "start_to_close_timeout": {"seconds": 600},
            "retry_policy": {"initial_interval": {"nanos": 1_000_000}, "maximum_interval": {"nanos": 1_000_000}},
        },
    }  # fmt: skip


_FAILURE = {"message": "f", "application_failure_info": {"type": "t"}}


async def activity(two: Two, giver: str, taker: str) -> None:
    """Two attempts before, the last of them handed out by the other release: its nonce is in the state."""
    name = two.fresh()
    await two.start(name)
    await two.turn(name, _activity(name))
    for at in ("old", "new" if giver == "old" else "old"):
        task = await two.poll(at, "Activity", name)
        await two.call(at, "RecordActivityTaskHeartbeat", task_token=task.task_token)
        await two.call(taker, "RespondActivityTaskFailed", task_token=task.task_token, failure=_FAILURE)
    task = await two.poll(giver, "Activity", name)
    for at in ("old", "new"):
        await two.call(at, "RecordActivityTaskHeartbeat", task_token=task.task_token)
    await two.call(taker, "RespondActivityTaskCompleted", task_token=task.task_token)


async def standalone_activity(two: Two, giver: str, taker: str) -> None:
    name = two.fresh()
    await two.call(
        "old", "StartActivityExecution", activity_id=name, request_id=name, activity_type={"name": "A"},
        task_queue={"name": name}, start_to_close_timeout={"seconds": 600},
        retry_policy={"initial_interval": {"nanos": 1_000_000}, "maximum_interval": {"nanos": 1_000_000}},
    )  # fmt: skip
    task = await two.poll("new" if giver == "old" else "old", "Activity", name)
    await two.call(taker, "RespondActivityTaskFailed", task_token=task.task_token, failure=_FAILURE)
    task = await two.poll(giver, "Activity", name)
    await two.call(taker, "RespondActivityTaskCompleted", task_token=task.task_token)


async def query(two: Two, giver: str, taker: str) -> None:
    name = two.fresh()
    await two.start(name)
    await two.turn(name)
    asked = asyncio.ensure_future(
        two.call(giver, "QueryWorkflow", execution={"workflow_id": name}, query={"query_type": "q"})
    )
    task = await two.poll(giver, "Workflow", name)
    await two.call(taker, "RespondQueryTaskCompleted", task_token=task.task_token, completed_type=1)
    await asked


async def _operation(two: Two, name: str) -> None:
    """A workflow calls an operation whose endpoint leads to the queue of that name."""
    target = {"worker": {"namespace": "default", "task_queue": name}}
    await two.call("old", "CreateNexusEndpoint", spec={"name": f"endpoint-{name}", "target": target})
    await two.start(name)
    call = {
        "command_type": "COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION",
        "schedule_nexus_operation_command_attributes": {
            "endpoint": f"endpoint-{name}",
            "service": "s",
            "operation": "o",
        },
    }
    await two.turn(name, call)


async def nexus_task(two: Two, giver: str, taker: str) -> None:
    name = two.fresh()
    await _operation(two, name)
    task = await two.poll(giver, "Nexus", name)
    success: dict[str, Any] = {"start_operation": {"sync_success": {}}}
    await two.call(taker, "RespondNexusTaskCompleted", task_token=task.task_token, response=success)


async def callback(two: Two, giver: str, taker: str) -> None:
    """The handler's workflow ends, and the operation with it."""
    name = two.fresh()
    await _operation(two, name)
    task = await two.poll(giver, "Nexus", name)
    started = {"start_operation": {"async_success": {"operation_token": "o"}}}
    await two.call(taker, "RespondNexusTaskCompleted", task_token=task.task_token, response=started)
    handler = f"{name}-handler"
    header = dict(task.request.start_operation.callback_header)
    await two.call(
        taker, "StartWorkflowExecution", workflow_id=handler, request_id=handler, workflow_type={"name": "T"},
        task_queue={"name": handler}, completion_callbacks=[{"nexus": {"url": "temporal://system", "header": header}}],
    )  # fmt: skip
    done = {
        "command_type": "COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION",
        "complete_workflow_execution_command_attributes": {},
    }
    work = await two.poll(taker, "Workflow", handler)
    await two.call(taker, "RespondWorkflowTaskCompleted", task_token=work.task_token, commands=[done])
    async with asyncio.timeout(PATIENCE_S):
        while True:
            described = await two.call("new", "DescribeWorkflowExecution", execution={"workflow_id": name})
            if not described.pending_nexus_operations:
                return
            await asyncio.sleep(0.05)


async def page(two: Two, giver: str, taker: str) -> None:
    name = two.fresh()
    for n in range(2):
        await two.start(f"{name}-{n}")
    for method, fields in (
        ("ListWorkflowExecutions", {"query": f"WorkflowId STARTS_WITH '{name}-'"}),
        ("ListNamespaces", {}),
    ):
        first = await two.call(giver, method, page_size=1, **fields)
        assert first.next_page_token
        second = await two.call(taker, method, page_size=1, next_page_token=first.next_page_token, **fields)
        field = "executions" if method == "ListWorkflowExecutions" else "namespaces"
        assert len(getattr(second, field)) == 1
        assert getattr(first, field) != getattr(second, field)


KINDS: list[Callable[[Two, str, str], Awaitable[None]]] = [
    workflow_task, activity, standalone_activity, query, nexus_task, callback, page,
]  # fmt: skip


async def test_a_token_of_one_release_is_taken_by_the_other(two: Two) -> None:
    for kind in KINDS:
        for giver, taker in DIRECTIONS:
            try:
                await kind(two, giver, taker)
            except RPCError as error:
                raise AssertionError(f"{kind.__name__} from {giver} to {taker}: {error.status.name} {error}") from error


async def test_tokens_of_this_release_need_their_nonce_during_an_upgrade(two: Two) -> None:
    """An upgrade under way opens nothing: a token without a nonce is accepted where 0.1.0 handed the attempt out."""
    name = two.fresh()
    await two.start(name)
    await two.turn(name, _activity(name))
    task = await two.poll("old", "Activity", name)
    await two.call("new", "RespondActivityTaskFailed", task_token=task.task_token, failure=_FAILURE)
    task = await two.poll("new", "Activity", name)
    forged = TaskToken.FromString(task.task_token)
    forged.nonce = 0
    with pytest.raises(RPCError) as refused:
        await two.call("new", "RespondActivityTaskCompleted", task_token=forged.SerializeToString())
    assert refused.value.status is RPCStatusCode.NOT_FOUND
    await two.call("new", "RespondActivityTaskCompleted", task_token=task.task_token)
    name = two.fresh()
    await _operation(two, name)
    task = await two.poll("old", "Nexus", name)
    elsewhere = TaskToken.FromString(task.task_token)
    elsewhere.run_id = ""
    failure = {"message": "f", "nexus_handler_failure_info": {"type": "BAD_REQUEST"}}
    with pytest.raises(RPCError) as refused:
        await two.call("new", "RespondNexusTaskFailed", task_token=elsewhere.SerializeToString(), failure=failure)
    assert refused.value.status is RPCStatusCode.NOT_FOUND
    await two.call(
        "new",
        "RespondNexusTaskCompleted",
        task_token=task.task_token,
        response={"start_operation": {"sync_success": {}}},
    )
