"""The times of a schedule, as pure arithmetic.

A schedule's times are those of any of its calendars and intervals, except those that an exclusion matches, within its
start and end. Each is delayed by jitter: never past the next one, and always the same, since it is a hash of the time
and the schedule's identity.
"""

from __future__ import annotations

import io
from dataclasses import field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

from whistlestop.common.fingerprint import fingerprint32
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.history.core.times import SECOND_NS, duration_ns, timestamp_ns
from whistlestop.history.schedule.calendars import Calendar, compiled
from whistlestop.history.schedule.ranges import FIELDS, MAX_YEAR, SpecError, parse_cron, structured

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

MAX_STEPS = 20_000
"""The maximum of consecutive times that may be excluded (fewer with many exclusions, each of which is checked for
each time).

Exclusions of whole hours and days are skipped in one step.
"""
LEAST_STEPS = 100
MAX_TIMES = 100
"""The maximum of calendars, intervals and cron strings: each is evaluated to find the next time."""
MAX_EXCLUSIONS = 300
MAX_ZONE_BYTES = 64 * 1024
"""The largest time zone of the public database has 4 KiB."""
MAX_COMMENT = 200
_MILLISECOND_NS = 1_000_000
_YEAR_ONE_TO_EPOCH_S = 62_135_596_800
_END_S = int(datetime(MAX_YEAR + 1, 1, 1, tzinfo=UTC).timestamp())
_ZONES_DISAGREE = "conflicting timezone names"


class TooManyExclusions(ValueError):
    """No next time was found, since the exclusions match too many candidates."""


@dataclass(frozen=True, slots=True)
class Next:
    """A time of a schedule, in nanoseconds since the Unix epoch."""

    nominal_ns: int
    actual_ns: int
    """The time with jitter."""


@dataclass(frozen=True, slots=True)
class CompiledSpec:
    """A spec that can compute times. `seed` is what jitter is derived from."""

    calendars: tuple[Calendar, ...]
    intervals: tuple[tuple[int, int], ...]
    """(length, phase), in seconds."""
    exclusions: tuple[Calendar, ...]
    start_ns: int
    end_ns: int | None
    jitter_ns: int
    seed: bytes
    _matches: dict[int, tuple[int, int | None]] = field(default_factory=dict, compare=False, repr=False)
    """By a calendar's index: a second, and the calendar's next match after it. It is valid until that match, so most
    calendars need not be evaluated again for the next time."""

    @property
    def is_long(self) -> bool:
        """Whether computing times may take too long for one turn of an event loop.

        It may with many calendars, and with any exclusion: thousands of times can be excluded in a row.
        """
        return bool(self.exclusions) or len(self.calendars) + len(self.intervals) > 10

    def next_after(self, after_ns: int) -> Next | None:
        """Return the first time (before jitter) later than `after_ns`; None after the last. Raise TooManyExclusions."""
        return self.next_of(after_ns, SearchBudget(self))

    def next_of(self, after_ns: int, budget: SearchBudget) -> Next | None:
        """Return the time as `next_after` does, using up `budget`; None when there is none. Raise TooManyExclusions."""
        after = max(after_ns, self.start_ns - SECOND_NS) // SECOND_NS
        while budget.left > 0:
            budget.left -= 1
            nominal = self._nominal_after(after)
            if nominal is None or nominal >= _END_S or self._is_past_end(nominal):
                return None
            free = self._free_from(nominal)
            if free == nominal:
                return self._jittered(nominal)
            if free >= _END_S:
                raise TooManyExclusions
            after = free - 1
        raise TooManyExclusions

    def _is_past_end(self, second: int) -> bool:
        return self.end_ns is not None and second * SECOND_NS > self.end_ns

    def _nominal_after(self, after: int) -> int | None:
        found = [match for index in range(len(self.calendars)) if (match := self._next_match(index, after)) is not None]
        found += [((after - phase) // length + 1) * length + phase for length, phase in self.intervals]
        return min(found, default=None)

    def _next_match(self, index: int, after: int) -> int | None:
        since, match = self._matches.get(index, (after + 1, None))
        if since > after or (match is not None and match <= after):
            match = self.calendars[index].next_after(after)
            self._matches[index] = (after, match)
        return match

    def _free_from(self, second: int) -> int:
        return max((each.free_from(second) for each in self.exclusions if each.matches(second)), default=second)

    def _jittered(self, nominal: int) -> Next:
        nominal_ns = nominal * SECOND_NS
        most_ns = max(self.jitter_ns, 0)
        following = self._nominal_after(nominal)
        if following is not None:
            most_ns = min(most_ns, (following - nominal) * SECOND_NS)
        most_ms = min(most_ns // _MILLISECOND_NS, 2**32 - 1)
        if most_ms == 0:
            return Next(nominal_ns, nominal_ns)
        # Go's binary form of a UTC time: version, seconds since the year 1, nanoseconds, no offset.
        written = b"\x01" + (nominal + _YEAR_ONE_TO_EPOCH_S).to_bytes(8, "big") + bytes(4) + b"\xff\xff"
        jitter_ms = fingerprint32(written + self.seed) * most_ms >> 32
        return Next(nominal_ns, nominal_ns + jitter_ms * _MILLISECOND_NS)


class SearchBudget:
    """How many more times may be checked in a search."""

    def __init__(self, spec: CompiledSpec) -> None:
        self.left = max(MAX_STEPS // max(len(spec.exclusions), 1), LEAST_STEPS)


def canonical(spec: schedule_pb.ScheduleSpec) -> schedule_pb.ScheduleSpec:
    """Return a copy with structured calendars and intervals instead of calendars and cron strings. Raise SpecError."""
    if len(spec.calendar) + len(spec.structured_calendar) + len(spec.interval) + len(spec.cron_string) > MAX_TIMES:
        raise SpecError(f"more than {MAX_TIMES} calendars, intervals and cron strings")
    if len(spec.timezone_data) > MAX_ZONE_BYTES:
        raise SpecError("malformed time zone information")
    if len(spec.exclude_calendar) + len(spec.exclude_structured_calendar) > MAX_EXCLUSIONS:
        raise SpecError(f"more than {MAX_EXCLUSIONS} excluded calendars")
    result = schedule_pb.ScheduleSpec()
    result.CopyFrom(spec)
    result.structured_calendar.extend(structured(calendar) for calendar in spec.calendar)
    result.exclude_structured_calendar.extend(structured(calendar) for calendar in spec.exclude_calendar)
    del result.calendar[:], result.exclude_calendar[:], result.cron_string[:]
    crons = [parse_cron(text) for text in spec.cron_string]
    for cron in crons:
        if cron.calendar is not None:
            result.structured_calendar.append(cron.calendar)
        if cron.interval is not None:
            result.interval.append(cron.interval)
    _take_zone({cron.zone for cron in crons}, result)
    for each in result.structured_calendar:
        _check_calendar(each)
    for interval in result.interval:
        _check_interval(interval)
    zone_of(result.timezone_name, result.timezone_data)
    return result


def compiled_spec(spec: schedule_pb.ScheduleSpec, seed: str) -> CompiledSpec:
    """Compile a canonical spec; results are cached. Raise SpecError."""
    return _compiled(spec.SerializeToString(deterministic=True), seed)


@lru_cache(maxsize=512)
def _compiled(data: bytes, seed: str) -> CompiledSpec:
    spec = schedule_pb.ScheduleSpec.FromString(data)
    zone = zone_of(spec.timezone_name, spec.timezone_data)
    return CompiledSpec(
        calendars=tuple(compiled(each, zone) for each in spec.structured_calendar),
        intervals=tuple((max(_seconds(each.interval), 1), max(_seconds(each.phase), 0)) for each in spec.interval),
        exclusions=tuple(compiled(each, zone) for each in spec.exclude_structured_calendar),
        start_ns=timestamp_ns(spec.start_time) if spec.HasField("start_time") else 0,
        end_ns=timestamp_ns(spec.end_time) if spec.HasField("end_time") else None,
        jitter_ns=duration_ns(spec.jitter),
        seed=seed.encode(),
    )


def filled(spec: schedule_pb.ScheduleSpec) -> None:
    """Fill in, in place, the defaults of ranges, as a spec is shown."""
    for calendars in (spec.structured_calendar, spec.exclude_structured_calendar):
        for calendar in calendars:
            for part in FIELDS:
                for each in getattr(calendar, part.name):
                    each.end = max(each.end, each.start)
                    each.step = each.step or 1


@lru_cache(maxsize=256)
def zone_of(name: str, data: bytes = b"") -> tzinfo:
    """Return the time zone of a spec: by its data, by its name, or UTC. Raise SpecError."""
    if data:
        try:
            return ZoneInfo.from_file(io.BytesIO(data), key=name or None)
        except (ValueError, EOFError, OSError, IndexError):
            raise SpecError("malformed time zone information") from None
    if name in ("", "UTC", "Local"):
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise SpecError(f"unknown time zone {name}") from None


def _take_zone(zones: set[str], spec: schedule_pb.ScheduleSpec) -> None:
    """Set the time zone of the cron strings. Raise SpecError unless all of them and the spec agree."""
    if len(zones) > 1:
        raise SpecError(_ZONES_DISAGREE)
    zone = "".join(zones)
    if not zone:
        return
    if (spec.timezone_name and spec.timezone_name != zone) or spec.timezone_data:
        raise SpecError(_ZONES_DISAGREE)
    spec.timezone_name = zone


def _check_calendar(calendar: schedule_pb.StructuredCalendarSpec) -> None:
    problems = []
    for name in ("second", "minute", "hour", "day_of_month", "month", "year", "day_of_week"):
        part = next(each for each in FIELDS if each.name == name)
        most = 6 if name == "day_of_week" else part.most
        for each in getattr(calendar, name):
            if not part.least <= each.start <= most:
                problems.append(f"{part.title} Start is not in range [{part.least}-{most}]")
            if each.end and not each.start <= each.end <= most:
                problems.append(f"{part.title} End is before Start or not in range [{part.least}-{most}]")
            if each.step < 0:
                problems.append(f"{part.title} has invalid Step")
    if len(calendar.comment.encode()) > MAX_COMMENT:
        problems.append("comment is too long")
    if problems:
        raise SpecError("invalid calendar spec: " + ", ".join(problems))


def _seconds(span: Duration) -> int:
    """Return whole seconds. Nanoseconds may be more than one second, where `scheduler-duration` is not checked."""
    return duration_ns(span) // SECOND_NS


def _check_interval(interval: schedule_pb.IntervalSpec) -> None:
    length_ns, phase_ns = duration_ns(interval.interval), duration_ns(interval.phase)
    if length_ns < SECOND_NS:
        raise SpecError("interval is too small")
    if phase_ns < 0:
        raise SpecError("phase is negative")
    if phase_ns >= length_ns:
        raise SpecError("phase cannot be greater than Interval")
