"""How the three functions call each other.

A service is a name and a set of methods; a method takes one protobuf message and returns one. A function knows
another only as a `ServiceClient`: a direct call within one process (no serialising), or a Lambda invocation or an
HTTP request with the same two messages in bytes.

Methods are named by their RPC: a public one keeps Temporal's name and messages (`StartWorkflowExecution`), an
internal one has messages of `whistlestop.common.proto.internal_pb2` (`RecordWorkflowTaskStarted`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.context import CallContext


@dataclass(frozen=True, slots=True)
class Encoded:
    """A reply that is already serialised: stored history that is spliced into a reply is passed on without parsing."""

    data: bytes


Reply: TypeAlias = "Message | Encoded"


class ServiceClient(Protocol):
    """The interface through which one function calls another."""

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        """Call `method` and return its reply. Raises ServiceError, whatever the transport."""
        ...


def decoded(reply: Reply, kind: type[Message]) -> Message:
    """Return the reply as a message of `kind`, parsing it only if it is serialised. Raise DecodeError."""
    if isinstance(reply, Encoded):
        message = kind()
        message.ParseFromString(reply.data)
        return message
    return reply


def encoded(reply: Reply) -> bytes:
    """Return the reply in serialised form; one that is serialised already is returned as it is."""
    return reply.data if isinstance(reply, Encoded) else reply.SerializeToString()
