"""Parse calendars written as text, such as `1-5/2,8` and cron strings, into structured calendars.

Fields may have lists of values, ranges, and steps; months and days of the week may be abbreviated names. Values that
are defaults of the structured form (end equal to start, step 1) are left out, as in Temporal.
"""

from __future__ import annotations

import re

from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.timing.cron import duration_seconds

MIN_YEAR = 2000
MAX_YEAR = 2100
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS_OF = {
    5: ("minute", "hour", "day_of_month", "month", "day_of_week"),
    6: ("minute", "hour", "day_of_month", "month", "day_of_week", "year"),
    7: ("second", "minute", "hour", "day_of_month", "month", "day_of_week", "year"),
}
_WHOLE_DAYS = re.compile(r"(\d+(?:\.\d*)?)d")


class SpecError(ValueError):
    """The spec is invalid; the message says where."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a calendar."""

    name: str
    title: str
    default: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    shortest_name: int = 0
    first_name: int = 0


FIELDS = (
    Field("second", "Second", "0", 0, 59),
    Field("minute", "Minute", "0", 0, 59),
    Field("hour", "Hour", "0", 0, 23),
    Field("day_of_week", "DayOfWeek", "*", 0, 7, _DAYS, 2, 0),
    Field("day_of_month", "DayOfMonth", "*", 1, 31),
    Field("month", "Month", "*", 1, 12, _MONTHS, 3, 1),
    Field("year", "Year", "*", MIN_YEAR, MAX_YEAR),
)


def structured(calendar: schedule_pb.CalendarSpec) -> schedule_pb.StructuredCalendarSpec:
    """Return the same calendar with parsed fields. Raise SpecError with all problems."""
    result = schedule_pb.StructuredCalendarSpec(comment=calendar.comment)
    problems = []
    for field in FIELDS:
        try:
            getattr(result, field.name).extend(parse_field(getattr(calendar, field.name), field))
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SpecError(", ".join(problems))
    return result


def parse_field(text: str, field: Field) -> list[schedule_pb.Range]:
    """Return the ranges in a field's text; the default range if it is empty. Raise SpecError."""
    text = text.strip() or field.default
    if text == "*" and field.name == "year":
        return []  # every year: the structured form says so with an empty list
    ranges: list[schedule_pb.Range] = []
    for part in text.split(","):
        start, end, step = _bounds(part, field)
        if field.name == "day_of_week" and end == 7:
            # Sunday is 0; a 7 at the end of a range may become a separate range.
            if (7 - start) % step == 0 and (step > 1 or start > 1):
                ranges.append(schedule_pb.Range())
                if start == 7:
                    continue
            end = 6
        ranges.append(schedule_pb.Range(start=start, end=0 if end == start else end, step=0 if step == 1 else step))
    return ranges


def _bounds(part: str, field: Field) -> tuple[int, int, int]:
    """Return first value, last value and step of one part of a list. Raise SpecError."""
    if part.count("/") > 1:
        raise SpecError(f"{field.title} has too many slashes")
    part, slash, step_text = part.partition("/")
    step = _step(step_text, field) if slash else 1
    if part == "*":
        return field.least, field.most, step
    if part.count("-") > 1:
        raise SpecError(f"{field.title} has too many dashes")
    first, dash, last = part.partition("-")
    if not dash:
        start = _value(first, field, field.least)
        if start is None:
            raise SpecError(f"{field.title} is not in range [{field.least}-{field.most}]")
        # With a step, a single value begins a range to the end.
        return start, field.most if slash else start, step
    start = _value(first, field, field.least)
    if start is None:
        raise SpecError(f"{field.title} Start is not in range [{field.least}-{field.most}]")
    end = _value(last, field, start)
    if end is None:
        raise SpecError(f"{field.title} End is before Start or not in range [{field.least}-{field.most}]")
    return start, end, step


def _step(text: str, field: Field) -> int:
    if not text:
        raise SpecError(f"{field.title} missing step value")
    step = _integer(text)
    if step is None:
        raise SpecError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if step < 1:
        raise SpecError(f"{field.title} has invalid Step")
    return step


def _value(text: str, field: Field, least: int) -> int | None:
    """Return the value of a number or a name, if it is within the field's range; otherwise None."""
    value: int | None = None
    if field.names and len(text) >= field.shortest_name:
        lowered = text.lower()
        value = next((n for n, name in enumerate(field.names, field.first_name) if name.startswith(lowered)), None)
    if value is None:
        value = _integer(text)
    return value if value is not None and least <= value <= field.most else None


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed cron string: a calendar or an interval, and its time zone, if it names one."""

    calendar: schedule_pb.StructuredCalendarSpec | None
    interval: schedule_pb.IntervalSpec | None
    zone: str


def parse_cron(text: str) -> Cron:
    """Parse `[TZ=zone ]5 to 7 fields[ # comment]`, a shorthand, or `@every interval[/phase]`. Raise SpecError."""
    text = text.strip()
    zone = ""
    if text.startswith(("TZ=", "CRON_TZ=")):
        prefix, blank, text = text.partition(" ")
        if not blank:
            raise SpecError("CronString has time zone but missing fields")
        zone = prefix.partition("=")[2]
    text, _, comment = text.partition("#")
    text = text.strip()
    if text.startswith("@every"):
        return Cron(None, _every(text), "")
    fields = _SHORTHANDS.get(text, text).split()
    names = _FIELDS_OF.get(len(fields))
    if names is None:
        raise SpecError("CronString does not have 5-7 fields")
    calendar = schedule_pb.CalendarSpec(comment=comment.strip())
    for name, field in zip(names, fields, strict=True):
        setattr(calendar, name, field)
    return Cron(structured(calendar), None, zone)


def _every(text: str) -> schedule_pb.IntervalSpec:
    _, blank, rest = text.partition(" ")
    if not blank:
        raise SpecError("CronString does not have interval after @every")
    interval, _, phase = rest.partition("/")
    result = schedule_pb.IntervalSpec()
    result.interval.FromNanoseconds(_duration_ns(interval))
    if phase:
        result.phase.FromNanoseconds(_duration_ns(phase))
    return result


def _duration_ns(text: str) -> int:
    days = sum(float(match[1]) for match in _WHOLE_DAYS.finditer(text))
    rest = _WHOLE_DAYS.sub("", text)
    try:
        seconds = duration_seconds(rest) if rest or not days else 0.0
    except ValueError:
        raise SpecError(f'time: invalid duration "{text}"') from None
    return round((days * 86400 + seconds) * 1_000_000_000)
