"""An event loop whose time is simulated, so that a simulation depends on its seed and on nothing else.

Rules of this file:
  - time stands still while anything can run, and then jumps to the next timer: nobody waits for the machine's clock;
  - there is one thread: a call from another one, or into an executor, is an error and not a race;
  - callbacks run in the order in which they were scheduled;
  - tasks hash by their number, so that a set of them is walked in the same order at any address.

`trace` folds whatever the caller finds worth noting into one hash, together with the time and the number of callbacks
so far. Two runs with the same hash did the same things in the same order.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from contextvars import copy_context
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from whistlestop.common.clock import SECOND_NS, STEADY_START_NS, FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
START_NS = 1_700_000_000 * SECOND_NS
STEADY_APART_NS = 1_000_000 * SECOND_NS
"""Between the steady clocks of two processes."""
MOST_AT_ONCE = 200_000
"""Callbacks without time passing: more than that is a livelock."""


class Stuck(AssertionError):
    """The simulation can't go on: nothing is left to run, or time stands still for ever."""


class NumberedTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    _numbers = itertools.count()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*arguments, **keywords)

    def __hash__(self) -> int:
        return self._number


class _Call:
    """A scheduled callback; what `call_soon` and `call_at` return."""

    __slots__ = ("_arguments", "_callback", "_context", "_loop", "is_cancelled", "when_s")

    def __init__(
        self, loop: SimulatedLoop, callback: Callable[..., object], arguments: tuple[Any, ...], context: Context | None
    ) -> None:
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments
        self._context = context if context is not None else copy_context()
        self.is_cancelled = False
        self.when_s = 0.0

    def run(self) -> None:
        callback = self._callback
        assert callback is not None
        try:
            self._context.run(callback, *self._arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does: told to the handler, and the loop goes on
            self._loop.call_exception_handler({"message": f"Exception in callback {callback}", "exception": error})

    def cancel(self) -> None:
        self.is_cancelled = True
        self._callback = None
        self._arguments = ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the top of this file."""

    def __init__(self) -> None:
        super().__init__()
        NumberedTask._numbers = itertools.count()
        self.now_ns = START_NS
        self.clocks = 0
        self.steps = 0
        """Callbacks run so far."""
        self._calls: deque[_Call] = deque()
        self._timers: list[tuple[int, int, _Call]] = []
        self._order = itertools.count()
        self._hash = blake2b(digest_size=16)
        self._at_step: list[tuple[int, int, Callable[[], None]]] = []
        self._next_step = -1
        self.set_task_factory(self._make_task)

    # ---- the trace ----------------------------------------------------------------------------------------------

    def trace(self, *what: str | bytes) -> None:
        """Note that this happened now."""
        update = self._hash.update
        update(b"%d %d" % (self.now_ns, self.steps))
        for part in what:
            update(part if isinstance(part, bytes) else part.encode())

    @property
    def digest(self) -> str:
        """The hash over all that was traced, and over how many callbacks ran until when."""
        final = self._hash.copy()
        final.update(b"%d %d" % (self.now_ns, self.steps))
        return final.hexdigest()

    # ---- scheduling ---------------------------------------------------------------------------------------------

    def after_steps(self, steps: int, callback: Callable[[], None]) -> None:
        """Call back between two callbacks, this many from now: whoever awaits anything then is interrupted there."""
        heapq.heappush(self._at_step, (self.steps + steps, next(self._order), callback))
        self._next_step = self._at_step[0][0]

    def call_at_ns(self, due_ns: int, callback: Callable[..., object], *arguments: Any) -> _Call:
        """As `call_at`, in nanoseconds of `now_ns`."""
        call = _Call(self, callback, arguments, None)
        call.when_s = (due_ns - START_NS) / SECOND_NS
        heapq.heappush(self._timers, (due_ns, next(self._order), call))
        return call

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> Any:
        call = _Call(self, callback, args, context)
        self._calls.append(call)
        return call

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        call = _Call(self, callback, args, context)
        call.when_s = when
        heapq.heappush(self._timers, (START_NS + round(when * SECOND_NS), next(self._order), call))
        return call

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        raise AssertionError(f"another thread enters the simulation: {callback}")

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> Any:
        raise AssertionError(f"something leaves the simulation for a thread: {func}")

    def time(self) -> float:
        return (self.now_ns - START_NS) / SECOND_NS

    @staticmethod
    def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **keywords: Any) -> asyncio.Task[Any]:
        return NumberedTask(coro, loop=loop, **keywords)

    # ---- running ------------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        task: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        asyncio._set_running_loop(self)
        try:
            self._run_until(task)
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def _run_until(self, task: asyncio.Future[Any]) -> None:
        calls, timers = self._calls, self._timers
        since = self.steps
        while not task.done():
            if self.steps == self._next_step:
                self._interrupt()
            if calls:
                call = calls.popleft()
                if not call.is_cancelled:
                    self.steps += 1
                    call.run()
            elif timers:
                due_ns, _, call = heapq.heappop(timers)
                if not call.is_cancelled:
                    if due_ns > self.now_ns:
                        self.now_ns, since = due_ns, self.steps
                    calls.append(call)
            else:
                raise Stuck("everybody waits, and nothing is to come")
            if self.steps - since > MOST_AT_ONCE:
                raise Stuck(f"{MOST_AT_ONCE} callbacks without time passing")

    def _interrupt(self) -> None:
        while self._at_step and self._at_step[0][0] <= self.steps:
            heapq.heappop(self._at_step)[2]()
        self._next_step = self._at_step[0][0] if self._at_step else -1


class LoopClock(FakeClock):
    """The clock of one process: the loop's time, and what this machine's wall clock is ahead (or behind) of it.

    The steady clock goes as the loop does, whatever the wall clock is set to. Each process has another one, so that an
    instant of one process means nothing to the next.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__(START_NS)
        self._loop = loop
        self.ahead_ns = 0
        loop.clocks += 1
        self._apart_ns = STEADY_START_NS - START_NS + loop.clocks * STEADY_APART_NS

    def now_ns(self) -> int:
        return self._loop.now_ns + self.ahead_ns

    def steady_ns(self) -> int:
        return self._loop.now_ns + self._apart_ns

    async def sleep(self, delay_s: float) -> None:
        """As SystemClock: how long it takes does not depend on what the wall clock is set to meanwhile."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = self._loop.create_future()
        call = self._loop.call_at_ns(self._loop.now_ns + round(delay_s * SECOND_NS), _release, future)
        try:
            await future
        finally:
            call.cancel()

    async def advance(self, delta_s: float) -> None:
        """Let that time pass."""
        await self.sleep(delta_s)


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def simulate(main: Coroutine[Any, Any, T], loop: SimulatedLoop) -> T:
    """Run `main` to its end on that loop."""
    try:
        result: T = loop.run_until_complete(main)
        return result
    finally:
        loop.close()
