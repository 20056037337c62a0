"""Parse and format times and durations as in the filter language and in search attributes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{1,2}):(\d{2}):(\d{2})(?:[.,](\d+))?(?:Z|([+-])(\d{2}):(\d{2}))", re.ASCII
)
_UNIT_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 24 * 3600 * 10**9,
}  # fmt: skip
_DURATION = re.compile(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_CLOCK = re.compile(r"\s*([+-]?\d+):(\d+):(\d+)", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def parse_rfc3339_us(text: str) -> int:
    """Return the microseconds since the Unix epoch; finer digits are cut off. Raise ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction = (match[7] or "")[:6].ljust(6, "0")
    when = datetime(year, month, day, hour, minute, second, int(fraction), tzinfo=UTC)
    offset_minutes = 0
    if match[8]:
        hours, minutes = int(match[9]), int(match[10])
        if hours > 24 or minutes > 59:
            raise ValueError(f"not an RFC 3339 time: {text}")
        offset_minutes = (hours * 60 + minutes) * (1 if match[8] == "+" else -1)
    return (when - _EPOCH) // _MICROSECOND - offset_minutes * 60_000_000


def format_rfc3339(time_us: int) -> str:
    """Return the time in UTC, with as many fractional digits as needed; years beyond 1 and 9999 are clamped."""
    try:
        when = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        when = datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
    fraction = f".{when.microsecond:06d}".rstrip("0").rstrip(".") if when.microsecond else ""
    return f"{when:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f"{fraction}Z"


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds of a duration; fractions of a nanosecond are cut off. Raise ValueError.

    Accepted are a whole number of nanoseconds, numbers with units (`1h30m`, `1.5d`, `-300ms`), and
    hours:minutes:seconds.
    """
    if _INTEGER.fullmatch(text):
        return int(text)
    if text in ("0", "+0", "-0"):
        return 0
    if _DURATION.fullmatch(text):
        total = 0
        for whole, fraction, unit in _DURATION_PART.findall(text):
            scale = _UNIT_NS[unit]
            total += int(whole or 0) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
        return -total if text[0] == "-" else total
    clock = _CLOCK.match(text)
    if clock is None:
        raise ValueError(f"invalid duration: {text}")
    hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3])
    if hours < 0 or minutes > 59 or seconds > 59:
        raise ValueError(f"invalid duration: {text}")
    return ((hours * 60 + minutes) * 60 + seconds) * 10**9
