"""Our own calls of Lambda between two functions, against an endpoint that speaks its Invoke API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.functions import instance
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.net import aws
from whistlestop.net.internal.transports import LambdaClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.functions.client import Cloud


@pytest.fixture
def history(cloud: Cloud) -> Iterator[LambdaClient]:
    """The history function, invoked as AWS has it invoked."""

    class Invoke(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            _, _, _, function, action = self.path.split("/")
            assert action == "invocations"
            assert self.headers["X-Amz-Invocation-Type"] == "RequestResponse"
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            outcome = instance.call(cloud.folder, function, event, cloud.env)
            self.send_response(200)
            if "error" in outcome:
                self.send_header("X-Amz-Function-Error", "Unhandled")
            body = json.dumps(outcome.get("answer", {"errorMessage": "died"})).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Invoke) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        account = aws.Aws("eu-central-1", lambda: aws.Credentials("key", "secret"), endpoint)
        yield LambdaClient("history", SystemClock(), aws.client("lambda", account))
        account.close()
        server.shutdown()
        thread.join()


async def _context(cloud: Cloud) -> CallContext:
    described = await cloud.call("DescribeNamespace")
    return CallContext(namespace_id=described.namespace_info.id, namespace="default", can_long_poll=False)


async def test_an_answer(history: LambdaClient, cloud: Cloud) -> None:
    run_id = await cloud.start("there")
    request = rr.DescribeWorkflowExecutionRequest(namespace="default")
    request.execution.workflow_id = "there"
    reply = await history.call(HistoryService.DescribeWorkflowExecution, request, await _context(cloud))
    described = decoded(reply, rr.DescribeWorkflowExecutionResponse)
    assert isinstance(described, rr.DescribeWorkflowExecutionResponse)
    assert described.workflow_execution_info.execution.run_id == run_id


async def test_an_error(history: LambdaClient, cloud: Cloud) -> None:
    """With its details."""
    request = rr.DescribeWorkflowExecutionRequest(namespace="default")
    request.execution.workflow_id = "nowhere"
    with pytest.raises(ServiceError) as raised:
        await history.call(HistoryService.DescribeWorkflowExecution, request, await _context(cloud))
    assert raised.value.code is Code.NOT_FOUND
    assert [type(detail).__name__ for detail in raised.value.details] == ["NotFoundFailure"]


async def test_a_function_that_died(history: LambdaClient, cloud: Cloud) -> None:
    """Whether it did its work is unknown: the caller is to try again."""
    context = await _context(cloud)
    cloud.dies = "history"
    with pytest.raises(ServiceError) as raised:
        await history.call(HistoryService.GetWorkflowExecutionHistory, rr.GetWorkflowExecutionHistoryRequest(), context)
    assert raised.value.code is Code.UNAVAILABLE
