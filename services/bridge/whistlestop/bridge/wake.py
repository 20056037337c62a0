"""Decide when to check for tasks.

A check costs an invocation, so an idle worker checks seldom; but every call through the bridge indicates that there
may be work. There are two adapters: one estimates, the other is notified through a wake-up queue, and estimates
without it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock


FIRST_S = 0.1
"""Interval of the first check after one that found nothing, without notifications."""
ENDS_S = 0.3
"""How long to wait for the end of a call or task in progress."""


class WakeChannel(Protocol):
    """Decides when to check for tasks.

    An unnecessary check costs an invocation; a missed one is made up for by the next.
    """

    @property
    def wake_queue(self) -> str:
        """The name of the wake-up queue for checks to register; empty if there is none."""
        ...

    def answered(self, prefix: str, *, wakes: bool) -> None:
        """Take a check's reply about wake-up queues: the required prefix of names, and whether ours is registered.

        `prefix` is empty if the target sends no wake-ups.
        """
        ...

    def happened(self, after_s: float = 0.0) -> None:
        """Expect work for a worker, `after_s` seconds from now, because of a call through the bridge."""
        ...

    def begun(self) -> None:
        """Expect work after a call or task in progress: checks wait briefly for its end."""
        ...

    def look_now(self, after_s: float = 0.0) -> None:
        """Check soon for something without a notification: a queue that no check has included, or a backlog."""
        ...

    async def wait(self) -> bool:
        """Wait until the next check; return whether it was prompted by something."""
        ...

    def idle_s(self) -> float:
        """Return for how many seconds nothing has happened."""
        ...


class WakeQueue(Protocol):
    """Where targets send notifications of tasks. All namespaces of a bridge share it."""

    @property
    def name(self) -> str:
        """The queue's name; empty while nobody listens to it."""
        ...

    def offered(self, prefix: str) -> None:
        """Take the prefix of queue names to which a target sends notifications."""
        ...

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` for each message, and when the queue gets or loses its name."""
        ...


class AdaptiveWake:
    """Checks at growing intervals, in proportion to the time since something last happened."""

    wake_queue = ""

    def __init__(self, clock: Clock, first_s: float = FIRST_S, most_s: float = 30.0, share: float = 0.5) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._share = share
        self._last_ns = clock.steady_ns()
        self._due_ns = self._last_ns + int(most_s * SECOND_NS)
        self._is_asked = False
        """The next check was prompted by something."""
        self._changed = asyncio.Event()

    def answered(self, prefix: str, *, wakes: bool) -> None:
        return None

    def happened(self, after_s: float = 0.0) -> None:
        self._last_ns = self._clock.steady_ns()
        due_ns = self._last_ns + int(after_s * SECOND_NS)
        self._is_asked = True
        if due_ns < self._due_ns:
            self._due_ns = due_ns
            self._changed.set()

    def begun(self) -> None:
        self._last_ns = self._clock.steady_ns()
        if not self._is_asked:
            self._due_ns = self._last_ns + int(max(self._pause_s(0), ENDS_S) * SECOND_NS)
            self._changed.set()

    def look_now(self, after_s: float = 0.0) -> None:
        AdaptiveWake.happened(self, after_s)

    async def wait(self) -> bool:
        while (now_ns := self._clock.steady_ns()) < self._due_ns:
            self._changed.clear()
            await wait_until(self._clock, self._due_ns, self._changed.wait())
        is_asked, self._is_asked = self._is_asked, False
        self._due_ns = now_ns + int(self._pause_s((now_ns - self._last_ns) / SECOND_NS) * SECOND_NS)
        return is_asked

    def idle_s(self) -> float:
        return (self._clock.steady_ns() - self._last_ns) / SECOND_NS

    def _pause_s(self, idle_s: float) -> float:
        """Return the interval to the next check."""
        return min(max(idle_s * self._share, self._first_s), self._most_s)


class WokenWake(AdaptiveWake):
    """Is notified through a wake-up queue, also of tasks caused by its own calls, most of which cause none.

    Its own checks are only for lost notifications. While its queue is not registered or cannot be read, it checks as
    if there were none.
    """

    def __init__(self, clock: Clock, queue: WakeQueue, most_s: float = 30.0) -> None:
        super().__init__(clock, most_s=most_s)
        self._queue = queue
        self._registered = ""
        queue.listen(self.look_now)

    @property
    def wake_queue(self) -> str:  # type: ignore[override]  # a class attribute in the base class
        return self._queue.name

    def answered(self, prefix: str, *, wakes: bool) -> None:
        self._registered = self._queue.name if wakes else ""
        if prefix:
            self._queue.offered(prefix)

    def happened(self, after_s: float = 0.0) -> None:
        super().happened(after_s + SOON_S if self._is_told else after_s)

    @property
    def _is_told(self) -> bool:
        return bool(self._registered) and self._registered == self._queue.name

    def _pause_s(self, idle_s: float) -> float:
        if not self._is_told:
            return super()._pause_s(idle_s)
        return SOON_S if idle_s < SOON_S else SELDOM_S


SOON_S = 2.0
"""How long a message may take before the bridge checks without one."""
SELDOM_S = 70.0
"""Less than the time for which a poller counts as present, so that its sticky queue is not given up."""
