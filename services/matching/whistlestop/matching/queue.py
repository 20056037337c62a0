"""One task queue in memory: candidates, waiting pollers, and who gets what.

Rules of this file: no I/O, no clock; the caller brings the time, and the two things that reach outside (an alarm, a
wish to read the store) go through `Alarms` and `ask_for_read`.

The store is the truth; what stands here is a window on it. A row of the queue is known here as *ready* (may be handed
out) or *busy* (handed to a poll that is asking history to start it, or set aside after a failure). The window is
*complete* when every row of the store is known; then a queue without ready rows is empty and nobody needs to look.
Else rows up to `level` are known, and what lies beyond is left in the store until the ready ones are used up. A queue
with fairness keys has such a bound for each of them (`ready.Fair`).

A hint or an offer may be lost, doubled or late: then a row is found by the next look, or a stale candidate is refused
by history. Neither loses a task nor hands one out twice.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import FIRST, is_keyed, priority_of
from whistlestop.common.notify import task_queue_topic
from whistlestop.matching.rate_limit import NEVER_NS, RateLimiter
from whistlestop.matching.rates import Rate, RatePair
from whistlestop.matching.ready import Fair, InOrder

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

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
"""Level (see common.fairness) and task id: the order within a queue."""

_START: Position = (FIRST, 0)


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
        "key_rps", "last_poll_ns", "last_read_ns", "level", "limited", "limiter", "listener", "made_ns", "pollers",
        "polls", "rates", "reading", "scaled_ns", "sticky", "topic", "waiters", "weights",
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

        self._ready: InOrder | Fair = InOrder()
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
        self.weights: Mapping[str, float] = {}
        self.key_rps: float | None = None
        self.rates: dict[int, RatePair] = {}

    # What comes in.

    def offer(self, task: MatchingTask, now_ns: int) -> None:
        """A row that was just committed."""
        key = task.key
        self._rates(key.priority, now_ns).added.add(now_ns)
        if self.reading:
            self._arrived.append(task)
        position = (key.priority, key.task_id)
        if is_keyed(key.priority):
            self._be_fair()
        if position in self._known or not self._covers(position):
            return
        self._known.add(position)
        if self.fair is not None:
            self.fair.push(task)
            self.dispatch(now_ns)
        elif not self._ready and self.waiters:
            waiter = self._next_waiter()
            if waiter is not None and self._may_dispatch(now_ns):
                waiter.fresh = True
                self._hand_out(waiter, task, position)
                return
            if waiter is not None:
                self._put_back(waiter)
            self._ready.push(task)
        else:
            self._ready.push(task)
        if len(self._ready) > self._buffer:
            self._shrink()

    def _rates(self, level: int, now_ns: int) -> RatePair:
        priority = priority_of(level)
        rates = self.rates.get(priority)
        if rates is None:
            rates = self.rates[priority] = RatePair(now_ns)
        return rates

    def _covers(self, position: Position) -> bool:
        if self.complete:
            return True
        return self.fair.covers(position) if self.fair is not None else position < self.level

    @property
    def fair(self) -> Fair | None:
        """Keys take turns here, since there was one."""
        return self._ready if isinstance(self._ready, Fair) else None

    def _be_fair(self) -> None:
        if isinstance(self._ready, Fair):
            return
        self._ready = Fair(self._ready)
        self._ready.configure(self.weights, self.key_rps)
        # What lies beyond the window in the order of rows may be some key's next.
        self.complete = self.complete and not self.reading
        if not self.complete and not self.reading:
            self._ask_for_read(self)

    def set_fairness(self, weights: Mapping[str, float], key_rps: float | None) -> None:
        """What the stored settings say of keys."""
        self.weights, self.key_rps = weights, key_rps
        if self.fair is not None:
            self.fair.configure(weights, key_rps)

    def begin_read(self) -> None:
        """The store is being asked for the first rows; what happens meanwhile is kept apart."""
        self.reading = True
        self._arrived = []
        self._finished = set()

    def end_read(
        self,
        rows: Sequence[MatchingTask] | None,
        limit: int,
        now_ns: int,
        bounds: Mapping[int, int] | None = None,
    ) -> None:
        """The store answered with its first `limit` rows (None: it did not); waiters are served from them.

        `bounds`: with the first ones of each level, up to these task ids where there are more.
        """
        self.reading = False
        arrived, self._arrived = self._arrived, []
        finished, self._finished = self._finished, set()
        if rows is None:
            return
        self.last_read_ns = now_ns
        if bounds is not None:
            self._be_fair()
            self.complete = not bounds
        else:
            self.complete = len(rows) < limit
        self.level = _START if not rows else (rows[-1].key.priority, rows[-1].key.task_id)
        ready: dict[Position, MatchingTask] = {}
        for task in (*rows, *arrived):
            position = (task.key.priority, task.key.task_id)
            if position in self._busy or position in finished:
                continue
            beyond = bounds.get(position[0]) if bounds is not None else None
            if bounds is None and not self.complete and position > self.level:
                continue
            if beyond is None or position[1] <= beyond:
                ready[position] = task
        if self.fair is not None:
            self.fair.replace(ready.values(), bounds or {})
        else:
            self._ready = InOrder(ready.values())
        self._known = self._busy | ready.keys()
        self.dispatch(now_ns)

    # What goes out.

    def take(self, now_ns: int) -> MatchingTask | None:
        """The next candidate for a poll that came just now, marked busy; None: wait."""
        if not self._ready or not self._may_dispatch(now_ns):
            return None
        task = self._pop(now_ns)
        if task is not None:
            self._busy.add((task.key.priority, task.key.task_id))
        return task

    def _pop(self, now_ns: int) -> MatchingTask | None:
        """The next one, whose token was taken; None when the limits of keys hold all back."""
        if isinstance(self._ready, InOrder):
            return self._ready.pop()
        task = self._ready.pop(now_ns)
        if task is None:
            self.limiter.give_back()
            self._look_again(self._ready.wait_ns)
        elif self._ready.missing and not self.reading:
            self._ask_for_read(self)
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
            task = self._pop(now_ns)
            if task is None:
                self._put_back(waiter)
                return
            self._hand_out(waiter, task, (task.key.priority, task.key.task_id))

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
        self._rates(position[0], now_ns).dispatched.add(now_ns)

    def release(self, task: MatchingTask, now_ns: int) -> None:
        """Its poll went away before anything was started: the next one gets it."""
        position = (task.key.priority, task.key.task_id)
        self.limiter.give_back()
        self._busy.discard(position)
        self._ready.push(task)
        self.dispatch(now_ns)

    def put_off(self, task: MatchingTask, until_ns: int, now_ns: int) -> None:
        """The limit that all processes share is used up until then: put the task back, and hand out nothing before."""
        position = (task.key.priority, task.key.task_id)
        self.limiter.ready_ns = max(self.limiter.ready_ns, until_ns)
        self._busy.discard(position)
        self._ready.push(task)
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
        return now_ns - self._ready.oldest_ns if self._ready else 0

    def drain(self) -> list[MatchingTask]:
        """Take all candidates out, to be put elsewhere (their rows stay until somebody removes them)."""
        tasks = sorted(self._ready, key=lambda task: (task.key.priority, task.key.task_id))
        self._ready = InOrder()
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
        self._look_again(self.limiter.ready_ns)
        return False

    def _look_again(self, ready_ns: int) -> None:
        if self._dispatch_alarm is None and ready_ns < NEVER_NS:
            self._dispatch_alarm = self._alarms.at(ready_ns, lambda: self._limit_passed(ready_ns))

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
        self._ready.push(task)
        self.dispatch(now_ns)

    def _shrink(self) -> None:
        """Leave the later half in the store, and with it whatever comes behind it."""
        if isinstance(self._ready, Fair):
            dropped = self._ready.shrink()
        else:
            dropped, self.level = self._ready.keep(self._buffer // 2)
        self._known -= dropped
        if dropped:
            self.complete = False
