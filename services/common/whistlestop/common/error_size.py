"""How long an error may be: what a door writes of it has to fit into the headers that clients accept.

gRPC carries an error in trailers: its message percent-encoded, and once more, with the details, in base64. grpcio gives
up on header lists of 8 KiB now and then, and of 16 KiB always; so does the Rust core of the SDKs with 16 KiB. The
caller would see RESOURCE_EXHAUSTED or INTERNAL instead of the refusal, and try again.

So messages end after 4,000 bytes, as Temporal's do, and earlier where that makes more than `MOST_HEADER_BYTES` of
headers: percent-encoded, a letter may take nine bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

MOST_MESSAGE_BYTES = 4000
MOST_DETAIL_BYTES = 3500
"""Of all details of one error, serialised."""
MOST_HEADER_BYTES = 7500
"""Of the encoded message and details: 8 KiB without what else an answer has."""
TRUNCATED = "... <truncated>"
MOST_DETAILS = 8
_ANY_BYTES = 32
"""Of a detail, beside its type's name and itself: what comes before that name, tags and lengths."""
_SHORTER = (1000, 250, 60, 0)
"""Bytes that are left of each text within details that are too long, tried one after the other."""
_ESCAPED = re.compile(rb"[^ -$&-~]")
_SHORT, _SMALL_DETAIL_BYTES = 500, 1500
"""Characters of a message, and bytes of details to an ASCII one, that fit in any case."""


def fit(message: str, details: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """The message and the details, as much of them as has room."""
    if len(message) <= _SHORT and (not details or (message.isascii() and _are_small(details))):
        return message, tuple(details)
    details = _fit_details(details[:MOST_DETAILS])
    message = cut(message, MOST_MESSAGE_BYTES)
    detail_bytes = sum(detail.ByteSize() + len(detail.DESCRIPTOR.full_name) + _ANY_BYTES for detail in details)
    while (size := _header_bytes(message, detail_bytes)) > MOST_HEADER_BYTES and message != TRUNCATED:
        kept = len(_utf8(message)) * MOST_HEADER_BYTES // size - len(TRUNCATED)
        message = cut(message.removesuffix(TRUNCATED), kept)
    return message, tuple(details)


def cut(text: str, most: int) -> str:
    """The text, or as much of it as leaves room for saying that it goes on, in `most` bytes of UTF-8."""
    if len(text) * 4 <= most:
        return text
    data = _utf8(text[: most + 1])
    if len(data) <= most:
        return text
    return data[: max(most - len(TRUNCATED), 0)].decode("utf-8", "ignore") + TRUNCATED


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _header_bytes(message: str, detail_bytes: int) -> int:
    data = _utf8(message)
    size = len(data) + 2 * len(_ESCAPED.findall(data))
    return size + (len(data) + detail_bytes) * 4 // 3 if detail_bytes else size


def _fit_details(details: Sequence[Message]) -> Sequence[Message]:
    if _size(details) <= MOST_DETAIL_BYTES:
        return details
    shortened = [_copy(detail) for detail in details]
    for most in _SHORTER:
        for detail in shortened:
            _shorten(detail, most)
        if _size(shortened) <= MOST_DETAIL_BYTES:
            return shortened
    # Too many parts, not too long ones. Which kind of error it is can still be told.
    return [type(detail)() for detail in details]


def _are_small(details: Sequence[Message]) -> bool:
    return len(details) <= MOST_DETAILS and _size(details) <= _SMALL_DETAIL_BYTES


def _size(details: Sequence[Message]) -> int:
    return sum(detail.ByteSize() for detail in details)


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _shorten(message: Any, most: int) -> None:
    """Cut every text within the message, and leave out bytes that are longer: a part of those means nothing."""
    if isinstance(message, AnyMessage):
        if len(message.value) > most:
            message.ClearField("value")
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                if sum(len(str(key)) for key in value) + message.ByteSize() > most:
                    message.ClearField(field.name)
            else:
                for each in value if field.is_repeated else (value,):
                    _shorten(each, most)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = [cut(each, most) for each in value]
            else:
                setattr(message, field.name, cut(value, most) if most else "")
        elif field.type == FieldDescriptor.TYPE_BYTES and not field.is_repeated and len(value) > most:
            message.ClearField(field.name)
