"""When to look for tasks.

A look costs an invocation, so an idle worker looks seldom; but whatever goes through the bridge tells that something
may have happened. The port has one adapter here, for targets that have nothing to wake a worker with.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS, wait_until

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock


class WakeChannel(Protocol):
    """Says when it is time to look. A wake too many costs a look, one too few is made up for by the next."""

    def happened(self, after_s: float = 0.0) -> None:
        """Something went through the bridge that may make work for a worker, `after_s` from now."""
        ...

    async def wait(self) -> None:
        """Return when it is time for the next look."""
        ...

    def idle_s(self) -> float:
        """For how long nothing has happened."""
        ...


class AdaptiveWake:
    """Looks at growing intervals since something happened: in proportion to the time that has passed since."""

    def __init__(self, clock: Clock, first_s: float = 0.05, most_s: float = 30.0, share: float = 0.5) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._share = share
        self._last_ns = clock.now_ns()
        self._due_ns = self._last_ns
        self._changed = asyncio.Event()

    def happened(self, after_s: float = 0.0) -> None:
        self._last_ns = self._clock.now_ns()
        due_ns = self._last_ns + int(after_s * SECOND_NS)
        if due_ns < self._due_ns:
            self._due_ns = due_ns
            self._changed.set()

    async def wait(self) -> None:
        while (now_ns := self._clock.now_ns()) < self._due_ns:
            self._changed.clear()
            await wait_until(self._clock, self._due_ns, self._changed.wait())
        pause_s = min(max((now_ns - self._last_ns) / SECOND_NS * self._share, self._first_s), self._most_s)
        self._due_ns = now_ns + int(pause_s * SECOND_NS)

    def idle_s(self) -> float:
        return (self._clock.now_ns() - self._last_ns) / SECOND_NS
