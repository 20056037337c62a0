"""How a service calls another: in process, as a Lambda invocation, or by HTTP (`http_client.py`).

The envelope is JSON, `{"method", "request", "context"}` with the request's bytes in base64; the answer is
`{"response"}` or `{"error"}`. The caller's deadline is sent as the remaining time, since it is an instant of the
caller's own steady clock.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from whistlestop.common.clients import Encoded, encoded
from whistlestop.common.clock import MILLISECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import (
    Code,
    ServiceError,
    deadline_exceeded,
    invalid_argument,
    unavailable,
    unimplemented,
)
from whistlestop.common.messages.times import refused_time
from whistlestop.common.renamed_rpcs import call_by_name, current_name
from whistlestop.net.rpc_status import packed, unpacked

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.rpcs.rpc import Rpc, Server

log = logging.getLogger(__name__)

Envelope = dict[str, Any]
_FORWARDED = (
    "client-name", "client-version", "user-agent", "supported-server-versions", "supported-features", "caller-name",
)  # fmt: skip


class LambdaClient:
    """A channel to a Lambda function, invoked synchronously.

    `client` has the interface of boto3's Lambda client.
    """

    def __init__(self, function_name: str, clock: Clock, client: Any = None) -> None:
        self._function_name = function_name
        self._clock = clock
        self._client = client

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Call the RPC by invoking the function, and return its reply. Raise ServiceError."""
        return await call_by_name(self._call, rpc, request, context)

    async def _call(self, method: str, request: Message, context: CallContext) -> Reply:
        envelope = wrap(method, request, context, self._clock)
        answer = await asyncio.to_thread(self._invoke, json.dumps(envelope).encode())
        return unwrap_answer(answer)

    def _invoke(self, payload: bytes) -> Envelope:
        from whistlestop.net import aws

        try:
            if self._client is None:
                self._client = aws.client("lambda")
            response = self._client.invoke(
                FunctionName=self._function_name, InvocationType="RequestResponse", Payload=payload
            )
        except aws.AwsError as error:
            raise unavailable(f"{self._function_name} could not be invoked: {error}") from error
        body = response["Payload"].read()
        if response.get("FunctionError"):
            # The function crashed or timed out; it is unknown whether it did its work.
            raise unavailable(f"{self._function_name} failed. Try again.")
        answer: Envelope = json.loads(body)
        return answer


def wrap(method: str, request: Message, context: CallContext, clock: Clock) -> Envelope:
    """Return a call as an envelope. Raises DEADLINE_EXCEEDED if its time is up."""
    fields: dict[str, Any] = {"namespace_id": context.namespace_id, "namespace": context.namespace}
    if context.deadline_ns is not None:
        remaining_ms = (context.deadline_ns - clock.steady_ns()) // MILLISECOND_NS
        if remaining_ms <= 0:
            raise deadline_exceeded()
        fields["timeout_ms"] = remaining_ms
    headers = {name: context.headers[name] for name in _FORWARDED if name in context.headers}
    if headers:
        fields["headers"] = headers
    if not context.can_long_poll:
        fields["can_hold"] = False
    return {"method": method, "request": _base64(request.SerializeToString()), "context": fields}


def unwrap_answer(answer: Envelope) -> Encoded:
    """Return the reply in an answer. Raises the ServiceError that it carries instead."""
    error = answer.get("error")
    if error is not None:
        wrapped = (AnyMessage(type_url=each["type_url"], value=_bytes(each["value"])) for each in error["details"])
        details = [detail for detail in map(unpacked, wrapped) if detail is not None]
        raise ServiceError(Code(error["code"]), error["message"], *details)
    return Encoded(_bytes(answer["response"]))


async def invoke_envelope(
    service: Server, event: Envelope, clock: Clock, *, can_long_poll: bool = False, latest_ns: int | None = None
) -> Envelope:
    """Serve an envelope: call its RPC on `service` and return the answer.

    ServiceErrors are returned in the answer; anything raised is a bug. `latest_ns` limits the caller's deadline,
    where the platform ends the process.
    """
    try:
        rpc, request, context = _unwrap(service, event, clock, can_long_poll=can_long_poll, latest_ns=latest_ns)
        reply = await service.call(rpc, request, context)
    except ServiceError as error:
        return error_answer(error)
    except ValueError as error:
        refused = refused_time(request)
        if refused is None:
            raise
        log.debug("%s: %s", rpc.method, error)
        return error_answer(refused)
    return {"response": _base64(encoded(reply))}


def error_answer(error: ServiceError) -> Envelope:
    """Return an answer (a JSON object) that carries the error with its code, message and details."""
    details = [packed(each) for each in error.details]
    return {
        "error": {
            "code": int(error.code),
            "message": error.message,
            "details": [{"type_url": each.type_url, "value": _base64(each.value)} for each in details],
        }
    }


def _unwrap(
    service: Server, event: Envelope, clock: Clock, *, can_long_poll: bool, latest_ns: int | None
) -> tuple[Rpc[Any, Any], Message, CallContext]:
    try:
        method, fields = current_name(str(event["method"])), event.get("context", {})
        data = _bytes(event["request"])
        rpc = service.rpcs.get(method)
        if rpc is None:
            raise unimplemented(f"unknown method {method}")
        request: Message = rpc.request_type.FromString(data)
        timeout_ms = fields.get("timeout_ms")
        caller_deadline_ns = None if timeout_ms is None else clock.steady_ns() + int(timeout_ms) * MILLISECOND_NS
        context = CallContext(
            deadline_ns=min(filter(None, (caller_deadline_ns, latest_ns)), default=None),
            headers=dict(fields.get("headers", {})),
            namespace_id=str(fields.get("namespace_id", "")),
            namespace=str(fields.get("namespace", "")),
            can_long_poll=can_long_poll and bool(fields.get("can_hold", True)),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, DecodeError) as error:
        raise invalid_argument(f"not an envelope: {type(error).__name__}") from None
    return rpc, request, context


def answer_of(status: int, body: bytes) -> Envelope:
    """Parse the body of an HTTP answer. Raises UNAVAILABLE when it contains no answer."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not {"response", "error"} & set(answer):
        raise unavailable(f"the service answered with HTTP status {status}. Try again.")
    return answer


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
