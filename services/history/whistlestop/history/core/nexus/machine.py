"""The states of a Nexus operation, of a workflow or standalone, and of the request to cancel it.

The state of an operation is not stored: it follows from whether it has started, and from its attempts. `TRANSITIONS`
says how it may change; `tests/core` compares each commit with that, and `infra/tools/state_diagrams.py` draws it in
docs/architecture.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import common_pb2 as common_enums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.history.core.state_pb2 import NexusAttempt, NexusOperation


class State(StrEnum):
    """The states of an operation; Temporal shows the first three of a pending one."""

    SCHEDULED = "Scheduled"
    """An attempt to start it is wanted or in progress."""
    BACKING_OFF = "BackingOff"
    STARTED = "Started"
    """It goes on elsewhere, and its end is reported by a callback."""
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    TIMED_OUT = "TimedOut"


class Event(StrEnum):
    """What happens to an operation."""

    FAIL_ATTEMPT = "an attempt fails"
    TRY_AGAIN = "try again"
    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    TIME_OUT = "time out"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.SCHEDULED, Event.FAIL_ATTEMPT): State.BACKING_OFF,
    (State.SCHEDULED, Event.START): State.STARTED,
    (State.SCHEDULED, Event.COMPLETE): State.COMPLETED,
    (State.SCHEDULED, Event.FAIL): State.FAILED,
    (State.SCHEDULED, Event.CANCEL): State.CANCELED,
    (State.SCHEDULED, Event.TIME_OUT): State.TIMED_OUT,
    (State.BACKING_OFF, Event.TRY_AGAIN): State.SCHEDULED,
    (State.BACKING_OFF, Event.START): State.STARTED,
    (State.BACKING_OFF, Event.COMPLETE): State.COMPLETED,
    (State.BACKING_OFF, Event.FAIL): State.FAILED,
    (State.BACKING_OFF, Event.CANCEL): State.CANCELED,
    (State.BACKING_OFF, Event.TIME_OUT): State.TIMED_OUT,
    (State.STARTED, Event.COMPLETE): State.COMPLETED,
    (State.STARTED, Event.FAIL): State.FAILED,
    (State.STARTED, Event.CANCEL): State.CANCELED,
    (State.STARTED, Event.TIME_OUT): State.TIMED_OUT,
}
"""While an operation backs off, its handler may report by callback that it started or ended all the same."""


def state_of(operation: NexusOperation) -> State:
    """Return the state of a pending operation."""
    if operation.started_ns:
        return State.STARTED
    return State.BACKING_OFF if operation.start.next_attempt_ns else State.SCHEDULED


def cancellation_of(attempt: NexusAttempt) -> common_enums.NexusOperationCancellationState.ValueType:
    """Return the state of the request to cancel an operation that has started."""
    if attempt.failed:
        return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED
    if attempt.over:
        return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    if attempt.next_attempt_ns:
        return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF
    return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED
