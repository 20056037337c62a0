"""The one port for everything that waits.

A topic names what changed. A notification is a hint: whoever wakes re-reads the store, and a lost or doubled hint
changes nothing but latency. Adapters: in-process events (here), LISTEN/NOTIFY between long-lived processes on
Postgres, and re-checking with back-off inside a function.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from whistlestop.common.clock import Clock


def execution_topic(namespace_id: str, workflow_id: str, run_id: str) -> str:
    """Something changed in one run: new events, update outcomes."""
    return f"x/{namespace_id}/{run_id}"


def closed_topic(namespace_id: str, run_id: str) -> str:
    """A run is over: for who waits for nothing else, and is not to be woken by each of its steps."""
    return f"c/{namespace_id}/{run_id}"


def task_queue_topic(namespace_id: str, name: str, task_type: int) -> str:
    """A task was written to a queue. `task_type` is Temporal's TaskQueueType number."""
    return f"q/{namespace_id}/{task_type}/{name}"


def query_topic(query_id: str) -> str:
    """A query has its answer."""
    return f"a/{query_id}"


class Subscription(Protocol):
    """A place in the audience of some topics; a hint that came before `wait` is not lost."""

    @property
    def elsewhere(self) -> bool:
        """What the last wait told of may have happened in another process: a cache of this one does not show it.

        True before the first wait, since nobody knows what happened until then.
        """
        ...

    async def wait(self, deadline_ns: int) -> bool:
        """True when a hint came since the last wait, False at the deadline. May answer True for no reason.

        The deadline is an instant of the steady clock.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Notifier(Protocol):
    """Publishes hints and lets others wait for them."""

    def publish(self, topics: Iterable[str]) -> None:
        """Wake whoever waits for one of `topics`. Never blocks, never fails the caller."""
        ...

    def subscribe(self, *topics: str) -> Subscription:
        """Start listening now; leave with the context manager."""
        ...


class _LocalSubscription:
    def __init__(self, owner: LocalNotifier, topics: tuple[str, ...]) -> None:
        self._owner = owner
        self._topics = topics
        self._woken = False
        self._waiting: asyncio.Future[None] | None = None
        self._heard_elsewhere = False
        self.elsewhere = True

    def wake(self, *, elsewhere: bool) -> None:
        self._heard_elsewhere |= elsewhere
        self._woken = True
        if self._waiting is not None:
            _release(self._waiting)

    async def wait(self, deadline_ns: int) -> bool:
        clock = self._owner.clock
        if not self._woken:
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
        woken, self._woken = self._woken, False
        self.elsewhere, self._heard_elsewhere = self._heard_elsewhere, False
        return woken

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
    """Hints within one process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.audience: dict[str, dict[_LocalSubscription, None]] = {}
        """In the order in which they began to listen, so that simulations replay."""

    def publish(self, topics: Iterable[str], *, elsewhere: bool = False) -> None:
        for topic in topics:
            for listener in self.audience.get(topic, ()):
                listener.wake(elsewhere=elsewhere)

    def subscribe(self, *topics: str) -> Subscription:
        return _LocalSubscription(self, topics)


class _RecheckSubscription:
    elsewhere = True

    def __init__(self, clock: Clock, first_s: float, most_s: float) -> None:
        self._clock = clock
        self._delay_s = first_s
        self._most_s = most_s

    async def wait(self, deadline_ns: int) -> bool:
        left_s = (deadline_ns - self._clock.steady_ns()) / SECOND_NS
        if left_s <= 0:
            return False
        await self._clock.sleep(min(self._delay_s, left_s))
        self._delay_s = min(self._delay_s * 2, self._most_s)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None


class RecheckNotifier:
    """For a function: nobody hears a hint, so every wait is a look at the store after a growing pause."""

    def __init__(self, clock: Clock, first_s: float = 0.02, most_s: float = 0.5) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s

    def publish(self, topics: Iterable[str]) -> None:
        return None

    def subscribe(self, *topics: str) -> Subscription:
        return _RecheckSubscription(self._clock, self._first_s, self._most_s)
