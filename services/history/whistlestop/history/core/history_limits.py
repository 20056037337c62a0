"""Terminate a run that has grown too large, whatever the transition decided.

Rules of this file, which are Temporal's: the size of the history is the stored size; the number of events and the size
of the state include what the transition adds. The transition's decisions are thrown away, the run is terminated, and
the caller gets an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.workflow import close

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run

HISTORY_SIZE = "Workflow history size exceeds limit."
HISTORY_COUNT = "Workflow history count exceeds limit."
MUTABLE_STATE_SIZE = "Workflow mutable state size exceeds limit."


EVENT_BYTES = 2048
"""The most by which an event makes the state larger, except with a memo: that is noticed one transition later."""


def enforce(run: Run, state_size: int) -> str:
    """Terminate the run if it exceeds a limit; return the reason, or an empty text. `state_size` is the stored size."""
    if not run.is_open:
        return ""
    limits = run.limits
    state_size = _state_size(run, state_size)
    size, count = run.state.history_size_bytes, run.state.next_event_id - 1
    reason = (
        _judge(run, "bytes of history", size, limits.history_size_warn, limits.history_size_error, HISTORY_SIZE)
        or _judge(run, "events", count, limits.history_count_warn, limits.history_count_error, HISTORY_COUNT)
        or _judge(
            run,
            "bytes of mutable state",
            state_size,
            limits.mutable_state_size_warn,
            limits.mutable_state_size_error,
            MUTABLE_STATE_SIZE,
        )
    )
    if not reason:
        return ""
    run.restart()
    run.warn(f"terminated: {reason}")
    if run.is_open:
        close.terminate(run, reason=reason, identity=close.HISTORY_SERVICE)
    return reason


def _state_size(run: Run, stored: int) -> int:
    """Return the future size of the state, in bytes.

    It is only measured if it may exceed the limit, because that is slow.
    """
    events = len(run.batch) + sum(map(len, run.batches))
    buffered = sum(event.ByteSize() for event in run.mem_buffer)
    if stored + events * EVENT_BYTES + buffered <= run.limits.mutable_state_size_error:
        return stored
    return run.state.ByteSize() + buffered


def _judge(run: Run, what: str, number: int, warn: int, error: int, exceeded: str) -> str:
    """Return why the run has to end, or an empty text; warn the operator above the warning limit."""
    if number > error:
        return exceeded
    if number > warn:
        run.warn(f"{number} {what} are over the warning limit of {warn}")
    return ""
