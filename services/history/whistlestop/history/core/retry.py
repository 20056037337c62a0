"""Retry policies: their defaults, their validation, and the time of the next attempt.

Activities and whole workflows are retried by the same arithmetic, which is Temporal's: whole nanoseconds, an interval
that overflows or exceeds the maximum becomes the maximum, and an attempt that would start after the deadline is not
made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.times import MAX_DURATION_SECONDS, duration_ns, set_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.common.retry_defaults import RetryDefaults

RetryState: TypeAlias = wf_enums.RetryState.ValueType
IN_PROGRESS = wf_enums.RETRY_STATE_IN_PROGRESS
TIMEOUT_TYPE_PREFIX = "TemporalTimeout:"
MAX_SPAN_NS = 2**63 - 1
_TIMEOUT_NAMES: dict[int, str] = {
    wf_enums.TIMEOUT_TYPE_START_TO_CLOSE: "StartToClose",
    wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START: "ScheduleToStart",
    wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "ScheduleToClose",
    wf_enums.TIMEOUT_TYPE_HEARTBEAT: "Heartbeat",
}


def timeout_name(timeout_type: int) -> str:
    """Return the short name of a timeout type: `TIMEOUT_TYPE_HEARTBEAT` is `Heartbeat`."""
    return _TIMEOUT_NAMES.get(timeout_type, "Unspecified")


def duration_fault(value: Duration) -> str:
    """Return what is wrong with a duration, or an empty text; one that is too long is shortened in place."""
    seconds, nanos = value.seconds, value.nanos
    if nanos >= 0 and 0 <= seconds < MAX_DURATION_SECONDS:
        return ""
    if (seconds > 0 > nanos) or (seconds < 0 < nanos):
        return "duration has seconds and nanos with different signs"
    if seconds < 0 or nanos < 0:
        return "negative duration"
    value.seconds = MAX_DURATION_SECONDS
    value.nanos = 0
    return ""


def set_defaults(policy: common_pb.RetryPolicy, defaults: RetryDefaults) -> None:
    """Set the default values of a policy's empty fields."""
    if policy.maximum_attempts == 0:
        policy.maximum_attempts = defaults.maximum_attempts
    if duration_ns(policy.initial_interval) == 0:
        set_duration(policy.initial_interval, defaults.initial_interval_ns)
    if duration_ns(policy.maximum_interval) == 0:
        initial_ns = duration_ns(policy.initial_interval)
        set_duration(policy.maximum_interval, defaults.maximum_interval_factor * initial_ns)
    if policy.backoff_coefficient == 0:
        policy.backoff_coefficient = defaults.backoff_coefficient


def fault(policy: common_pb.RetryPolicy) -> str:
    """Return what is wrong with a policy with defaults, in Temporal's words; empty if it is valid."""
    if policy.maximum_attempts == 1:
        return ""
    bad = duration_fault(policy.initial_interval)
    if bad:
        return f"invalid InitialInterval set on retry policy: {bad}"
    if policy.backoff_coefficient < 1:
        return "BackoffCoefficient cannot be less than 1 on retry policy."
    bad = duration_fault(policy.maximum_interval)
    if bad:
        return f"invalid MaximumInterval set on retry policy: {bad}"
    if 0 < duration_ns(policy.maximum_interval) < duration_ns(policy.initial_interval):
        return "MaximumInterval cannot be less than InitialInterval on retry policy."
    if policy.maximum_attempts < 0:
        return "MaximumAttempts cannot be negative on retry policy."
    for name in policy.non_retryable_error_types:
        if name.startswith(TIMEOUT_TYPE_PREFIX):
            value = name.removeprefix(TIMEOUT_TYPE_PREFIX)
            known = value.removeprefix("TIMEOUT_TYPE_").replace("_", "").lower()
            if known not in {each.lower() for each in _TIMEOUT_NAMES.values()}:
                return f"Invalid timeout type value: {value}."
    return ""


def is_retryable(failure: failure_pb.Failure | None, non_retryable_types: Iterable[str]) -> bool:
    """Return whether a failure allows another attempt; unknown kinds, and None, do."""
    if failure is None:
        return True
    kind = failure.WhichOneof("failure_info")
    if kind in ("terminated_failure_info", "canceled_failure_info"):
        return False
    if kind == "timeout_failure_info":
        timeout_type = failure.timeout_failure_info.timeout_type
        if timeout_type not in (wf_enums.TIMEOUT_TYPE_START_TO_CLOSE, wf_enums.TIMEOUT_TYPE_HEARTBEAT):
            return False
        return TIMEOUT_TYPE_PREFIX + timeout_name(timeout_type) not in non_retryable_types
    if kind == "server_failure_info":
        return not failure.server_failure_info.non_retryable
    if kind == "application_failure_info":
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable_types
    return True


def requested_delay_ns(failure: failure_pb.Failure | None) -> int | None:
    """Return the delay that the failure itself asks for; None when it asks for none."""
    if failure is None or failure.WhichOneof("failure_info") != "application_failure_info":
        return None
    info = failure.application_failure_info
    return duration_ns(info.next_retry_delay) if info.HasField("next_retry_delay") else None


def exponential_ns(initial_ns: int, coefficient: float, attempt: int) -> int:
    """Return the interval after that attempt in nanoseconds, without the maximum interval."""
    try:
        interval = initial_ns * coefficient ** (attempt - 1)
    except OverflowError:
        return MAX_SPAN_NS
    return MAX_SPAN_NS if interval >= MAX_SPAN_NS else max(0, int(interval))


class Next(NamedTuple):
    """What follows a failed attempt: with IN_PROGRESS another one, `interval_ns` from now."""

    state: RetryState
    interval_ns: int = 0


def next_attempt(
    policy: common_pb.RetryPolicy,
    *,
    attempt: int,
    now_ns: int,
    expiration_ns: int,
    failure: failure_pb.Failure | None,
    delay_lifts_maximum: bool,
) -> Next:
    """Return whether attempt number `attempt`, just failed, is followed by another, and when.

    A delay that the failure asks for replaces the interval; an activity's may exceed the policy's maximum interval
    (`delay_lifts_maximum`), a workflow's may not. `expiration_ns` 0 means no deadline.
    """
    if not is_retryable(failure, policy.non_retryable_error_types):
        return Next(wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE)
    attempt = max(attempt, 1)
    if 0 < policy.maximum_attempts <= attempt:
        return Next(wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED)
    delay_ns = requested_delay_ns(failure)
    maximum_ns = duration_ns(policy.maximum_interval)
    if delay_ns is None:
        interval_ns = exponential_ns(duration_ns(policy.initial_interval), policy.backoff_coefficient, attempt)
    else:
        interval_ns = delay_ns
        if delay_lifts_maximum:
            maximum_ns = delay_ns
    if maximum_ns == 0 and interval_ns <= 0:
        return Next(wf_enums.RETRY_STATE_TIMEOUT)
    if maximum_ns != 0 and (interval_ns <= 0 or interval_ns > maximum_ns):
        interval_ns = maximum_ns
    if expiration_ns and now_ns + interval_ns > expiration_ns:
        return Next(wf_enums.RETRY_STATE_TIMEOUT)
    return Next(IN_PROGRESS, interval_ns)
