"""The state machine of a standalone activity: which event may happen in which state, and which state is next.

Workers and operators see the same states of an activity of a workflow; but there pausing, cancelling and resetting
are independent of each other, and therefore flags beside the attempt (`decide.py`, `operations.py`).
`infra/tools/state_diagrams.py` draws the table in docs/architecture.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from whistlestop.history.core.state_pb2 import ActivityExecution

if TYPE_CHECKING:
    from collections.abc import Mapping

A = ActivityExecution
INITIAL: Final = A.UNSPECIFIED
IN_PROGRESS = frozenset({A.STARTED, A.CANCEL_REQUESTED, A.PAUSE_REQUESTED, A.RESET_REQUESTED})
"""A worker has the attempt."""
TERMINAL = frozenset({A.COMPLETED, A.FAILED, A.CANCELED, A.TERMINATED, A.TIMED_OUT})


class Event(StrEnum):
    """What happens to an activity."""

    SCHEDULE = "schedule an attempt"
    """The first, the next one after a failure, or one from the beginning after a reset or a pause."""
    START = "start"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    HOLD = "hold back the next attempt"
    """The attempt ended, and the next one waits for the end of the pause."""
    REQUEST_RESET = "request reset"
    REQUEST_CANCEL = "request cancel"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    TERMINATE = "terminate"
    TIME_OUT = "time out"


TRANSITIONS: Final[Mapping[tuple[ActivityExecution.Status.ValueType, Event], ActivityExecution.Status.ValueType]] = {
    (INITIAL, Event.SCHEDULE): A.SCHEDULED,
    (A.SCHEDULED, Event.SCHEDULE): A.SCHEDULED,
    (A.SCHEDULED, Event.START): A.STARTED,
    (A.SCHEDULED, Event.PAUSE): A.PAUSED,
    (A.SCHEDULED, Event.REQUEST_CANCEL): A.CANCEL_REQUESTED,
    (A.SCHEDULED, Event.COMPLETE): A.COMPLETED,
    (A.SCHEDULED, Event.TERMINATE): A.TERMINATED,
    (A.SCHEDULED, Event.TIME_OUT): A.TIMED_OUT,
    (A.STARTED, Event.SCHEDULE): A.SCHEDULED,
    (A.STARTED, Event.PAUSE): A.PAUSE_REQUESTED,
    (A.STARTED, Event.REQUEST_RESET): A.RESET_REQUESTED,
    (A.STARTED, Event.REQUEST_CANCEL): A.CANCEL_REQUESTED,
    (A.STARTED, Event.COMPLETE): A.COMPLETED,
    (A.STARTED, Event.FAIL): A.FAILED,
    (A.STARTED, Event.TERMINATE): A.TERMINATED,
    (A.STARTED, Event.TIME_OUT): A.TIMED_OUT,
    (A.PAUSE_REQUESTED, Event.UNPAUSE): A.STARTED,
    (A.PAUSE_REQUESTED, Event.HOLD): A.PAUSED,
    (A.PAUSE_REQUESTED, Event.REQUEST_RESET): A.RESET_REQUESTED,
    (A.PAUSE_REQUESTED, Event.REQUEST_CANCEL): A.CANCEL_REQUESTED,
    (A.PAUSE_REQUESTED, Event.COMPLETE): A.COMPLETED,
    (A.PAUSE_REQUESTED, Event.FAIL): A.FAILED,
    (A.PAUSE_REQUESTED, Event.TERMINATE): A.TERMINATED,
    (A.PAUSE_REQUESTED, Event.TIME_OUT): A.TIMED_OUT,
    (A.PAUSED, Event.SCHEDULE): A.SCHEDULED,
    (A.PAUSED, Event.REQUEST_CANCEL): A.CANCEL_REQUESTED,
    (A.PAUSED, Event.COMPLETE): A.COMPLETED,
    (A.PAUSED, Event.TERMINATE): A.TERMINATED,
    (A.PAUSED, Event.TIME_OUT): A.TIMED_OUT,
    (A.RESET_REQUESTED, Event.SCHEDULE): A.SCHEDULED,
    (A.RESET_REQUESTED, Event.HOLD): A.PAUSED,
    (A.RESET_REQUESTED, Event.REQUEST_CANCEL): A.CANCEL_REQUESTED,
    (A.RESET_REQUESTED, Event.COMPLETE): A.COMPLETED,
    (A.RESET_REQUESTED, Event.TERMINATE): A.TERMINATED,
    (A.RESET_REQUESTED, Event.TIME_OUT): A.TIMED_OUT,
    (A.CANCEL_REQUESTED, Event.COMPLETE): A.COMPLETED,
    (A.CANCEL_REQUESTED, Event.FAIL): A.FAILED,
    (A.CANCEL_REQUESTED, Event.CANCEL): A.CANCELED,
    (A.CANCEL_REQUESTED, Event.TERMINATE): A.TERMINATED,
    (A.CANCEL_REQUESTED, Event.TIME_OUT): A.TIMED_OUT,
}
"""An attempt that no worker has is cancelled in the transition that requests it."""


def after(status: ActivityExecution.Status.ValueType, event: Event) -> ActivityExecution.Status.ValueType:
    """Return the next state. Raise ValueError if the event can't happen: the caller should have refused the request."""
    following = TRANSITIONS.get((status, event))
    if following is None:
        raise ValueError(f"a standalone activity that is {A.Status.Name(status)} can't {event}")
    return following
