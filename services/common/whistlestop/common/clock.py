"""Injected time. Nothing else in the project reads a clock or sleeps.

There are two clocks. The *wall clock* (`now_ns`) gives the date: integer nanoseconds since the Unix epoch. It may be
set forward or back at any moment. Use it for what is stored, shown, or compared with another machine's time. The
*steady clock* (`steady_ns`) only goes forward, at a constant rate; its readings have no meaning outside this process.
Use it for deadlines, waits, back-offs, rate limits and cache ages. `docs/architecture.md` says what uses which clock,
and a test (`tests/layout/test_clocks.py`) lists every use of the wall clock with its reason.

A deadline is passed to another process as the remaining time. Instants are nanoseconds (`*_ns`), durations are
nanoseconds (`*_ns`) or seconds (`*_s`).
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.timing.deadline_heap import DeadlineHeap

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    T = TypeVar("T")

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000

STEADY_START_NS = 100_000_000 * SECOND_NS
"""Roughly the first reading of a steady clock. It is large, so that 0 as "last happened at" is always long ago."""

WALL_CHECK_S = 5.0
"""How often code that waits for an instant of the wall clock re-reads that clock, since it may have been set
meanwhile."""


class Clock(Protocol):
    """A source of time that coroutines can wait on."""

    def now_ns(self) -> int:
        """Return the wall clock's time in nanoseconds since the Unix epoch."""
        ...

    def steady_ns(self) -> int:
        """Return the steady clock's time in nanoseconds since an arbitrary moment."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s` seconds of the steady clock; return at once when it is not positive."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time_ns()

    def steady_ns(self) -> int:
        return monotonic_ns() + STEADY_START_NS

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s` seconds of the steady clock; return at once when it is not positive."""
        await asyncio.sleep(max(delay_s, 0.0))


class FunctionClock(SystemClock):
    """The machine's clock in a function, whose instance may be frozen between two invocations.

    It is not guaranteed that the monotonic clock advances while an instance is frozen, and cached values must not
    outlive their age. So at the beginning of an invocation the steady clock is moved forward by the time that the
    wall clock says was spent frozen.
    """

    def __init__(self) -> None:
        self._frozen_ns = 0
        self._seen = self.now_ns(), monotonic_ns()

    def steady_ns(self) -> int:
        return monotonic_ns() + STEADY_START_NS + self._frozen_ns

    def resume(self) -> None:
        """Account for the time since the last invocation, at the beginning of a new one.

        Deadlines are made after this step, so it cannot expire one.
        """
        wall_ns, steady_ns = self.now_ns(), monotonic_ns()
        self._frozen_ns += max(wall_ns - self._seen[0] - (steady_ns - self._seen[1]), 0)
        self._seen = wall_ns, steady_ns


class FakeClock:
    """A clock that moves only when a test moves it; sleepers wake in the order of their deadlines."""

    def __init__(self, start_ns: int = 1_700_000_000 * SECOND_NS) -> None:
        self._now_ns = start_ns
        self._steady_ns = STEADY_START_NS
        self._sleepers: DeadlineHeap[asyncio.Future[None]] = DeadlineHeap()

    def now_ns(self) -> int:
        return self._now_ns

    def steady_ns(self) -> int:
        return self._steady_ns

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s` seconds of the steady clock; return at once when it is not positive."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.push(self._steady_ns + round(delay_s * SECOND_NS), future)
        await future

    async def advance(self, delta_s: float) -> None:
        """Move both clocks forward, waking each sleeper at its own instant and letting it run before the next."""
        end_ns = self._steady_ns + round(delta_s * SECOND_NS)
        while (deadline_ns := self._sleepers.next_ns) is not None and deadline_ns <= end_ns:
            future = self._sleepers.pop()
            self.pass_to(max(self._steady_ns, deadline_ns))
            if not future.done():
                future.set_result(None)
            for _ in range(10):
                await asyncio.sleep(0)
        self.pass_to(end_ns)
        for _ in range(10):
            await asyncio.sleep(0)

    def pass_to(self, steady_ns: int) -> None:
        """Move both clocks so that the steady one reads `steady_ns`, without waking any sleeper."""
        self._now_ns += steady_ns - self._steady_ns
        self._steady_ns = steady_ns

    def set_wall(self, delta_s: float) -> None:
        """Shift the wall clock by `delta_s` seconds, forward or back. No time passes and no sleeper wakes."""
        self._now_ns += round(delta_s * SECOND_NS)


class SkippingClock:
    """A clock that follows `base` and can be set forward; sleepers whose deadline is skipped wake up.

    Skipped time counts for sleepers and for the wall clock. Request deadlines use the steady clock of `base`, so that
    a skip does not shorten them.
    """

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead_ns = 0
        self._skipped = asyncio.Event()

    def now_ns(self) -> int:
        return self._base.now_ns() + self._ahead_ns

    def steady_ns(self) -> int:
        return self._base.steady_ns()

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s` seconds of the steady clock; return at once when it is not positive."""
        deadline_ns = self.steady_ns() + self._ahead_ns + round(delay_s * SECOND_NS)
        while (left_ns := deadline_ns - self._ahead_ns - self.steady_ns()) > 0:
            await wait_until(self._base, self._base.steady_ns() + left_ns, self._skipped.wait())

    def skip_to(self, instant_ns: int) -> None:
        """Set the wall clock forward to `instant_ns`. Does nothing when that is in the past."""
        self._ahead_ns += max(instant_ns - self.now_ns(), 0)
        self._skipped.set()
        self._skipped = asyncio.Event()


async def wait_until(clock: Clock, deadline_ns: int, what: Awaitable[T]) -> T | None:
    """Await `what` until the steady clock reads `deadline_ns`; then cancel `what` and return None.

    Exceptions of `what` are raised.
    """
    task = asyncio.ensure_future(what)
    sleeper = asyncio.ensure_future(clock.sleep((deadline_ns - clock.steady_ns()) / SECOND_NS))
    try:
        await asyncio.wait({task, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        sleeper.cancel()
        if not task.done():
            task.cancel()


async def sleep_until(clock: Clock, instant_ns: int) -> None:
    """Sleep until the wall clock reads `instant_ns`.

    If the clock is set to that instant or beyond, this returns at most WALL_CHECK_S later.
    """
    while (left_ns := instant_ns - clock.now_ns()) > 0:
        await clock.sleep(min(left_ns / SECOND_NS, WALL_CHECK_S))


async def wait_toward(clock: Clock, instant_ns: int, what: Awaitable[T]) -> T | None:
    """Await `what` until the wall clock should read `instant_ns`; return None on a timeout.

    The wait lasts WALL_CHECK_S at most. The caller then reads the wall clock again, which may have been set, and goes
    on waiting if the instant has not come. Exceptions of `what` are raised.
    """
    left_ns = min(instant_ns - clock.now_ns(), round(WALL_CHECK_S * SECOND_NS))
    return await wait_until(clock, clock.steady_ns() + left_ns, what)
