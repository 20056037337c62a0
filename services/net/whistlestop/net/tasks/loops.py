"""The background loops of a process: all are in this registry, survive every error, and report their state.

A loop runs its turn again and again until it is cancelled. A turn that fails (the database restarted, a standby
became the primary, an idle connection was closed) is counted, logged, and retried with back-off. `/healthz` shows the
loops that currently fail, `/metrics` counts the failures. A test refuses a loop that is not registered here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import WeakSet

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.timing.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clock import Clock

FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0
MAX_ERROR_LENGTH = 200
"""Characters of an error in `/healthz`. Where its text may be confidential, only its class is shown."""

LOOPS = {
    "membership": "sends heartbeats, finds other live processes, and claims the ranges to scan",
    "timers": "fires expired timers",
    "transfers": "delivers transfer tasks that are left in the outbox",
    "notifications received": "LISTEN: receives notifications of what other processes committed",
    "notifications sent": "NOTIFY: sends notifications of what this process committed",
    "batches": "looks for open batch jobs",
    "deletions": "deletes the remaining data of deleted namespaces",
    "dynamic configuration": "reads --dynamic-config-file again when it has changed",
}
"""All loops, and what they do."""

log = logging.getLogger(__name__)
_live: WeakSet[Loop] = WeakSet()
_failures = dict.fromkeys(LOOPS, 0)


class Loop:
    """A background loop, and the outcome of its last turns."""

    def __init__(self, name: str, clock: Clock, *, most_pause_s: float = MAX_PAUSE_S) -> None:
        if name not in LOOPS:
            raise ValueError(f"the loop {name!r} is not in the registry: name it in whistlestop.net.tasks.loops.LOOPS")
        self.name = name
        self._clock = clock
        self._most_pause_s = most_pause_s
        self.failing = 0
        """Failed turns since the last successful one."""
        self._since_ns = 0
        self.error = ""
        _live.add(self)

    async def run(self, turn: Callable[[], Awaitable[object]]) -> None:
        """Run turns until cancelled. An exception of a turn is logged, and the next turn waits longer."""
        try:
            while True:
                await self.attempt(turn)
        finally:
            self.ended()

    async def attempt(self, turn: Callable[[], Awaitable[object]]) -> bool:
        """Run one turn and return whether it succeeded; after a failure, record it and pause."""
        try:
            await turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the loop
            await self.failed(error)
            return False
        self.succeeded()
        return True

    async def failed(self, error: Exception) -> None:
        """Count a failure, and pause: longer with each failure in a row."""
        self.failing += 1
        _failures[self.name] += 1
        self.error = type(error).__name__
        if self.failing == 1:
            self._since_ns = self._clock.steady_ns()
        pause_s = backoff(FIRST_PAUSE_S, self.failing, self._most_pause_s)
        log.warning("%s: %s; trying again in %.1f s", self.name, " ".join(f"{error!r}".split()), pause_s)
        await self._clock.sleep(pause_s)

    def succeeded(self) -> None:
        """Record a successful turn."""
        if self.failing:
            log.warning("%s: working again after %d failures", self.name, self.failing)
            self.failing, self.error = 0, ""

    def ended(self) -> None:
        """Remove the loop from those that `/healthz` reports, because it has ended."""
        _live.discard(self)

    def state(self) -> dict[str, object]:
        """Return the loop's state for `/healthz`."""
        failing_s = round((self._clock.steady_ns() - self._since_ns) / SECOND_NS)
        return {"failures": self.failing, "error": self.error, "seconds": failing_s}


def failing() -> dict[str, dict[str, object]]:
    """Return the state of each loop of this process that currently fails, by name."""
    return {loop.name: loop.state() for loop in sorted(_live, key=lambda each: each.name) if loop.failing}


def failures() -> dict[str, int]:
    """Return the number of failed turns of each loop since the process started."""
    return dict(_failures)


def health() -> dict[str, object]:
    """Return the content of `/healthz`.

    A process whose loops fail still serves: usually it is the database that is unavailable.
    """
    bad = failing()
    return {"status": "SERVING", "failing": bad} if bad else {"status": "SERVING"}
