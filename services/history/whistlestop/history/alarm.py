"""Wakes of functions: nothing runs between calls, so whoever leaves something due sees that it is looked at.

A wake is a hint. Woken twice, late or never, history only looks at what the store says is due; what no wake reports is
found by the next worker poll, or by the recurring schedule.
"""

from __future__ import annotations

from typing import Protocol


class Alarm(Protocol):
    """Wakes the history function at instants to come."""

    async def arm(self, at_ns: int) -> None:
        """See that the function is invoked at or soon after `at_ns` (nanoseconds since the epoch)."""
        ...


class NoAlarm:
    """Polls and the recurring schedule are all that wakes."""

    async def arm(self, at_ns: int) -> None:
        return None


class Dues:
    """What the commits of one call left to be done later: the earliest instant, for one wake."""

    def __init__(self) -> None:
        self.earliest_ns = 0

    def note(self, at_ns: int) -> None:
        """Something is due at `at_ns`."""
        if at_ns > 0 and (self.earliest_ns == 0 or at_ns < self.earliest_ns):
            self.earliest_ns = at_ns

    async def arm(self, alarm: Alarm) -> None:
        """Arm for the earliest, once the commits are done; forget it."""
        at_ns, self.earliest_ns = self.earliest_ns, 0
        if at_ns:
            await alarm.arm(at_ns)
