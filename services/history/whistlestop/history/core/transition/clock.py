"""The run's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState


def skipped_ns(state: MutableState) -> int:
    """Return how far the run's clock is ahead of the server's, in nanoseconds.

    It is 0 for a run that has skipped no time.
    """
    return state.time_skipping.skipped_ns
