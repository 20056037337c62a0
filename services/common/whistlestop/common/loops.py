"""The background loops of a process: all of them stand in this registry, survive every error, and tell how they fare.

A loop does turn after turn until it is cancelled. A turn that fails (the database restarted, a standby became the
primary, a connection was closed while it idled) is counted, said in the log, and tried again with back-off. `/healthz`
shows which loops fail now, `/metrics` counts the failures. A test refuses a loop that is not here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import WeakSet

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clock import Clock

FIRST_PAUSE_S, MOST_PAUSE_S = 0.2, 30.0
MOST_SHOWN = 200
"""Characters of an error in `/healthz`: of its class alone where it may hold what is nobody's business."""

LOOPS = {
    "membership": "heartbeats, who else lives, which ranges are scanned here",
    "timers": "fires what is due",
    "transfers": "delivers what was left in the outbox",
    "hints heard": "LISTEN: what other processes committed",
    "hints sent": "NOTIFY: what this one committed",
    "batches": "looks for open batch jobs",
    "deletions": "deletes what is left of deleted namespaces",
    "dynamic configuration": "reads --dynamic-config-file again when it has changed",
}
"""Every loop, and what it does."""

log = logging.getLogger(__name__)
_live: WeakSet[Loop] = WeakSet()
_failures = dict.fromkeys(LOOPS, 0)


class Loop:
    """One background loop, and how its last turns went."""

    def __init__(self, name: str, clock: Clock, *, most_pause_s: float = MOST_PAUSE_S) -> None:
        if name not in LOOPS:
            raise ValueError(f"the loop {name!r} is not in the registry: name it in whistlestop.common.loops.LOOPS")
        self.name = name
        self._clock = clock
        self._most_pause_s = most_pause_s
        self.failing = 0
        """Turns that failed since the last one that did not."""
        self._since_ns = 0
        self.error = ""
        _live.add(self)

    async def run(self, turn: Callable[[], Awaitable[object]]) -> None:
        """Do turn after turn, until cancelled."""
        try:
            while True:
                await self.attempt(turn)
        finally:
            self.ended()

    async def attempt(self, turn: Callable[[], Awaitable[object]]) -> bool:
        """Do a turn; after a failure note it and pause. Returns whether it went well."""
        try:
            await turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the loop
            await self.failed(error)
            return False
        self.succeeded()
        return True

    async def failed(self, error: Exception) -> None:
        """Count a failure, and pause: longer with each one in a row."""
        self.failing += 1
        _failures[self.name] += 1
        self.error = type(error).__name__
        if self.failing == 1:
            self._since_ns = self._clock.steady_ns()
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self.failing - 1, 20), self._most_pause_s)
        log.warning("%s: %s; trying again in %.1f s", self.name, " ".join(f"{error!r}".split()), pause_s)
        await self._clock.sleep(pause_s)

    def succeeded(self) -> None:
        """A turn went well."""
        if self.failing:
            log.warning("%s: goes on after %d failures", self.name, self.failing)
            self.failing, self.error = 0, ""

    def ended(self) -> None:
        """The loop is over: it fails no more."""
        _live.discard(self)

    def shown(self) -> dict[str, object]:
        """How it fares, for `/healthz`."""
        failing_s = round((self._clock.steady_ns() - self._since_ns) / SECOND_NS)
        return {"failures": self.failing, "error": self.error, "seconds": failing_s}


def failing() -> dict[str, dict[str, object]]:
    """Return the loops of this process that fail now, by name."""
    return {loop.name: loop.shown() for loop in sorted(_live, key=lambda each: each.name) if loop.failing}


def failures() -> dict[str, int]:
    """Return how many turns of each loop have failed so far."""
    return dict(_failures)


def health() -> dict[str, object]:
    """Return what `/healthz` says. A process whose loops fail still serves: what it waits for is the database."""
    bad = failing()
    return {"status": "SERVING", "failing": bad} if bad else {"status": "SERVING"}
