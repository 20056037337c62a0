"""The unary Connect protocol: `POST /package.Service/Method`, with bodies in protobuf or protobuf JSON.

Implemented after the Connect protocol reference (unary requests). Errors are JSON, with details in base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

from whistlestop.common.clients import decoded, encoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, invalid_argument, unimplemented
from whistlestop.frontend.endpoints import deadlines
from whistlestop.frontend.own_rpcs import OWN_REGISTRY, WORKER_SERVICE
from whistlestop.frontend.registry import REGISTRY, SERVICES
from whistlestop.net.decode import check_size, parse_request
from whistlestop.net.http.answer import HTTP_STATUS, HttpAnswer

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.answer import HttpRequest

_PROTO, _JSON = "application/proto", "application/json"
_ENCODINGS = frozenset({"", "identity", "gzip"})


def is_connect(path: str) -> bool:
    """Return whether the path names a method of one of our services, known or not."""
    service, separator, _ = path.removeprefix("/").partition("/")
    return bool(separator) and (service in SERVICES or service == WORKER_SERVICE)


def is_long_poll(path: str) -> bool:
    """Return whether the RPC of the path is a long poll; False for an unknown path."""
    spec = _spec(path.removeprefix("/"))
    return spec is not None and spec.long_poll


def _spec(name: str) -> RpcSpec | None:
    return REGISTRY.get(name) or OWN_REGISTRY.get(name)


async def serve(
    frontend: Frontend,
    clock: Clock,
    request: HttpRequest,
    most: int,
    *,
    can_long_poll: bool,
    latest_ns: int | None = None,
) -> HttpAnswer:
    """Serve a call that `refusal` allows. The body may have `most` bytes, compressed or not.

    Errors are in the answer.
    """
    name, kind = request.path.removeprefix("/"), _kind(request)
    spec = _spec(name)
    assert spec is not None
    try:
        message = _message(spec, kind, request, most)
        deadline_ns = deadlines.of_headers(request.headers, clock, latest_ns)
        context = CallContext(deadline_ns, request.headers, can_long_poll=can_long_poll)
        reply = await frontend.call(name, message, context)
        body = encoded(reply) if kind == _PROTO else _to_json(decoded(reply, spec.response_type))
        return HttpAnswer(200, body, {"content-type": kind})
    except ServiceError as error:
        return error_answer(error)


def refusal(request: HttpRequest) -> HttpAnswer | None:
    """Return why a call is refused, judging by its headers; None if it is allowed."""
    if request.method != "POST":
        return HttpAnswer(405, b"", {"allow": "POST"})
    if _kind(request) not in (_PROTO, _JSON):
        return HttpAnswer(415, b"", {"accept-post": f"{_PROTO}, {_JSON}"})
    version = request.headers.get("connect-protocol-version", "1")
    if version != "1":
        return error_answer(invalid_argument(f'connect-protocol-version must be "1": got "{version}"'))
    name = request.path.removeprefix("/")
    if _spec(name) is None:
        service, _, method = name.partition("/")
        return error_answer(unimplemented(f"unknown method {method} for service {service}"))
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in _ENCODINGS:
        return error_answer(unimplemented(f'unknown compression "{encoding}": supported encodings are gzip'))
    return None


def too_large(size: int, most: int) -> ServiceError:
    """Return the error for a body of `size` bytes, where `most` are allowed."""
    try:
        check_size(size, most)
    except ServiceError as error:
        return error
    raise AssertionError("a body of allowed size was refused")


def _kind(request: HttpRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def error_answer(error: ServiceError) -> HttpAnswer:
    """Return a Connect error: the code as a word, details as unpadded base64 with their type names."""
    fields: dict[str, Any] = {"code": _word(error.code), "message": error.message}
    if error.details:
        fields["details"] = [
            {
                "type": detail.DESCRIPTOR.full_name,
                "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
            }
            for detail in error.details
        ]
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return HttpAnswer(HTTP_STATUS[error.code], body, {"content-type": _JSON})


def error_from_answer(status: int, body: bytes) -> ServiceError:
    """Parse a Connect error, for clients of this protocol."""
    from google.protobuf import symbol_database

    try:
        fields = json.loads(body)
        code = Code.CANCELLED if fields["code"] == "canceled" else Code[str(fields["code"]).upper()]
        details = []
        for each in fields.get("details", ()):
            value = each["value"] + "=" * (-len(each["value"]) % 4)
            details.append(symbol_database.Default().GetSymbol(each["type"]).FromString(base64.b64decode(value)))
        return ServiceError(code, str(fields.get("message", "")), *details)
    except (ValueError, KeyError, TypeError, RecursionError):
        back = {number: code for code, number in HTTP_STATUS.items() if code not in (Code.OK, Code.UNKNOWN)}
        return ServiceError(back.get(status, Code.UNKNOWN), f"HTTP status {status}")


def _word(code: Code) -> str:
    return "canceled" if code is Code.CANCELLED else code.name.lower()


def _message(spec: RpcSpec, kind: str, request: HttpRequest, most: int) -> Message:
    body = _plain_body(request, most)
    if kind == _PROTO:
        return parse_request(spec.request_type, body)
    from google.protobuf import json_format

    try:
        return json_format.Parse(body.decode("utf-8") or "{}", spec.request_type(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise invalid_argument(f"unmarshal message: {error}") from None


def _plain_body(request: HttpRequest, most: int) -> bytes:
    """Return the body decompressed. Raises ServiceError."""
    check_size(len(request.body), most)
    if request.headers.get("content-encoding", "identity") != "gzip":
        return request.body
    unzip = zlib.decompressobj(wbits=31)
    try:
        body = unzip.decompress(request.body, most + 1)
    except zlib.error as error:
        raise invalid_argument(f"decompress: {error}") from None
    if len(body) > most:
        # The last four bytes of a gzip claim the size; they are used only in the message.
        check_size(max(int.from_bytes(request.body[-4:], "little"), most + 1), most)
    if not unzip.eof or unzip.unused_data:
        raise invalid_argument("decompress: it is not one whole gzip member")
    return body


def _to_json(message: Message) -> bytes:
    from whistlestop.common.messages.json_messages import to_tree

    return json.dumps(to_tree(message), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
