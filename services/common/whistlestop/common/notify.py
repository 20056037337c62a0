"""Notifications: the one interface for everything that waits for a change.

A topic names what changed. A notification is only a hint: the waiter re-reads the store, so a lost or repeated
notification affects nothing but latency. Adapters: in-process events (here), LISTEN/NOTIFY between processes on
Postgres, and polling with back-off inside a function.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.timing.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from whistlestop.common.clock import Clock


def execution_topic(namespace_id: str, workflow_id: str, run_id: str) -> str:
    """Return the topic for changes of one run: new events, update outcomes."""
    return f"x/{namespace_id}/{run_id}"


def closed_topic(namespace_id: str, run_id: str) -> str:
    """Return the topic for the close of a run, for waiters that should not wake at each of its steps."""
    return f"c/{namespace_id}/{run_id}"


def task_queue_topic(namespace_id: str, name: str, task_type: int) -> str:
    """Return the topic for new tasks of a queue. `task_type` is Temporal's TaskQueueType number."""
    return f"q/{namespace_id}/{task_type}/{name}"


def query_topic(query_id: str) -> str:
    """Return the topic for the answer of a query."""
    return f"a/{query_id}"


class Subscription(Protocol):
    """A subscription to some topics. A notification that came before `wait` is not lost."""

    @property
    def remote(self) -> bool:
        """Whether the change may have happened in another process, so that no cache of this one shows it.

        True before the first wait, since earlier changes are unknown.
        """
        ...

    async def wait(self, deadline_ns: int) -> bool:
        """Wait for a notification; return False if none has come by the deadline (steady clock).

        A notification since the last wait counts. It may return True without a reason.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Notifier(Protocol):
    """Publishes notifications and lets others wait for them."""

    def publish(self, topics: Iterable[str]) -> None:
        """Wake the subscribers of `topics`. Never blocks or raises."""
        ...

    def subscribe(self, *topics: str) -> Subscription:
        """Subscribe from now on; leave the context manager to unsubscribe."""
        ...


class _LocalSubscription:
    def __init__(self, owner: LocalNotifier, topics: tuple[str, ...]) -> None:
        self._owner = owner
        self._topics = topics
        self._notified = False
        self._waiting: asyncio.Future[None] | None = None
        self._was_remote = False
        self.remote = True

    def notify(self, *, remote: bool) -> None:
        self._was_remote |= remote
        self._notified = True
        if self._waiting is not None:
            _release(self._waiting)

    async def wait(self, deadline_ns: int) -> bool:
        clock = self._owner.clock
        if not self._notified:
            left_ns = deadline_ns - clock.steady_ns()
            if left_ns <= 0:
                return False
            waiting = self._waiting = asyncio.get_running_loop().create_future()
            sleeper = asyncio.ensure_future(clock.sleep(left_ns / SECOND_NS))
            sleeper.add_done_callback(lambda _: _release(waiting))
            try:
                await waiting
            finally:
                self._waiting = None
                sleeper.cancel()
        notified, self._notified = self._notified, False
        self.remote, self._was_remote = self._was_remote, False
        return notified

    def __enter__(self) -> Self:
        for topic in self._topics:
            self._owner.audience.setdefault(topic, {})[self] = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for topic in self._topics:
            listeners = self._owner.audience.get(topic)
            if listeners is not None:
                listeners.pop(self, None)
                if not listeners:
                    del self._owner.audience[topic]


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class LocalNotifier:
    """Notifications within one process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.audience: dict[str, dict[_LocalSubscription, None]] = {}
        """Subscribers by topic, in the order in which they subscribed, so that simulations are reproducible."""

    def publish(self, topics: Iterable[str], *, remote: bool = False) -> None:
        """Wake the subscribers of `topics`. Never blocks or raises.

        With `remote`, another process has published.
        """
        for topic in topics:
            for listener in self.audience.get(topic, ()):
                listener.notify(remote=remote)

    def subscribe(self, *topics: str) -> Subscription:
        """Subscribe from now on; leave the context manager to unsubscribe."""
        return _LocalSubscription(self, topics)


class _RecheckSubscription:
    remote = True

    def __init__(self, clock: Clock, first_s: float, most_s: float) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._waits = 0

    async def wait(self, deadline_ns: int) -> bool:
        left_s = (deadline_ns - self._clock.steady_ns()) / SECOND_NS
        if left_s <= 0:
            return False
        self._waits += 1
        await self._clock.sleep(min(backoff(self._first_s, self._waits, self._most_s), left_s))
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None


class RecheckNotifier:
    """For a function, which receives no notifications: every wait ends after a growing pause, to re-read the store."""

    def __init__(self, clock: Clock, first_s: float = 0.02, most_s: float = 0.5) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s

    def publish(self, topics: Iterable[str]) -> None:
        """Wake the subscribers of `topics`. Never blocks or raises."""
        return

    def subscribe(self, *topics: str) -> Subscription:
        """Subscribe from now on; leave the context manager to unsubscribe."""
        return _RecheckSubscription(self._clock, self._first_s, self._most_s)
