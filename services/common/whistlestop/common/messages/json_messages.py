"""Messages as JSON, even with values for which protobuf's JSON has no form.

Protobuf's JSON cannot represent a duration or timestamp that is out of range, and refuses the whole message. Such
values are stored as received; in JSON they are replaced by the nearest value in range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

if TYPE_CHECKING:
    from google.protobuf.message import Message

_LIMITS = {
    "google.protobuf.Duration": (-315_576_000_000, 315_576_000_000),
    "google.protobuf.Timestamp": (-62_135_596_800, 253_402_300_799),
}


def to_tree(message: Message) -> dict[str, Any]:
    """Return the message as `json_format.MessageToDict` does, with out-of-range times replaced instead of an error.

    An empty message is an empty dict.
    """
    try:
        tree: dict[str, Any] = json_format.MessageToDict(message)
    except (json_format.Error, ValueError, OverflowError):
        mended = type(message)()
        mended.CopyFrom(message)
        _mend(mended)
        tree = json_format.MessageToDict(mended)
    return tree


def _mend(message: Any) -> None:
    """Clamp durations and timestamps to the range of JSON, in place."""
    name = message.DESCRIPTOR.full_name
    if name in _LIMITS:
        least, most = _LIMITS[name]
        message.seconds = min(max(message.seconds, least), most)
        message.nanos = min(max(message.nanos, 0 if name.endswith("Timestamp") else -999_999_999), 999_999_999)
        if name.endswith("Duration") and (message.seconds > 0 > message.nanos or message.seconds < 0 < message.nanos):
            message.nanos = 0
        if name.endswith("Duration") and abs(message.seconds) == most:
            message.nanos = 0
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for each in value.values():
                    _mend(each)
        elif field.is_repeated:
            for each in value:
                _mend(each)
        else:
            _mend(value)
