"""The thin shell around the core: load, decide, commit.

Requests to one run take turns on a lock of its key, so conflicts are rare within a process; the compare-and-set of the
store is the guard, within and across processes. The mutable state of busy runs is cached together with their newest
history batches. A cache is only a cache: a conflict drops the entry and decides again from the store.

When several processes share a database (`exclusive` False), a decision that changes nothing (a refusal, a read) is only
believed when it was made on a state read from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from whistlestop.common import nesting
from whistlestop.common.errors import Code, ServiceError, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import closed_topic, execution_topic, query_topic, task_queue_topic
from whistlestop.common.offload import off_loop
from whistlestop.common.throttle import ThrottledWarnings
from whistlestop.history import pinning, push
from whistlestop.history.circuit_breakers import CircuitBreakers
from whistlestop.history.core import history_limits, versioning
from whistlestop.history.core.run import Run, StartEventNeeded
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.time_skipping_apply import skipped_ns
from whistlestop.history.core.transition import write_of
from whistlestop.history.indexed_batches import IndexedBatches
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import CurrentConflict, StorageError, Unreadable, VersionConflict
from whistlestop.storage.records import ExecutionKey, TimerTask, Transition
from whistlestop.storage.set_aside import SetAside
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from temporalio.api.rules.v1 import message_pb2 as rules_pb

    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier, Subscription
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.placements import Placements
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionWrite, HistoryBatch, MatchingTask, TransferTask
    from whistlestop.storage.visibility import AttributeType

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_CONFLICTS = 20
RECENT_BYTES = 256 * 1024
MANY_EVENTS = 500
"""In one commit: so many are serialised off the event loop."""
WORKFLOW_NOT_FOUND = "workflow not found for ID: {}"
RUN_NOT_FOUND = 'workflow execution not found for workflow ID "{}" and run ID "{}"'


@dataclass(slots=True)
class Entry:
    """One run in the cache."""

    key: ExecutionKey
    state: MutableState
    version: int
    size: int
    recent: list[HistoryBatch] = field(default_factory=list)
    """The newest batches, without a gap up to the last event."""
    recent_bytes: int = 0


class Effects:
    """Who is told of a commit. The server wires these; a function leaves them at doing nothing."""

    sees_tasks = False
    """Whether somebody who is told looks after sticky tasks whose worker has gone."""

    def tasks(self, tasks: Sequence[MatchingTask]) -> None:
        """Fresh matching tasks."""

    def timer(self, timer: TimerTask) -> None:
        """A timer row was set."""

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        """Fresh outbox rows."""


async def _keep_for_ever(namespace_id: str) -> int:
    return 0


def _no_rules(namespace_id: str) -> Sequence[rules_pb.WorkflowRule]:
    return ()


async def _no_custom_attributes(namespace_id: str) -> Mapping[str, AttributeType]:
    return {}


def _writes(runs: Sequence[Run]) -> tuple[ExecutionWrite, ...]:
    return tuple(write_of(each) for each in runs)


def _ignore_result(committing: asyncio.Future[None]) -> None:
    if not committing.cancelled():
        committing.exception()


class Engine:
    """Loads runs, lets the core decide, and commits."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        limits: Limits,
        *,
        exclusive: bool = True,
        cache_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.notifier = notifier
        self.limits = limits
        self.exclusive = exclusive
        self.effects = Effects()
        self.writing = 0
        """How many commits are on their way into the store."""
        self.watch: Callable[[Run], None] | None = None
        """Told of every run as it was committed."""
        self.placements: Placements | None = None
        """Told of every queue that got tasks; None where nothing goes on when a call has been answered."""
        self.retention_of: Callable[[str], Awaitable[int]] = _keep_for_ever
        self.attribute_types_of: Callable[[str], Awaitable[Mapping[str, AttributeType]]] = _no_custom_attributes
        """Nanoseconds that a namespace (by its id) keeps its closed runs; 0: for ever."""
        self.rules_of: Callable[[str], Sequence[rules_pb.WorkflowRule]] = _no_rules
        """The workflow rules of a namespace (by its id), as `retention_of` has read it."""
        self.deployments = Deployments(store, clock)
        self.breakers = CircuitBreakers(clock)
        self.indexed = IndexedBatches()
        """History that was committed, by the events that were asked for."""
        self._cache: OrderedDict[ExecutionKey, Entry] = OrderedDict()
        self._cache_bytes = 0
        self._cache_limit = cache_bytes
        self._locks: WeakValueDictionary[ExecutionKey | tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._current: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._warn = ThrottledWarnings(log, clock)
        self.aside = SetAside(store, clock)
        """Rows that could not be processed."""
        self._forgetting: set[asyncio.Task[None]] = set()
        self._changes = 0
        """Grows with whatever makes a read that has begun out of date: such a read must not enter the cache."""

    # ---- loading ----------------------------------------------------------------------------------------------

    def lock(self, key: ExecutionKey | tuple[str, str]) -> asyncio.Lock:
        """The lock under which requests to one run (or starts of one workflow id) take turns."""
        lock = self._locks.get(key)
        if lock is None:
            lock = asyncio.Lock()
            self._locks[key] = lock
        return lock

    @asynccontextmanager
    async def locked(self, *keys: ExecutionKey) -> AsyncIterator[None]:
        """Hold the locks of several runs, taken in one order everywhere, whatever comes in between."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys), key=lambda key: (key.namespace_id, key.workflow_id, key.run_id)):
                await stack.enter_async_context(self.lock(key))
            yield

    async def resolve(
        self, namespace_id: str, workflow_id: str, run_id: str = "", *, fresh: bool = False, guarded: bool = False
    ) -> ExecutionKey:
        """The key of that run, or of the current one when `run_id` is empty. Raises NOT_FOUND.

        What this process remembers is believed when no other writes, and by who is `guarded`: it commits to that very
        run as an open one (an open run is the current one), or else asks again, `fresh`.
        """
        if run_id:
            return ExecutionKey(namespace_id, workflow_id, run_id)
        believed = (self.exclusive or guarded) and not fresh
        known = self._current.get((namespace_id, workflow_id)) if believed else None
        if known is None:
            changes = self._changes
            current = await self.store.get_current(namespace_id, workflow_id)
            if current is None:
                raise not_found(WORKFLOW_NOT_FOUND.format(workflow_id))
            known = current.run_id
            if changes == self._changes:
                self._note_current(namespace_id, workflow_id, known)
        return ExecutionKey(namespace_id, workflow_id, known)

    def _note_current(self, namespace_id: str, workflow_id: str, run_id: str) -> None:
        self._current[namespace_id, workflow_id] = run_id
        self._current.move_to_end((namespace_id, workflow_id))
        if len(self._current) > 20_000:
            self._current.popitem(last=False)

    async def load(self, key: ExecutionKey, *, fresh: bool = False) -> Entry:
        """The run's entry, from the cache unless `fresh`. Raises NOT_FOUND."""
        entry = None if fresh else self._cache.get(key)
        if entry is not None:
            self._cache.move_to_end(key)
            return entry
        changes = self._changes
        stored = await self.store.get_execution(key)
        if stored is None:
            self.forget(key)
            raise not_found(RUN_NOT_FOUND.format(key.workflow_id, key.run_id))
        known = self._cache.get(key)
        if known is not None and known.version == stored.db_record_version:
            return known
        try:
            state = nesting.parse(MutableState, stored.state)
        except DecodeError as error:
            raise await self._unreadable(key, error) from error
        entry = Entry(key, state, stored.db_record_version, len(stored.state))
        if changes == self._changes:
            self._put(entry)
        return entry

    async def _unreadable(self, key: ExecutionKey, error: DecodeError) -> Unreadable:
        row = (key.namespace_id, key.workflow_id, key.run_id)
        await self.aside.seen("executions", row, error)
        return Unreadable(
            f"the state of workflow {key.workflow_id}, run {key.run_id} can't be read: terminate or delete the workflow"
        )

    async def read(self, key: ExecutionKey, woken: Subscription | None = None) -> Entry:
        """The run's entry for a reader: as the store has it now.

        A reader that `woken` (a subscription to the run's topic) told of nothing but this process's own commits gets
        what those left in the cache: no other process has said that it wrote since.
        """
        return await self.load(key, fresh=not self.exclusive and (woken is None or woken.elsewhere))

    async def find(self, namespace_id: str, workflow_id: str, run_id: str = "") -> Entry:
        """That run, or the current one, for a reader: as it was at some moment of the call. Raises NOT_FOUND."""
        for _ in range(MAX_CONFLICTS):
            key = await self.resolve(namespace_id, workflow_id, run_id, fresh=not self.exclusive)
            entry = await self.read(key)
            if run_id or not entry.state.close_ns or not await self.is_succeeded(key):
                return entry
        raise ServiceError(Code.UNAVAILABLE, f"workflow {workflow_id} is too busy; try again")

    async def is_succeeded(self, key: ExecutionKey) -> bool:
        """Whether another run holds the workflow id by now.

        To be asked by who resolved a workflow id and found the run closed: between the two it may have been reset,
        replaced or continued as new, and what is said of the id must be true of the run that holds it. An open run
        holds it, so this read is not needed there.
        """
        current = await self.store.get_current(key.namespace_id, key.workflow_id)
        if current is None or current.run_id == key.run_id:
            return False
        self._current.pop((key.namespace_id, key.workflow_id), None)
        return True

    def peek(self, key: ExecutionKey) -> Entry | None:
        """The cached entry, as it is: at least as new as this process's own last commit, when there is one."""
        return self._cache.get(key)

    def forget(self, key: ExecutionKey) -> None:
        """Drop the run from the cache."""
        self._changes += 1
        entry = self._cache.pop(key, None)
        if entry is not None:
            self._cache_bytes -= entry.size + entry.recent_bytes
        self._current.pop((key.namespace_id, key.workflow_id), None)

    def _put(self, entry: Entry) -> None:
        old = self._cache.pop(entry.key, None)
        if old is not None:
            self._cache_bytes -= old.size + old.recent_bytes
        self._cache[entry.key] = entry
        self._cache_bytes += entry.size + entry.recent_bytes
        while self._cache_bytes > self._cache_limit and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cache_bytes -= oldest.size + oldest.recent_bytes

    # ---- deciding and committing ------------------------------------------------------------------------------

    def run_of(self, entry: Entry) -> Run:
        """A working copy of the entry."""
        return Run(entry.state, version=entry.version, now_ns=self.clock.now_ns(), ids=self.ids, limits=self.limits)

    async def transact(
        self,
        namespace_id: str,
        workflow_id: str,
        run_id: str,
        decide: Callable[[Run], T],
        *,
        done: TransferTask | None = None,
        repairs: bool = False,
        is_long: bool = False,
    ) -> tuple[Run, T]:
        """Decide on the run (the current one when `run_id` is empty) and commit; again on a conflict.

        `decide` may be called several times. `done` is an outbox row that this very commit settles. With `repairs` a
        state that can't be read is rebuilt from history: for what ends the run. Raises storage errors only there.
        With `is_long` it is decided off the event loop.
        """
        fresh = False
        for _ in range(MAX_CONFLICTS):
            key = await self.resolve(namespace_id, workflow_id, run_id, fresh=fresh, guarded=True)
            async with self.lock(key):
                try:
                    entry = await self._load(key, fresh=fresh, repairs=repairs)
                except ServiceError:
                    if run_id or fresh:
                        raise
                    fresh = True
                    continue
                run = self.run_of(entry)
                run.retention_ns = await self.retention_of(key.namespace_id)
                run.rules = self.rules_of(key.namespace_id)
                versioning.prepare(run, await self.deployments.cached(key.namespace_id))
                if not run_id and not run.is_open and (not fresh or await self.is_succeeded(key)):
                    # By now the workflow id may be held by a newer run.
                    fresh = True
                    continue
                try:
                    reply = await self._decide(run, entry, decide, is_long=is_long)
                    if not run.is_dirty and done is None:
                        if self.exclusive or fresh:
                            return run, reply
                        fresh = True
                        continue
                except ServiceError:
                    if self.exclusive or fresh:
                        raise
                    fresh = True
                    continue
                excess = history_limits.enforce(run, entry.size)
                try:
                    await self.commit(run, done=done)
                except (VersionConflict, CurrentConflict):
                    self.forget(key)
                    fresh = True
                    continue
                if excess:
                    raise ServiceError(Code.INVALID_ARGUMENT, excess)
                return run, reply
        raise ServiceError(Code.UNAVAILABLE, f"workflow {workflow_id} is too busy; try again")

    async def _load(self, key: ExecutionKey, *, fresh: bool, repairs: bool) -> Entry:
        try:
            return await self.load(key, fresh=fresh)
        except Unreadable:
            if not repairs:
                raise
        from whistlestop.history import rebuilding

        return await rebuilding.entry_of(self, key)

    async def again(self, key: ExecutionKey, attempt: Callable[[], Awaitable[None]]) -> None:
        """Make an attempt to commit to that run, and another whenever somebody else's commit came between."""
        for _ in range(MAX_CONFLICTS):
            try:
                return await attempt()
            except (VersionConflict, CurrentConflict):
                self.forget(key)
        raise ServiceError(Code.UNAVAILABLE, "too many conflicts")

    async def _decide(self, run: Run, entry: Entry, decide: Callable[[Run], T], *, is_long: bool) -> T:
        """Decide; when that needs the run's first event, read it and decide again."""
        try:
            return await off_loop(decide, run) if is_long else decide(run)
        except StartEventNeeded:
            run.restart()
            await self.read_first_event(run, entry)
            return await off_loop(decide, run) if is_long else decide(run)

    async def read_first_event(self, run: Run, entry: Entry) -> None:
        """Let the core see how the run began."""
        from whistlestop.history import histories

        if run.start_event is None:
            run.start_event = await histories.read_event(self, entry, 1, 1)

    async def _keep_until(self, run: Run) -> None:
        """A run that ends is deleted when its namespace's retention is over."""
        if not run.finished:
            return
        retention_ns = await self.retention_of(run.key.namespace_id)
        if retention_ns > 0:
            closed_ns = run.state.close_ns - skipped_ns(run.state)
            run.retention_timer = TimerTask("retention", run.slot, run.key, closed_ns + retention_ns)

    async def commit(
        self, run: Run, *, also: Run | Sequence[Run] | None = None, done: TransferTask | None = None
    ) -> None:
        """Commit what was decided on `run`, its next run, and `also` (another run, or several).

        Raises VersionConflict and CurrentConflict for the caller to decide again; other errors of the store become
        UNAVAILABLE, since it is unknown whether the commit took place.
        """
        others = (also,) if isinstance(also, Run) else also or ()
        runs = [each for each in (*others, run, run.next_run) if each is not None]
        for each in runs:
            await self._keep_until(each)
            if each.tasks_added:
                await self._route(each)
            if each.visibility_changed and each.state.search_attributes:
                each.search_attribute_types = await self.attribute_types_of(each.key.namespace_id)
        is_long = sum(len(each.batch) for each in runs) > MANY_EVENTS
        writes = await off_loop(_writes, runs) if is_long else _writes(runs)
        answers = tuple((query_id, each.key, data) for each in runs for query_id, data in each.answers)
        transition = Transition(writes, transfers_done=() if done is None else (done,), answers=answers)
        # A caller that goes away must not come between the commit and what follows from it.
        self.writing += 1
        committing = asyncio.ensure_future(self._write(runs, transition))
        try:
            await asyncio.shield(committing)
        except asyncio.CancelledError:
            committing.add_done_callback(_ignore_result)
            raise
        for each in runs:
            if each.pinned_to is not None and each.limits.version_reactivation:
                await pinning.reactivate(self, each.key.namespace_id, each.pinned_to)

    async def _route(self, run: Run) -> None:
        """Tasks go to the version they are for; where its workers are started on demand, that is owed to them, too."""
        deployments = await self.deployments.cached(run.key.namespace_id)
        versioning.route_tasks(run, deployments)
        run.placed_by = deployments
        run.transfers += push.rows_for(run.tasks_added, deployments, self.ids, self.clock.now_ns())
        if not self.effects.sees_tasks:
            run.transfers += push.sticky_rows(run, deployments, self.ids, self.clock.now_ns())

    async def _write(self, runs: Sequence[Run], transition: Transition) -> None:
        try:
            await self.store.commit(transition)
        except (VersionConflict, CurrentConflict):
            raise
        except StorageError as error:
            for each in runs:
                self.forget(each.key)
            self._warn("workflow %s was not written: %s", runs[0].key.workflow_id, error)
            raise service_error(error) from error
        finally:
            self.writing -= 1
        for each, write in zip(runs, transition.writes, strict=True):
            self._committed(each, write)

    def tasks_written(self, tasks: Sequence[MatchingTask]) -> None:
        """Offer fresh rows to this process's pollers, and hint to those of others."""
        self.effects.tasks(tasks)
        if not self.exclusive:
            self.notifier.publish(
                task_queue_topic(task.key.namespace_id, task.key.task_queue, task.key.task_type) for task in tasks
            )

    def _mended(self, key: ExecutionKey) -> None:
        """A state that could not be read was written anew."""
        task = asyncio.ensure_future(self.aside.forget("executions", (key.namespace_id, key.workflow_id, key.run_id)))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    def _committed(self, run: Run, write: ExecutionWrite) -> None:
        """The commit stands: keep the new state, and tell whoever waits."""
        self._changes += 1
        if self.aside.knows("executions", (run.key.namespace_id, run.key.workflow_id, run.key.run_id)):
            self._mended(run.key)
        entry = self._cache.get(run.key)
        recent: list[HistoryBatch] = []
        size = 0
        if entry is not None and 0 < write.expected_version == entry.version:
            recent, size = entry.recent, entry.recent_bytes
        recent.extend(write.history)
        size += sum(len(batch.data) for batch in write.history)
        while size > RECENT_BYTES and len(recent) > 1:
            size -= len(recent.pop(0).data)
        self._put(Entry(run.key, run.state, write.expected_version + 1, len(write.state), recent, size))
        if run.is_open:
            self._note_current(run.key.namespace_id, run.key.workflow_id, run.key.run_id)
        if self.watch is not None:
            self.watch(run)
        for (kind, destination), failed in run.requests_ended.items():
            self.breakers.report((run.key.namespace_id, kind, destination), failed=failed)
        for warning in run.warnings:
            self._warn("workflow %s, run %s: %s", run.key.workflow_id, run.key.run_id, warning)
        topics = [execution_topic(run.key.namespace_id, run.key.workflow_id, run.key.run_id)]
        if not run.is_open:
            topics.append(closed_topic(run.key.namespace_id, run.key.run_id))
        topics.extend(query_topic(query_id) for query_id, _ in run.answers)
        if write.tasks_added:
            self.tasks_written(write.tasks_added)
            if self.placements is not None:
                sticky = run.state.sticky_task_queue
                self.placements.note(run.key.namespace_id, write.tasks_added, run.placed_by, sticky)
        if write.transfers_added:
            # Before callers hear of the commit: what they do next should not overtake what it caused. A callback that
            # says how an update ended, for one, should arrive before the answer of the handler that sent the update.
            self.effects.transfers(write.transfers_added)
        self.notifier.publish(topics)
        if write.timer is not None:
            self.effects.timer(write.timer)
        if write.retention_timer is not None:
            self.effects.timer(write.retention_timer)
