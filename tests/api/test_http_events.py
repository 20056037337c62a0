"""The same request by every source of HTTP events, whatever that does to paths, queries and headers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from whistlestop.functions.http_events import answer_to, body_of, head_of, is_http

EVENTS = Path(__file__).parents[1] / "events"
PATH = "/api/v1/namespaces/default/workflows/"


def event(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text("utf-8"))
    return found


def of_http_api(path: str, stage: str = "$default", **changes: Any) -> dict[str, Any]:
    made = event("api_gateway_v2")
    made["requestContext"]["stage"] = stage
    return {**made, "rawPath": path, **changes}


@pytest.mark.parametrize("name", ["api_gateway_v1", "load_balancer"])
def test_paths_that_came_as_they_were_sent(name: str) -> None:
    head = head_of(event(name))
    assert (head.method, head.path, head.path_was_decoded) == ("GET", f"{PATH}order%2F7", False)
    assert head.query in {"reason=a+b%26c&pretty=", "reason=a%20b%26c&pretty="}
    assert head.headers["accept"] == "application/json"


def test_a_function_url_sends_paths_as_they_were() -> None:
    made = {**event("function_url_json_api"), "rawPath": f"{PATH}a%2Fb%25", "rawQueryString": "a=%20"}
    head = head_of(made)
    assert (head.path, head.query, head.path_was_decoded) == (f"{PATH}a%2Fb%25", "a=%20", False)


@pytest.mark.parametrize(
    ("workflow_id", "path"),
    [
        ("order-7", "order-7"),
        ("100%", "100%25"),
        ("%41", "%2541"),
        ("a b", "a%20b"),
        ("駅#1", "%E9%A7%85%231"),
        ("a?b", "a%3Fb"),
        ("a+b@c:d", "a+b@c:d"),
    ],
)
@pytest.mark.parametrize("stage", ["$default", "prod"])
def test_an_http_api_decodes_paths_which_are_encoded_again(workflow_id: str, path: str, stage: str) -> None:
    prefix = "" if stage == "$default" else f"/{stage}"
    decoded = f"{prefix}{PATH}{workflow_id}"
    made = of_http_api(decoded, stage)
    assert head_of(made)[1] == PATH + path
    older = {**event("api_gateway_v1"), "version": "1.0", "path": decoded}
    older["requestContext"]["stage"] = stage
    assert head_of(older)[1] == PATH + path
    assert head_of(made).path_was_decoded
    assert head_of(older).path_was_decoded


def test_a_custom_domain_is_of_an_http_api() -> None:
    made = of_http_api("/a%b")
    made["requestContext"]["domainName"] = "temporal.example"
    assert head_of(made).path == "/a%25b"


def test_all_values_of_a_header_are_kept() -> None:
    made = event("api_gateway_v1")
    made["multiValueHeaders"]["Accept"] = ["text/plain", "application/json"]
    assert head_of(made).headers["accept"] == "text/plain, application/json"


@pytest.mark.parametrize("name", ["api_gateway_v1", "api_gateway_v2", "function_url_connect", "load_balancer"])
def test_requests_are_distinguished_from_other_events(name: str) -> None:
    assert is_http(event(name))
    assert not is_http(event("scheduled"))
    assert not is_http({"Records": []})
    assert not is_http({"requestContext": None, "httpMethod": "GET"})


@pytest.mark.parametrize(
    "broken",
    [
        {"requestContext": {"http": {}}},
        {"requestContext": {"http": {}}, "rawPath": "/"},
        {"requestContext": {}, "httpMethod": "GET"},
        {"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/", "headers": ["a"]},
        {"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/", "multiValueHeaders": {"a": 1}},
    ],
)
def test_events_that_aws_does_not_send_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not an HTTP event"):
        head_of(broken)


def test_bodies() -> None:
    assert body_of({"body": "ü"}) == "ü".encode()
    assert body_of({"body": base64.b64encode(b"\x00").decode(), "isBase64Encoded": True}) == b"\x00"
    assert body_of({"body": None}) == b""
    with pytest.raises(ValueError, match="not an HTTP event"):
        body_of({"body": 7})


def test_answers_are_in_the_form_that_the_source_takes() -> None:
    json_type = {"content-type": "application/json"}
    plain = {"statusCode": 404, "headers": json_type, "body": "{}", "isBase64Encoded": False}
    assert answer_to(event("api_gateway_v2"), 404, json_type, b"{}") == plain
    assert answer_to(event("api_gateway_v1"), 404, json_type, b"{}") == plain
    balancer = event("load_balancer")
    assert answer_to(balancer, 404, json_type, b"{}") == {**plain, "statusDescription": "404 Not Found"}
    several = {**balancer, "multiValueHeaders": {}}
    assert answer_to(several, 404, json_type, b"{}") == {
        "statusCode": 404, "statusDescription": "404 Not Found", "multiValueHeaders": {"content-type": ["application/json"]},
        "body": "{}", "isBase64Encoded": False,
    }  # fmt: skip
