"""Nexus over HTTP with another server: an external endpoint, the completion of its operation, and our own callback."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from temporalio.api.enums.v1 import CallbackState, CommandType
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskCompletedRequest,
    StartWorkflowExecutionRequest,
)

from tests.patience import PATIENCE_S
from tests.support.ports import free_port
from whistlestop.net import outbound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from temporalio.client import Client

JSON = {"content-type": "application/json"}
PAYLOAD = {"metadata": {"encoding": b"json/plain"}, "data": b"1"}
Answer = tuple[int, dict[str, str], bytes]


class Elsewhere:
    """An HTTP server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.slow = threading.Event()
        """Requests to /slow wait for it."""
        elsewhere = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                elsewhere.asked.append((self.path, headers, body))
                if self.path == "/slow":
                    elsewhere.slow.wait(PATIENCE_S)
                status, sent, data = elsewhere.answers.pop(0) if elsewhere.answers else (200, {}, b"")
                self.send_response(status)
                for name, value in {**sent, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.slow.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


async def start(client: Client, workflow_id: str, **fields: Any) -> None:
    await client.workflow_service.start_workflow_execution(
        StartWorkflowExecutionRequest(
            namespace="default", workflow_id=workflow_id, workflow_type={"name": "Order"},  # type: ignore[arg-type]
            task_queue={"name": "orders"}, request_id=workflow_id, **fields,  # type: ignore[arg-type]
        )
    )  # fmt: skip


async def step(client: Client, name: str, **attributes: Any) -> None:
    """Poll a workflow task and answer it with one command."""
    task = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace="default", task_queue={"name": "orders"}, identity="worker")  # type: ignore[arg-type]
    )
    command = {
        "command_type": CommandType.Value(f"COMMAND_TYPE_{name.upper()}"), f"{name}_command_attributes": attributes,
    }  # fmt: skip
    await client.workflow_service.respond_workflow_task_completed(
        RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=[command])  # type: ignore[list-item]
    )


async def events(client: Client, workflow_id: str) -> list[Any]:
    """Those of Nexus, in order."""
    reply = await client.workflow_service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(namespace="default", execution={"workflow_id": workflow_id})  # type: ignore[arg-type]
    )
    found = [getattr(event, event.WhichOneof("attributes") or "") for event in reply.history.events]
    return [each for each in found if each.DESCRIPTOR.name.startswith("NexusOperation")]


async def test_an_external_operation_ends_by_its_completion(
    start_dev: Callable[..., Any], elsewhere: Elsewhere
) -> None:
    port = free_port()
    template = f'"http://127.0.0.1:{port}/namespaces/{{{{.NamespaceName}}}}/nexus/callback"'
    key = "component.nexusoperations.callback.endpoint.template"
    server = start_dev("--http-port", str(port), "--dynamic-config-value", f"{key}={template}")
    client = await server.client()
    await client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(spec={"name": "there", "target": {"external": {"url": elsewhere.url}}})  # type: ignore[arg-type]
    )
    elsewhere.answers.append((201, JSON, b'{"token": "token", "state": "running"}'))
    await start(client, "caller")
    await step(client, "schedule_nexus_operation", endpoint="there", service="s", operation="o", input=PAYLOAD)
    await step(client, "start_timer", timer_id="t", start_to_fire_timeout={"seconds": 60})

    path, asked, body = elsewhere.asked[0]
    assert (urlsplit(path).path, body, asked["content-type"]) == ("/s/o", b"1", "application/json")
    callback = urlsplit(parse_qs(urlsplit(path).query)["callback"][0])
    token = {
        name.removeprefix("nexus-callback-"): value
        for name, value in asked.items()
        if name.startswith("nexus-callback-")
    }
    for status in (200, 404):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("POST", callback.path, b'"out"', {**token, **JSON, "nexus-operation-state": "succeeded"})
        assert connection.getresponse().status == status
        connection.close()
    _, started, completed = await events(client, "caller")
    assert (started.operation_token, completed.result.data) == ("token", b'"out"')
    assert server.end() == 0


async def test_a_completion_callback_is_retried_until_it_is_accepted(
    start_dev: Callable[..., Any], elsewhere: Elsewhere
) -> None:
    allowed = 'callback.allowedAddresses=[{"Pattern":"*","AllowInsecure":true}]'
    soon = 'callback.retryPolicy.initialInterval="50ms"'
    server = start_dev("--dynamic-config-value", allowed, "--dynamic-config-value", soon)
    client = await server.client()
    elsewhere.answers += [(503, {}, b""), (200, {}, b"")]
    await start(client, "told", completion_callbacks=[{"nexus": {"url": f"{elsewhere.url}/x", "header": {"k": "v"}}}])
    await step(client, "complete_workflow_execution", result={"payloads": [PAYLOAD]})
    request = DescribeWorkflowExecutionRequest(namespace="default", execution={"workflow_id": "told"})  # type: ignore[arg-type]
    for _ in range(200):
        callback = (await client.workflow_service.describe_workflow_execution(request)).callbacks[0]
        if callback.attempt == 2:
            break
    assert not callback.HasField("last_attempt_failure")
    _, asked, body = elsewhere.asked[1]
    assert (asked["k"], asked["nexus-operation-state"], body) == ("v", "succeeded", b"1")
    assert server.end() == 0


ALLOWED = ("--dynamic-config-value", 'callback.allowedAddresses=[{"Pattern":"*","AllowInsecure":true}]')


async def callbacks(client: Client, workflow_id: str, until: Callable[[Any], bool]) -> Any:
    """The callbacks of the workflow once `until` holds of them, or as they are in the end."""
    request = DescribeWorkflowExecutionRequest(namespace="default", execution={"workflow_id": workflow_id})  # type: ignore[arg-type]
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        found = (await client.workflow_service.describe_workflow_execution(request)).callbacks
        if until(found) or time.monotonic() > ends_s:
            break
        await asyncio.sleep(0.01)
    return found


async def test_a_callback_without_an_answer_blocks_no_other_of_its_run(
    start_dev: Callable[..., Any], elsewhere: Elsewhere
) -> None:
    server = start_dev(*ALLOWED)
    client = await server.client()
    nexus = [{"nexus": {"url": f"{elsewhere.url}/{path}"}} for path in ("slow", "quick")]
    await start(client, "two", completion_callbacks=nexus)
    await step(client, "complete_workflow_execution")
    found = await callbacks(client, "two", lambda each: each[1].state == CallbackState.CALLBACK_STATE_SUCCEEDED)
    assert [each.state for each in found] == [
        CallbackState.CALLBACK_STATE_SCHEDULED,
        CallbackState.CALLBACK_STATE_SUCCEEDED,
    ]
    elsewhere.slow.set()
    found = await callbacks(client, "two", lambda each: each[0].state == CallbackState.CALLBACK_STATE_SUCCEEDED)
    assert found[0].state == CallbackState.CALLBACK_STATE_SUCCEEDED
    assert sorted(path for path, _, _ in elsewhere.asked) == ["/quick", "/slow"]
    assert server.end() == 0


async def test_a_header_that_http_can_t_carry_is_an_attempt_that_failed(
    start_dev: Callable[..., Any], elsewhere: Elsewhere
) -> None:
    server = start_dev(*ALLOWED)
    client = await server.client()
    header = {"k": "v\r\nx-smuggled: 1"}
    await start(client, "bad", completion_callbacks=[{"nexus": {"url": f"{elsewhere.url}/x", "header": header}}])
    await step(client, "complete_workflow_execution")
    (found,) = await callbacks(client, "bad", lambda each: each[0].attempt > 0)
    assert "header" in found.last_attempt_failure.message
    assert elsewhere.asked == []
    assert server.end() == 0


@pytest.mark.parametrize("allow", [(), ("--allow-outbound", "127.0.0.1")], ids=["refused", "named"])
async def test_a_server_calls_its_own_network_only_where_that_is_named(
    launch: Callable[..., Any], elsewhere: Elsewhere, allow: tuple[str, ...]
) -> None:
    """A pattern of all addresses names none, and the caller does not learn that somebody listens there."""
    server = launch("server", "start", "--port", "0", *ALLOWED, *allow).until_ready()
    client = await server.client()
    closed = f"http://127.0.0.1:{free_port()}"
    nexus = [{"nexus": {"url": f"{url}/x"}} for url in (elsewhere.url, closed)]
    await start(client, "asks", completion_callbacks=nexus)
    await step(client, "complete_workflow_execution")
    found = await callbacks(client, "asks", lambda each: all(callback.attempt for callback in each))
    failures = [callback.last_attempt_failure.message for callback in found]
    assert all(callback.attempt for callback in found), found
    assert failures == (["", outbound.NO_ANSWER] if allow else [outbound.NO_ANSWER] * 2)
    assert [path for path, _, _ in elsewhere.asked] == (["/x"] if allow else [])
    assert server.end() == 0
