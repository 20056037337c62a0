"""Nexus over HTTP, as this server speaks it to others: completions of operations, payloads, failures.

Calls run on a thread, since they are rare and the standard library's client is all they need.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from google.protobuf import json_format
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.history.core import nexus_failures, nexus_links
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 10.0
_FAILURE_TYPE = failure_pb.Failure.DESCRIPTOR.full_name
_KINDS = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "UNAUTHORIZED", 404: "NOT_FOUND", 409: "CONFLICT",
    501: "NOT_IMPLEMENTED", 408: "REQUEST_TIMEOUT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
    520: "UPSTREAM_TIMEOUT",
}  # fmt: skip
_FINAL_STATUSES = frozenset({400, 401, 403, 404, 409, 501})
MOST_READ = 4 * 1024 * 1024
_RETRY = {
    True: nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE,
    False: nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE,
}
_LINK = re.compile(r'<([^>]*)>\s*;\s*type="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Completion:
    """How an operation ended."""

    result: common_pb.Payload | None
    failure: failure_pb.Failure | None
    started_ns: int
    closed_ns: int
    link: common_pb.Link


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side did not take it."""

    message: str
    retryable: bool


async def complete(url: str, headers: Mapping[str, str], completion: Completion) -> Refused | None:
    """Tell whoever waits behind `url`; None when it was heard."""
    if completion.failure is not None:
        body = json.dumps(failure_json(completion.failure)).encode()
        content = {"Content-Type": "application/json"}
        canceled = completion.failure.HasField("canceled_failure_info")
        state = "canceled" if canceled else "failed"
    else:
        content, body = content_of(completion.result)
        state = "succeeded"
    sent = {
        **content,
        "Nexus-Operation-State": state,
        "Nexus-Operation-Start-Time": formatdate(completion.started_ns // SECOND_NS, usegmt=True),
        "Nexus-Operation-Close-Time": _timestamp(completion.closed_ns),
        "Nexus-Link": nexus_links.header_value(nexus_links.to_nexus(completion.link.workflow_event)),
        "User-Agent": "temporalio/server",
        **headers,
    }
    try:
        answer = await asyncio.to_thread(post, url, sent, body, TIMEOUT_S)
    except OSError as error:
        return Refused(f"{type(error).__name__}: {error}", retryable=True)
    if 200 <= answer.status < 300:
        return None
    kind = _KINDS.get(answer.status)
    if kind is None:
        return Refused(f"unexpected response status: {answer.status}", retryable=True)
    return Refused(f"handler error ({kind})", retryable=answer.status not in _FINAL_STATUSES)


def _timestamp(instant_ns: int) -> str:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromNanoseconds(instant_ns)
    return stamp.ToJsonString()


@dataclass(frozen=True, slots=True)
class Answer:
    """Names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """One request, on the calling thread. Raises OSError when there is no answer. Redirects are not followed."""
    import http.client

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request("POST", target, body=body, headers=dict(headers))
        response = connection.getresponse()
        data = response.read(MOST_READ)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    found: dict[str, str] = {}
    for name, value in response.getheaders():
        lower = name.lower()
        found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return Answer(response.status, found, data)


# ---- payloads and failures -------------------------------------------------------------------------------------------


def content_of(payload: common_pb.Payload | None) -> tuple[dict[str, str], bytes]:
    """A payload as HTTP headers and a body."""
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
    return {"Content-Type": "application/x-temporal-payload"}, payload.SerializeToString()


def failure_json(failure: failure_pb.Failure) -> dict[str, object]:
    """A Temporal failure as Nexus writes one; the receiver makes it into the same failure again."""
    bare = failure_pb.Failure()
    bare.CopyFrom(failure)
    for field in ("message", "stack_trace", "cause"):
        bare.ClearField(field)
    shown: dict[str, object] = {
        "message": failure.message,
        "metadata": {"type": _FAILURE_TYPE},
        "details": json_format.MessageToDict(bare),
    }
    if failure.stack_trace:
        shown["stackTrace"] = failure.stack_trace
    if failure.HasField("cause"):
        shown["cause"] = failure_json(failure.cause)
    return shown


def payload_of(headers: Mapping[str, str], body: bytes) -> common_pb.Payload:
    """The payload that a body and its headers are."""
    payload = common_pb.Payload()
    content = {
        name.removeprefix("content-"): value
        for name, value in headers.items()
        if name.startswith("content-") and name not in ("content-encoding", "content-length")
    }
    if not content and not body:
        payload.metadata["encoding"] = b"binary/null"
        return payload
    kind, parameters = _media_type(content.get("type", ""))
    message_type = parameters.get("message-type", "")
    if kind == "application/x-temporal-payload":
        return common_pb.Payload.FromString(body)
    payload.data = body
    known = {
        ("application/json", ()): "json/plain",
        ("application/octet-stream", ()): "binary/plain",
        ("application/json", ("format", "message-type")): "json/protobuf",
        ("application/x-protobuf", ("message-type",)): "binary/protobuf",
    }
    encoding = known.get((kind, tuple(sorted(parameters)))) if set(content) == {"type"} else None
    if encoding is None:
        for name, value in content.items():
            payload.metadata[name] = value.encode()
        encoding = "unknown/nexus-content"
    elif message_type:
        payload.metadata["messageType"] = message_type.encode()
    payload.metadata["encoding"] = encoding.encode()
    return payload


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    message = Message()
    message["content-type"] = text or "none/none"
    parameters = message.get_params() or []
    return message.get_content_type(), {name.lower(): value for name, value in parameters[1:]}


def links_of(headers: Mapping[str, str]) -> list[common_pb.Link]:
    """Those of the header `nexus-link` that lead to events."""
    found = _LINK.findall(headers.get("nexus-link", ""))
    return nexus_links.from_nexus(nexus_pb.Link(url=url, type=kind) for url, kind in found)


def operation_failure(body: bytes, *, canceled: bool) -> failure_pb.Failure:
    """The failure of an operation that ended without success. Raises nothing: what can't be read is its message."""
    source = _failure_of(body)
    if source.metadata.get("type") == "nexus.OperationError" and source.HasField("cause"):
        source = source.cause
    error = nexus_pb.UnsuccessfulOperationError(operation_state=nexus_failures.CANCELED if canceled else "failed")
    error.failure.CopyFrom(source)
    return nexus_failures.of_operation_error(error)


def refusal_of(answer: Answer) -> failure_pb.Failure:
    """The refusal that an answer is, by what it says or by its status."""
    source = _failure_of(answer.body)
    if source.metadata.get("type") == "nexus.HandlerError":
        try:
            details = json.loads(source.details)
            failure = nexus_failures.handler_failure(str(details.get("type", "INTERNAL")), source.message)
            override = details.get("retryableOverride")
        except (ValueError, AttributeError):
            return nexus_failures.handler_failure("INTERNAL", source.message)
        if isinstance(override, bool):
            failure.nexus_handler_failure_info.retry_behavior = _RETRY[override]
        if source.HasField("cause"):
            failure.cause.CopyFrom(nexus_failures.to_temporal(source.cause))
        return failure
    kind = _KINDS.get(answer.status)
    if kind is None:
        return nexus_failures.handler_failure("INTERNAL", f"unexpected response status: {answer.status}")
    failure = nexus_failures.handler_failure(kind, "")
    if source.ByteSize():
        failure.cause.CopyFrom(nexus_failures.to_temporal(source))
    retryable = answer.headers.get("nexus-request-retryable", "").lower()
    if retryable in ("true", "false"):
        failure.nexus_handler_failure_info.retry_behavior = _RETRY[retryable == "true"]
    return failure


def _failure_of(body: bytes) -> nexus_pb.Failure:
    try:
        return _nexus_failure(json.loads(body))
    except (ValueError, TypeError, AttributeError):
        return nexus_pb.Failure(message=body[:1000].decode(errors="replace"))


def _nexus_failure(shown: dict[str, Any]) -> nexus_pb.Failure:
    failure = nexus_pb.Failure(message=str(shown.get("message", "")), stack_trace=str(shown.get("stackTrace", "")))
    for name, value in (shown.get("metadata") or {}).items():
        failure.metadata[name] = str(value)
    if shown.get("details") is not None:
        failure.details = json.dumps(shown["details"]).encode()
    if shown.get("cause"):
        failure.cause.CopyFrom(_nexus_failure(shown["cause"]))
    return failure
