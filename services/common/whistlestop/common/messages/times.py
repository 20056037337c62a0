"""Find timestamps and durations outside protobuf's range, on which computations raise ValueError.

A parser accepts any number of seconds and nanoseconds. Valid timestamps end at the years 1 and 9999, and durations at
10,000 years. Some methods handle values beyond as Temporal does; for all others, the request is searched once
something has raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.errors import invalid_argument

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from whistlestop.common.errors import ServiceError

_LONGEST_S = 315_576_000_000
_LARGEST_NANOS = 999_999_999
_TIMES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})


def refused_time(message: Message) -> ServiceError | None:
    """Return the error for a request with an out-of-range timestamp or duration, or None if it has none."""
    field = invalid_time(message)
    return invalid_argument(f"{field} is out of the range of timestamps and durations.") if field else None


def invalid_time(message: Message) -> str:
    """Return the path of an out-of-range time (`retry_policy.initial_interval`), or an empty string."""
    return _search(message)


def duration_problem(span: Duration) -> str:
    """Return what makes a duration invalid, worded as protobuf's check in Go does, or an empty string."""
    seconds, nanos = span.seconds, span.nanos
    if abs(seconds) > _LONGEST_S:
        problem = f"exceeds {'-' if seconds < 0 else '+'}10000 years"
    elif abs(nanos) > _LARGEST_NANOS:
        problem = "has out-of-range nanos"
    elif seconds > 0 > nanos or seconds < 0 < nanos:
        problem = "has seconds and nanos with different signs"
    else:
        return ""
    parts = (f"{name}:{value}" for name, value in (("seconds", seconds), ("nanos", nanos)) if value)
    return f"proto: duration ({' '.join(parts)}) {problem}"


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
