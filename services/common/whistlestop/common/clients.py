"""Replies of RPCs, which may be serialised already.

How the three services call each other is described in `whistlestop.common.rpcs.rpc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from google.protobuf.message import Message

    MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A reply that is already serialised: stored history that is spliced into a reply is passed on without parsing."""

    data: bytes


Reply: TypeAlias = "Message | Encoded"


def decoded(reply: MessageT | Encoded, kind: type[MessageT]) -> MessageT:
    """Return the reply as a message of `kind`, parsing it only if it is serialised. Raise DecodeError."""
    if isinstance(reply, Encoded):
        message = kind()
        message.ParseFromString(reply.data)
        return message
    return reply


def encoded(reply: Reply) -> bytes:
    """Return the reply in serialised form; one that is serialised already is returned as it is."""
    return reply.data if isinstance(reply, Encoded) else reply.SerializeToString()
