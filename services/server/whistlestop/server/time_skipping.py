"""Temporal's TestService: a server-wide clock that is set forward while nothing is running.

Time may be skipped when nobody has locked it, no run has work (`core.pending_work`), no transfer task or commit is
in progress, and nothing due is left to fire. Then the clock moves to the next deadline: a row of `timer_tasks`, or
the end of a `Sleep`. Everything is checked again before each step, so that whatever a timer causes happens at that
timer's own time. While time skipping is locked, time passes normally.

A running activity is a lock like those of clients, as in Temporal's test server: an activity that sleeps through this
service unlocks its own lock, so that its heartbeat can time out meanwhile.

Request deadlines, long polls and matching use the machine's clock, and so are not affected by a skip.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import namespace_pb2 as enums_pb
from temporalio.api.testservice.v1 import request_response_pb2 as test_pb

from whistlestop.common.clock import SECOND_NS, WALL_CHECK_S, SkippingClock, SystemClock, wait_until
from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.rpcs.handlers import Handlers
from whistlestop.common.rpcs.test_service import TestService
from whistlestop.common.timing.deadline_heap import DeadlineHeap
from whistlestop.frontend.registry import Access, Served, spec_of
from whistlestop.history.core import deadlines, pending_work
from whistlestop.history.core.times import LAST_SKIPPED_TO_NS, duration_ns, timestamp_ns
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.server.assembly import assemble
from whistlestop.server.process import Server
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.context import CallContext
    from whistlestop.common.metrics import Metrics
    from whistlestop.common.notify import Notifier
    from whistlestop.frontend.service import Frontend
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.service import History
    from whistlestop.server.assembly import Services
    from whistlestop.server.config import ServerConfig
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionKey

RECHECK_S = 60.0
PAGE = 100
RETRY_S = 0.1
AT_ONCE_S = 0.0
_log = logging.getLogger(__name__)

HANDLERS: Handlers[TimeSkipper] = Handlers()
handles = HANDLERS.register


class RunsAtWork:
    """The runs that keep time from being skipped, as their commits tell."""

    def __init__(self) -> None:
        self.has_changed = asyncio.Event()
        self.changes = 0
        """The number of changes so far, of these runs and of the locks."""
        self._busy: set[ExecutionKey] = set()
        self._activities: dict[ExecutionKey, int] = {}

    def committed(self, run: Run) -> None:
        """Note a run that was committed."""
        if pending_work.other_work(run.state):
            self._busy.add(run.key)
        else:
            self._busy.discard(run.key)
        count = pending_work.activities_under_way(run.state)
        if count:
            self._activities[run.key] = count
        else:
            self._activities.pop(run.key, None)
        self.note_change()

    def note_change(self) -> None:
        """Let the skipper check again whether it may skip time."""
        self.changes += 1
        self.has_changed.set()

    @property
    def any_busy(self) -> bool:
        """Whether a run has work other than activities."""
        return bool(self._busy)

    @property
    def activities(self) -> int:
        """The number of activities that workers have."""
        return sum(self._activities.values())

    @property
    def namespace_ids(self) -> set[str]:
        """The namespaces of these runs."""
        return {key.namespace_id for key in (*self._busy, *self._activities)}

    def forget(self, namespace_id: str) -> None:
        """Forget the runs of a namespace."""
        self._busy = {key for key in self._busy if key.namespace_id != namespace_id}
        self._activities = {key: count for key, count in self._activities.items() if key.namespace_id != namespace_id}


class TimeSkipper:
    """Counts the locks, and sets the clock forward while no run is at work."""

    def __init__(self, clock: SkippingClock, history: History, runs: RunsAtWork, *, locked: bool = True) -> None:
        self._clock = clock
        self._history = history
        self._runs = runs
        self._locks = int(locked)
        self._sleeps: DeadlineHeap[tuple[asyncio.Future[None], bool]] = DeadlineHeap()
        """The sleeps by their ends, and whether time is locked then."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start skipping."""
        self._task = asyncio.create_task(self._run(), name="time skipping")

    async def close(self) -> None:
        """Stop skipping."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def lock(self) -> None:
        """Add a lock: time passes normally until there are as many unlocks."""
        self._locks += 1
        self._runs.note_change()

    def unlock(self) -> None:
        """Remove a lock. Raises UNKNOWN, as Temporal's test server does, when there is none."""
        if self._count() <= 0 and not self._runs.any_busy:
            raise ServiceError(
                Code.UNKNOWN, "Unbalanced lock and unlock calls: time skipping is not locked, so it can't be unlocked"
            )
        self._locks -= 1
        self._runs.note_change()

    async def sleep(self, until_ns: int, *, then_lock: bool = False) -> None:
        """Sleep until `until_ns`. With `then_lock`, time is locked then, even if the caller has gone."""
        if until_ns <= self._clock.now_ns():
            if then_lock:
                self.lock()
            return
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeps.push(until_ns, (end, then_lock))
        self._runs.note_change()
        await end

    def _count(self) -> int:
        return self._locks + self._runs.activities

    async def _forget_deleted(self) -> None:
        """Forget the runs of deleted namespaces, which are deleted without a commit."""
        for namespace_id in self._runs.namespace_ids:
            namespace = await self._history.namespaces.by_id(namespace_id)
            if namespace is None or namespace.state == enums_pb.NAMESPACE_STATE_DELETED:
                self._runs.forget(namespace_id)

    # ---- skipping ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._runs.has_changed.clear()
            self._end_sleeps()
            try:
                await self._forget_deleted()
                pause_s = await self._skip() if self._count() <= 0 else RECHECK_S
            except Exception:  # noqa: BLE001 - otherwise clients that wait for a skip would wait for ever
                _log.exception("searching for the next timer failed; trying again")
                pause_s = RETRY_S
            if pause_s == AT_ONCE_S:
                continue
            pause_ns = int(pause_s * SECOND_NS)
            if (next_ns := self._sleeps.next_ns) is not None:
                # The end of a `Sleep` is an instant of the wall clock, which may be set.
                pause_ns = min(pause_ns, next_ns - self._clock.now_ns(), int(WALL_CHECK_S * SECOND_NS))
            await wait_until(self._clock, self._clock.steady_ns() + pause_ns, self._runs.has_changed.wait())

    async def _skip(self) -> float:
        """Skip to the next deadline if that is allowed. Return the seconds after which to check again."""
        # Wait for deliveries in progress, which end with a commit.
        await self._history.transfers.drain()
        changes = self._runs.changes
        if self._runs.any_busy or self._count() > 0:
            return RECHECK_S
        deadline_ns, row_ns = await self._next_deadline()
        if changes != self._runs.changes:
            return AT_ONCE_S
        now_ns = self._clock.now_ns()
        if self._history.engine.writing or 0 < row_ns <= now_ns:
            # A decision is being written, or a due row is being fired. Either may end with a commit, which notifies us,
            # or without.
            return RETRY_S
        if deadline_ns is None or not now_ns < deadline_ns <= LAST_SKIPPED_TO_NS:
            return RECHECK_S
        self._clock.skip_to(deadline_ns)
        return AT_ONCE_S

    async def _next_deadline(self) -> tuple[int | None, int]:
        """Return the next deadline (None: there is none), and the time of the first timer row (0: there is none).

        The row of a run is a lower bound and not worth a skip: its state has the exact deadline. So the first rows
        may be those of runs that wait for long, and more are read until a row is later than the deadline found.
        """
        limit = PAGE
        while True:
            rows = await self._history.store.next_timers(0, SLOTS, 0, limit)
            next_ns = self._sleeps.next_ns
            for row in rows:
                if next_ns is not None and next_ns <= row.fire_at_ns:
                    break
                entry = self._history.engine.peek(row.key) if row.kind == "execution" else None
                deadline_ns = row.fire_at_ns if entry is None else _deadline(entry.state)
                if deadline_ns is not None and (next_ns is None or deadline_ns < next_ns):
                    next_ns = deadline_ns
            else:
                if len(rows) == limit:
                    limit *= 10
                    continue
            return next_ns, rows[0].fire_at_ns if rows else 0

    def _end_sleeps(self) -> None:
        for end, then_lock in self._sleeps.pop_expired(self._clock.now_ns()):
            if then_lock:
                self.lock()
            if not end.done():
                end.set_result(None)

    # ---- the service ------------------------------------------------------------------------------------------------

    def offer(self, frontend: Frontend) -> None:
        """Add the RPCs of Temporal's TestService to `frontend`."""
        for rpc in TestService.rpcs.values():
            handler = HANDLERS.functions[rpc.method]
            frontend.add(spec_of(rpc, Served.FRONTEND, Access.ADMIN), partial(handler, self))

    @handles(TestService.LockTimeSkipping)
    async def _lock_time_skipping(
        self, request: test_pb.LockTimeSkippingRequest, context: CallContext
    ) -> test_pb.LockTimeSkippingResponse:
        self.lock()
        return test_pb.LockTimeSkippingResponse()

    @handles(TestService.UnlockTimeSkipping)
    async def _unlock_time_skipping(
        self, request: test_pb.UnlockTimeSkippingRequest, context: CallContext
    ) -> test_pb.UnlockTimeSkippingResponse:
        self.unlock()
        return test_pb.UnlockTimeSkippingResponse()

    @handles(TestService.Sleep)
    async def _sleep(self, request: test_pb.SleepRequest, context: CallContext) -> test_pb.SleepResponse:
        await self.sleep(self._after(request))
        return test_pb.SleepResponse()

    @handles(TestService.SleepUntil)
    async def _sleep_until(self, request: test_pb.SleepUntilRequest, context: CallContext) -> test_pb.SleepResponse:
        await self.sleep(_reachable(timestamp_ns(request.timestamp)))
        return test_pb.SleepResponse()

    @handles(TestService.UnlockTimeSkippingWithSleep)
    async def _unlock_time_skipping_with_sleep(
        self, request: test_pb.SleepRequest, context: CallContext
    ) -> test_pb.SleepResponse:
        until_ns = self._after(request)
        self.unlock()
        await self.sleep(until_ns, then_lock=True)
        return test_pb.SleepResponse()

    def _after(self, request: test_pb.SleepRequest) -> int:
        return _reachable(self._clock.now_ns() + duration_ns(request.duration))

    @handles(TestService.GetCurrentTime)
    async def _get_current_time(self, request: Message, context: CallContext) -> test_pb.GetCurrentTimeResponse:
        reply = test_pb.GetCurrentTimeResponse()
        reply.time.FromNanoseconds(self._clock.now_ns())
        return reply


def _deadline(state: MutableState) -> int | None:
    """Return the next deadline of a run by the server's clock; None when it has none."""
    deadline_ns = deadlines.next_deadline(state)
    return deadline_ns - skipped_ns(state) if deadline_ns else None


def _reachable(instant_ns: int) -> int:
    if instant_ns > LAST_SKIPPED_TO_NS:
        raise invalid_argument("time can't be skipped that far: the last year is 2162")
    return instant_ns


class TimeSkippingServer(Server):
    """A server with its own clock, and TestService to move it."""

    def __init__(self, config: ServerConfig, *, locked: bool = True) -> None:
        super().__init__(config)
        self._locked = locked

    def _assemble(self, store: Store, notifier: Notifier, metrics: Metrics) -> Services:
        clock = SkippingClock(SystemClock())
        runs = RunsAtWork()
        services = assemble(self.config, store, notifier, metrics, time=clock, watch=runs.committed)
        assert services.history is not None  # a test server has no remote services
        skipper = TimeSkipper(clock, services.history, runs, locked=self._locked)
        skipper.offer(services.frontend)
        skipper.start()
        self._closers.push_async_callback(skipper.close)
        return services
