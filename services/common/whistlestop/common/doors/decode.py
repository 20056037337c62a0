"""Requests from bytes: what does not parse gets the status and wording that Temporal's server gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common import nesting
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from google.protobuf.message import Message


def check_size(size: int, most: int) -> None:
    """Raise ServiceError for a message over `most` bytes. SDKs know this very wording and fail the task for it."""
    if size > most:
        raise ServiceError(
            Code.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({size} vs. {most})",
        )


def parse_request(kind: type[Message], data: bytes) -> Message:
    """The request. Raises ServiceError(INTERNAL) for bytes that are no such message, as gRPC servers in Go do.

    A failure that nests too deeply for the parser is cut to the causes that are kept of any.
    """
    try:
        return nesting.parse(kind, data, most_fields=nesting.MAX_REQUEST_FIELDS)
    except DecodeError as error:
        # The parser does not say what is wrong, but text of another encoding is worth naming.
        reason = (
            "string field contains invalid UTF-8"
            if "utf" in str(error).lower() or _parses_as_wire(data)
            else "proto: cannot parse invalid wire-format data"
        )
        raise ServiceError(Code.INTERNAL, f"grpc: error unmarshalling request: {reason}") from None


def _parses_as_wire(data: bytes) -> bool:
    """Whether the bytes are well-formed protobuf fields, whatever their meaning."""
    from google.protobuf.empty_pb2 import Empty

    try:
        Empty.FromString(data)
    except DecodeError:
        return False
    return True
