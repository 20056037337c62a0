"""What gRPC writes into HTTP/2 headers: statuses, timeouts and the constant parts of an answer.

These are pure functions on bytes, as the document "gRPC over HTTP2" specifies. A status is a `ServiceError`.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from whistlestop.net.grpc.hpack import literal, status_line
from whistlestop.net.rpc_status import status_bytes

if TYPE_CHECKING:
    from whistlestop.common.errors import ServiceError

_CONTENT_TYPE = literal(b"content-type", b"application/grpc")
_ACCEPTS = literal(b"grpc-accept-encoding", b"identity,gzip")

ANSWER: Final = status_line(200) + _CONTENT_TYPE
"""The headers before a message."""
GZIP_ANSWER: Final = ANSWER + literal(b"grpc-encoding", b"gzip")
OK: Final = literal(b"grpc-status", b"0")
"""The trailers of a successful call."""

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNPRINTABLE = re.compile(rb"[^ -$&-~]")


def percent_encoded(message: str) -> bytes:
    """Encode a `grpc-message`: printable ASCII as it is, anything else (and the percent sign) as %XX of its UTF-8."""
    plain = message.encode("utf-8", "replace")
    return _UNPRINTABLE.sub(lambda found: b"%%%02X" % found.group()[0], plain)


def trailers(error: ServiceError) -> bytes:
    """Return the trailers of a call that ends with an error."""
    block = literal(b"grpc-status", b"%d" % error.code)
    if error.message:
        block += literal(b"grpc-message", percent_encoded(error.message))
    if error.details:
        block += literal(b"grpc-status-details-bin", base64.b64encode(status_bytes(error)).rstrip(b"="))
    return block


def trailers_only(error: ServiceError, http_status: int = 200) -> bytes:
    """Return headers and trailers in one block, for a call that ends before any message."""
    return status_line(http_status) + _CONTENT_TYPE + trailers(error)


def unknown_encoding(error: ServiceError) -> bytes:
    """Return `trailers_only` for an unsupported compression, with the supported ones added."""
    return trailers_only(error) + _ACCEPTS


def timeout_s(value: str) -> float | None:
    """Parse a `grpc-timeout` into seconds; return None when it is malformed."""
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def binary(value: str) -> bytes | None:
    """Decode a `-bin` header (base64, padded or not); return None when it is malformed."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
