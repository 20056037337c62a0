"""The engine around the core: load, decide, commit.

Requests to one run take turns on a lock of its key, so conflicts are rare within a process; the compare-and-set of the
store is what protects a run, within and across processes. The mutable states of busy runs are cached with their newest
history batches. A conflict drops the cached entry and repeats the decision with the stored state.

When several processes share a database (`exclusive` False), a decision that changes nothing (a refusal, a read) is only
valid if it was made on a state read from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from whistlestop.common.errors import Code, ServiceError, not_found
from whistlestop.common.messages import nesting
from whistlestop.common.notify import closed_topic, execution_topic, query_topic, task_queue_topic
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.history.core import appliers as _appliers  # noqa: F401 - registers the appliers of events
from whistlestop.history.core import history_limits
from whistlestop.history.core.finish import finish
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.core.transition.namespace_policy import UNKNOWN
from whistlestop.history.core.transition.records import records_of
from whistlestop.history.core.transition.run import Run, StartEventNeeded
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.engine import histories, pinning
from whistlestop.history.engine.conflicts import MAX_CONFLICTS, too_busy
from whistlestop.history.engine.entries import RUN_NOT_FOUND, Entry
from whistlestop.history.engine.indexed_batches import IndexedBatches
from whistlestop.history.nexus.circuit_breakers import CircuitBreakers
from whistlestop.history.transfers import push_rows
from whistlestop.net.tasks.background import Background
from whistlestop.net.tasks.offload import off_loop
from whistlestop.storage.errors import CurrentConflict, StorageError, Unreadable, VersionConflict
from whistlestop.storage.records import ExecutionKey, TimerTask, Transition
from whistlestop.storage.set_aside import SetAside
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier, Subscription
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.transition.namespace_policy import NamespacePolicy
    from whistlestop.history.engine.namespace_policies import NamespacePolicies
    from whistlestop.history.transfers.misplaced_tasks import MisplacedTasks
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionWrite, HistoryBatch, MatchingTask, TransferTask

log = logging.getLogger(__name__)
T = TypeVar("T")
RECENT_BYTES = 256 * 1024
MANY_EVENTS = 500
"""A commit with more events is serialised off the event loop."""
WORKFLOW_NOT_FOUND = "workflow not found for ID: {}"


class Effects:
    """Callbacks for what was committed; here they do nothing."""

    sees_tasks = False
    """Whether the receiver of tasks moves sticky tasks whose worker is gone."""

    def tasks(self, tasks: Sequence[MatchingTask]) -> None:
        """Handle new matching tasks; nothing happens here."""

    def timer(self, timer: TimerTask) -> None:
        """Handle a timer row that was written; nothing happens here."""

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        """Handle new transfer tasks; nothing happens here."""


def _writes(runs: Sequence[Run]) -> tuple[ExecutionWrite, ...]:
    for each in runs:
        finish(each)
    return tuple([records_of(each) for each in runs])


def _ignore_result(committing: asyncio.Future[None]) -> None:
    if not committing.cancelled():
        committing.exception()


class Engine:
    """Load runs, let the core decide, and commit."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        limits: Limits,
        policies: NamespacePolicies,
        *,
        effects: Effects,
        watch: Callable[[Run], None] | None = None,
        misplaced_tasks: MisplacedTasks | None = None,
        exclusive: bool = True,
        cache_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.notifier = notifier
        self.limits = limits
        self.exclusive = exclusive
        self.policies = policies
        self.effects = effects
        self.writing = 0
        """The number of commits in progress."""
        self._watch = watch
        """Called with every run after its commit."""
        self.misplaced_tasks = misplaced_tasks
        """The queues that recently got tasks; None in functions, where nothing runs after a call."""
        self.deployments = policies.deployments
        self.breakers = CircuitBreakers(clock)
        self.indexed = IndexedBatches()
        """Committed batches of which single events were read."""
        self._cache: OrderedDict[ExecutionKey, Entry] = OrderedDict()
        self._cache_bytes = 0
        self._cache_limit = cache_bytes
        self._locks: WeakValueDictionary[ExecutionKey | tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._current: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._warn = ThrottledWarnings(log, clock)
        self.aside = SetAside(store, clock)
        """Rows that could not be processed."""
        self._forgetting = Background(log, "the note of a repaired state could not be deleted")
        self._changes = 0
        """Incremented by whatever makes a read in progress out of date: its result must not enter the cache."""

    # ---- loading ----------------------------------------------------------------------------------------------

    def lock(self, key: ExecutionKey | tuple[str, str]) -> asyncio.Lock:
        """Return the lock under which requests to one run (or starts of one workflow id) take turns."""
        lock = self._locks.get(key)
        if lock is None:
            lock = asyncio.Lock()
            self._locks[key] = lock
        return lock

    async def in_turn(self, key: ExecutionKey, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work` while no request of this process changes that run; return its result and raise its errors."""
        async with self.lock(key):
            return await work()

    async def resolve(self, namespace_id: str, workflow_id: str, run_id: str = "") -> ExecutionKey:
        """Return the key of that run, or of the current one when `run_id` is empty. Raise NOT_FOUND."""
        return await self._resolve(namespace_id, workflow_id, run_id, believed=self.exclusive)

    async def _resolve(self, namespace_id: str, workflow_id: str, run_id: str, *, believed: bool) -> ExecutionKey:
        """Return the key of that run, or of the current one: the remembered one, if that is `believed`.

        It may be, if no other process writes, or by a caller that commits to that run as an open one (an open run is
        always the current one), or else asks again.
        """
        if run_id:
            return ExecutionKey(namespace_id, workflow_id, run_id)
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

    async def _load(self, key: ExecutionKey, *, fresh: bool) -> Entry:
        """Return the run's entry, from the cache unless `fresh`. Raise NOT_FOUND, or Unreadable for a damaged state."""
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

    async def read(self, key: ExecutionKey, subscription: Subscription | None = None) -> Entry:
        """Return the run's entry for a reader, as stored now. Raise NOT_FOUND.

        If `subscription` (to the run's topic) only reported commits of this process, their result is taken from
        the cache: no other process has reported a write since.
        """
        return await self._load(key, fresh=not self.exclusive and (subscription is None or subscription.remote))

    async def read_if_any(self, key: ExecutionKey) -> Entry | None:
        """Return the run's entry, as stored now; None when the run does not exist. Raise StorageError."""
        try:
            return await self.read(key)
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None

    async def find(self, namespace_id: str, workflow_id: str, run_id: str = "") -> Entry:
        """Return that run, or the current one, for a reader, as it was at some moment of the call. Raise NOT_FOUND."""

        async def read(key: ExecutionKey) -> Entry | None:
            entry = await self.read(key)
            return entry if run_id or not entry.state.close_ns or not await self.is_succeeded(key) else None

        return await self.read_from(namespace_id, workflow_id, run_id, read)

    async def read_from(
        self, namespace_id: str, workflow_id: str, run_id: str, read: Callable[[ExecutionKey], Awaitable[T | None]]
    ) -> T:
        """Return what `read` finds at that run, or at the current one when `run_id` is empty.

        `read` returns None when another run holds the workflow id by now (see `is_succeeded`): then that one is
        read. Raise NOT_FOUND, what `read` raises, and UNAVAILABLE when that happens too often.
        """
        for _ in range(MAX_CONFLICTS):
            found = await read(await self.resolve(namespace_id, workflow_id, run_id))
            if found is not None:
                return found
        raise too_busy(workflow_id)

    async def is_succeeded(self, key: ExecutionKey) -> bool:
        """Return whether another run holds the workflow id by now.

        A caller that resolved a workflow id and found the run closed has to ask this: meanwhile the run may have been
        reset, replaced or continued as new, and the answer must be about the current run. An open run is always the
        current one. Raise StorageError.
        """
        current = await self.store.get_current(key.namespace_id, key.workflow_id)
        if current is None or current.run_id == key.run_id:
            return False
        self._current.pop((key.namespace_id, key.workflow_id), None)
        return True

    def peek(self, key: ExecutionKey) -> Entry | None:
        """Return the cached entry, at least as new as this process's last commit; None when the run is not cached."""
        return self._cache.get(key)

    async def delete(self, key: ExecutionKey, timer: TimerTask | None = None) -> None:
        """Delete everything stored of the run, and then the timer row that asked for it. Raise StorageError."""
        async with self.lock(key):
            await self.store.delete_execution(key)
            self.forget(key)
            if timer is not None:
                await self.store.delete_timer(timer)

    async def event(self, run: Run, batch_id: int, event_id: int) -> history_pb.HistoryEvent:
        """Return one event of the batch that begins with `batch_id`, of a run that was read before.

        Raise NOT_FOUND when the run is gone, LookupError when its history does not have the event.
        """
        entry = self._cache.get(run.key) or await self._load(run.key, fresh=False)
        return await histories.read_event(self, entry, batch_id, event_id)

    async def entry_of(self, run: Run) -> Entry:
        """Return the entry of a run that was read or committed before. Raise NOT_FOUND when it is gone."""
        return self._cache.get(run.key) or await self._load(run.key, fresh=False)

    def forget(self, key: ExecutionKey) -> None:
        """Drop the run from the cache, if it is there."""
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

    def run_of(self, entry: Entry, policy: NamespacePolicy = UNKNOWN) -> Run:
        """Return a working copy of the entry, at the current time."""
        return Run(
            entry.state,
            version=entry.version,
            now_ns=self.clock.now_ns(),
            ids=self.ids,
            limits=self.limits,
            policy=policy,
        )

    async def change(
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
        """Decide on the run (the current one when `run_id` is empty) and commit; repeat on a conflict.

        `decide` may be called several times. `done` is a transfer task that this commit completes. With `repairs` a
        damaged state is rebuilt from history, for requests that end the run. With `is_long` the decision is made off
        the event loop. Return the run as committed, and what `decide` returned. Raise NOT_FOUND, what `decide` raises,
        UNAVAILABLE after too many conflicts, INVALID_ARGUMENT for a run terminated because it has grown too large, and
        StorageError when a read fails.
        """
        fresh = False
        for _ in range(MAX_CONFLICTS):
            key = await self._resolve(namespace_id, workflow_id, run_id, believed=not fresh)
            async with self.lock(key):
                try:
                    entry = await self._load_to_change(key, fresh=fresh, repairs=repairs)
                except ServiceError:
                    if run_id or fresh:
                        raise
                    fresh = True
                    continue
                run = self.run_of(entry, await self.policies.of(key.namespace_id))
                if run.state.sticky_task_queue:
                    versioning.leave_sticky_queue(run)
                if not run_id and not run.is_open and (not fresh or await self.is_succeeded(key)):
                    # By now a newer run may hold the workflow id.
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
        raise too_busy(workflow_id)

    async def _load_to_change(self, key: ExecutionKey, *, fresh: bool, repairs: bool) -> Entry:
        try:
            return await self._load(key, fresh=fresh)
        except Unreadable:
            if not repairs:
                raise
        from whistlestop.history.engine import rebuilding

        return await rebuilding.entry_of(self.store, key)

    async def _decide(self, run: Run, entry: Entry, decide: Callable[[Run], T], *, is_long: bool) -> T:
        """Decide; if the run's first event is needed, read it and decide again."""
        try:
            return await off_loop(decide, run) if is_long else decide(run)
        except StartEventNeeded:
            run.restart()
            await self.read_first_event(run, entry)
            return await off_loop(decide, run) if is_long else decide(run)

    async def read_first_event(self, run: Run, entry: Entry) -> None:
        """Read the run's first event into `run.start_event`, unless it is there. Raise StorageError."""
        if run.start_event is None:
            run.start_event = await histories.read_event(self, entry, 1, 1)

    async def _prepare(self, run: Run) -> None:
        """Let a new or closed run have the policy of its namespace; set the timer that deletes a closed one."""
        if run.policy is UNKNOWN:
            run.policy = await self.policies.of(run.key.namespace_id)
        if run.finished and run.policy.retention_ns > 0:
            closed_ns = run.state.close_ns - skipped_ns(run.state)
            run.retention_timer = TimerTask("retention", run.slot, run.key, closed_ns + run.policy.retention_ns)

    async def commit(self, *changed: Run, done: TransferTask | None = None) -> None:
        """Commit what was decided on these runs, and the runs that continue them.

        Raise VersionConflict or CurrentConflict for the caller to decide again. Other errors of the store become a
        ServiceError; after UNAVAILABLE it is unknown whether the commit took place.
        """
        runs = [each for run in changed for each in (run, run.next_run) if each is not None]
        for each in runs:
            if each.finished or (each.visibility_changed and each.state.search_attributes):
                await self._prepare(each)
            if each.tasks_added:
                await self._route(each)
        is_long = sum([len(each.batch) for each in runs]) > MANY_EVENTS
        writes = await off_loop(_writes, runs) if is_long else _writes(runs)
        answers = tuple((query_id, each.key, data) for each in runs for query_id, data in each.answers)
        transition = Transition(writes, transfer_tasks_done=() if done is None else (done,), answers=answers)
        self.writing += 1
        # A caller that is cancelled must not interrupt between the commit and what follows it.
        if self.store.defers_cancellation:
            await self._write(runs, transition)
        else:
            committing = asyncio.ensure_future(self._write(runs, transition))
            try:
                await asyncio.shield(committing)
            except asyncio.CancelledError:
                committing.add_done_callback(_ignore_result)
                raise
        for each in runs:
            if each.pinned_to is not None and each.limits.version_reactivation:
                await pinning.reactivate(self.deployments, self.clock, each.key.namespace_id, each.pinned_to)

    async def _route(self, run: Run) -> None:
        """Route new tasks to their versions; add transfer tasks where a version's workers are started on demand."""
        own = run.key.namespace_id
        for namespace_id in dict.fromkeys(task.key.namespace_id for task in run.tasks_added):
            # Nexus tasks may be in another namespace than their run.
            deployments = await self.deployments.cached(namespace_id)
            versioning.route_tasks(run, namespace_id, deployments)
            run.placed_by[namespace_id] = deployments
            tasks = [task for task in run.tasks_added if task.key.namespace_id == namespace_id]
            run.transfers += push_rows.rows_for(tasks, deployments, self.ids, self.clock.now_ns())
        if not self.effects.sees_tasks and own in run.placed_by:
            run.transfers += push_rows.sticky_rows(run, run.placed_by[own], self.ids, self.clock.now_ns())

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
        """Pass new tasks to this process's pollers, and notify other processes."""
        self.effects.tasks(tasks)
        if not self.exclusive:
            self.notifier.publish(
                task_queue_topic(task.key.namespace_id, task.key.task_queue, task.key.task_type) for task in tasks
            )

    def _mended(self, key: ExecutionKey) -> None:
        """Remove the note about a damaged state that was rewritten."""
        self._forgetting.spawn(self.aside.forget("executions", (key.namespace_id, key.workflow_id, key.run_id)))

    def _committed(self, run: Run, write: ExecutionWrite) -> None:
        """Cache the new state after a commit, and notify waiters."""
        self._changes += 1
        if self.aside.is_noted("executions", (run.key.namespace_id, run.key.workflow_id, run.key.run_id)):
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
        is_open = run.is_open
        if is_open:
            self._note_current(run.key.namespace_id, run.key.workflow_id, run.key.run_id)
        if self._watch is not None:
            self._watch(run)
        for (kind, destination), failed in run.requests_ended.items():
            self.breakers.report((run.key.namespace_id, kind, destination), failed=failed)
        for warning in run.warnings:
            self._warn("workflow %s, run %s: %s", run.key.workflow_id, run.key.run_id, warning)
        topics = [execution_topic(run.key.namespace_id, run.key.workflow_id, run.key.run_id)]
        if not is_open:
            topics.append(closed_topic(run.key.namespace_id, run.key.run_id))
        topics.extend(query_topic(query_id) for query_id, _ in run.answers)
        if write.tasks_added:
            self.tasks_written(write.tasks_added)
            if self.misplaced_tasks is not None:
                sticky = run.state.sticky_task_queue
                self.misplaced_tasks.note(write.tasks_added, run.placed_by, sticky)
        if write.transfer_tasks_added:
            # This precedes the callers' answers: their next request should not overtake the effects of the commit. The
            # completion callback of an update, for example, should arrive before the answer of the update's handler.
            self.effects.transfers(write.transfer_tasks_added)
        self.notifier.publish(topics)
        if write.timer is not None:
            self.effects.timer(write.timer)
        if write.retention_timer is not None:
            self.effects.timer(write.retention_timer)
