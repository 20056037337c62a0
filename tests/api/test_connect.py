"""The unary Connect protocol."""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING

import pytest
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded
from whistlestop.common.errors import Code, already_started
from whistlestop.frontend.endpoints.connect import error_from_answer
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.net.http.answer import HttpAnswer, HttpRequest

if TYPE_CHECKING:
    from tests.api.fixtures import World

_SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
_PROTO, _JSON = "application/proto", "application/json"


async def _post(world: World, rpc: str, body: bytes, kind: str = _JSON, **headers: str) -> HttpAnswer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = HttpRequest("POST", f"{_SERVICE}/{rpc}", "", {"content-type": kind, **named}, body)
    return await HttpApi(world.frontend, world.clock).handle(request)


def _start() -> service_pb.StartWorkflowExecutionRequest:
    request = service_pb.StartWorkflowExecutionRequest(namespace="default", workflow_id="w", request_id="r")
    request.workflow_type.name = "T"
    request.task_queue.name = "q"
    return request


async def test_protobuf_goes_in_and_comes_out(world: World) -> None:
    """The body is the message, nothing around it."""
    world.history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse(run_id="run")
    answer = await _post(world, "StartWorkflowExecution", _start().SerializeToString(), _PROTO)
    assert (answer.status, answer.headers) == (200, {"content-type": _PROTO})
    assert service_pb.StartWorkflowExecutionResponse.FromString(answer.body).run_id == "run"


async def test_an_encoded_reply_passes_through_unparsed(world: World) -> None:
    """Spliced history is already bytes."""
    world.history.answers["GetWorkflowExecutionHistory"] = Encoded(b"\x1a\x01t")
    request = service_pb.GetWorkflowExecutionHistoryRequest(namespace="default")
    request.execution.workflow_id = "w"
    answer = await _post(world, "GetWorkflowExecutionHistory", request.SerializeToString(), _PROTO)
    assert answer.body == b"\x1a\x01t"
    as_json = await _post(
        world, "GetWorkflowExecutionHistory", b'{"namespace":"default","execution":{"workflowId":"w"}}'
    )
    assert json.loads(as_json.body) == {"nextPageToken": "dA=="}


async def test_json_goes_in_and_comes_out(world: World) -> None:
    """Unknown fields are passed over, as the protocol's own servers do."""
    answer = await _post(world, "DescribeNamespace", b'{"namespace":"default","newer":1}')
    assert answer.status == 200
    assert json.loads(answer.body)["namespaceInfo"]["name"] == "default"


async def test_the_operator_service_is_there_too(world: World) -> None:
    """One endpoint for both."""
    request = HttpRequest(
        "POST", "/temporal.api.operatorservice.v1.OperatorService/ListClusters", "", {"content-type": _JSON}, b"{}"
    )
    answer = await HttpApi(world.frontend, world.clock).handle(request)
    assert json.loads(answer.body)["clusters"][0]["clusterName"] == "active"


async def test_an_error_carries_code_message_and_details(world: World) -> None:
    """Details are unpadded base64 beside the name of their type."""
    world.history.answers["StartWorkflowExecution"] = already_started("it runs", "r1", "run1")
    answer = await _post(world, "StartWorkflowExecution", _start().SerializeToString(), _PROTO)
    detail = details_pb.WorkflowExecutionAlreadyStartedFailure(start_request_id="r1", run_id="run1")
    assert (answer.status, answer.headers["content-type"]) == (409, _JSON)
    assert json.loads(answer.body) == {
        "code": "already_exists",
        "message": "it runs",
        "details": [
            {
                "type": "temporal.api.errordetails.v1.WorkflowExecutionAlreadyStartedFailure",
                "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
            }
        ],
    }
    back = error_from_answer(answer.status, answer.body)
    assert (back.code, back.message, back.details) == (Code.ALREADY_EXISTS, "it runs", (detail,))


@pytest.mark.parametrize(
    ("rpc", "body", "kind", "status", "code"),
    [
        ("Nonsense", b"{}", _JSON, 501, "unimplemented"),
        ("ListDeployments", b'{"namespace":"default"}', _JSON, 501, "unimplemented"),
        ("DescribeNamespace", b"{", _JSON, 400, "invalid_argument"),
        ("DescribeNamespace", b"[]", _JSON, 400, "invalid_argument"),
        ("DescribeNamespace", b"\xff\xff", _JSON, 400, "invalid_argument"),
        ("DescribeNamespace", b"\xff\xff\xff", _PROTO, 500, "internal"),
        ("DescribeNamespace", b"", _PROTO, 400, "invalid_argument"),
        ("DescribeNamespace", b'{"namespace":"nowhere"}', _JSON, 404, "not_found"),
        ("StartWorkflowExecution", b"\x0a" + b"x" * (4 * 1024 * 1024 + 1), _PROTO, 429, "resource_exhausted"),
    ],
)
async def test_refusals(world: World, rpc: str, body: bytes, kind: str, status: int, code: str) -> None:
    """Each with its own HTTP status and word."""
    answer = await _post(world, rpc, body, kind)
    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)


async def test_get_is_not_allowed(world: World) -> None:
    """All our RPCs may have effects."""
    request = HttpRequest("GET", f"{_SERVICE}/GetSystemInfo", "", {}, b"")
    answer = await HttpApi(world.frontend, world.clock).handle(request)
    assert (answer.status, answer.headers) == (405, {"allow": "POST"})


async def test_another_content_type_is_refused(world: World) -> None:
    """And the ones that are taken are named."""
    answer = await _post(world, "GetSystemInfo", b"", "text/plain")
    assert (answer.status, answer.headers) == (415, {"accept-post": "application/proto, application/json"})


async def test_another_version_of_the_protocol_is_refused(world: World) -> None:
    """There is only one."""
    answer = await _post(world, "GetSystemInfo", b"{}", connect_protocol_version="2")
    assert answer.status == 400


async def test_requests_may_be_gzipped(world: World) -> None:
    """And a broken stream is the caller's mistake."""
    body = gzip.compress(b'{"namespace":"default"}')
    good = await _post(world, "DescribeNamespace", body, content_encoding="gzip")
    bad = await _post(world, "DescribeNamespace", b"nonsense", content_encoding="gzip")
    unknown = await _post(world, "DescribeNamespace", b"x", content_encoding="br")
    assert (good.status, bad.status, unknown.status) == (200, 400, 501)


async def test_large_answers_are_gzipped_where_accepted(world: World) -> None:
    """Small ones are not worth it."""
    large = service_pb.StartWorkflowExecutionResponse(run_id="x" * 5000)
    world.history.answers["StartWorkflowExecution"] = large
    answer = await _post(world, "StartWorkflowExecution", _start().SerializeToString(), _PROTO, accept_encoding="gzip")
    small = await _post(world, "GetSystemInfo", b"", _PROTO, accept_encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == large.SerializeToString()
    assert "content-encoding" not in small.headers


async def test_the_timeout_becomes_the_deadline(world: World) -> None:
    """On the injected clock."""
    await _post(world, "StartWorkflowExecution", _start().SerializeToString(), _PROTO, connect_timeout_ms="1500")
    deadline_ns = world.history.calls[0][2].deadline_ns
    assert deadline_ns == world.clock.steady_ns() + 1_500_000_000


@pytest.mark.parametrize("given", ["-1", "soon", "12345678901", "1.5"])
async def test_an_invalid_timeout_is_refused(world: World, given: str) -> None:
    """Up to ten digits of milliseconds."""
    assert (await _post(world, "GetSystemInfo", b"{}", connect_timeout_ms=given)).status == 400


async def test_a_bug_is_an_internal_error_without_a_traceback(world: World) -> None:
    """Nothing of the inside is shown."""

    async def broken(*_: object) -> None:
        raise KeyError("secret")

    world.history.call = broken  # type: ignore[assignment]
    answer = await _post(world, "StartWorkflowExecution", _start().SerializeToString(), _PROTO)
    assert (answer.status, json.loads(answer.body)) == (500, {"code": "internal", "message": "internal error"})
