"""How the functions reach each other.

A service is a name and a set of methods; a method takes one protobuf message and answers with one. `ServiceClient`
is the only thing a function knows of another: in one process it is a direct call (no serialising), between
functions a Lambda invocation or an HTTP request with the same two messages in bytes.

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
    """An answer that is serialised already: stored history spliced into a reply passes through unparsed."""

    data: bytes


Reply: TypeAlias = "Message | Encoded"


class ServiceClient(Protocol):
    """One of the three functions, seen from another."""

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        """Run `method`. Raises ServiceError, whichever way the call travelled."""
        ...


def decoded(reply: Reply, kind: type[Message]) -> Message:
    """The answer as a message of `kind`, parsed only where it came as bytes."""
    if isinstance(reply, Encoded):
        message = kind()
        message.ParseFromString(reply.data)
        return message
    return reply


def encoded(reply: Reply) -> bytes:
    """The answer as bytes for a wire."""
    return reply.data if isinstance(reply, Encoded) else reply.SerializeToString()
