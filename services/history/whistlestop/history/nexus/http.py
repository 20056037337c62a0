"""Nexus over HTTP as a client: send completions of operations, and interpret answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages import nexus_content
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import links as nexus_links
from whistlestop.history.core.times import SECOND_NS
from whistlestop.net.outbound import BadRequest, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.net.outbound import Answer, Outbound

_KINDS = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "UNAUTHORIZED", 404: "NOT_FOUND", 409: "CONFLICT",
    501: "NOT_IMPLEMENTED", 408: "REQUEST_TIMEOUT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
    520: "UPSTREAM_TIMEOUT",
}  # fmt: skip
_FINAL_KINDS = frozenset({"BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED"})
_MOST_MESSAGE = 1000
"""The maximum characters kept of a message from another server."""


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
    """The other server did not accept the completion."""

    message: str
    retryable: bool


async def complete(
    outbound: Outbound, url: str, headers: Mapping[str, str], completion: Completion, timeout_s: float
) -> Refused | None:
    """Send the completion to `url`; return None when it was accepted."""
    from email.utils import formatdate  # with what it needs, more than a start should pay for

    if completion.failure is not None:
        body = json.dumps(nexus_content.failure_json(completion.failure)).encode()
        content = {"Content-Type": "application/json"}
        canceled = completion.failure.HasField("canceled_failure_info")
        state = "canceled" if canceled else "failed"
    else:
        content, body = nexus_content.content_of(completion.result)
        state = "succeeded"
    ours = {
        **content,
        "Nexus-Operation-State": state,
        "Nexus-Operation-Start-Time": formatdate(completion.started_ns // SECOND_NS, usegmt=True),
        "Nexus-Operation-Close-Time": _timestamp(completion.closed_ns),
        "Nexus-Link": nexus_links.header_value(nexus_links.to_nexus(completion.link)),
        "User-Agent": "temporalio/server",
    }
    sent = nexus_content.headers_of(ours, headers)
    try:
        answer = await outbound.post(url, sent, body, timeout_s)
    except (NoAnswer, BadRequest) as error:
        return Refused(str(error), retryable=True)
    if 200 <= answer.status < 300:
        return None
    return _refused(answer)


def _refused(answer: Answer) -> Refused:
    """Interpret the answer to a refused completion, by its handler error or else by its status."""
    is_json = answer.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    source = failure_of(answer.body) if is_json else nexus_pb.Failure()
    kind, text = _KINDS.get(answer.status), ""
    retryable = {"true": True, "false": False}.get(answer.headers.get("nexus-request-retryable", "").lower())
    if source.metadata.get("type") == nexus_content.HANDLER_ERROR:
        info = nexus_failures.to_temporal(source).nexus_handler_failure_info
        kind, text = info.type or "INTERNAL", source.message
        retryable = nexus_content.RETRYABLE_OF.get(info.retry_behavior)
    if kind is None:
        return Refused(f"unexpected response status: {answer.status}", retryable=True)
    message = f"handler error ({kind}): {text}" if text else f"handler error ({kind})"
    return Refused(message[:_MOST_MESSAGE], retryable=kind not in _FINAL_KINDS if retryable is None else retryable)


def _timestamp(instant_ns: int) -> str:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromNanoseconds(instant_ns)
    return stamp.ToJsonString()


# ---- answers ---------------------------------------------------------------------------------------------------------


def links_of(headers: Mapping[str, str]) -> list[common_pb.Link]:
    """Return the links in the header `nexus-link` that can be converted; empty when it is malformed."""
    try:
        return nexus_links.from_nexus(nexus_content.links_of(headers))
    except nexus_content.BadLinks:
        return []


def operation_failure(source: nexus_pb.Failure, *, canceled: bool) -> failure_pb.Failure:
    """Return the failure of an operation that ended without success."""
    if source.metadata.get("type") == nexus_content.OPERATION_ERROR and source.HasField("cause"):
        source = source.cause
    error = nexus_pb.UnsuccessfulOperationError(operation_state=nexus_failures.CANCELED if canceled else "failed")
    error.failure.CopyFrom(source)
    return nexus_failures.of_operation_error(error)


def refusal_of(answer: Answer) -> failure_pb.Failure:
    """Return the failure for an answer that refuses a request, by its body or else by its status."""
    source = failure_of(answer.body)
    if source.metadata.get("type") == nexus_content.HANDLER_ERROR:
        return nexus_failures.to_temporal(source)
    kind = _KINDS.get(answer.status)
    if kind is None:
        return nexus_failures.handler_failure("INTERNAL", f"unexpected response status: {answer.status}")
    failure = nexus_failures.handler_failure(kind, "")
    if source.ByteSize():
        failure.cause.CopyFrom(nexus_failures.to_temporal(source))
    retryable = answer.headers.get("nexus-request-retryable", "").lower()
    if retryable in ("true", "false"):
        failure.nexus_handler_failure_info.retry_behavior = nexus_failures.BEHAVIOR_OF[retryable == "true"]
    return failure


def failure_of(body: bytes) -> nexus_pb.Failure:
    """Return the failure in a body; a body that can't be parsed becomes its message."""
    try:
        return nexus_content.read_failure(body)
    except (ValueError, TypeError, AttributeError):
        return nexus_pb.Failure(message=body[:_MOST_MESSAGE].decode(errors="replace"))
