"""Limits on the size of an error, so that it fits into the headers that clients accept.

gRPC carries an error in trailers: its message percent-encoded and, when there are details, once more with them in
base64. grpcio sometimes rejects header lists of 8 KiB and always those of 16 KiB; the Rust core of the SDKs rejects
those of 16 KiB. The caller would then see RESOURCE_EXHAUSTED or INTERNAL instead of the error, and retry.

So messages are cut after 4,000 bytes, as Temporal's are, and earlier if the headers would exceed `MAX_HEADER_BYTES`:
percent-encoded, a character may take up to twelve bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

MAX_MESSAGE_BYTES = 4000
MAX_DETAIL_BYTES = 3500
"""Serialised size of all details of one error."""
MAX_HEADER_BYTES = 7500
"""Size of the encoded message and details: 8 KiB less the other headers of an answer."""
TRUNCATED = "... <truncated>"
MAX_DETAILS = 8
_ANY_BYTES = 32
"""Overhead of a detail beside its type name and content: the type URL's prefix, tags and lengths."""
_SHORTER = (1000, 250, 60, 0)
"""Bytes to which each text in too long details is cut, tried one after the other."""
_ESCAPED = re.compile(rb"[^ -$&-~]")
_SHORT, _SMALL_DETAIL_BYTES = 500, 1500
"""Characters of a message, and bytes of the details of an ASCII one, that fit in any case."""


def fit(message: str, details: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """Return the message and the details, cut to the limits of this module."""
    if len(message) <= _SHORT and (not details or (message.isascii() and _are_small(details))):
        return message, tuple(details)
    details = _fit_details(details[:MAX_DETAILS])
    message = cut(message, MAX_MESSAGE_BYTES)
    detail_bytes = sum(detail.ByteSize() + len(detail.DESCRIPTOR.full_name) + _ANY_BYTES for detail in details)
    while (size := _header_bytes(message, detail_bytes)) > MAX_HEADER_BYTES and message != TRUNCATED:
        kept = len(_utf8(message)) * MAX_HEADER_BYTES // size - len(TRUNCATED)
        message = cut(message.removesuffix(TRUNCATED), kept)
    return message, tuple(details)


def cut(text: str, most: int) -> str:
    """Return the text, cut to `most` bytes of UTF-8 with a mark at the end if it is longer."""
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
    if _size(details) <= MAX_DETAIL_BYTES:
        return details
    shortened = [_copy(detail) for detail in details]
    for most in _SHORTER:
        for detail in shortened:
            _shorten(detail, most)
        if _size(shortened) <= MAX_DETAIL_BYTES:
            return shortened
    # There are too many parts rather than too long ones. Empty details still tell the kind of error.
    return [type(detail)() for detail in details]


def _are_small(details: Sequence[Message]) -> bool:
    return len(details) <= MAX_DETAILS and _size(details) <= _SMALL_DETAIL_BYTES


def _size(details: Sequence[Message]) -> int:
    return sum(detail.ByteSize() for detail in details)


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _shorten(message: Any, most: int) -> None:
    """Cut every text in the message, and remove longer `bytes` values, of which a part would be meaningless."""
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
