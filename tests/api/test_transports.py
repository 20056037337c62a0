"""Calls between functions: the same answers and errors, whichever way they travel."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import Remembering
from whistlestop.common.clients import Encoded, decoded
from whistlestop.common.clock import FakeClock, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, already_started
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.service import History as _History  # noqa: F401 - fills the table
from whistlestop.net.internal.http_client import HttpClient
from whistlestop.net.internal.transports import LambdaClient, invoke_envelope, wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUEST = service_pb.StartWorkflowExecutionRequest(namespace="n", workflow_id="w")
_RESPONSE = service_pb.StartWorkflowExecutionResponse(run_id="run")


@pytest.fixture
def service() -> Remembering:
    made = Remembering()
    made.answers["StartWorkflowExecution"] = _RESPONSE
    return made


@pytest.fixture
def url(service: Remembering) -> Iterator[str]:
    """An HTTP server in a thread that runs envelopes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            envelope = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps(asyncio.run(invoke_envelope(service, envelope, SystemClock()))).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


class _Boto:
    def __init__(self, service: Remembering, *, dead: bool = False) -> None:
        self._service = service
        self._dead = dead

    def invoke(self, **call: Any) -> dict[str, Any]:
        if self._dead:
            return {"FunctionError": "Unhandled", "Payload": io.BytesIO(b'{"errorMessage":"timed out"}')}
        answer = asyncio.run(invoke_envelope(self._service, json.loads(call["Payload"]), SystemClock()))
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


async def test_local_is_a_direct_call(service: Remembering) -> None:
    """The very message."""
    await HistoryService(service).StartWorkflowExecution(_REQUEST, CallContext())
    assert service.calls[0][1] is _REQUEST


async def test_lambda_carries_request_context_and_answer(service: Remembering) -> None:
    """What is needed on the other side, and no more headers than those."""
    client = LambdaClient("f", SystemClock(), _Boto(service))
    context = CallContext(None, {"client-name": "temporal-python", "authorization": "secret"}, "id", "n")
    reply = await client.call(HistoryService.StartWorkflowExecution, _REQUEST, context)
    assert decoded(reply, service_pb.StartWorkflowExecutionResponse) == _RESPONSE
    [(_, request, seen)] = service.calls
    assert request == _REQUEST
    assert (dict(seen.headers), seen.namespace_id, seen.namespace) == ({"client-name": "temporal-python"}, "id", "n")


async def test_http_carries_the_same_and_keeps_its_connection(service: Remembering, url: str) -> None:
    """A second call goes over the first one's connection."""
    client = HttpClient(url, SystemClock())
    for _ in range(2):
        reply = await client.call(HistoryService.StartWorkflowExecution, _REQUEST, CallContext())
        assert decoded(reply, service_pb.StartWorkflowExecutionResponse) == _RESPONSE
    assert client.connects == 1
    client.close()


async def test_errors_arrive_whole(service: Remembering, url: str) -> None:
    """Code, message, details."""
    service.answers["StartWorkflowExecution"] = already_started("it runs", "r", "run")
    http = HttpClient(url, SystemClock())
    for client in (http, LambdaClient("f", SystemClock(), _Boto(service))):
        with pytest.raises(ServiceError) as caught:
            await client.call(HistoryService.StartWorkflowExecution, _REQUEST, CallContext())
        expected = already_started("it runs", "r", "run")
        assert (caught.value.code, caught.value.message) == (expected.code, expected.message)
        assert caught.value.details == expected.details
    http.close()


async def test_a_call_without_an_answer_is_unavailable(service: Remembering) -> None:
    """A dead function and a closed port are the same to the caller: try again."""
    for client in (
        LambdaClient("f", SystemClock(), _Boto(service, dead=True)),
        HttpClient("http://127.0.0.1:9", SystemClock()),
    ):
        with pytest.raises(ServiceError) as caught:
            await client.call(HistoryService.StartWorkflowExecution, _REQUEST, CallContext())
        assert caught.value.code is Code.UNAVAILABLE


async def test_the_deadline_travels_as_what_is_left_of_it(service: Remembering) -> None:
    """Two clocks need not agree."""
    here, there = FakeClock(), FakeClock(start_ns=5)
    await there.advance(77)
    envelope = wrap("StartWorkflowExecution", _REQUEST, CallContext(here.steady_ns() + 2_000_000_000), here)
    await invoke_envelope(service, envelope, there)
    assert service.calls[0][2].deadline_ns == there.steady_ns() + 2_000_000_000
    with pytest.raises(ServiceError, match="deadline exceeded"):
        wrap("StartWorkflowExecution", _REQUEST, CallContext(here.steady_ns()), here)


async def test_an_encoded_reply_is_not_parsed_on_its_way(service: Remembering) -> None:
    """Bytes stay bytes."""
    service.answers["StartWorkflowExecution"] = Encoded(b"\x0a\x01x")
    reply = await LambdaClient("f", SystemClock(), _Boto(service)).call(
        HistoryService.StartWorkflowExecution, _REQUEST, CallContext()
    )
    assert reply == Encoded(b"\x0a\x01x")


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        ({}, Code.INVALID_ARGUMENT),
        ({"method": "StartWorkflowExecution"}, Code.INVALID_ARGUMENT),
        ({"method": "StartWorkflowExecution", "request": "*"}, Code.INVALID_ARGUMENT),
        ({"method": "StartWorkflowExecution", "request": "////"}, Code.INVALID_ARGUMENT),
        ({"method": "StartWorkflowExecution", "request": "", "context": 5}, Code.INVALID_ARGUMENT),
        ({"method": "Nonsense", "request": ""}, Code.UNIMPLEMENTED),
    ],
)
async def test_a_body_that_is_no_envelope_is_refused(
    service: Remembering, envelope: dict[str, Any], code: Code
) -> None:
    """And reaches nobody."""
    answer = await invoke_envelope(service, envelope, FakeClock())
    assert (answer["error"]["code"], service.calls) == (code, [])
