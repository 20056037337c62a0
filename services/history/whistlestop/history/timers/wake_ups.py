"""Wake-ups of the history function: nothing runs between calls, so due work needs a later invocation.

A wake-up is a hint. If it comes twice, late or never, history still only does what the store says is due; what no
wake-up reports is found by the next worker poll or by the recurring schedule.
"""

from __future__ import annotations

from typing import Protocol


class WakeUps(Protocol):
    """Wake the history function at future times."""

    async def arm(self, at_ns: int) -> None:
        """Invoke the function at or soon after `at_ns` (nanoseconds since the Unix epoch)."""
        ...


class NoWakeUps:
    """Set no wake-ups: only polls and the recurring schedule invoke the function."""

    async def arm(self, at_ns: int) -> None:
        """Do nothing: a server's own timer loop fires what is due at `at_ns`."""
        return


class EarliestWakeUp:
    """The earliest time for which the commits of one call need a wake-up."""

    def __init__(self) -> None:
        self.earliest_ns = 0

    def note(self, at_ns: int) -> None:
        """Note that something is due at `at_ns`; times that are not positive are ignored."""
        if at_ns > 0 and (self.earliest_ns == 0 or at_ns < self.earliest_ns):
            self.earliest_ns = at_ns

    async def arm(self, wake_ups: WakeUps) -> None:
        """Set the wake-up for the earliest time after the commits are done, and forget that time.

        Without a time, do nothing.
        """
        at_ns, self.earliest_ns = self.earliest_ns, 0
        if at_ns:
            await wake_ups.arm(at_ns)
