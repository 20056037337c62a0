"""Nexus over HTTP, in both directions: payloads as headers and bodies, failures as JSON, links as a header."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.common.messages.nesting import MAX_CAUSES, load_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HANDLER_ERROR = "nexus.HandlerError"
OPERATION_ERROR = "nexus.OperationError"
FAILURE_TYPE = failure_pb.Failure.DESCRIPTOR.full_name
RETRYABLE_OF = {
    nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE: True,
    nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE: False,
}
LINK_HEADER = "nexus-link"
_LINK = re.compile(r"<([^>]*)>\s*;(.*)")
_LINK_TYPE = re.compile(r"[A-Za-z0-9_./]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000}
_MAX_MS = 2**63 / 1_000_000
_UNKNOWN = "unknown/nexus-content"


# ---- payloads --------------------------------------------------------------------------------------------------------


def content_of(payload: common_pb.Payload | None) -> tuple[dict[str, str], bytes]:
    """Return a payload as HTTP headers and a body; both are empty for None."""
    if payload is None:
        return {}, b""
    metadata = {name: value.decode(errors="replace") for name, value in payload.metadata.items()}
    encoding, message_type = metadata.get("encoding", ""), metadata.get("messageType", "")
    plain = {"json/plain": "application/json", "binary/plain": "application/octet-stream", "binary/null": ""}
    if len(metadata) == 1 and encoding in plain:
        return ({"Content-Type": plain[encoding]} if plain[encoding] else {}), payload.data
    if len(metadata) == 2 and message_type and encoding in ("json/protobuf", "binary/protobuf"):
        kind = "application/json; format=protobuf" if encoding == "json/protobuf" else "application/x-protobuf"
        return {"Content-Type": f'{kind}; message-type="{message_type}"'}, payload.data
    if encoding == _UNKNOWN:
        return {f"Content-{name}": value for name, value in metadata.items() if name != "encoding"}, payload.data
    return {"Content-Type": "application/x-temporal-payload"}, payload.SerializeToString()


def payload_of(headers: Mapping[str, str], body: bytes) -> common_pb.Payload:
    """Return the payload of a body and its headers. Raises DecodeError if a declared message does not parse."""
    content = {
        name.removeprefix("content-"): value
        for name, value in headers.items()
        if name.startswith("content-") and name not in ("content-encoding", "content-length")
    }
    if not content and not body:
        return common_pb.Payload(metadata={"encoding": b"binary/null"})
    kind, parameters = _media_type(content.get("type", ""))
    if set(content) == {"type"}:
        if kind == "application/x-temporal-payload":
            return common_pb.Payload.FromString(body)
        message_type = parameters.get("message-type", "").encode()
        known = {
            ("application/json", ()): "json/plain",
            ("application/octet-stream", ()): "binary/plain",
            ("application/json", ("format", "message-type")): "json/protobuf",
            ("application/x-protobuf", ("message-type",)): "binary/protobuf",
        }
        encoding = known.get((kind, tuple(sorted(parameters))))
        if encoding is not None and parameters.get("format", "protobuf") == "protobuf":
            metadata = {"encoding": encoding.encode()} | ({"messageType": message_type} if message_type else {})
            return common_pb.Payload(metadata=metadata, data=body)
    metadata = {name: value.encode() for name, value in content.items()} | {"encoding": _UNKNOWN.encode()}
    return common_pb.Payload(metadata=metadata, data=body)


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    from email.message import Message  # imported here, because it and its imports slow a start

    message = Message()
    message["content-type"] = text or "none/none"
    parameters = message.get_params() or []
    return message.get_content_type(), {name.lower(): value for name, value in parameters[1:]}


def headers_of(ours: Mapping[str, str], callers: Mapping[str, str]) -> dict[str, str]:
    """Merge headers, names in lower case; those of the caller override ours, as with Temporal."""
    return {name.lower(): value for headers in (ours, callers) for name, value in headers.items()}


# ---- failures --------------------------------------------------------------------------------------------------------


def failure_json(failure: failure_pb.Failure, *, of_cause: bool = False) -> dict[str, Any]:
    """Return a Temporal failure as Nexus JSON, from which the receiver restores the same failure.

    Its details repeat the causes, for receivers that do not know `cause`. Those of a cause itself (`of_cause`) need
    not: such a receiver never sees them, and a long chain would be repeated once for each cause.
    """
    if failure.HasField("nexus_handler_failure_info"):
        kind, details = HANDLER_ERROR, _handler_details(failure)
    else:
        from google.protobuf import json_format

        bare = failure_pb.Failure()
        bare.CopyFrom(failure)
        for field in ("message", "stack_trace", "cause") if of_cause else ("message", "stack_trace"):
            bare.ClearField(field)
        kind, details = FAILURE_TYPE, json_format.MessageToDict(bare)
    content: dict[str, Any] = {"metadata": {"type": kind}, "details": details}
    if failure.message:
        content["message"] = failure.message
    if failure.stack_trace:
        content["stackTrace"] = failure.stack_trace
    if failure.HasField("cause"):
        content["cause"] = failure_json(failure.cause, of_cause=True)
    return content


def _handler_details(failure: failure_pb.Failure) -> dict[str, Any]:
    details = handler_details(
        failure.nexus_handler_failure_info.type,
        retryable=RETRYABLE_OF.get(failure.nexus_handler_failure_info.retry_behavior),
    )
    if failure.HasField("encoded_attributes"):
        from google.protobuf import json_format

        encoded = json_format.MessageToJson(failure.encoded_attributes, indent=None).encode()
        details["encodedAttributes"] = base64.urlsafe_b64encode(encoded).decode().rstrip("=")
    return details


def handler_details(kind: str, *, retryable: bool | None = None) -> dict[str, Any]:
    """Return the details of a handler error beside its message; with `retryable` None, the kind decides on retries."""
    return ({"type": kind} if kind else {}) | ({} if retryable is None else {"retryableOverride": retryable})


def nexus_failure_json(failure: nexus_pb.Failure) -> dict[str, Any]:
    """Return a Nexus failure as JSON. Raises ValueError if its details are not JSON."""
    content: dict[str, Any] = {"message": failure.message} if failure.message else {}
    if failure.stack_trace:
        content["stackTrace"] = failure.stack_trace
    if failure.metadata:
        content["metadata"] = dict(failure.metadata)
    if failure.details:
        content["details"] = load_json(failure.details)
    if failure.HasField("cause"):
        content["cause"] = nexus_failure_json(failure.cause)
    return content


def read_failure(text: bytes) -> nexus_pb.Failure:
    """Parse a Nexus failure from a JSON body. Raises ValueError, TypeError, AttributeError for anything else."""
    return nexus_failure(load_json(text))


def nexus_failure(content: dict[str, Any], depth: int = 1) -> nexus_pb.Failure:
    """Return the Nexus failure in parsed JSON. Raises ValueError, TypeError, AttributeError for anything else."""
    if depth > MAX_CAUSES:
        raise ValueError(f"more than {MAX_CAUSES} causes")
    failure = nexus_pb.Failure(message=str(content.get("message", "")), stack_trace=str(content.get("stackTrace", "")))
    for name, value in (content.get("metadata") or {}).items():
        failure.metadata[name] = str(value)
    if content.get("details") is not None:
        failure.details = json.dumps(content["details"]).encode()
    if content.get("cause"):
        failure.cause.CopyFrom(nexus_failure(content["cause"], depth + 1))
    return failure


# ---- durations -------------------------------------------------------------------------------------------------------


def duration_ms(text: str) -> int | None:
    """Parse a duration header, a number with `ms`, `s` or `m`, into milliseconds.

    Returns None if it is malformed or too large.
    """
    match = _DURATION.fullmatch(text)
    span_ms = float(match[1]) * _UNIT_MS[match[2]] if match is not None else math.inf
    return int(span_ms) if span_ms < _MAX_MS else None


# ---- links -----------------------------------------------------------------------------------------------------------


class BadLinks(ValueError):
    """The header of links cannot be parsed."""


def links_of(headers: Mapping[str, str]) -> list[nexus_pb.Link]:
    """Return the links of the header `nexus-link`. Raises BadLinks."""
    text = headers.get(LINK_HEADER, "")
    if not text:
        return []
    links = []
    for part in text.split(","):
        match = _LINK.fullmatch(part.strip())
        url, parameters = match.groups() if match is not None else ("", "")
        kind = _link_type(parameters)
        if not url.strip() or not kind:
            raise BadLinks(part)
        links.append(nexus_pb.Link(url=url.strip(), type=kind))
    return links


def _link_type(parameters: str) -> str:
    """Return the parameter `type`; empty if it is missing or malformed."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        value = value.strip()
        if name.strip() == "type" and value.startswith('"') == value.endswith('"'):
            kind = value.strip('"')
            return kind if _LINK_TYPE.fullmatch(kind) else ""
    return ""


def link_header(links: Iterable[nexus_pb.Link]) -> str:
    """Return the value of the header `nexus-link`; empty without links."""
    return ", ".join(f'<{link.url}>; type="{link.type}"' for link in links)
