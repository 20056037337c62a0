"""Temporal's public JSON API, `/api/v1/...` (and the same paths without that prefix).

Query parameters `pretty` and `noPayloadShorthand` choose the form of the answer. Errors are JSON forms of
`google.rpc.Status`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from whistlestop.common.clients import decoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.frontend.doors import deadlines, payload_json, transcoding
from whistlestop.frontend.doors.answer import HTTP_STATUS, HttpAnswer

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.doors.answer import HttpRequest
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.frontend.service import Frontend

_JSON = {"content-type": "application/json"}
MOST_BODY = 4 * 1024 * 1024
_FORM = frozenset({"pretty", "noPayloadShorthand"})
_DECODED = (
    "An HTTP API of API Gateway decodes paths, so an id with a slash or a question mark cannot be told from other"
    " paths: use the function's own URL, or the Connect protocol, which has ids in the body."
)


async def serve(
    frontend: Frontend, clock: Clock, request: HttpRequest, *, can_hold: bool, latest_ns: int | None = None
) -> HttpAnswer:
    """Answer one request. Raises nothing but cancellation and what Frontend.call did not expect."""
    parameters = parse_qs(request.query, keep_blank_values=True)
    pretty = "pretty" in parameters
    try:
        match = transcoding.find(request.method, request.path)
        if match is None:
            raise _no_such_path(request)
        message = _message(match, request, parameters)
        deadline_ns = deadlines.of_headers(request.headers, clock, latest_ns)
        context = CallContext(deadline_ns, request.headers, can_hold=can_hold)
        spec = match.binding.spec
        reply = decoded(await frontend.call(spec.full_name, message, context), spec.response_type)
        body = payload_json.to_json(reply, shorthand="noPayloadShorthand" not in parameters, pretty=pretty)
        return HttpAnswer(200, body, dict(_JSON))
    except ServiceError as error:
        return error_answer(error, pretty=pretty)


def rpc_of(request: HttpRequest) -> RpcSpec | HttpAnswer:
    """The RPC that a head leads to, or the answer that there is none."""
    match = transcoding.find(request.method, request.path)
    return error_answer(_no_such_path(request)) if match is None else match.binding.spec


def too_large() -> ServiceError:
    """The refusal of a body over MOST_BODY."""
    return invalid_argument("http: request body too large")


def error_answer(error: ServiceError, *, pretty: bool = False) -> HttpAnswer:
    """The error as this API gives it."""
    shown: dict[str, Any] = {"code": int(error.code), "message": error.message}
    if error.details:
        shown["details"] = [_detail(each) for each in error.details]
    text = json.dumps(shown, ensure_ascii=False, **({"indent": 2} if pretty else {"separators": (",", ":")}))
    return HttpAnswer(HTTP_STATUS[error.code], text.encode("utf-8", "replace"), dict(_JSON))


def _detail(message: Message) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(payload_json.to_json(message, shorthand=True, pretty=False))
    return {"@type": f"type.googleapis.com/{message.DESCRIPTOR.full_name}", **tree}


def _no_such_path(request: HttpRequest) -> ServiceError:
    if transcoding.other_methods(request.path):
        return ServiceError(Code.UNIMPLEMENTED, "Method Not Allowed")
    if request.path_was_decoded:
        return ServiceError(Code.NOT_FOUND, f"Not Found. {_DECODED}")
    return ServiceError(Code.NOT_FOUND, "Not Found")


def _message(match: transcoding.Match, request: HttpRequest, parameters: dict[str, list[str]]) -> Message:
    binding = match.binding
    message = binding.spec.request_type()
    if len(request.body) > MOST_BODY:
        raise too_large()
    try:
        if binding.body == "*":
            payload_json.fill_from_json(message, request.body)
        elif binding.body:
            payload_json.fill_from_json(getattr(message, binding.body), request.body)
        if binding.body != "*":
            for name, values in parameters.items():
                if name not in _FORM:
                    transcoding.set_field(message, name, values)
        for name, value in match.variables.items():
            transcoding.set_field(message, name, [value])
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid_argument(str(error)) from None
    return message
