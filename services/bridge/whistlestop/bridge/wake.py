"""When to look for tasks.

A look costs an invocation, so an idle worker looks seldom; but whatever goes through the bridge tells that something
may have happened. Two adapters of the port: one that guesses, and one that is told by a wake queue, and guesses when it
is not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock


FIRST_S = 0.1
"""The first look after one that found nothing, where nobody tells."""
ENDS_S = 0.3
"""How long what has begun is given to end."""


class WakeChannel(Protocol):
    """Says when it is time to look. A wake too many costs a look, one too few is made up for by the next."""

    @property
    def wake_queue(self) -> str:
        """The name under which looks are to register it; empty: there is none."""
        ...

    def answered(self, prefix: str, *, wakes: bool) -> None:
        """What a look said of wake queues: how their names must begin, and whether this one is registered now.

        `prefix` is empty where the target wakes none.
        """
        ...

    def happened(self, after_s: float = 0.0) -> None:
        """Something went through the bridge that may make work for a worker, `after_s` from now."""
        ...

    def begun(self) -> None:
        """What may make work is under way here, a call or a task at a worker: looks wait for its end, but not long."""
        ...

    def look_now(self, after_s: float = 0.0) -> None:
        """There is something to look for that nobody will tell of: a queue that no look has named, a backlog."""
        ...

    async def wait(self) -> bool:
        """Return when it is time for the next look; whether it is for something that was told of."""
        ...

    def idle_s(self) -> float:
        """For how long nothing has happened."""
        ...


class WakeQueue(Protocol):
    """Where targets tell that there is a task. Shared by all namespaces of a bridge."""

    @property
    def name(self) -> str:
        """Empty while nobody listens to it."""
        ...

    def offered(self, prefix: str) -> None:
        """A target wakes queues whose names begin like this."""
        ...

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` for each message, and when the queue gets a name or loses it."""
        ...


class AdaptiveWake:
    """Looks at growing intervals since something happened: in proportion to the time that has passed since."""

    wake_queue = ""

    def __init__(self, clock: Clock, first_s: float = FIRST_S, most_s: float = 30.0, share: float = 0.5) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._share = share
        self._last_ns = clock.steady_ns()
        self._due_ns = self._last_ns + int(most_s * SECOND_NS)
        self._is_asked = False
        """The next look is for something that was told of."""
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
        """How long to wait for the next look."""
        return min(max(idle_s * self._share, self._first_s), self._most_s)


class WokenWake(AdaptiveWake):
    """Is told by a wake queue, also of the tasks that its own calls make: most of them make none.

    The looks that it makes by itself are for what was lost on the way. While its queue is not registered, or is not
    heard, it looks as if there were none.
    """

    def __init__(self, clock: Clock, queue: WakeQueue, most_s: float = 30.0) -> None:
        super().__init__(clock, most_s=most_s)
        self._queue = queue
        self._registered = ""
        queue.listen(self.look_now)

    @property
    def wake_queue(self) -> str:  # type: ignore[override]  # a constant of the one that has none
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
"""How long a message may take before the bridge looks without one."""
SELDOM_S = 70.0
"""Below the time for which a poller is believed to be there, so that its sticky queue is not given up."""
