"""OpenAPI documents of the JSON API: `/swagger.json` (version 2) and `/openapi.yaml` (version 3).

They are generated from what the API itself uses, the HTTP annotations of the RPCs and the descriptors of their
messages, when they are first requested. The second is JSON too, which is valid YAML.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.endpoints.transcoding import Binding, bindings
from whistlestop.net.http.answer import HttpAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    Descriptor: TypeAlias = Any
    """Any, because there are two such classes, one of them private to the C extension."""

TITLE = "Temporal API"
_F = FieldDescriptor
_OF_TYPES: tuple[tuple[tuple[int, ...], str, str], ...] = (
    ((_F.TYPE_BOOL,), "boolean", ""),
    ((_F.TYPE_BYTES,), "string", "byte"),
    ((_F.TYPE_STRING,), "string", ""),
    ((_F.TYPE_DOUBLE,), "number", "double"),
    ((_F.TYPE_FLOAT,), "number", "float"),
    ((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), "integer", "int32"),
    ((_F.TYPE_UINT32, _F.TYPE_FIXED32), "integer", "int64"),
    ((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), "string", "int64"),
    ((_F.TYPE_UINT64, _F.TYPE_FIXED64), "string", "uint64"),
)
_SCALARS: dict[int, dict[str, str]] = {
    number: {"type": kind} | ({"format": form} if form else {})
    for numbers, kind, form in _OF_TYPES
    for number in numbers
}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}, "additionalProperties": {}},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": {}},
    "google.protobuf.Value": {},
}
_ERROR = "google.rpc.Status"
_ERROR_SCHEMA = {
    "type": "object",
    "properties": {
        "code": {"type": "integer", "format": "int32"},
        "message": {"type": "string"},
        "details": {"type": "array", "items": _WELL_KNOWN["google.protobuf.Any"]},
    },
}
_DEEPEST_PARAMETER = 3
"""Nesting depth of messages whose fields a query may set."""


@dataclass(frozen=True, slots=True)
class _Version:
    refs: str
    is_3: bool
    media_type: str


VERSIONS = {
    "/swagger.json": _Version("#/definitions/", is_3=False, media_type="application/json"),
    "/openapi.yaml": _Version("#/components/schemas/", is_3=True, media_type="application/yaml"),
}


def answer(path: str) -> HttpAnswer:
    """Return the document of that path, which is one of VERSIONS."""
    return HttpAnswer(200, _document(path), {"content-type": VERSIONS[path].media_type})


@functools.cache
def _document(path: str) -> bytes:
    version = VERSIONS[path]
    paths: dict[str, dict[str, Any]] = {}
    messages: dict[str, Descriptor] = {}
    seen: dict[str, int] = {}
    for binding in bindings():
        place = "/" + "/".join(_segment_text(segment) for segment in binding.segments)
        method = binding.spec.method
        seen[method] = seen.get(method, 0) + 1
        operation = _operation(binding, version, messages)
        operation["operationId"] = method if seen[method] == 1 else f"{method}{seen[method]}"
        paths.setdefault(place, {})[binding.http_method.lower()] = operation
    schemas = {name: _schema(descriptor, version) for name, descriptor in sorted(_closure(messages).items())}
    schemas[_ERROR] = _ERROR_SCHEMA
    head = {"title": TITLE, "version": "v1"}
    document: dict[str, Any]
    if version.is_3:
        document = {"openapi": "3.0.3", "info": head, "paths": paths, "components": {"schemas": schemas}}
    else:
        json_only = ["application/json"]
        document = {
            "swagger": "2.0", "info": head, "consumes": json_only, "produces": json_only, "paths": paths,
            "definitions": schemas,
        }  # fmt: skip
    return json.dumps(document, indent=1).encode()


def _operation(binding: Binding, version: _Version, messages: dict[str, Descriptor]) -> dict[str, Any]:
    request, response = binding.spec.request_type.DESCRIPTOR, binding.spec.response_type.DESCRIPTOR
    messages[response.full_name] = response
    in_path = [segment[1:-1] for segment in binding.segments if segment.startswith("{")]
    parameters = [
        _parameter(_camel(name), "path", _scalar_of(request, name), version) | {"required": True} for name in in_path
    ]
    operation: dict[str, Any] = {
        "tags": [binding.spec.service.rpartition(".")[2]],
        "responses": {
            "200": _answered("A successful response.", response.full_name, version),
            "default": _answered("An error.", _ERROR, version),
        },
    }
    if binding.body:
        part: Descriptor = request if binding.body == "*" else request.fields_by_name[binding.body].message_type
        messages[part.full_name] = part
        schema = {"$ref": version.refs + part.full_name}
        if version.is_3:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        else:
            parameters.append({"name": "body", "in": "body", "required": True, "schema": schema})
    if binding.body != "*":
        parameters += [
            _parameter(name, "query", schema, version)
            for name, schema in _query_fields(request, "", (), 0)
            if name not in map(_camel, in_path) and name.partition(".")[0] != _camel(binding.body)
        ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _answered(description: str, message: str, version: _Version) -> dict[str, Any]:
    schema = {"$ref": version.refs + message}
    if version.is_3:
        return {"description": description, "content": {"application/json": {"schema": schema}}}
    return {"description": description, "schema": schema}


def _parameter(name: str, place: str, schema: dict[str, Any], version: _Version) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": place}
    if version.is_3:
        return parameter | {"schema": schema}
    return parameter | schema | ({"collectionFormat": "multi"} if schema.get("type") == "array" else {})


def _query_fields(
    message: Descriptor, prefix: str, within: tuple[str, ...], depth: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a query may set, by dotted names: scalars, lists of them, and those of nested messages."""
    for field in message.fields:
        name = prefix + field.json_name
        kind = field.message_type
        if kind is None:
            schema = _of_scalar(field)
            yield name, {"type": "array", "items": schema} if _is_repeated(field) else schema
        elif _is_repeated(field):
            continue
        elif kind.full_name in _WELL_KNOWN:
            yield name, _WELL_KNOWN[kind.full_name]
        elif depth < _DEEPEST_PARAMETER and kind.full_name not in within:
            yield from _query_fields(kind, f"{name}.", (*within, kind.full_name), depth + 1)


def _scalar_of(message: Descriptor, path: str) -> dict[str, Any]:
    *parents, last = path.split(".")
    for name in parents:
        message = message.fields_by_name[name].message_type
    return _of_scalar(message.fields_by_name[last])


def _of_scalar(field: FieldDescriptor) -> dict[str, Any]:
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return dict(_SCALARS[field.type])


def _schema(message: Descriptor, version: _Version) -> dict[str, Any]:
    return {"type": "object", "properties": {field.json_name: _of_field(field, version) for field in message.fields}}


def _of_field(field: FieldDescriptor, version: _Version) -> dict[str, Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _of_field(kind.fields_by_name["value"], version)}
    if kind is None:
        schema = _of_scalar(field)
    else:
        schema = _WELL_KNOWN.get(kind.full_name) or {"$ref": version.refs + kind.full_name}
    return {"type": "array", "items": schema} if _is_repeated(field) else schema


def _closure(messages: dict[str, Descriptor]) -> dict[str, Descriptor]:
    """Return those messages and all messages that they contain."""
    found: dict[str, Descriptor] = {}
    waiting = list(messages.values())
    while waiting:
        message = waiting.pop()
        if message.full_name in found or message.full_name in _WELL_KNOWN:
            continue
        if not message.GetOptions().map_entry:
            found[message.full_name] = message
        waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _segment_text(segment: str) -> str:
    return f"{{{_camel(segment[1:-1])}}}" if segment.startswith("{") else segment


def _camel(path: str) -> str:
    """Convert a field path to JSON names, such as `execution.workflow_id` to `execution.workflowId`."""
    parts = []
    for name in path.split("."):
        first, *rest = name.split("_")
        parts.append(first + "".join(word.capitalize() for word in rest))
    return ".".join(parts)
