"""Temporal's JSON API: paths, query parameters, payload shorthand, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1.event_type_pb2 import EventType
from temporalio.api.enums.v1.workflow_pb2 import HistoryEventFilterType
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import not_found
from whistlestop.frontend.endpoints import payload_json, request_json, transcoding
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.net.http.answer import HttpAnswer, HttpRequest

if TYPE_CHECKING:
    from tests.api.fixtures import World

_NAMESPACE = "/api/v1/namespaces/default"


async def _ask(world: World, method: str, target: str, body: bytes = b"") -> HttpAnswer:
    path, _, query = target.partition("?")
    return await HttpApi(world.frontend, world.clock).handle(HttpRequest(method, path, query, {}, body))


def _of(world: World) -> Any:
    """The request that reached history."""
    return world.history.calls[-1][1]


async def test_start_takes_path_and_body(world: World) -> None:
    """The path's variables win over the body's."""
    world.history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse(run_id="run")
    body = b'{"workflowId":"other","workflowType":{"name":"T"},"taskQueue":{"name":"q"},"input":["x",1]}'
    answer = await _ask(world, "POST", f"{_NAMESPACE}/workflows/order%2F7", body)
    assert (answer.status, json.loads(answer.body)) == (200, {"runId": "run"})
    request = _of(world)
    assert (request.namespace, request.workflow_id, request.workflow_type.name) == ("default", "order/7", "T")
    assert [payload.data for payload in request.input.payloads] == [b'"x"', b"1"]


async def test_the_prefix_may_be_left_out(world: World) -> None:
    """The annotations give both paths."""
    assert (await _ask(world, "GET", "/system-info")).body == (await _ask(world, "GET", "/api/v1/system-info")).body


async def test_query_parameters_fill_the_request(world: World) -> None:
    """By either spelling, nested by dots; enums by name or number; what is unknown is passed over."""
    await _ask(
        world,
        "GET",
        f"{_NAMESPACE}/workflows/w/history?execution.runId=01a20d28-154e-7ce0-b390-dac353ef0fba&maximum_page_size=7"
        "&waitNewEvent=true&historyEventFilterType=HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT&nextPageToken=dA==&bogus=1",
    )
    request = _of(world)
    assert request.execution.run_id == "01a20d28-154e-7ce0-b390-dac353ef0fba"
    assert (request.maximum_page_size, request.wait_new_event, request.next_page_token) == (7, True, b"t")
    assert request.history_event_filter_type == HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("maximumPageSize=abc", 'parsing field "maximum_page_size": strconv.ParseInt: parsing "abc": invalid syntax'),
        (
            "historyEventFilterType=CloseEvent",
            'parsing field "history_event_filter_type": "CloseEvent" is not a valid value',
        ),
    ],
)
async def test_a_parameter_that_does_not_fit_is_refused(world: World, query: str, message: str) -> None:
    """In the words of the real server."""
    answer = await _ask(world, "GET", f"{_NAMESPACE}/workflows/w/history?{query}")
    assert (answer.status, json.loads(answer.body)) == (400, {"code": 3, "message": message})


async def test_an_error_is_a_status_with_details(world: World) -> None:
    """With the type of each detail."""
    world.history.answers["DescribeWorkflowExecution"] = not_found("workflow not found for ID: w")
    answer = await _ask(world, "GET", f"{_NAMESPACE}/workflows/w")
    assert answer.status == 404
    assert json.loads(answer.body) == {
        "code": 5,
        "message": "workflow not found for ID: w",
        "details": [{"@type": "type.googleapis.com/temporal.api.errordetails.v1.NotFoundFailure"}],
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/api/v1/nope", b"", (404, 5, "Not Found")),
        ("GET", "/", b"", (404, 5, "Not Found")),
        ("PUT", f"{_NAMESPACE}/workflows/w", b"", (501, 12, "Method Not Allowed")),
        ("GET", f"{_NAMESPACE}/deployments", b"", (501, 12, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b"{", (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b"[]", (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b"5", (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b"\xff", (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b'{"bogus":1}', (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b'{"workflowRunTimeout":"nope"}', (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b'{"input":5}', (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b"[" * 100_000, (400, 3, None)),
        ("POST", f"{_NAMESPACE}/workflows/w", b" " * (4 * 1024 * 1024 + 1), (400, 3, "http: request body too large")),
    ],
)
async def test_refusals(
    world: World, method: str, path: str, body: bytes, expected: tuple[int, int, str | None]
) -> None:
    """Never a traceback, and nothing reaches history."""
    answer = await _ask(world, method, path, body)
    shown = json.loads(answer.body)
    assert (answer.status, shown["code"], shown["message"] if expected[2] else None) == expected
    assert world.history.calls == []


async def test_pretty_and_without_shorthand(world: World) -> None:
    """Both are parameters of the query."""
    response = service_pb.QueryWorkflowResponse()
    response.query_result.payloads.add(metadata={"encoding": b"json/plain"}, data=b'{"a":1}')
    world.history.answers["QueryWorkflow"] = response
    target = f"{_NAMESPACE}/workflows/w/query/q"
    assert (await _ask(world, "POST", target)).body == b'{"queryResult":[{"a":1}]}'
    assert (await _ask(world, "POST", f"{target}?pretty")).body.startswith(b'{\n  "queryResult": [\n')
    long = json.loads((await _ask(world, "POST", f"{target}?noPayloadShorthand")).body)
    assert long["queryResult"]["payloads"] == [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJhIjoxfQ=="}]
    assert _of(world).query.query_type == "q"


async def test_health(world: World) -> None:
    """For load balancers."""
    answer = await _ask(world, "GET", "/healthz")
    assert (answer.status, answer.body) == (200, b'{"status":"SERVING"}')


# Seen on the real server: what is put in, and what a history shows of it.
_SHORTHAND: list[tuple[str, Any]] = [
    ("[]", []),
    ("[1,null]", [1, {"metadata": {"encoding": "YmluYXJ5L251bGw="}}]),
    ("[null]", [{"metadata": {"encoding": "YmluYXJ5L251bGw="}}]),
    ('[1.0,1e3,"\u00e9"]', [1, 1000, "\u00e9"]),
    ('{"payloads":[1,2]}', [1, 2]),
    ('{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"e30="}]}', [{}]),
    (
        '[{"metadata":{"encoding":"anNvbi9wbGFpbg==","x":"YQ=="},"data":"MQ=="}]',
        {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg==", "x": "YQ=="}, "data": "MQ=="}]},
    ),
    ('[{"_protoMessageType":"foo.Bar","x":1}]', [{"_protoMessageType": "foo.Bar", "x": 1}]),
    (
        '[{"metadata":{"encoding":"YmluYXJ5L3BsYWlu"},"data":"AAAA"},7]',
        {"payloads": [{"metadata": {"encoding": "YmluYXJ5L3BsYWlu"}, "data": "AAAA"}, 7]},
    ),
    ('[{"metadata":{"encoding":"YQ=="}}]', [{"metadata": {"encoding": "YQ=="}}]),
]


@pytest.mark.parametrize(("given", "shown"), _SHORTHAND)
def test_payload_shorthand_reads_and_writes_as_the_real_server_does(given: str, shown: Any) -> None:
    """In, then out again."""
    request = service_pb.StartWorkflowExecutionRequest()
    request_json.fill_from_json(request, b'{"input":' + given.encode() + b"}")
    tree = json.loads(payload_json.to_json(request, shorthand=True, pretty=False))
    assert tree["input"] == shown


def test_single_payloads_and_maps_of_them() -> None:
    """Memo and header fields."""
    request = service_pb.StartWorkflowExecutionRequest()
    request_json.fill_from_json(request, b'{"memo":{"fields":{"m":"v<>&"}},"header":{"fields":{"h":null}}}')
    assert request.memo.fields["m"].data == b'"v<>&"'
    assert json.loads(payload_json.to_json(request, shorthand=True, pretty=False)) == {
        "memo": {"fields": {"m": "v<>&"}},
        "header": {"fields": {"h": {"metadata": {"encoding": "YmluYXJ5L251bGw="}}}},
    }


def test_short_names_of_enums_are_read() -> None:
    """`Normal` for TASK_QUEUE_KIND_NORMAL, as older histories have it."""
    request = service_pb.StartWorkflowExecutionRequest()
    request_json.fill_from_json(
        request,
        b'{"taskQueue":{"name":"q","kind":"Normal"},"workflowIdReusePolicy":"RejectDuplicate",'
        b'"links":[{"workflowEvent":{"eventRef":{"eventType":"WorkflowExecutionStarted"}}}]}',
    )
    assert (request.task_queue.kind, request.workflow_id_reuse_policy) == (1, 3)
    assert request.links[0].workflow_event.event_ref.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED


def test_every_annotated_path_leads_to_its_own_rpc() -> None:
    """No path is hidden behind another."""
    bindings = [binding for candidates in transcoding._table().values() for binding in candidates]
    for binding in bindings:
        path = "/" + "/".join("x" if part.startswith("{") else part for part in binding.segments)
        match = transcoding.find(binding.http_method, path)
        assert match is not None
        assert match.binding.spec.method == binding.spec.method, path
    assert len(bindings) == 228


def test_paths_are_found_without_other_imports() -> None:
    """The registry imports no descriptors of services, in which the paths stand."""
    look = (
        "from whistlestop.frontend.endpoints import transcoding\n"
        "found = transcoding.find('GET', '/api/v1/namespaces/n/workflows/w')\n"
        "assert found is not None and found.binding.spec.method == 'DescribeWorkflowExecution', found"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
