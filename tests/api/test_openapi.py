"""The OpenAPI documents say what the JSON API serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from whistlestop.frontend.endpoints import openapi, transcoding
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.net.http.answer import HttpRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.fixtures import World


async def _document(world: World, path: str) -> dict[str, Any]:
    answer = await HttpApi(world.frontend, world.clock).handle(HttpRequest("GET", path, "", {}, b""))
    assert (answer.status, answer.headers["content-type"]) == (200, openapi.VERSIONS[path].media_type)
    document: dict[str, Any] = json.loads(answer.body)
    return document


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


@pytest.mark.parametrize("path", openapi.VERSIONS)
async def test_every_path_is_there_once_and_every_reference_leads_somewhere(world: World, path: str) -> None:
    document = await _document(world, path)
    served = list(transcoding.bindings())
    operations = [each for place in document["paths"].values() for each in place.values()]
    assert len(operations) == len(served)
    assert len({each["operationId"] for each in operations}) == len(served)
    schemas = document["components"]["schemas"] if path == "/openapi.yaml" else document["definitions"]
    prefix = openapi.VERSIONS[path].refs
    used = {reference.removeprefix(prefix) for reference in _references(document)}
    assert used <= schemas.keys()
    assert schemas.keys() - used <= {"google.rpc.Status"}


async def test_an_operation_names_its_path_query_and_body(world: World) -> None:
    document = await _document(world, "/openapi.yaml")
    history = document["paths"]["/api/v1/namespaces/{namespace}/workflows/{execution.workflowId}/history"]["get"]
    parameters = {each["name"]: (each["in"], each["schema"]["type"]) for each in history["parameters"]}
    assert parameters["namespace"] == ("path", "string")
    assert parameters["execution.workflowId"] == ("path", "string")
    assert parameters["execution.runId"] == ("query", "string")
    assert parameters["maximumPageSize"] == ("query", "integer")
    start = document["paths"]["/api/v1/namespaces/{namespace}/workflows/{workflowId}"]["post"]
    assert start["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/temporal.api.workflowservice.v1.StartWorkflowExecutionRequest"
    }


async def test_a_schema_says_how_fields_look_in_json(world: World) -> None:
    schemas = (await _document(world, "/swagger.json"))["definitions"]
    started = schemas["temporal.api.history.v1.WorkflowExecutionStartedEventAttributes"]["properties"]
    assert started["workflowRunTimeout"] == {"type": "string"}
    assert started["attempt"] == {"type": "integer", "format": "int32"}
    assert "CONTINUE_AS_NEW_INITIATOR_RETRY" in started["initiator"]["enum"]
    memo = schemas["temporal.api.common.v1.Memo"]["properties"]
    assert memo["fields"]["additionalProperties"] == {"$ref": "#/definitions/temporal.api.common.v1.Payload"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/swagger.json"), ("GET", "/other.json"), ("GET", "/x/openapi.yaml")]
)
async def test_other_paths_lead_nowhere(world: World, method: str, path: str) -> None:
    answer = await HttpApi(world.frontend, world.clock).handle(HttpRequest(method, path, "", {}, b""))
    assert answer.status in (404, 405, 501)
