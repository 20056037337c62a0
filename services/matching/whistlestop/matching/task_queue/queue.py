"""One task queue in memory: its tasks, its waiting polls, and the assignment of tasks to polls.

Rules of this file: no I/O, no clock. The caller passes the time, which is the steady clock's; the two effects (a
scheduled call, a request to read the store) go through `DeadlineQueue` and `ask_for_read`.

The store is the truth; memory holds a window on it. A row in the window is *ready* (may be dispatched) or *busy*
(assigned to a poll while history starts it, or held back after a failure). The window is *complete* when it holds every
row of the store; then a queue without ready rows is empty, and the store need not be read. Otherwise it holds the rows
up to `level`, and later ones stay in the store until the ready ones are used up. A queue with fairness keys has such a
bound for each key (`dispatch_order.FairOrder`).

A notification or a task passed on at commit may be lost, doubled or late: then the next read finds the row, or history
refuses a stale task. Neither loses a task nor dispatches one twice.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import FIRST, is_keyed, priority_of
from whistlestop.common.notify import task_queue_topic
from whistlestop.common.timing.backoff import backoff
from whistlestop.matching.task_queue.dispatch_order import FairOrder, RowOrder, Window
from whistlestop.matching.task_queue.rate_limit import NEVER_NS, KeyRate, RateLimiter
from whistlestop.matching.task_queue.throughput import Rate, RatePair

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.matching.config import MatchingConfig
    from whistlestop.net.tasks.deadline_queue import Deadline, DeadlineQueue
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
    """A waiting poll. Its future gets a task, or None to answer empty."""

    __slots__ = ("deadline", "fresh", "future", "poll")

    def __init__(self, future: asyncio.Future[MatchingTask | None], poll: PollRequest) -> None:
        self.future = future
        self.poll = poll
        self.deadline: Deadline | None = None
        self.fresh = False
        """Whether the task came straight from its commit, not from a backlog."""

    def end(self) -> None:
        """Answer empty, unless the poll has its task or was cancelled."""
        if not self.future.done():
            self.future.set_result(None)


class TaskQueue:
    """The window on one queue, its waiting polls, its limits and its rates."""

    __slots__ = (
        "_arrived", "_ask_for_read", "_buffer", "_busy", "_deadlines", "_dispatchable", "_failures", "_finished",
        "_known", "_next_dispatch", "_reread_ns", "_retry_first_ns", "_retry_most_ns", "complete", "config_read_ns",
        "key", "key_rate", "last_poll_ns", "last_read_ns", "level", "limited", "limiter", "listener", "made_ns",
        "pollers", "polls", "rates", "reading", "scaled_ns", "sticky", "topic", "waiters", "weights",
        "worker_shut_down",
    )  # fmt: skip

    def __init__(
        self,
        key: QueueKey,
        config: MatchingConfig,
        deadlines: DeadlineQueue,
        ask_for_read: Callable[[TaskQueue], None],
        now_ns: int,
    ) -> None:
        self.key = key
        self.topic = task_queue_topic(*key)
        self._deadlines = deadlines
        self._ask_for_read = ask_for_read
        self._buffer = config.buffer
        self._retry_first_ns = int(config.retry_first_s * SECOND_NS)
        self._retry_most_ns = int(config.retry_most_s * SECOND_NS)
        self._reread_ns = int(config.reread_s * SECOND_NS)

        self._dispatchable: RowOrder | FairOrder = RowOrder()
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
        self.worker_shut_down = False
        """The sticky queue's worker has shut down and nobody has polled since."""
        self.scaled_ns = 0
        self.listener: asyncio.Task[None] | None = None

        self.limiter = RateLimiter(config.system_rps, config.burst_s)
        self.limited: Rate | None = None
        self._next_dispatch: Deadline | None = None
        self.config_read_ns = 0
        self.weights: Mapping[str, float] = {}
        self.key_rate: KeyRate | None = None
        self.rates: dict[int, RatePair] = {}

    # Incoming tasks.

    def offer(self, task: MatchingTask, now_ns: int) -> None:
        """Take up a task that was just committed: dispatch it, keep it, or leave it in the store."""
        key = task.key
        self._rates(key.priority, now_ns).added.add(now_ns)
        if self.reading:
            self._arrived.append(task)
        position = (key.priority, key.task_id)
        if is_keyed(key.priority):
            self._enable_fairness()
        if position in self._known or not self._covers(position):
            return
        if self.fair is not None:
            self._offer_fairly(self.fair, task, position, now_ns)
            return
        self._known.add(position)
        if not self._dispatchable and self.waiters:
            waiter = self._next_waiter()
            if waiter is not None and self._may_dispatch(now_ns):
                waiter.fresh = True
                self._hand_out(waiter, task, position)
                return
            if waiter is not None:
                self._put_back(waiter)
            self._dispatchable.push(task)
        else:
            self._dispatchable.push(task)
        if len(self._dispatchable) > self._buffer:
            self._shrink()

    def _offer_fairly(self, fair: FairOrder, task: MatchingTask, position: Position, now_ns: int) -> None:
        if len(fair) >= self._buffer:
            fair.leave_in_store(task)
            self.complete = False
            return
        self._known.add(position)
        fair.push(task)
        self.dispatch(now_ns)

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
    def fair(self) -> FairOrder | None:
        """The ready tasks by fairness key, once a task with a key was seen; else None."""
        return self._dispatchable if isinstance(self._dispatchable, FairOrder) else None

    def _enable_fairness(self) -> None:
        if isinstance(self._dispatchable, FairOrder):
            return
        self._dispatchable = FairOrder(self._dispatchable)
        self._dispatchable.configure(self.weights, self.key_rate)
        # A task outside the window may be the next of its key.
        self.complete = self.complete and not self.reading
        if not self.complete:
            self._dispatchable.note_unread_rows()
            if not self.reading:
                self._ask_for_read(self)

    def set_fairness(self, weights: Mapping[str, float], key_rate: KeyRate | None) -> None:
        """Apply the stored settings of fairness keys. A key limit applies to tasks without a key, too."""
        self.weights, self.key_rate = weights, key_rate
        if self.fair is not None:
            self.fair.configure(weights, key_rate)
        elif key_rate is not None:
            self._enable_fairness()

    def begin_read(self) -> None:
        """Begin a read of the queue's first rows; what happens until it ends is recorded separately."""
        self.reading = True
        self._arrived = []
        self._finished = set()

    def abort_read(self) -> None:
        """End a read that failed; the window stays as it was."""
        self._end_reading()

    def end_read(self, rows: Sequence[MatchingTask], limit: int, now_ns: int) -> None:
        """Replace the window by the first `limit` rows, as read, and dispatch from it."""
        arrived, finished = self._end_reading()
        self.last_read_ns = now_ns
        self.complete = len(rows) < limit
        self.level = _START if not rows else (rows[-1].key.priority, rows[-1].key.task_id)
        dispatchable = self._found(
            (*rows, *(task for task in arrived if self.complete or _position(task) <= self.level)), finished
        )
        self._dispatchable = RowOrder(dispatchable.values())
        self._known = self._busy | dispatchable.keys()
        self.dispatch(now_ns)

    def end_fair_read(self, window: Window, now_ns: int) -> None:
        """Replace the window of a queue with fairness keys, and dispatch from it."""
        arrived, finished = self._end_reading()
        self._enable_fairness()
        fair = self._dispatchable
        assert isinstance(fair, FairOrder)
        self.last_read_ns = now_ns
        dispatchable = self._found(
            (*window.rows, *(task for task in arrived if _within(task, window.bounds))), finished
        )
        fair.replace(dispatchable.values(), window)
        self._known = self._busy | dispatchable.keys()
        self.complete = fair.whole
        if dispatchable or self.complete or fair.short:
            self.dispatch(now_ns)
        else:
            # All rows that were read are busy: do not read again at once.
            again_ns = now_ns + self._retry_first_ns
            self._deadlines.call_at(again_ns, lambda: self.dispatch(again_ns))

    def end_refill(self, level: int, rows: Sequence[MatchingTask], bound: int | None, now_ns: int) -> None:
        """Add the next rows of a level that had run out of tasks, and dispatch.

        `bound` is the last id read, or None when the store has no more.
        """
        arrived, finished = self._end_reading()
        fair = self.fair
        if fair is None or level not in fair.short:
            return
        bounds = {} if bound is None else {level: bound}
        new = (task for task in arrived if task.key.priority == level and _within(task, bounds))
        dispatchable = self._found((*rows, *new), finished | self._known)
        fair.refill(level, dispatchable.values(), bound)
        self._known |= dispatchable.keys()
        self.complete = fair.whole
        self.dispatch(now_ns)

    def _end_reading(self) -> tuple[list[MatchingTask], set[Position]]:
        self.reading = False
        arrived, self._arrived = self._arrived, []
        finished, self._finished = self._finished, set()
        return arrived, finished

    def _found(self, tasks: Iterable[MatchingTask], finished: set[Position]) -> dict[Position, MatchingTask]:
        """Return by position the tasks that may be dispatched: those neither busy nor finished since the read."""
        return {
            position: task
            for task in tasks
            if (position := _position(task)) not in self._busy and position not in finished
        }

    # Outgoing tasks.

    def take(self, now_ns: int) -> MatchingTask | None:
        """Return the next task for a poll that has just come, and mark it busy; None: the poll has to wait."""
        if not self._dispatchable or not self._may_dispatch(now_ns):
            return None
        task = self._pop(now_ns)
        if task is not None:
            self._busy.add((task.key.priority, task.key.task_id))
        return task

    def _pop(self, now_ns: int) -> MatchingTask | None:
        """Return the next task after its token was taken; None while key limits hold all tasks back."""
        if isinstance(self._dispatchable, RowOrder):
            return self._dispatchable.pop()
        task = self._dispatchable.pop(now_ns)
        if task is None:
            self.limiter.give_back()
            self._dispatch_at(self._dispatchable.wait_ns)
        if (self._dispatchable.wants_read or self._dispatchable.short) and not self.reading:
            self._ask_for_read(self)
        return task

    def wait(self, waiter: Waiter) -> None:
        """Add a waiting poll; ask for a read when more tasks may be in the store."""
        self.waiters[waiter] = None
        if not self._dispatchable and not self.complete and not self.reading:
            self._ask_for_read(self)

    def dispatch(self, now_ns: int) -> None:
        """Dispatch ready tasks to waiting polls; ask for a read when more may be in the store."""
        while self.waiters:
            if not self._dispatchable:
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
        """Remove a task whose row is deleted or about to be: it was started, or dropped as stale."""
        position = (task.key.priority, task.key.task_id)
        self._busy.discard(position)
        self._known.discard(position)
        if self._failures:
            self._failures.pop(position, None)
        if self.reading:
            self._finished.add(position)
        if not dispatched:
            self._give_back(task)
            return
        self._rates(position[0], now_ns).dispatched.add(now_ns)

    def release(self, task: MatchingTask, now_ns: int) -> None:
        """Put back a task whose poll went away before it was started, for the next poll."""
        self._give_back(task)
        self._busy.discard(_position(task))
        self._dispatchable.push(task)
        self.dispatch(now_ns)

    def delay(self, task: MatchingTask, until_ns: int, now_ns: int) -> None:
        """Put back a task because the limit shared by all processes is used up; dispatch nothing until `until_ns`."""
        self.limiter.ready_ns = max(self.limiter.ready_ns, until_ns)
        self._busy.discard(_position(task))
        if self.fair is not None:
            self.fair.give_back(task)
        self._dispatchable.push(task)
        self.dispatch(now_ns)

    def delay_key(self, task: MatchingTask, until_ns: int, now_ns: int) -> None:
        """Put back a task because its key's limit is used up until `until_ns`; other keys go on."""
        self.limiter.give_back()
        self._busy.discard(_position(task))
        if self.fair is not None:
            self.fair.delay_key(task, until_ns)
        else:
            self._dispatchable.push(task)
        self.dispatch(now_ns)

    def _give_back(self, task: MatchingTask) -> None:
        """Return the token and the turn of a task that was not started."""
        self.limiter.give_back()
        if self.fair is not None:
            self.fair.give_back(task)

    def failures_of(self, task: MatchingTask) -> int:
        """Return how often history has failed to start the task."""
        return self._failures.get(_position(task), 0)

    def forget_unconfirmed(self, task: MatchingTask, now_ns: int) -> None:
        """Drop a task whose poll went away during the call to history; only the store knows whether its row remains."""
        position = (task.key.priority, task.key.task_id)
        self._busy.discard(position)
        self._known.discard(position)
        self.complete = False
        self.level = _START
        if self.fair is not None:
            self.fair.note_unread_rows()
        self.dispatch(now_ns)

    def retry_later(self, task: MatchingTask, now_ns: int) -> None:
        """Hold back a task that history could not start, with growing delays, so that others can go first."""
        position = (task.key.priority, task.key.task_id)
        failures = self._failures[position] = self._failures.get(position, 0) + 1
        delay_ns = backoff(self._retry_first_ns, failures, self._retry_most_ns)
        self._give_back(task)
        self._deadlines.call_at(now_ns + delay_ns, lambda: self._retry(task, position, now_ns + delay_ns))

    # Queries.

    def needs_read(self, now_ns: int) -> bool:
        """Return whether a poll that comes now should read the store first."""
        if self.reading:
            return False
        return self.is_old(now_ns) or not (self.complete or self._dispatchable)

    def is_old(self, now_ns: int) -> bool:
        """Return whether the last read is too long ago, regardless of notifications."""
        return now_ns - self.last_read_ns >= self._reread_ns

    @property
    def backlog(self) -> int:
        """The number of ready tasks in memory: a lower bound when the window is not complete."""
        return len(self._dispatchable)

    def backlog_age_ns(self, wall_ns: int) -> int:
        """Return the age of the next task, by the wall clock; 0 when there is none."""
        return wall_ns - self._dispatchable.oldest_ns if self._dispatchable else 0

    def drain(self) -> list[MatchingTask]:
        """Remove and return all ready tasks, in order, for the caller to move. Their rows stay in the store."""
        tasks = sorted(self._dispatchable, key=lambda task: (task.key.priority, task.key.task_id))
        self._dispatchable = RowOrder()
        self._known = set(self._busy)
        self.complete = False
        self.level = _START
        return tasks

    def idle_since(self, limit_ns: int) -> bool:
        """Return whether the queue is unused: no polls, nothing busy, and last polled before `limit_ns`."""
        return not self.polls and not self._busy and not self.reading and self.used_ns < limit_ns

    @property
    def used_ns(self) -> int:
        """When it was created or last polled, whichever is later (steady clock)."""
        return max(self.made_ns, self.last_poll_ns)

    @property
    def busy(self) -> int:
        """The number of rows that are being started or held back; they come first in the store."""
        return len(self._busy)

    def polled_since(self, limit_ns: int) -> bool:
        """Return whether the queue is polled now or was at `limit_ns` or later, and its worker has not shut down."""
        return not self.worker_shut_down and (self.polls > 0 or self.last_poll_ns >= limit_ns)

    # Internals.

    def _may_dispatch(self, now_ns: int) -> bool:
        if self.limiter.take(now_ns):
            return True
        if self.limited is None:
            self.limited = Rate(now_ns)
        self.limited.add(now_ns)
        self._dispatch_at(self.limiter.ready_ns)
        return False

    def _dispatch_at(self, ready_ns: int) -> None:
        if self._next_dispatch is None and ready_ns < NEVER_NS:
            self._next_dispatch = self._deadlines.call_at(ready_ns, lambda: self._limit_passed(ready_ns))

    def _limit_passed(self, now_ns: int) -> None:
        self._next_dispatch = None
        self.dispatch(now_ns)

    def limits_changed(self, now_ns: int) -> None:
        """Dispatch again after the limits were changed."""
        if self._next_dispatch is not None:
            self._deadlines.cancel(self._next_dispatch)
            self._next_dispatch = None
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
        self._dispatchable.push(task)
        self.dispatch(now_ns)

    def _shrink(self) -> None:
        """Drop the later half of the ready tasks from memory; they and all rows after them stay in the store."""
        assert isinstance(self._dispatchable, RowOrder)
        dropped, self.level = self._dispatchable.keep(self._buffer // 2)
        self._known -= dropped
        if dropped:
            self.complete = False


def _position(task: MatchingTask) -> Position:
    return task.key.priority, task.key.task_id


def _within(task: MatchingTask, bounds: Mapping[int, int]) -> bool:
    """Return whether the task is not beyond the bound after which rows were left in the store."""
    bound = bounds.get(task.key.priority)
    return bound is None or task.key.task_id <= bound
