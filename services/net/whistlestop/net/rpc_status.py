"""Convert a ServiceError to and from `google.rpc.Status`, in which gRPC (and, in parts, Connect) carries details."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage

# Temporal's own copy of google.rpc.Status has the same fields and numbers, and needs no further package.
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PREFIX = "type.googleapis.com/"


def packed(message: Message) -> AnyMessage:
    """Return the message in an Any, with the type URL that Temporal clients expect."""
    return AnyMessage(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def status_bytes(error: ServiceError) -> bytes:
    """Return a serialised google.rpc.Status with all details."""
    return GrpcStatus(
        code=int(error.code), message=error.message, details=[packed(each) for each in error.details]
    ).SerializeToString()


def error_from_status(data: bytes) -> ServiceError:
    """Parse a serialised google.rpc.Status. Details of types that this process does not know are dropped."""
    status = GrpcStatus.FromString(data)
    details = [message for message in map(unpacked, status.details) if message is not None]
    return ServiceError(Code(status.code), status.message, *details)


def unpacked(packed_message: AnyMessage) -> Message | None:
    """Return the message in an Any, or None when its type is unknown here."""
    from google.protobuf import symbol_database

    name = packed_message.type_url.rpartition("/")[2]
    try:
        kind = symbol_database.Default().GetSymbol(name)
    except KeyError:
        return None
    message: Message = kind()
    message.ParseFromString(packed_message.value)
    return message
