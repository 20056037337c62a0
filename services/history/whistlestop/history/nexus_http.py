"""Nexus over HTTP, as this server speaks it to others: completions of operations, payloads, failures.

Calls run on a thread, since they are rare and the standard library's client is all they need.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from google.protobuf import json_format
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.history.core import nexus_links
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.common.v1 import message_pb2 as common_pb

TIMEOUT_S = 10.0
_FAILURE_TYPE = failure_pb.Failure.DESCRIPTOR.full_name
_FINAL_STATUSES = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "UNAUTHORIZED", 404: "NOT_FOUND", 409: "CONFLICT",
    501: "NOT_IMPLEMENTED",
}  # fmt: skip
_OTHER_STATUSES = {
    408: "REQUEST_TIMEOUT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 520: "UPSTREAM_TIMEOUT",
}  # fmt: skip
_MOST_READ = 64 * 1024


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
    return await asyncio.to_thread(_post, url, sent, body)


def _timestamp(instant_ns: int) -> str:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromNanoseconds(instant_ns)
    return stamp.ToJsonString()


def _post(url: str, headers: Mapping[str, str], body: bytes) -> Refused | None:
    import http.client

    # Which addresses may be called was checked when the callback was attached; so redirects are not followed.
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request("POST", target, body=body, headers=dict(headers))
        response = connection.getresponse()
        response.read(_MOST_READ)
    except (OSError, http.client.HTTPException) as error:
        return Refused(f"{type(error).__name__}: {error}", retryable=True)
    finally:
        connection.close()
    return None if 200 <= response.status < 300 else _refusal(response.status)


def _refusal(status: int) -> Refused:
    kind = _FINAL_STATUSES.get(status) or _OTHER_STATUSES.get(status)
    if kind is None:
        return Refused(f"unexpected response status: {status}", retryable=True)
    return Refused(f"handler error ({kind})", retryable=status not in _FINAL_STATUSES)


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
