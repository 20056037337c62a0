"""One deadline queue for everything of a service that waits for a time.

A waiting poll needs a deadline, and tens of thousands may wait: a coroutine for each would cost more than the polls.
Here a deadline is an entry in a heap, and one task sleeps until the earliest. Cancelling only marks the entry; the heap
is rebuilt when most of it is marked. The task exists only while a deadline is set, so an idle process runs nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.timing.deadline_heap import DeadlineHeap

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock

_COMPACT_FROM = 256


class Deadline:
    """One scheduled call; `action` is None once it has run or was cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action


class DeadlineQueue:
    """Call functions at given times of the injected clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: DeadlineHeap[Deadline] = DeadlineHeap()
        self._cancelled = 0
        self._task: asyncio.Task[None] | None = None
        self._sleeps_until_ns = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def call_at(self, when_ns: int, action: Callable[[], None]) -> Deadline:
        """Call `action` at `when_ns` (steady clock) or soon after it. After `close` nothing is ever called."""
        deadline = Deadline(action)
        if self._closed:
            return deadline
        self._heap.push(when_ns, deadline)
        if self._task is None or self._task.done():
            self._start(when_ns)
        elif when_ns < self._sleeps_until_ns:
            self._task.cancel()
            self._start(when_ns)
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Cancel the call; this does nothing after it has run."""
        if deadline.action is None or self._closed:
            return
        deadline.action = None
        self._cancelled += 1
        if self._cancelled > _COMPACT_FROM and self._cancelled * 2 > len(self._heap):
            self._heap.keep(lambda each: each.action is not None)
            self._cancelled = 0

    def close(self) -> None:
        """Cancel all calls and ignore those scheduled from now on."""
        self._closed = True
        self._heap.clear()
        self._cancelled = 0
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _start(self, until_ns: int) -> None:
        self._sleeps_until_ns = until_ns
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (next_ns := self._heap.next_ns) is not None:
            self._sleeps_until_ns = next_ns
            delay_ns = next_ns - self._clock.steady_ns()
            if delay_ns > 0:
                await self._clock.sleep(delay_ns / SECOND_NS)
            self._run_expired(self._clock.steady_ns())

    def _run_expired(self, now_ns: int) -> None:
        for deadline in self._heap.pop_expired(now_ns):
            action = deadline.action
            if action is None:
                self._cancelled -= 1
                continue
            deadline.action = None
            action()
