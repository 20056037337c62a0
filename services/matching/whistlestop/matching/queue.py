"""One task queue in memory: candidates, waiting pollers, and who gets what.

Rules of this file: no I/O, no clock; the caller brings the time, and the two things that reach outside (an alarm, a
wish to read the store) go through `Alarms` and `ask_for_read`.

The store is the truth; what stands here is a window on it. A row of the queue is known here as *ready* (may be handed
out) or *busy* (handed to a poll that is asking history to start it, or set aside after a failure). The window is
*complete* when every row of the store is known; then a queue without ready rows is empty and nobody needs to look.
Else rows up to `level` are known, and what lies beyond is left in the store until the ready ones are used up.

A hint or an offer may be lost, doubled or late: then a row is found by the next look, or a stale candidate is refused
by history. Neither loses a task nor hands one out twice.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.notify import task_queue_topic
from whistlestop.matching.rate_limit import NEVER_NS, RateLimiter
from whistlestop.matching.rates import Rate, RatePair

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.matching.alarms import Alarm, Alarms
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.storage.records import MatchingTask

    PollRequest: TypeAlias = (
        rr.PollWorkflowTaskQueueRequest | rr.PollActivityTaskQueueRequest | rr.PollNexusTaskQueueRequest
    )

QueueKey: TypeAlias = tuple[str, str, int]
"""Namespace id, name, task type."""

Position: TypeAlias = tuple[int, int]
"""Priority and task id: the order within a queue."""

_START: Position = (0, 0)


class Waiter:
    """A poll that waits. Its future gets a task, or None: answer empty."""

    __slots__ = ("alarm", "fresh", "future", "poll")

    def __init__(self, future: asyncio.Future[MatchingTask | None], poll: PollRequest) -> None:
        self.future = future
        self.poll = poll
        self.alarm: Alarm | None = None
        self.fresh = False
        """The task came straight from its commit, not from a backlog."""

    def end(self) -> None:
        """Answer empty, unless it was served or went away."""
        if not self.future.done():
            self.future.set_result(None)


class TaskQueue:
    """The window on one queue, its waiters, its limits and its figures."""

    __slots__ = (
        "_alarms", "_arrived", "_ask_for_read", "_buffer", "_busy", "_dispatch_alarm", "_failures", "_finished",
        "_known", "_ready", "_retry_first_ns", "_retry_most_ns", "complete", "config_read_ns", "gone", "key",
        "last_poll_ns", "last_read_ns", "level", "limited", "limiter", "listener", "made_ns", "pollers", "polls",
        "rates", "reading", "scaled_ns", "sticky", "topic", "waiters",
    )  # fmt: skip

    def __init__(
        self,
        key: QueueKey,
        config: MatchingConfig,
        alarms: Alarms,
        ask_for_read: Callable[[TaskQueue], None],
        now_ns: int,
    ) -> None:
        self.key = key
        self.topic = task_queue_topic(*key)
        self._alarms = alarms
        self._ask_for_read = ask_for_read
        self._buffer = config.buffer
        self._retry_first_ns = int(config.retry_first_s * SECOND_NS)
        self._retry_most_ns = int(config.retry_most_s * SECOND_NS)

        self._ready: list[tuple[int, int, MatchingTask]] = []
        self._busy: set[Position] = set()
        self._known: set[Position] = set()
        self._failures: dict[Position, int] = {}
        self.complete = False
        self.level = _START
        self.reading = False
        self._arrived: list[MatchingTask] = []
        self._finished: set[Position] = set()
        self.last_read_ns = 0

        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.polls = 0
        self.made_ns = now_ns
        self.last_poll_ns = 0
        self.pollers: dict[str, tuple[int, PollRequest]] = {}
        self.sticky = False
        self.gone = False
        """The sticky queue's worker said goodbye and nobody polled since."""
        self.scaled_ns = 0
        self.listener: asyncio.Task[None] | None = None

        self.limiter = RateLimiter(config.system_rps, config.burst_s)
        self.limited: Rate | None = None
        self._dispatch_alarm: Alarm | None = None
        self.config_read_ns = 0
        self.rates: dict[int, RatePair] = {}

    # What comes in.

    def offer(self, task: MatchingTask, now_ns: int) -> None:
        """A row that was just committed."""
        key = task.key
        rates = self.rates.get(key.priority)
        if rates is None:
            rates = self.rates[key.priority] = RatePair(now_ns)
        rates.added.add(now_ns)
        if self.reading:
            self._arrived.append(task)
        position = (key.priority, key.task_id)
        if position in self._known or not (self.complete or position < self.level):
            return
        self._known.add(position)
        if not self._ready and self.waiters:
            waiter = self._next_waiter()
            if waiter is not None and self._may_dispatch(now_ns):
                waiter.fresh = True
                self._hand_out(waiter, task, position)
                return
            if waiter is not None:
                self._put_back(waiter)
        heapq.heappush(self._ready, (*position, task))
        if len(self._ready) > self._buffer:
            self._shrink()

    def begin_read(self) -> None:
        """The store is being asked for the first rows; what happens meanwhile is kept apart."""
        self.reading = True
        self._arrived = []
        self._finished = set()

    def end_read(self, rows: Sequence[MatchingTask] | None, limit: int, now_ns: int) -> None:
        """The store answered with its first `limit` rows (None: it did not); waiters are served from them."""
        self.reading = False
        arrived, self._arrived = self._arrived, []
        finished, self._finished = self._finished, set()
        if rows is None:
            return
        self.last_read_ns = now_ns
        self.complete = len(rows) < limit
        self.level = _START if not rows else (rows[-1].key.priority, rows[-1].key.task_id)
        ready: dict[Position, MatchingTask] = {}
        for task in (*rows, *arrived):
            position = (task.key.priority, task.key.task_id)
            if position not in self._busy and position not in finished and (self.complete or position <= self.level):
                ready[position] = task
        self._ready = [(*position, task) for position, task in ready.items()]
        heapq.heapify(self._ready)
        self._known = self._busy | ready.keys()
        self.dispatch(now_ns)

    # What goes out.

    def take(self, now_ns: int) -> MatchingTask | None:
        """The next candidate for a poll that came just now, marked busy; None: wait."""
        if not self._ready or not self._may_dispatch(now_ns):
            return None
        priority, task_id, task = heapq.heappop(self._ready)
        self._busy.add((priority, task_id))
        return task

    def dispatch(self, now_ns: int) -> None:
        """Serve waiters from what is ready; ask for a read when more may be in the store."""
        while self.waiters:
            if not self._ready:
                if not self.complete and not self.reading:
                    self._ask_for_read(self)
                return
            waiter = self._next_waiter()
            if waiter is None:
                return
            if not self._may_dispatch(now_ns):
                self._put_back(waiter)
                return
            priority, task_id, task = heapq.heappop(self._ready)
            self._hand_out(waiter, task, (priority, task_id))

    def finish(self, task: MatchingTask, *, dispatched: bool, now_ns: int) -> None:
        """The row is gone from the store, or will be in a moment: started, or dropped as stale."""
        position = (task.key.priority, task.key.task_id)
        self._busy.discard(position)
        self._known.discard(position)
        if self._failures:
            self._failures.pop(position, None)
        if self.reading:
            self._finished.add(position)
        if not dispatched:
            self.limiter.give_back()
            return
        rates = self.rates.get(position[0])
        if rates is None:
            rates = self.rates[position[0]] = RatePair(now_ns)
        rates.dispatched.add(now_ns)

    def release(self, task: MatchingTask, now_ns: int) -> None:
        """Its poll went away before anything was started: the next one gets it."""
        position = (task.key.priority, task.key.task_id)
        self.limiter.give_back()
        self._busy.discard(position)
        heapq.heappush(self._ready, (*position, task))
        self.dispatch(now_ns)

    def put_off(self, task: MatchingTask, until_ns: int, now_ns: int) -> None:
        """The limit that all processes share is used up until then: put the task back, and hand out nothing before."""
        position = (task.key.priority, task.key.task_id)
        self.limiter.ready_ns = max(self.limiter.ready_ns, until_ns)
        self._busy.discard(position)
        heapq.heappush(self._ready, (*position, task))
        self.dispatch(now_ns)

    def lose_sight(self, task: MatchingTask, now_ns: int) -> None:
        """Its poll went away while history was asked: whether the row is still there is for the store to say."""
        position = (task.key.priority, task.key.task_id)
        self._busy.discard(position)
        self._known.discard(position)
        self.complete = False
        self.level = _START
        self.dispatch(now_ns)

    def retry_later(self, task: MatchingTask, now_ns: int) -> None:
        """History could not start it now: set it aside for a while, so that it does not block the others."""
        position = (task.key.priority, task.key.task_id)
        failures = self._failures[position] = self._failures.get(position, 0) + 1
        delay_ns = min(self._retry_first_ns << min(failures - 1, 20), self._retry_most_ns)
        self.limiter.give_back()
        self._alarms.at(now_ns + delay_ns, lambda: self._retry(task, position, now_ns + delay_ns))

    # What others ask.

    def needs_read(self, now_ns: int, reread_ns: int) -> bool:
        """A poll that comes now should look at the store first."""
        if self.reading:
            return False
        return now_ns - self.last_read_ns >= reread_ns or not (self.complete or self._ready)

    @property
    def backlog(self) -> int:
        """Candidates at hand: a lower bound when the window is not complete."""
        return len(self._ready)

    def backlog_age_ns(self, now_ns: int) -> int:
        """Of the task that is next."""
        return now_ns - self._ready[0][2].created_ns if self._ready else 0

    def drain(self) -> list[MatchingTask]:
        """Take all candidates out, to be put elsewhere (their rows stay until somebody removes them)."""
        tasks = [entry[2] for entry in sorted(self._ready, key=lambda entry: entry[:2])]
        self._ready = []
        self._known = set(self._busy)
        self.complete = False
        self.level = _START
        return tasks

    def idle_since(self, limit_ns: int) -> bool:
        """Nobody polls, nothing is being started, and the last poll is older than `limit_ns`."""
        return not self.polls and not self._busy and not self.reading and self.used_ns < limit_ns

    @property
    def used_ns(self) -> int:
        """When it was made or last polled."""
        return max(self.made_ns, self.last_poll_ns)

    @property
    def busy(self) -> int:
        """Rows that are being started or set aside: they stand in front in the store."""
        return len(self._busy)

    def polled_since(self, limit_ns: int) -> bool:
        """Somebody polls now or did at `limit_ns` or later, and has not said goodbye."""
        return not self.gone and (self.polls > 0 or self.last_poll_ns >= limit_ns)

    # Inside.

    def _may_dispatch(self, now_ns: int) -> bool:
        if self.limiter.take(now_ns):
            return True
        if self.limited is None:
            self.limited = Rate(now_ns)
        self.limited.add(now_ns)
        if self._dispatch_alarm is None and self.limiter.ready_ns < NEVER_NS:
            ready_ns = self.limiter.ready_ns
            self._dispatch_alarm = self._alarms.at(ready_ns, lambda: self._limit_passed(ready_ns))
        return False

    def _limit_passed(self, now_ns: int) -> None:
        self._dispatch_alarm = None
        self.dispatch(now_ns)

    def limits_changed(self, now_ns: int) -> None:
        """The limiter was set anew: what waited for the old limit is looked at again."""
        if self._dispatch_alarm is not None:
            self._alarms.off(self._dispatch_alarm)
            self._dispatch_alarm = None
        self.dispatch(now_ns)

    def _next_waiter(self) -> Waiter | None:
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.future.done():
                return waiter
        return None

    def _put_back(self, waiter: Waiter) -> None:
        self.waiters[waiter] = None
        self.waiters.move_to_end(waiter, last=False)

    def _hand_out(self, waiter: Waiter, task: MatchingTask, position: Position) -> None:
        self._busy.add(position)
        waiter.future.set_result(task)

    def _retry(self, task: MatchingTask, position: Position, now_ns: int) -> None:
        if position not in self._busy:
            return
        self._busy.discard(position)
        heapq.heappush(self._ready, (*position, task))
        self.dispatch(now_ns)

    def _shrink(self) -> None:
        """Leave the later half in the store, and with it whatever comes behind it."""
        self._ready.sort(key=lambda entry: entry[:2])
        kept, dropped = self._ready[: self._buffer // 2], self._ready[self._buffer // 2 :]
        self._known.difference_update(entry[:2] for entry in dropped)
        self._ready = kept
        self.complete = False
        self.level = kept[-1][:2]
