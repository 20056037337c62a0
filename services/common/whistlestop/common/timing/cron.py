"""Temporal's cron expressions: five fields or a shorthand, `@every <duration>`, an optional time zone prefix."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from whistlestop.common.lazy_dataclasses import dataclass

SECOND_NS = 1_000_000_000
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression: either an interval, or five fields in a time zone."""

    every_ns: int = 0
    fields: str = ""
    zone: tzinfo = UTC


def duration_seconds(text: str) -> float:
    """Parse a Go duration such as `1h30m` into seconds. Raises ValueError."""
    position = 0
    total = 0.0
    for match in _DURATION_PART.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not text or position != len(text):
        raise ValueError(f"invalid duration {text!r}")
    return total


def parse(expression: str) -> Cron:
    """Parse an expression. Raises ValueError with the reason."""
    from cronsim import CronSim, CronSimError

    zone: tzinfo = UTC
    text = expression.strip()
    if text.startswith(("TZ=", "CRON_TZ=")):
        prefix, _, text = text.partition(" ")
        from zoneinfo import ZoneInfo

        name = prefix.partition("=")[2]
        try:
            zone = ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"provided bad location {name}: unknown time zone {name}") from error
        text = text.strip()
    if text.startswith("@every "):
        every_s = duration_seconds(text[len("@every ") :].strip())
        return Cron(every_ns=max(int(every_s), 1) * SECOND_NS)
    if text.startswith("@"):
        if text not in _SHORTHANDS:
            raise ValueError(f"unrecognized descriptor: {text}")
        text = _SHORTHANDS[text]
    parts = text.replace("?", "*").split()
    if len(parts) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    try:
        CronSim(" ".join(parts), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(str(error)) from error
    return Cron(fields=" ".join(parts), zone=zone)


def next_after(expression: str, start_ns: int, after_ns: int) -> int:
    """Return the first matching time after `after_ns`, in nanoseconds since the epoch.

    Intervals count from `start_ns`. Raises ValueError when the expression is invalid or never matches.
    """
    from cronsim import CronSim

    cron = parse(expression)
    if cron.every_ns:
        elapsed = after_ns - start_ns
        return start_ns + (elapsed // cron.every_ns + 1) * cron.every_ns
    after = datetime.fromtimestamp(after_ns // SECOND_NS, cron.zone)
    found = next(CronSim(cron.fields, after))
    if found is None:
        raise ValueError(f"cron expression {expression!r} never comes")
    return int(found.timestamp()) * SECOND_NS
