"""The HTTP door of Nexus, with the SDK's worker behind it: what a caller that is no Temporal client sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import nexusrpc
import nexusrpc.handler
import pytest
from temporalio import nexus, workflow
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import WorkflowFailureError
from temporalio.worker import Worker

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = {"content-type": "application/json"}


@workflow.defn(sandboxed=False)
class Waits:
    """Ends when somebody cancels it."""

    @workflow.run
    async def run(self, name: str) -> str:
        await workflow.wait_condition(lambda: False)
        return name


@nexusrpc.service
class Greetings:
    """What callers may ask."""

    hello: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    fail: nexusrpc.Operation[str, str]
    wait: nexusrpc.Operation[str, str]


@nexusrpc.handler.service_handler(service=Greetings)
class Handler:
    """Answers at once, refuses, fails, or starts a workflow."""

    @nexusrpc.handler.sync_operation
    async def hello(self, ctx: nexusrpc.handler.StartOperationContext, name: str) -> str:
        return f"hello {name} {ctx.headers['x-trace']}"

    @nexusrpc.handler.sync_operation
    async def refuse(self, ctx: nexusrpc.handler.StartOperationContext, name: str) -> str:
        raise nexusrpc.HandlerError("no such name", type=nexusrpc.HandlerErrorType.NOT_FOUND)

    @nexusrpc.handler.sync_operation
    async def fail(self, ctx: nexusrpc.handler.StartOperationContext, name: str) -> str:
        raise nexusrpc.OperationError("it is over", state=nexusrpc.OperationErrorState.FAILED)

    @nexus.workflow_run_operation
    async def wait(self, ctx: nexus.WorkflowRunOperationContext, name: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Waits.run, name, id=f"waits-{name}")


async def test_callers_over_http_reach_a_worker_of_the_sdk(start_dev: Callable[..., Any]) -> None:
    port = free_port()
    server = start_dev("--http-port", str(port))
    client = await server.client()
    target = {"worker": {"namespace": "default", "task_queue": "greetings"}}
    made = await client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(spec={"name": "greetings", "target": target})  # type: ignore[arg-type]
    )
    base = f"http://127.0.0.1:{port}{made.endpoint.url_prefix}/Greetings"
    worker = Worker(client, task_queue="greetings", workflows=[Waits], nexus_service_handlers=[Handler()])
    async with worker, httpx.AsyncClient() as http:
        answer = await http.post(f"{base}/hello", json="you", headers={"x-trace": "1"})
        assert (answer.status_code, answer.json()) == (200, "hello you 1")
        answer = await http.post(f"{base}/refuse", json="you")
        assert (answer.status_code, answer.headers["temporal-nexus-failure-source"]) == (404, "worker")
        answer = await http.post(f"{base}/fail", json="you")
        assert (answer.status_code, answer.headers["nexus-operation-state"]) == (424, "failed")
        assert answer.json()["message"] == "it is over"

        answer = await http.post(f"{base}/wait", json="you", headers={"nexus-request-id": "request"})
        assert answer.status_code == 201, answer.text
        assert "waits-you" in answer.headers["nexus-link"]
        token = answer.json()["token"]
        answer = await http.post(f"{base}/wait/cancel", headers={"nexus-operation-token": token})
        assert answer.status_code == 202
        handle = client.get_workflow_handle("waits-you")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        history = await handle.fetch_history()
        assert any(event.HasField("workflow_execution_cancel_requested_event_attributes") for event in history.events)
    assert server.end() == 0
