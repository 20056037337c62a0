"""A worker of one namespace tries to end a Nexus operation of another, over gRPC, with no more than handlers know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.frontend.auth.keys import ApiKey, hash_of, render
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRANTS = {"root": "temporal-system:admin", "mallory": "mallory:worker"}
SECRETS = {name: f"wsk_secret-of-{name}" for name in GRANTS}
CALL = {
    "command_type": "COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION",
    "schedule_nexus_operation_command_attributes": {"endpoint": "bank-e", "service": "payments", "operation": "charge"},
}


def field(number: int, value: int | str) -> bytes:
    """One field of a token: what it is made of is written down here, not taken from the code."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes((n & 127 | 128,)), n >> 7
        return out + bytes((n,))

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value.encode())) + value.encode()


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[dict[str, Client]]:
    keys = render(ApiKey(name, hash_of(SECRETS[name]), (grant,)) for name, grant in GRANTS.items())
    config = ServerConfig(port=0, metrics_port=None, auth=AuthConfig(keys), namespaces=("mallory", "victim", "bank"))
    async with Server(config) as server:
        yield {
            name: await Client.connect(f"127.0.0.1:{server.port}", api_key=secret, tls=False)
            for name, secret in SECRETS.items()
        }


@pytest.mark.sdk
async def test_a_worker_ends_no_operation_of_another_namespace(clients: dict[str, Client]) -> None:
    root, mallory = clients["root"].workflow_service, clients["mallory"].workflow_service
    target: Any = {"worker": {"namespace": "bank", "task_queue": "handlers"}}
    endpoint = operator_pb.CreateNexusEndpointRequest(spec={"name": "bank-e", "target": target})  # type: ignore[arg-type]
    await clients["root"].operator_service.create_nexus_endpoint(endpoint)
    start: dict[str, Any] = {
        "workflow_id": "pay",
        "request_id": "r",
        "workflow_type": {"name": "Pay"},
        "task_queue": {"name": "q"},
    }
    run_id = (await root.start_workflow_execution(rr.StartWorkflowExecutionRequest(namespace="victim", **start))).run_id
    poll: Any = {"namespace": "victim", "task_queue": {"name": "q"}}
    task = await root.poll_workflow_task_queue(rr.PollWorkflowTaskQueueRequest(**poll))
    done: Any = {"namespace": "victim", "task_token": task.task_token, "commands": [CALL]}
    await root.respond_workflow_task_completed(rr.RespondWorkflowTaskCompletedRequest(**done))
    ids = {}
    for name in ("mallory", "victim"):
        described = await root.describe_namespace(rr.DescribeNamespaceRequest(namespace=name))
        ids[name] = described.namespace_info.id
    for run in ("", run_id):
        for stamp in (1, 2):
            token = field(1, ids["mallory"]) + field(2, "pay") + (field(3, run) if run else b"")
            token += field(4, 5) + field(11, stamp) + field(13, ids["victim"])
            answer = rr.RespondNexusTaskCompletedRequest(namespace="mallory", task_token=token)
            answer.response.start_operation.sync_success.payload.data = b'"paid"'
            with pytest.raises(RPCError) as refused:
                await mallory.respond_nexus_task_completed(answer)
            assert refused.value.status is RPCStatusCode.NOT_FOUND
    history = await root.get_workflow_execution_history(
        rr.GetWorkflowExecutionHistoryRequest(namespace="victim", execution={"workflow_id": "pay"})  # type: ignore[arg-type]
    )
    assert not any(event.HasField("nexus_operation_completed_event_attributes") for event in history.history.events)
