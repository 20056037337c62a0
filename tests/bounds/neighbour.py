"""How long one call holds up the others, measured in turns of the event loop and not in seconds.

Beside the call a neighbour takes one turn after the other. The longest turn is measured in CPU time of the event loop's
thread, and compared with a yardstick: a fixed piece of Python, timed on the same machine just before and after. So a
slow or a busy machine makes both longer.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

YARD_STEPS = 20_000


def yardstick_s() -> float:
    """CPU seconds of a fixed computation: about a millisecond on the machines of 2025."""
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        total = 0
        for step in range(YARD_STEPS):
            total += step & 7
        best = min(best, time.thread_time() - began)
    return best


@dataclass
class Neighbour:
    """What became of the others while a call was served."""

    turns: int = 0
    longest_s: float = 0.0
    yard_s: float = 0.0

    @property
    def longest(self) -> float:
        """The longest turn, in yardsticks."""
        return self.longest_s / self.yard_s


@asynccontextmanager
async def beside() -> AsyncIterator[Neighbour]:
    """Measure what goes on within.

    What is in memory before is frozen, as a server freezes it: or the collector looks through all that the tests before
    have left, in whichever turn it runs.
    """
    gc.freeze()
    seen = Neighbour(yard_s=yardstick_s())
    running = True

    async def turn() -> None:
        last = time.thread_time()
        while running:
            await asyncio.sleep(0)
            now = time.thread_time()
            seen.turns += 1
            seen.longest_s = max(seen.longest_s, now - last)
            last = now

    task = asyncio.ensure_future(turn())
    await asyncio.sleep(0)
    try:
        yield seen
    finally:
        await asyncio.sleep(0)
        running = False
        await task
        gc.unfreeze()
        seen.yard_s = max(seen.yard_s, yardstick_s())
