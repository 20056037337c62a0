"""Find timestamps and durations that protobuf does not allow: what computes with them would raise.

A parser takes any number of seconds and nanoseconds. Protobuf's own types end at the years 1 and 9999, and durations at
10,000 years; what is beyond is refused at the entrance.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

_LONG_NUMBER = re.compile(rb"[\x80-\xff]{4}")
"""In the serialised form, each number that is too large (or negative) has this; few messages do."""
_TIMES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})


def invalid_time(message: Message, data: bytes) -> str:
    """Return the path of a timestamp or duration out of range (`retry_policy.initial_interval`), or an empty string.

    `data` is the message's serialised form.
    """
    return _search(message) if _LONG_NUMBER.search(data) else ""


def _search(message: Message) -> str:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is None:
                continue
            values = value.values()
        else:
            values = value if field.is_repeated else (value,)
        is_time = field.message_type.full_name in _TIMES
        for each in values:
            if is_time:
                if not _is_valid(each):
                    return field.name
            elif found := _search(each):
                return f"{field.name}.{found}"
    return ""


def _is_valid(value: Message) -> bool:
    try:
        value.ToJsonString()  # type: ignore[attr-defined]  # the two types have it
    except ValueError:
        return False
    return True
