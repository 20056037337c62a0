"""The end of a run that has grown too large: terminated, whatever the transition wanted.

Rules of this file, which are Temporal's: the sizes are those of what is stored, the number of events includes those of
the transition. What the transition decided is thrown away, the run is terminated instead, and the caller is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core import close

if TYPE_CHECKING:
    from whistlestop.history.core.run import Run

HISTORY_SIZE = "Workflow history size exceeds limit."
HISTORY_COUNT = "Workflow history count exceeds limit."
MUTABLE_STATE_SIZE = "Workflow mutable state size exceeds limit."


def enforce(run: Run, state_size: int) -> str:
    """Terminate the run if it is over a limit; returns the reason, or nothing. `state_size` in bytes, as stored."""
    limits = run.limits
    if not run.is_open:
        return ""
    if run.state.history_size_bytes > limits.history_size_error:
        reason = HISTORY_SIZE
    elif run.state.next_event_id - 1 > limits.history_count_error:
        reason = HISTORY_COUNT
    elif state_size > limits.mutable_state_size_error:
        reason = MUTABLE_STATE_SIZE
    else:
        return ""
    run.restart()
    if run.is_open:
        close.terminate(run, reason=reason, identity=close.HISTORY_SERVICE)
    return reason
