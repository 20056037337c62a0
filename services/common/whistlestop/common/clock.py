"""Time, injected. Nothing else in the project reads a clock or sleeps.

Instants are integer nanoseconds since the Unix epoch (`*_ns`), spans are nanoseconds (`*_ns`) or seconds (`*_s`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    T = TypeVar("T")

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000


class Clock(Protocol):
    """What tells the time and lets a coroutine wait for it."""

    def now_ns(self) -> int:
        """The present instant, nanoseconds since the Unix epoch."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return when `delay_s` seconds of this clock have passed (at once when not positive)."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(delay_s, 0.0))


class FakeClock:
    """A clock that moves only when a test moves it; sleepers wake in the order of their due times."""

    def __init__(self, start_ns: int = 1_700_000_000 * SECOND_NS) -> None:
        self._now_ns = start_ns
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_ns + round(delay_s * SECOND_NS), next(self._order), future))
        await future

    async def advance(self, delta_s: float) -> None:
        """Move forward, waking each sleeper at its own instant and letting it run before the next."""
        end_ns = self._now_ns + round(delta_s * SECOND_NS)
        while self._sleepers and self._sleepers[0][0] <= end_ns:
            due_ns, _, future = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, due_ns)
            if not future.done():
                future.set_result(None)
            for _ in range(10):
                await asyncio.sleep(0)
        self._now_ns = end_ns
        for _ in range(10):
            await asyncio.sleep(0)


class SkippingClock:
    """A clock that runs as `base` does, and can be set forward: who sleeps wakes when the time is skipped."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead_ns = 0
        self._skipped = asyncio.Event()

    def now_ns(self) -> int:
        return self._base.now_ns() + self._ahead_ns

    async def sleep(self, delay_s: float) -> None:
        due_ns = self.now_ns() + round(delay_s * SECOND_NS)
        while (left_ns := due_ns - self.now_ns()) > 0:
            await wait_until(self._base, self._base.now_ns() + left_ns, self._skipped.wait())

    def skip_to(self, instant_ns: int) -> None:
        """Set the clock forward to `instant_ns`; it never goes back."""
        self._ahead_ns += max(instant_ns - self.now_ns(), 0)
        self._skipped.set()
        self._skipped = asyncio.Event()


async def wait_until(clock: Clock, deadline_ns: int, what: Awaitable[T]) -> T | None:
    """Await `what` until `deadline_ns` of `clock`; None (and `what` cancelled) when it ran out first."""
    task = asyncio.ensure_future(what)
    sleeper = asyncio.ensure_future(clock.sleep((deadline_ns - clock.now_ns()) / SECOND_NS))
    try:
        await asyncio.wait({task, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        sleeper.cancel()
        if not task.done():
            task.cancel()
