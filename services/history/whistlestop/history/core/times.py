"""Convert between protobuf's times and integer nanoseconds, without datetime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
MAX_DURATION_SECONDS = 100 * 365 * 24 * 3600
"""Longer durations are cut to a hundred years, as Temporal does."""
_FARTHEST_NS = 2**63 - 1 - 24 * 3600 * SECOND_NS
"""Less than the maximum of 64 bits, so that a little can be added."""
LAST_SKIPPED_TO_NS = 2**63 - 1 - MAX_DURATION_SECONDS * SECOND_NS
"""No clock skips beyond this time (in 2162): times have 64 bits, and the longest duration has to fit after it."""


def set_timestamp(target: Timestamp, instant_ns: int) -> None:
    """Write `instant_ns` into a message's timestamp field, which marks it as set."""
    target.seconds, target.nanos = divmod(instant_ns, SECOND_NS)


def timestamp_ns(value: Timestamp) -> int:
    """Return the time in nanoseconds; 0 for one that is not set. Times beyond 64 bits are clamped."""
    instant_ns = value.seconds * SECOND_NS + value.nanos
    return instant_ns if -_FARTHEST_NS <= instant_ns <= _FARTHEST_NS else _farthest(instant_ns)


def set_duration(target: Duration, span_ns: int) -> None:
    """Write `span_ns` into a message's duration field, which marks it as set."""
    if span_ns >= 0:
        target.seconds, target.nanos = divmod(span_ns, SECOND_NS)
    else:
        seconds, nanos = divmod(-span_ns, SECOND_NS)
        target.seconds, target.nanos = -seconds, -nanos


def duration_ns(value: Duration) -> int:
    """Return the duration in nanoseconds; 0 for one that is not set. Durations beyond 64 bits are clamped."""
    span_ns = value.seconds * SECOND_NS + value.nanos
    return span_ns if -_FARTHEST_NS <= span_ns <= _FARTHEST_NS else _farthest(span_ns)


def _farthest(nanoseconds: int) -> int:
    return _FARTHEST_NS if nanoseconds > 0 else -_FARTHEST_NS
