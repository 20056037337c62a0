"""The times of one calendar: which whole seconds it matches, and which is the next.

A calendar matches the times whose local date and time match all of its fields. So a local time skipped by daylight
saving does not exist, and a repeated one occurs twice. The search for the next match goes from days, by their fields,
to hours, then within an hour by arithmetic; only hours in which the clock changes are searched second by second.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.history.schedule.ranges import MAX_YEAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

_DAY = timedelta(days=1)
_AFTER_THE_LAST = date(MAX_YEAR + 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Calendar:
    """A compiled calendar. Values are sorted; `years` empty: every year."""

    zone: tzinfo
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    years: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""

    def matches(self, second: int) -> bool:
        """Return whether the calendar matches `second` (since the Unix epoch)."""
        local = datetime.fromtimestamp(second, self.zone)
        return (
            self._has_day(local.date())
            and local.hour in self.hours
            and local.minute in self.minutes
            and local.second in self.seconds
        )

    def next_after(self, second: int) -> int | None:
        """Return the first match later than `second`; None when there is none up to the year 2100."""
        if not (self.seconds and self.minutes and self.hours):
            return None
        local = datetime.fromtimestamp(second, self.zone)
        # The clock may be set back across midnight: the next match may belong to the previous day.
        for day in self._days_from(local.date() - _DAY):
            if day < local.date() and _start(day + _DAY, self.zone) + 7200 < second:
                continue
            for hour in self.hours:
                found = self._next_in_hour(day, hour, second)
                if found is not None:
                    return found
        return None

    def free_from(self, second: int) -> int:
        """Return the first second that an exclusion matching `second` may not match."""
        if len(self.seconds) < 60:
            return second + 1
        if len(self.minutes) < 60:
            return second - second % 60 + 60
        local = datetime.fromtimestamp(second, self.zone)
        if len(self.hours) < 24:
            return second + 3600 - local.minute * 60 - local.second if _is_steady(second, self.zone) else second + 1
        day = local.date() + _DAY
        if self._has_every_day:
            day = _AFTER_THE_LAST
        while day < _AFTER_THE_LAST and self._has_day(day):
            day += _DAY
        return max(_start(day, self.zone), second + 1)

    @property
    def _has_every_day(self) -> bool:
        return not self.years and len(self.months) >= 12 and len(self.days) >= 31 and len(self.weekdays) >= 7

    def _has_day(self, day: date) -> bool:
        return (
            (not self.years or day.year in self.years)
            and day.month in self.months
            and day.day in self.days
            and day.isoweekday() % 7 in self.weekdays
        )

    def _days_from(self, day: date) -> Iterator[date]:
        while day.year <= MAX_YEAR:
            if self.years and day.year not in self.years:
                day = date(day.year + 1, 1, 1)
            elif day.month not in self.months:
                day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
            else:
                if self._has_day(day):
                    yield day
                day += _DAY

    def _next_in_hour(self, day: date, hour: int, after: int) -> int | None:
        """Return the first match within one hour of local time, which may occur twice, in part or not at all."""
        first = datetime(day.year, day.month, day.day, hour, tzinfo=self.zone)
        last = first.replace(minute=59, second=59)
        begin = int(first.timestamp())
        end = int(last.timestamp())
        if end - begin == 3599 and not (_is_odd(first) or _is_odd(last)):
            return None if end <= after else self._next_from(begin, after)
        return min((match for match in self._every(first) if match > after), default=None)

    def _next_from(self, begin: int, after: int) -> int | None:
        """Return the first match within an hour without clock changes that begins at `begin`."""
        wanted = max(after + 1 - begin, 0)
        minute, second = divmod(wanted, 60)
        at = bisect_left(self.minutes, minute)
        if at < len(self.minutes) and self.minutes[at] == minute:
            place = bisect_left(self.seconds, second)
            if place < len(self.seconds):
                return begin + minute * 60 + self.seconds[place]
            at += 1
        return begin + self.minutes[at] * 60 + self.seconds[0] if at < len(self.minutes) else None

    def _every(self, hour: datetime) -> Iterator[int]:
        for minute in self.minutes:
            for second in self.seconds:
                wall = hour.replace(minute=minute, second=second)
                for each in (wall, wall.replace(fold=1)):
                    instant = int(each.timestamp())
                    if _unchanged(each, instant):
                        yield instant


def compiled(spec: schedule_pb.StructuredCalendarSpec, zone: tzinfo) -> Calendar:
    """Compile a structured calendar. An empty field matches nothing, except for the year."""
    return Calendar(
        zone=zone,
        seconds=tuple(sorted(_values(spec.second))),
        minutes=tuple(sorted(_values(spec.minute))),
        hours=tuple(sorted(_values(spec.hour))),
        days=_values(spec.day_of_month),
        months=_values(spec.month),
        years=_values(spec.year),
        weekdays=_values(spec.day_of_week),
    )


def _values(ranges: Iterable[schedule_pb.Range]) -> frozenset[int]:
    return frozenset(
        value for each in ranges for value in range(each.start, max(each.end, each.start) + 1, each.step or 1)
    )


def _start(day: date, zone: tzinfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def _unchanged(wall: datetime, instant: int) -> bool:
    """Return whether local clocks show that time at that instant."""
    local = datetime.fromtimestamp(instant, wall.tzinfo)
    return local.replace(tzinfo=None, fold=0) == wall.replace(tzinfo=None, fold=0)


def _is_odd(wall: datetime) -> bool:
    """Return whether that local time occurs twice or not at all."""
    return wall.timestamp() != wall.replace(fold=1).timestamp()


def _is_steady(second: int, zone: tzinfo) -> bool:
    """Return whether the clock does not change within an hour from here."""
    here = datetime.fromtimestamp(second, zone).utcoffset()
    return here == datetime.fromtimestamp(second + 3600, zone).utcoffset()
