"""The frontend's Lambda handler, with events as AWS sends them, on a SQLite file and services reached by invocation."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import Remembering
from whistlestop.common.clock import SystemClock
from whistlestop.common.errors import not_found
from whistlestop.common.ids import RandomIds
from whistlestop.frontend import lambda_function
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.service import Frontend
from whistlestop.functions import bootstrap
from whistlestop.net import aws
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENTS = Path(__file__).parents[1] / "events"


def _event(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((_EVENTS / f"{name}.json").read_text())
    return event


class _Context:
    function_name = "frontend"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class _Lambda:
    """A boto3 client whose functions are services of this process."""

    def __init__(self, services: dict[str, Remembering]) -> None:
        self._services = services

    def invoke(self, **call: Any) -> dict[str, Any]:
        service = self._services[call["FunctionName"]]
        answer = asyncio.run(bootstrap.serve_event(service, json.loads(call["Payload"]), SystemClock()))
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remembering]:
    """The function as after a cold start: nothing but its environment and the database."""
    path = str(tmp_path / "lambda.db")
    bootstrap.run(_prepare(path))
    remembering = Remembering()
    client = _Lambda({"history": remembering, "matching": Remembering()})
    monkeypatch.setenv("WHISTLESTOP_SQLITE_PATH", path)
    monkeypatch.delenv("WHISTLESTOP_DATABASE_URL", raising=False)
    monkeypatch.setenv("WHISTLESTOP_AUTH_MODE", "AWS_IAM")
    monkeypatch.setenv("WHISTLESTOP_HISTORY_FUNCTION", "history")
    monkeypatch.setenv("WHISTLESTOP_MATCHING_FUNCTION", "matching")
    monkeypatch.setattr(aws, "client", lambda *_: client)
    monkeypatch.setattr(lambda_function.function, "instance", None)
    monkeypatch.setattr(bootstrap, "log_through_powertools", lambda *_: None)
    yield remembering
    if (instance := lambda_function.function.instance) is not None:
        bootstrap.run(instance.frontend.ports.store.close())


async def _prepare(path: str) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.migrate()
    nobody = Remembering()
    await ensure_namespace(Frontend(store, nobody, nobody, SystemClock(), RandomIds()).ports, "default")
    await store.close()


def test_connect_in_a_function_url_event(history: Remembering) -> None:
    """Protobuf in base64, both ways."""
    answer = lambda_function.handler(_event("function_url_connect"), _Context())
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    response = service_pb.DescribeNamespaceResponse.FromString(base64.b64decode(answer["body"]))
    assert response.namespace_info.name == "default"


def test_json_api_in_a_function_url_event(history: Remembering) -> None:
    """JSON goes out as text."""
    answer = lambda_function.handler(_event("function_url_json_api"), _Context())
    assert (answer["statusCode"], answer["isBase64Encoded"], answer["body"]) == (200, False, "{}")


def test_api_gateway_event_with_a_stage_reaches_history(history: Remembering) -> None:
    """The stage is no part of the path; the request travels to history in an envelope, its namespace resolved."""
    history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse(run_id="run")
    answer = lambda_function.handler(_event("api_gateway_v2"), _Context())
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"runId": "run"})
    [(method, request, context)] = history.calls
    assert isinstance(request, service_pb.StartWorkflowExecutionRequest)
    assert (method, request.workflow_id, request.input.payloads[0].data) == (
        "StartWorkflowExecution",
        "order-7",
        b'"seven"',
    )
    assert (context.namespace, context.can_long_poll) == ("default", False)
    assert context.namespace_id
    assert context.deadline_ns is not None


def test_an_error_of_history_keeps_its_details(history: Remembering) -> None:
    """Through two transports."""
    history.answers["StartWorkflowExecution"] = not_found("nothing there")
    answer = lambda_function.handler(_event("api_gateway_v2"), _Context())
    assert answer["statusCode"] == 404
    assert json.loads(answer["body"])["details"] == [
        {"@type": "type.googleapis.com/temporal.api.errordetails.v1.NotFoundFailure"}
    ]


def test_a_scheduled_event_sweeps(history: Remembering) -> None:
    """Deleted namespaces and open batch jobs, of which there are none."""
    assert lambda_function.handler(_event("scheduled"), _Context()) == {"deleted": 0, "batches": 0}


def test_the_instance_is_made_once(history: Remembering) -> None:
    """And serves every call."""
    lambda_function.handler(_event("function_url_connect"), _Context())
    first = lambda_function.function.instance
    assert first is not None
    lambda_function.handler(_event("function_url_connect"), _Context())
    assert lambda_function.function.instance is first


def test_records_go_through_powertools(capsys: pytest.CaptureFixture[str]) -> None:
    """As one JSON object per line."""
    import logging

    handler = bootstrap.PowertoolsHandler("frontend")
    handler.emit(logging.LogRecord("n", logging.ERROR, __file__, 1, "%s failed", ("it",), None))
    shown = json.loads(capsys.readouterr().out)
    assert (shown["level"], shown["message"], shown["service"]) == ("ERROR", "it failed", "frontend")


@pytest.mark.parametrize("name", ["api_gateway_v1", "load_balancer"])
def test_other_sources_of_events_reach_history(history: Remembering, name: str) -> None:
    """An encoded slash is of the id."""
    history.answers["DescribeWorkflowExecution"] = service_pb.DescribeWorkflowExecutionResponse()
    answer = lambda_function.handler(_event(name), _Context())
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {})
    [(_, request, _)] = history.calls
    assert isinstance(request, service_pb.DescribeWorkflowExecutionRequest)
    assert request.execution.workflow_id == "order/7"


def test_an_id_that_a_gateway_took_apart_is_refused_with_the_reason(history: Remembering) -> None:
    event = _event("api_gateway_v2")
    event["requestContext"]["http"]["method"] = "GET"
    event["rawPath"] = "/prod/api/v1/namespaces/default/workflows/a/b"
    answer = lambda_function.handler(event, _Context())
    assert answer["statusCode"] == 404
    assert "decodes paths" in json.loads(answer["body"])["message"]
    assert history.calls == []
