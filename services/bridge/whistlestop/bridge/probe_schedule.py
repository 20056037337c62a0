"""Decide when to check for tasks.

A check costs an invocation, so an idle worker checks seldom; but every call through the bridge indicates that there
may be work. There are two adapters: one estimates, the other is notified through a notification queue, and estimates
without it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock


FIRST_INTERVAL_S = 0.1
"""Interval of the first check after one that found nothing, without notifications."""
CALL_END_S = 0.3
"""How long to wait for the end of a call or task in progress."""


class ProbeSchedule(Protocol):
    """Decides when to check for tasks.

    An unnecessary check costs an invocation; a missed one is made up for by the next.
    """

    @property
    def notification_queue(self) -> str:
        """The name of the notification queue for checks to register; empty if there is none."""
        ...

    def record_answer(self, prefix: str, *, registered: bool) -> None:
        """Take a check's reply about notification queues: the required prefix of names, and whether ours is registered.

        `prefix` is empty if the target sends no notifications.
        """
        ...

    def expect_work(self, after_s: float = 0.0) -> None:
        """Expect work for a worker, `after_s` seconds from now, because of a call through the bridge."""
        ...

    def call_started(self) -> None:
        """Expect work after a call or task in progress: checks wait briefly for its end."""
        ...

    def probe_soon(self, after_s: float = 0.0) -> None:
        """Check soon for something without a notification: a queue that no check has included, or a backlog."""
        ...

    async def wait(self) -> bool:
        """Wait until the next check; return whether it was prompted by something."""
        ...

    def idle_s(self) -> float:
        """Return for how many seconds nothing has happened."""
        ...


class NotificationQueue(Protocol):
    """Where targets send notifications of tasks. All namespaces of a bridge share it."""

    @property
    def name(self) -> str:
        """The queue's name; empty while nobody listens to it."""
        ...

    def set_prefix(self, prefix: str) -> None:
        """Take the prefix of queue names to which a target sends notifications; empty when it sends none."""
        ...

    def listen(self, on_message: Callable[[], None]) -> None:
        """Call `on_message` for each message, and when the queue gets or loses its name."""
        ...


class AdaptiveSchedule:
    """Checks at growing intervals, in proportion to the time since something last happened."""

    notification_queue = ""

    def __init__(
        self, clock: Clock, first_s: float = FIRST_INTERVAL_S, most_s: float = 30.0, share: float = 0.5
    ) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._share = share
        self._last_ns = clock.steady_ns()
        self._next_probe_ns = self._last_ns + int(most_s * SECOND_NS)
        self._is_prompted = False
        """The next check was prompted by something."""
        self._changed = asyncio.Event()

    def record_answer(self, prefix: str, *, registered: bool) -> None:
        """Take a check's reply about notification queues: the required prefix of names, and whether ours is registered.

        `prefix` is empty if the target sends no notifications.
        """
        return

    def expect_work(self, after_s: float = 0.0) -> None:
        """Expect work for a worker, `after_s` seconds from now, because of a call through the bridge."""
        self._last_ns = self._clock.steady_ns()
        probe_ns = self._last_ns + int(after_s * SECOND_NS)
        self._is_prompted = True
        if probe_ns < self._next_probe_ns:
            self._next_probe_ns = probe_ns
            self._changed.set()

    def call_started(self) -> None:
        self._last_ns = self._clock.steady_ns()
        if not self._is_prompted:
            self._next_probe_ns = self._last_ns + int(max(self._pause_s(0), CALL_END_S) * SECOND_NS)
            self._changed.set()

    def probe_soon(self, after_s: float = 0.0) -> None:
        """Check soon for something without a notification: a queue that no check has included, or a backlog."""
        AdaptiveSchedule.expect_work(self, after_s)

    async def wait(self) -> bool:
        while (now_ns := self._clock.steady_ns()) < self._next_probe_ns:
            self._changed.clear()
            await wait_until(self._clock, self._next_probe_ns, self._changed.wait())
        is_prompted, self._is_prompted = self._is_prompted, False
        self._next_probe_ns = now_ns + int(self._pause_s((now_ns - self._last_ns) / SECOND_NS) * SECOND_NS)
        return is_prompted

    def idle_s(self) -> float:
        return (self._clock.steady_ns() - self._last_ns) / SECOND_NS

    def _pause_s(self, idle_s: float) -> float:
        """Return the interval to the next check."""
        return min(max(idle_s * self._share, self._first_s), self._most_s)


class NotifiedSchedule(AdaptiveSchedule):
    """Is notified through a notification queue, also of tasks caused by its own calls, most of which cause none.

    Its own checks are only for lost notifications. While its queue is not registered or cannot be read, it checks as
    if there were none.
    """

    def __init__(self, clock: Clock, queue: NotificationQueue, most_s: float = 30.0) -> None:
        super().__init__(clock, most_s=most_s)
        self._queue = queue
        self._registered = ""
        queue.listen(self.probe_soon)

    @property
    def notification_queue(self) -> str:  # type: ignore[override]  # a class attribute in the base class
        return self._queue.name

    def record_answer(self, prefix: str, *, registered: bool) -> None:
        """Take a check's reply about notification queues: the required prefix of names, and whether ours is registered.

        `prefix` is empty if the target sends no notifications.
        """
        self._registered = self._queue.name if registered else ""
        if prefix:
            self._queue.set_prefix(prefix)

    def expect_work(self, after_s: float = 0.0) -> None:
        """Expect work for a worker, `after_s` seconds from now, because of a call through the bridge."""
        super().expect_work(after_s + MESSAGE_DELAY_S if self._is_notified else after_s)

    @property
    def _is_notified(self) -> bool:
        return bool(self._registered) and self._registered == self._queue.name

    def _pause_s(self, idle_s: float) -> float:
        if not self._is_notified:
            return super()._pause_s(idle_s)
        return MESSAGE_DELAY_S if idle_s < MESSAGE_DELAY_S else NOTIFIED_INTERVAL_S


MESSAGE_DELAY_S = 2.0
"""How long a message may take before the bridge checks without one."""
NOTIFIED_INTERVAL_S = 70.0
"""Less than the time for which a poller counts as present, so that its sticky queue is not given up."""
