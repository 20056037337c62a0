"""Times and durations of messages in nanoseconds."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history.core.commands.attributes import activity_timeouts_fault
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration, set_timestamp, timestamp_ns


@pytest.mark.parametrize("span_ns", [0, 1, -1, SECOND_NS, -SECOND_NS, 90 * SECOND_NS + 7, -(90 * SECOND_NS + 7)])
def test_a_duration_is_set_with_seconds_and_nanos_of_one_sign(span_ns: int) -> None:
    attributes = history_pb.TimerStartedEventAttributes()
    set_duration(attributes.start_to_fire_timeout, 5 * SECOND_NS + 5)
    set_duration(attributes.start_to_fire_timeout, span_ns)
    assert attributes.HasField("start_to_fire_timeout")
    span = attributes.start_to_fire_timeout
    assert duration_ns(span) == span_ns
    assert abs(span.nanos) < SECOND_NS
    assert span.seconds * span.nanos >= 0


@pytest.mark.parametrize("instant_ns", [0, 1, -1, 1_790_000_000 * SECOND_NS + 123_456_789])
def test_a_timestamp_has_nanos_of_zero_and_up(instant_ns: int) -> None:
    event = history_pb.HistoryEvent()
    set_timestamp(event.event_time, instant_ns)
    assert event.HasField("event_time")
    assert timestamp_ns(event.event_time) == instant_ns
    assert 0 <= event.event_time.nanos < SECOND_NS


def test_zero_marks_a_field_as_set() -> None:
    attributes = history_pb.TimerStartedEventAttributes()
    set_duration(attributes.start_to_fire_timeout, 0)
    assert attributes.HasField("start_to_fire_timeout")
    event = history_pb.HistoryEvent()
    set_timestamp(event.event_time, 0)
    assert event.HasField("event_time")


def test_derived_timeouts_are_set_and_given_ones_are_normalised() -> None:
    attributes = command_pb.ScheduleActivityTaskCommandAttributes()
    attributes.start_to_close_timeout.seconds = 1
    attributes.start_to_close_timeout.nanos = 2 * SECOND_NS + 7
    assert activity_timeouts_fault(attributes, 0) == ""
    assert (attributes.start_to_close_timeout.seconds, attributes.start_to_close_timeout.nanos) == (3, 7)
    for name in ("schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout"):
        assert attributes.HasField(name)
        assert duration_ns(getattr(attributes, name)) == 0
