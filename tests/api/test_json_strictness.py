"""The JSON API's media types, and what it takes for a request: as Temporal's HTTP API has it, on every route.

The expectations of `BODIES` and of the forms were read off the real server.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from whistlestop.common.clock import SystemClock
from whistlestop.frontend.endpoints import transcoding
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.net.http.answer import HttpRequest

if TYPE_CHECKING:
    from tests.api.fixtures import World
    from whistlestop.net.http.answer import HttpAnswer

PLAIN = "application/json"
PRETTY = "application/json+pretty"
LONG = "application/json+no-payload-shorthand"
BOTH = "application/json+pretty+no-payload-shorthand"
WORKFLOW = "/api/v1/namespaces/default/workflows/w"
QUERY = f"{WORKFLOW}/query/q"
SHORT_FORM = b'{"workflowType":{"name":"W"},"taskQueue":{"name":"q"},"input":[1]}'
LONG_FORM = (
    b'{"workflowType":{"name":"W"},"taskQueue":{"name":"q"},'
    b'"input":{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MQ=="}]}}'
)


async def _ask(world: World, method: str, target: str, body: bytes = b"", **headers: str) -> HttpAnswer:
    parts = urlsplit(target)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = HttpRequest(method, parts.path, parts.query, given, body)
    return await HttpApi(world.frontend, SystemClock()).handle(request)


@pytest.mark.parametrize(
    ("query", "accept", "content_type", "media_type"),
    [
        ("", "", "", PLAIN),
        ("", PLAIN, "", PLAIN),
        ("", PRETTY, "", PRETTY),
        ("", LONG, "", LONG),
        ("", BOTH, "", BOTH),
        ("", "application/json+no-payload-shorthand+pretty", "", PLAIN),
        ("", "*/*", "", PLAIN),
        ("", "text/html", "", PLAIN),
        ("", f"{PLAIN}, text/plain, */*", "", PLAIN),
        ("", f"text/html, {PRETTY}", "", PRETTY),
        ("", f"{PRETTY};q=0.5", "", PLAIN),
        ("", "APPLICATION/JSON+PRETTY", "", PLAIN),
        ("", "", PRETTY, PRETTY),
        ("", "", f"{LONG}; charset=utf-8", LONG),
        ("", "*/*", BOTH, BOTH),
        ("", PRETTY, LONG, PRETTY),
        ("?pretty", PLAIN, "", PRETTY),
        ("?pretty=false", LONG, "", PRETTY),
        ("?noPayloadShorthand", PRETTY, "", LONG),
        ("?pretty&noPayloadShorthand", "", PLAIN, BOTH),
    ],
)
@pytest.mark.parametrize("refused", [False, True])
async def test_the_form_of_an_answer(
    world: World, query: str, accept: str, content_type: str, media_type: str, refused: bool
) -> None:
    """By the query, else by Accept, else by Content-Type; a refusal has it as well."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.errors import not_found

    response = service_pb.QueryWorkflowResponse()
    response.query_result.payloads.add(metadata={"encoding": b"json/plain"}, data=b'{"b":1,"a":2.0}')
    world.history.answers["QueryWorkflow"] = not_found("no") if refused else response
    headers = {"accept": accept} if accept else {}
    if content_type:
        headers["content_type"] = content_type
    answer = await _ask(world, "POST", QUERY + query, b"", **headers)
    assert (answer.status, answer.headers["content-type"]) == (404 if refused else 200, media_type)
    assert (b"\n" in answer.body) == ("+pretty" in media_type)
    if not refused:
        long = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJiIjoxLCJhIjoyLjB9"}]}
        shown = json.loads(answer.body)["queryResult"]
        assert shown == (long if "shorthand" in media_type else [{"a": 2, "b": 1}])


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (PLAIN, SHORT_FORM, 200),
        (PLAIN, LONG_FORM, 200),
        (f"{PLAIN}; charset=utf-8", SHORT_FORM, 200),
        ("application/JSON", SHORT_FORM, 200),
        (PRETTY, SHORT_FORM, 200),
        (LONG, SHORT_FORM, 400),
        (LONG, LONG_FORM, 200),
        (f"{LONG}; charset=utf-8", SHORT_FORM, 400),
        (f"{LONG};", SHORT_FORM, 400),
        (BOTH, SHORT_FORM, 400),
        (BOTH, LONG_FORM, 200),
    ],
)
async def test_the_form_of_a_request(world: World, content_type: str, body: bytes, status: int) -> None:
    """As Content-Type says, whatever is asked for."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    world.history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse()
    answer = await _ask(world, "POST", WORKFLOW, body, content_type=content_type, accept=PRETTY)
    assert (answer.status, answer.headers["content-type"]) == (status, PRETTY)


def _with(fields: str) -> str:
    return '{"workflowType":{"name":"W"},"taskQueue":{"name":"q"},%s}' % fields  # noqa: UP031  (the text has braces)


GOOD = '{"workflowType":{"name":"W"},"taskQueue":{"name":"q"}}'
BODIES: dict[str, tuple[str | bytes, int]] = {
    "an array": ("[]", 400),
    "null": ("null", 400),
    "a number": ("5", 400),
    "a string": ('"x"', 400),
    "true": ("true", 400),
    "the beginning of an object": ("{", 400),
    "what follows the first value": (GOOD + "x", 200),
    "a second value": (GOOD + "{}", 200),
    "a field twice": ('{"workflowType":{"name":"A"},"workflowType":{"name":"W"},"taskQueue":{"name":"q"}}', 400),
    "a field in both spellings": ('{"workflowType":{"name":"A"},"workflow_type":{"name":"W"}}', 400),
    "a field of a part twice": ('{"workflowType":{"name":"A","name":"W"},"taskQueue":{"name":"q"}}', 400),
    "a key of a map twice": (_with('"memo":{"fields":{"a":1,"a":2}}'), 400),
    "a key of a payload twice": (_with('"input":[{"a":1,"a":2}]'), 200),
    "the other spelling": ('{"workflow_type":{"name":"W"},"task_queue":{"name":"q"}}', 200),
    "an unknown field": (_with('"nope":1'), 400),
    "null for a message": (_with('"input":null'), 200),
    "null for a string": (_with('"identity":null'), 200),
    "null in a list": (_with('"links":[null]'), 400),
    "a number for a string": (_with('"identity":5'), 400),
    "an enum by its number": (_with('"workflowIdReusePolicy":2'), 200),
    "an enum by its number in a string": (_with('"workflowIdReusePolicy":"2"'), 400),
    "an enum by a whole float": (_with('"workflowIdReusePolicy":2.0'), 200),
    "an enum by a fraction": (_with('"workflowIdReusePolicy":2.5'), 400),
    "an enum by its short name": (_with('"workflowIdReusePolicy":"AllowDuplicate"'), 200),
    "an enum by no name": (_with('"workflowIdReusePolicy":"Nope"'), 400),
    "a boolean in a string": (_with('"requestEagerExecution":"true"'), 400),
    "a number for a boolean": (_with('"requestEagerExecution":1'), 400),
    "a whole float for an integer": (_with('"priority":{"priorityKey":2.0}'), 200),
    "an exponent for an integer": (_with('"priority":{"priorityKey":1e0}'), 200),
    "a fraction for an integer": (_with('"priority":{"priorityKey":2.5}'), 400),
    "an integer in a string": (_with('"priority":{"priorityKey":"2"}'), 200),
    "an integer in a string with a space": (_with('"priority":{"priorityKey":" 2"}'), 400),
    "a hexadecimal integer": (_with('"priority":{"priorityKey":"0x2"}'), 400),
    "an integer out of range": (_with('"priority":{"priorityKey":1099511627776}'), 400),
    "an integer with a leading zero": (_with('"priority":{"priorityKey":02}'), 400),
    "a float in a string": (_with('"priority":{"fairnessWeight":"1.5"}'), 200),
    "NaN": (_with('"priority":{"fairnessWeight":NaN}'), 400),
    "a duration": (_with('"workflowRunTimeout":"5s"'), 200),
    "a duration without unit": (_with('"workflowRunTimeout":"5"'), 400),
    "a duration that is a number": (_with('"workflowRunTimeout":5'), 400),
    "a duration with ten decimals": (_with('"workflowRunTimeout":"1.0000000001s"'), 400),
    "a duration after a space": (_with('"workflowRunTimeout":" 5s"'), 400),
    "a duration that is an object": (_with('"workflowRunTimeout":{"seconds":5}'), 400),
    "an object for a list": (_with('"links":{}'), 400),
    "an empty list for a message": (_with('"retryPolicy":[]'), 400),
    "a string for a message": (_with('"retryPolicy":"x"'), 400),
    "a list for a map": (_with('"memo":{"fields":[]}'), 400),
    "a control character": (GOOD.replace('"q"', '"q\x01"'), 400),
    "a line break in a string": (GOOD.replace('"q"', '"q\n"'), 400),
    "an unknown escape": (_with('"identity":"\\x"'), 400),
    "bytes that are no UTF-8": (GOOD.encode()[:-1] + b',"identity":"\xff"}', 400),
    "a byte order mark": ("\ufeff" + GOOD, 400),
    "a comment": ("/*x*/" + GOOD, 400),
    "single quotes": (GOOD.replace('"', "'"), 400),
    "a comma at the end": (GOOD[:-1] + ",}", 400),
    "a type": (_with('"@type":"x"'), 400),
    "one value for payloads": (_with('"input":5'), 400),
    "an object for payloads": (_with('"input":{"a":1}'), 400),
    "a number that no float holds": (_with('"input":[1e400]'), 400),
}
PYTHON_S_OWN = ("NoneType", "object is not", "Failed to parse", "Expecting", "codec can't", "Message type", "Traceback")


@pytest.mark.parametrize("case", BODIES)
async def test_forms_of_a_body(world: World, case: str) -> None:
    """A refusal is in words of the API's, and nothing of it reaches history."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    world.history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse()
    text, status = BODIES[case]
    answer = await _ask(world, "POST", WORKFLOW, text if isinstance(text, bytes) else text.encode(), content_type=PLAIN)
    assert answer.status == status, answer.body
    assert bool(world.history.calls) == (status == 200)
    if status != 200:
        shown = json.loads(answer.body)
        assert shown["code"] == 3
        assert not [words for words in PYTHON_S_OWN if words in shown["message"]], shown["message"]


def _routes() -> list[tuple[transcoding.Binding, str]]:
    found = {}
    for bindings in transcoding._table().values():
        for binding in bindings:
            path = "/" + "/".join("x" if part.startswith("{") else part for part in binding.segments)
            found[binding.http_method, path] = (binding, path)
    return list(found.values())


@pytest.mark.parametrize(("binding", "path"), _routes(), ids=lambda value: value if isinstance(value, str) else "")
async def test_every_route(world: World, binding: transcoding.Binding, path: str) -> None:
    """A slash at its end leads nowhere; Accept counts; a body that is no object is refused where there is a body."""
    method = binding.http_method
    if not transcoding.other_methods(path + "/"):
        # Else another route ends with a variable there, which is empty.
        answer = await _ask(world, method, path + "/", accept=BOTH)
        assert (answer.status, answer.headers["content-type"]) == (404, BOTH)
    if binding.body:
        for body in (b"[]", b"null", b"5", b'{"a":1,"a":2}', b'{"nope":1}'):
            answer = await _ask(world, method, path, body, accept=PRETTY)
            assert (answer.status, answer.headers["content-type"]) == (400, PRETTY), (body, answer.body)
    assert world.history.calls == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/namespaces/default/", 404),
        ("/cluster/", 404),
        ("//api/v1/namespaces/default", 404),
        ("/api/v1/namespaces//default", 404),
        ("/api/v1/namespaces/default/workflows/", 400),
        ("/api/v1/namespaces/default/workflows/%zz", 400),
        ("/API/v1/namespaces/default", 404),
        ("/api/v1/namespaces/%64efault", 200),
    ],
)
async def test_paths(world: World, path: str, status: int) -> None:
    """As they are written, but for escapes."""
    assert (await _ask(world, "GET", path)).status == status


async def test_maps_are_in_order(world: World) -> None:
    """Of messages and within payloads."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    response: Any = service_pb.DescribeWorkflowExecutionResponse()
    for key in ("b", "c", "a"):
        response.workflow_execution_info.memo.fields[key].metadata["encoding"] = b"json/plain"
        response.workflow_execution_info.memo.fields[key].data = b'{"z":1,"y":{"d":1,"c":2}}'
    world.history.answers["DescribeWorkflowExecution"] = response
    text = (await _ask(world, "GET", WORKFLOW)).body.decode()
    value = '{"y":{"c":2,"d":1},"z":1}'
    assert f'{{"a":{value},"b":{value},"c":{value}}}' in text
