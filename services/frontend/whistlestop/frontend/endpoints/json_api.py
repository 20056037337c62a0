"""Temporal's public JSON API, `/api/v1/...` (and the same paths without that prefix).

The format of the answer is chosen by `Accept`, by the query parameters `pretty` and `noPayloadShorthand`, or else by
`Content-Type`, which gives the format of the body. Errors are `google.rpc.Status` as JSON.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from whistlestop.common.clients import decoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.endpoints import deadlines, payload_json, request_json, transcoding
from whistlestop.net.http.answer import HTTP_STATUS, HttpAnswer

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.answer import HttpRequest

MAX_BODY = 4 * 1024 * 1024
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORM = frozenset({"pretty", "noPayloadShorthand"})
_DECODED = (
    "An HTTP API of API Gateway decodes paths, so an id with a slash or a question mark cannot be told from other"
    " paths: use the function's own URL, or the Connect protocol, which has ids in the body."
)


async def serve(
    frontend: Frontend, clock: Clock, request: HttpRequest, *, can_long_poll: bool, latest_ns: int | None = None
) -> HttpAnswer:
    """Serve a request. Raises only cancellation and what `Frontend.call` does not expect."""
    parameters = parse_qs(request.query, keep_blank_values=True)
    form = _form_of_answer(request, parameters)
    try:
        match = transcoding.find(request.method, request.path)
        if match is None:
            raise _no_such_path(request)
        message = _message(match, request, parameters)
        deadline_ns = deadlines.of_headers(request.headers, clock, latest_ns)
        context = CallContext(deadline_ns, request.headers, can_long_poll=can_long_poll)
        spec = match.binding.spec
        reply = decoded(await frontend.call(spec.full_name, message, context), spec.response_type)
        body = payload_json.to_json(reply, shorthand=form.shorthand, pretty=form.pretty)
        return HttpAnswer(200, body, {"content-type": form.media_type})
    except ServiceError as error:
        return _error_answer(error, form)


def rpc_of(request: HttpRequest) -> RpcSpec | HttpAnswer:
    """Return the RPC of a request, or an answer: that there is none, or an OpenAPI document."""
    if not request.path_was_decoded and _BAD_ESCAPE.search(request.path):
        return error_answer(invalid_argument(f"invalid URL escape in path {request.path}"), request)
    match = transcoding.find(request.method, request.path)
    if match is None and request.method == "GET" and request.path.endswith((".json", ".yaml")):
        from whistlestop.frontend.endpoints import openapi

        if request.path in openapi.VERSIONS:
            return openapi.answer(request.path)
    return error_answer(_no_such_path(request), request) if match is None else match.binding.spec


def too_large() -> ServiceError:
    """Return the error for a body over MAX_BODY."""
    return invalid_argument("http: request body too large")


def error_answer(error: ServiceError, request: HttpRequest) -> HttpAnswer:
    """Return the error in the format that the request asks for."""
    return _error_answer(error, _form_of_answer(request, parse_qs(request.query, keep_blank_values=True)))


def _error_answer(error: ServiceError, form: _Form) -> HttpAnswer:
    fields: dict[str, Any] = {"code": int(error.code), "message": error.message}
    if error.details:
        fields["details"] = [_detail(each, form) for each in error.details]
    text = json.dumps(fields, ensure_ascii=False, **({"indent": 2} if form.pretty else {"separators": (",", ":")}))
    return HttpAnswer(HTTP_STATUS[error.code], text.encode("utf-8", "replace"), {"content-type": form.media_type})


@dataclass(frozen=True, slots=True)
class _Form:
    """A JSON format with a media type of its own."""

    media_type: str
    pretty: bool = False
    shorthand: bool = True


_PLAIN = _Form("application/json")
_FORMS = {
    form.media_type: form
    for form in (
        _Form("application/json+pretty", pretty=True),
        _Form("application/json+no-payload-shorthand", shorthand=False),
        _Form("application/json+pretty+no-payload-shorthand", pretty=True, shorthand=False),
    )
}


def _form_of_body(request: HttpRequest) -> _Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return _FORMS.get(kind, _PLAIN)


def _form_of_answer(request: HttpRequest, parameters: dict[str, list[str]]) -> _Form:
    asked = [each.strip() for each in request.headers.get("accept", "").split(",")]
    if _FORM & parameters.keys():
        pretty = "+pretty" * ("pretty" in parameters)
        asked = [f"application/json{pretty}{'+no-payload-shorthand' * ('noPayloadShorthand' in parameters)}"]
    known = next((each for each in asked if each in _FORMS or each == _PLAIN.media_type), "")
    return _FORMS.get(known) or _form_of_body(request)


def _detail(message: Message, form: _Form) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(payload_json.to_json(message, shorthand=form.shorthand, pretty=False))
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
    shorthand = _form_of_body(request).shorthand
    if len(request.body) > MAX_BODY:
        raise too_large()
    try:
        if binding.body == "*":
            request_json.fill_from_json(message, request.body, shorthand=shorthand)
        elif binding.body:
            part = getattr(message, binding.body)
            request_json.fill_from_json(part, request.body, shorthand=shorthand)
        if binding.body != "*":
            for name, values in parameters.items():
                if name not in _FORM:
                    transcoding.set_field(message, name, values)
        for name, value in match.variables.items():
            transcoding.set_field(message, name, [value])
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid_argument(str(error)) from None
    return message
