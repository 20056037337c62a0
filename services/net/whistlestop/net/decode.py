"""Parse requests. Bytes that do not parse get the status and wording that Temporal's server gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.messages import nesting

if TYPE_CHECKING:
    from google.protobuf.message import Message


def check_size(size: int, most: int) -> None:
    """Raise ServiceError if a message exceeds `most` bytes. SDKs recognise this wording and fail the task."""
    if size > most:
        raise ServiceError(
            Code.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({size} vs. {most})",
        )


def parse_request(kind: type[Message], data: bytes) -> Message:
    """Parse a request. Raises ServiceError(INTERNAL) for malformed bytes, as gRPC servers in Go do.

    Of a failure whose causes nest too deeply for the parser, only as many causes are kept as of any failure.
    """
    try:
        return nesting.parse(kind, data, most_fields=nesting.MAX_REQUEST_FIELDS)
    except DecodeError as error:
        # The parser gives no reason, but text in another encoding is worth a message of its own.
        reason = (
            "string field contains invalid UTF-8"
            if "utf" in str(error).lower() or _parses_as_wire(data)
            else "proto: cannot parse invalid wire-format data"
        )
        raise ServiceError(Code.INTERNAL, f"grpc: error unmarshalling request: {reason}") from None


def _parses_as_wire(data: bytes) -> bool:
    """Return whether the bytes are well-formed protobuf fields, of whatever message."""
    from google.protobuf.empty_pb2 import Empty

    try:
        Empty.FromString(data)
    except DecodeError:
        return False
    return True
