"""A ServiceError as `google.rpc.Status`, which is how gRPC (and Connect, in pieces) carries details."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage

# Temporal's own copy of google.rpc.Status: same fields and numbers, and no further package to import.
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PREFIX = "type.googleapis.com/"


def packed(message: Message) -> AnyMessage:
    """The message in an Any, its type URL as every Temporal client expects it."""
    return AnyMessage(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def status_bytes(error: ServiceError) -> bytes:
    """Serialised google.rpc.Status with all details."""
    return GrpcStatus(
        code=int(error.code), message=error.message, details=[packed(each) for each in error.details]
    ).SerializeToString()


def error_from_status(data: bytes) -> ServiceError:
    """The way back; details of types this process does not know are dropped."""
    status = GrpcStatus.FromString(data)
    details = [message for message in map(unpacked, status.details) if message is not None]
    return ServiceError(Code(status.code), status.message, *details)


def unpacked(packed_message: AnyMessage) -> Message | None:
    """The message in an Any, or None when its type is not known here."""
    from google.protobuf import symbol_database

    name = packed_message.type_url.rpartition("/")[2]
    try:
        kind = symbol_database.Default().GetSymbol(name)
    except KeyError:
        return None
    message: Message = kind()
    message.ParseFromString(packed_message.value)
    return message
