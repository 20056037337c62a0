"""Nexus over HTTP: completions of operations that go on outside this server.

    POST /nexus/callback
    POST /namespaces/{namespace}/nexus/callback

The token in a header says which operation is meant; history looks at all of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.proto.nexus_pb2 import CompleteNexusOperationRequest
from whistlestop.frontend.doors.answer import HTTP_STATUS, HttpAnswer

if TYPE_CHECKING:
    from whistlestop.frontend.doors.answer import HttpRequest
    from whistlestop.frontend.service import Frontend

_SUFFIX = "/nexus/callback"


def is_callback(path: str) -> bool:
    """The path of a completion."""
    return path == _SUFFIX or (path.startswith("/namespaces/") and path.endswith(_SUFFIX))


async def serve(frontend: Frontend, request: HttpRequest, *, can_hold: bool) -> HttpAnswer:
    """Hand the completion on; a refusal is a Nexus failure."""
    try:
        if request.method != "POST":
            raise invalid_argument("a completion is a POST")
        if len(request.body) > frontend.config.max_message_size:
            raise invalid_argument("result exceeds size limit")
        completion = CompleteNexusOperationRequest(headers=request.headers, body=request.body)
        await frontend.history.call("CompleteNexusOperation", completion, CallContext(can_hold=can_hold))
    except ServiceError as error:
        return _refused(error)
    return HttpAnswer(200, b"")


_TYPES = {
    Code.INVALID_ARGUMENT: "BAD_REQUEST",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.PERMISSION_DENIED: "UNAUTHORIZED",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    Code.UNAVAILABLE: "UNAVAILABLE",
}


def _refused(error: ServiceError) -> HttpAnswer:
    failure = {
        "message": error.message,
        "metadata": {"type": "nexus.HandlerError"},
        "details": {"type": _TYPES.get(error.code, "INTERNAL")},
    }
    return HttpAnswer(HTTP_STATUS[error.code], json.dumps(failure).encode(), {"content-type": "application/json"})
