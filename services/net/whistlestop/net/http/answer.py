"""Requests and answers of the HTTP APIs, independent of the transport."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from whistlestop.common.errors import Code
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_GZIP_FROM = 1024
"""Minimum size in bytes; below it, compressing costs more than it saves."""

HTTP_STATUS: Mapping[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""HTTP statuses by gRPC code, the same in Connect and in Google's JSON transcoding."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: `path` percent-encoded as sent, `query` without "?", header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    """Empty while only the headers have been received."""
    local_ip: str = ""
    """The server's address of the connection, if there is one."""
    path_was_decoded: bool = False
    """Whether a gateway has decoded the path, so that a slash in an id looks like a separator."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer. Header names are in lower case."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def compressed(answer: HttpAnswer, accept_encoding: str) -> HttpAnswer:
    """Return the answer, gzipped if that is accepted and worthwhile."""
    if len(answer.body) < _GZIP_FROM or "gzip" not in accept_encoding or "content-encoding" in answer.headers:
        return answer
    import gzip

    body = gzip.compress(answer.body, compresslevel=1)
    return HttpAnswer(answer.status, body, {**answer.headers, "content-encoding": "gzip", "vary": "accept-encoding"})
