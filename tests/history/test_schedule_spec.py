"""The times of schedules: compared with a brute-force search, with the real server's jitter, and field by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.schedule import policy, spec
from whistlestop.history.schedule.calendars import Calendar
from whistlestop.history.schedule.ranges import FIELDS, SpecError, parse_cron, parse_field

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago")
# Around changes of the clock in these zones, and an ordinary day.
MOMENTS = (
    "2025-03-09T06:00:00", "2025-11-02T04:30:00", "2025-03-30T00:00:00", "2025-10-25T23:00:00",
    "2025-04-05T14:00:00", "2025-10-04T14:30:00", "2025-09-07T03:00:00", "2025-04-06T02:00:00", "2024-02-28T23:00:00",
)  # fmt: skip
WINDOW_S = 4 * 3600
FIELD = {field.name: field for field in FIELDS}


def second_of(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def compiled(seed: str = "namespace-schedule", **fields: Any) -> spec.CompiledSpec:
    return spec.compiled_spec(spec.canonical(schedule_pb.ScheduleSpec(**fields)), seed)


def found(compiled_spec: spec.CompiledSpec, start: str, end: str) -> list[str]:
    """The times in between, as text."""
    times = policy.matching_times(compiled_spec, second_of(start) * SECOND_NS, second_of(end) * SECOND_NS)
    return [datetime.fromtimestamp(each / SECOND_NS, UTC).strftime("%m-%d %H:%M:%S") for each in times]


def subset(low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.one_of(
        st.just(tuple(range(low, high + 1))),
        st.sets(st.integers(low, high), min_size=1, max_size=4).map(lambda values: tuple(sorted(values))),
    )


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    return Calendar(
        zone=ZoneInfo(draw(st.sampled_from(ZONES))),
        seconds=draw(subset(0, 59)),
        minutes=draw(subset(0, 59)),
        hours=draw(subset(0, 23)),
        days=frozenset(draw(st.one_of(st.just(range(1, 32)), st.sets(st.integers(1, 31), min_size=1)))),
        months=frozenset(draw(st.one_of(st.just(range(1, 13)), st.sets(st.integers(1, 12), min_size=1)))),
        years=frozenset(draw(st.one_of(st.just(()), st.sets(st.integers(2024, 2026), min_size=1)))),
        weekdays=frozenset(draw(st.one_of(st.just(range(7)), st.sets(st.integers(0, 6), min_size=1)))),
    )


moments = st.builds(lambda text, off: second_of(text) + off, st.sampled_from(MOMENTS), st.integers(-7200, 7200))


@settings(max_examples=60, deadline=None)
@given(calendars(), moments)
def test_the_next_match_is_the_first_of_all_seconds_that_match(calendar: Calendar, after: int) -> None:
    expected = next((second for second in range(after + 1, after + WINDOW_S) if calendar.matches(second)), None)
    actual = calendar.next_after(after)
    if expected is None:
        assert actual is None or (actual >= after + WINDOW_S and calendar.matches(actual))
    else:
        assert actual == expected


@settings(max_examples=60, deadline=None)
@given(calendars(), moments)
def test_an_exclusion_that_is_passed_over_matches_everything_on_the_way(calendar: Calendar, second: int) -> None:
    first = next((each for each in range(second, second + WINDOW_S) if calendar.matches(each)), None)
    if first is None:
        return
    free = calendar.free_from(first)
    assert free > first
    assert all(calendar.matches(each) for each in range(first, min(free, first + 2 * WINDOW_S)))


@settings(max_examples=200)
@given(st.integers(1, 100_000), st.integers(0, 10**9), st.integers(0, 2**40))
def test_an_interval_comes_at_its_phase(length: int, phase: int, after: int) -> None:
    phase %= length
    interval = {"interval": {"seconds": length}, "phase": {"seconds": phase}}
    following = compiled(interval=[interval]).next_after(after * SECOND_NS)
    if following is None:
        assert after + length > second_of("2100-12-31T23:59:59")
        return
    nominal = following.nominal_ns // SECOND_NS
    assert nominal % length == phase
    assert after < nominal <= after + length


@settings(max_examples=200)
@given(st.integers(1, 10_000), st.integers(0, 20_000), st.integers(0, 2**31))
def test_jitter_never_passes_the_next_time(length: int, jitter: int, after: int) -> None:
    times = compiled(interval=[{"interval": {"seconds": length}}], jitter={"seconds": jitter})
    following = times.next_after(after * SECOND_NS)
    assert following is not None
    assert 0 <= following.actual_ns - following.nominal_ns <= min(length, jitter) * SECOND_NS


@pytest.mark.parametrize(
    ("schedule_id", "expected"),
    [
        ("orders", [1700003620176, 1700006969566, 1700010263528]),
        ("a", [1700004537371, 1700006416497, 1700011387851]),
        ("a-much-longer-schedule-id-of-somebody", [1700004172617, 1700007451671, 1700010742204]),
    ],
)
def test_jitter_is_that_of_the_real_server(schedule_id: str, expected: list[int]) -> None:
    """As it answered ListScheduleMatchingTimes."""
    times = compiled(
        f"01a20d82-7c77-7186-9861-75ae410627fb-{schedule_id}",
        interval=[{"interval": {"seconds": 3600}}],
        jitter={"seconds": 1800},
    )
    actual = policy.matching_times(times, 1_700_000_000 * SECOND_NS, 1_700_012_000 * SECOND_NS)
    assert [each // 1_000_000 for each in actual] == expected


def test_an_hour_that_comes_twice_is_matched_twice() -> None:
    times = compiled(cron_string=["30 2 * * *"], timezone_name="Europe/Berlin")
    assert found(times, "2025-10-25T12:00:00", "2025-10-27T00:00:00") == ["10-26 00:30:00", "10-26 01:30:00"]


def test_an_hour_that_is_skipped_is_not_matched() -> None:
    times = compiled(cron_string=["30 2 * * *"], timezone_name="Europe/Berlin")
    assert found(times, "2025-03-29T12:00:00", "2025-03-31T12:00:00") == ["03-31 00:30:00"]


def test_calendars_intervals_and_cron_strings_add_up_and_exclusions_take_away() -> None:
    times = compiled(
        calendar=[{"hour": "1"}],
        interval=[{"interval": {"seconds": 6 * 3600}}],
        cron_string=["15 3 * * *"],
        exclude_structured_calendar=[
            {
                "second": [{"end": 59}], "minute": [{"end": 59}], "hour": [{"start": 10, "end": 20}],
                "day_of_month": [{"start": 1, "end": 31}], "month": [{"start": 1, "end": 12}],
                "day_of_week": [{"end": 6}],
            }
        ],
    )  # fmt: skip
    assert found(times, "2025-01-01T00:00:00", "2025-01-02T00:00:00") == [
        "01-01 01:00:00", "01-01 03:15:00", "01-01 06:00:00", "01-02 00:00:00",
    ]  # fmt: skip


def test_start_and_end_are_included() -> None:
    times = compiled(
        interval=[{"interval": {"seconds": 3600}}],
        start_time={"seconds": second_of("2025-01-01T05:00:00")},
        end_time={"seconds": second_of("2025-01-01T07:00:00")},
    )
    assert found(times, "2020-01-01T00:00:00", "2026-01-01T00:00:00") == [
        "01-01 05:00:00", "01-01 06:00:00", "01-01 07:00:00",
    ]  # fmt: skip


def test_a_day_that_never_comes_ends_the_search() -> None:
    assert compiled(cron_string=["0 0 31 2 *"]).next_after(0) is None


def test_a_spec_in_which_everything_is_excluded_is_given_up() -> None:
    everything = {
        "second": [{"end": 57}], "minute": [{"end": 59}], "hour": [{"end": 23}],
        "day_of_month": [{"start": 1, "end": 31}], "month": [{"start": 1, "end": 12}], "day_of_week": [{"end": 6}],
    }  # fmt: skip
    times = compiled(interval=[{"interval": {"seconds": 60}}], exclude_structured_calendar=[everything])
    with pytest.raises(spec.TooManyExclusions):
        times.next_after(0)


DAY_LONG = {"second": [{"end": 59}], "minute": [{"end": 59}], "hour": [{"end": 23}]}
EVERY_DAY = {
    **DAY_LONG, "day_of_month": [{"start": 1, "end": 31}], "month": [{"start": 1, "end": 12}], "day_of_week": [{"end": 6}],
}  # fmt: skip


def test_a_spec_that_excludes_everything_is_given_up_at_once() -> None:
    """A spec whose exclusion mirrors its calendar took seconds of the event loop."""
    times = compiled(structured_calendar=[EVERY_DAY], exclude_structured_calendar=[EVERY_DAY])
    looks = spec.SearchBudget(times)
    before = looks.left
    with pytest.raises(spec.TooManyExclusions):
        times.next_of(second_of("2025-01-01T00:00:00") * SECOND_NS, looks)
    assert looks.left == before - 1
    assert times.is_long


def test_days_that_are_excluded_in_a_row_are_skipped_together() -> None:
    summer = {**EVERY_DAY, "month": [{"start": 6, "end": 8}]}
    times = compiled(structured_calendar=[EVERY_DAY], exclude_structured_calendar=[summer])
    looks = spec.SearchBudget(times)
    before = looks.left
    following = times.next_of(second_of("2025-05-31T23:59:59") * SECOND_NS, looks)
    assert following is not None
    assert following.nominal_ns == second_of("2025-09-01T00:00:00") * SECOND_NS
    assert before - looks.left == 2


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("minute", "", [(0, 0, 0)]),
        ("hour", "*", [(0, 23, 0)]),
        ("hour", "3", [(3, 0, 0)]),
        ("hour", "3/5", [(3, 23, 5)]),
        ("hour", "1-5/2,8", [(1, 5, 2), (8, 0, 0)]),
        ("month", "jan,Sept-december", [(1, 0, 0), (9, 12, 0)]),
        ("day_of_week", "7", [(0, 0, 0)]),
        ("day_of_week", "1-7", [(1, 6, 0)]),
        ("day_of_week", "3-7", [(0, 0, 0), (3, 6, 0)]),
        ("day_of_week", "3-7/3", [(3, 6, 3)]),
        ("day_of_week", "1-7/2", [(0, 0, 0), (1, 6, 2)]),
        ("day_of_week", "mo-fri", [(1, 5, 0)]),
        ("year", "*", []),
    ],
)
def test_a_field_names_ranges(field: str, text: str, expected: list[tuple[int, int, int]]) -> None:
    assert [(each.start, each.end, each.step) for each in parse_field(text, FIELD[field])] == expected


def test_cron_strings_may_name_a_zone_and_a_comment() -> None:
    cron = parse_cron(" CRON_TZ=Europe/Paris 1 2 3 4 5 2030 # why ")
    assert cron.calendar is not None
    assert (cron.zone, cron.calendar.comment, cron.calendar.year[0].start) == ("Europe/Paris", "why", 2030)


@pytest.mark.parametrize(
    ("text", "interval_s", "phase_s"),
    [("@every 90m", 5400, 0), ("@every 1d/2h30m", 86400, 9000), ("@every 1.5s", 1, 0)],
)
def test_every_is_an_interval(text: str, interval_s: int, phase_s: int) -> None:
    interval = parse_cron(text).interval
    assert interval is not None
    assert (interval.interval.seconds, interval.phase.seconds) == (interval_s, phase_s)


def test_a_zone_may_be_given_in_full() -> None:
    with pytest.raises(SpecError, match="malformed"):
        spec.zone_of("", b"nonsense")
