"""Changes of several runs that are one transaction, and new runs of a workflow id: conflicts, locks and retries.

A caller gives an attempt, which gets the runs from `Changes` and decides on them. The attempt may be made several
times: after a conflict with another process, and after it asked for runs in an order in which their locks may not be
taken.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.workflow import close
from whistlestop.history.engine import histories
from whistlestop.history.engine.conflicts import MAX_CONFLICTS, too_busy
from whistlestop.storage.errors import CurrentConflict, VersionConflict
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.engine.entries import Entry
    from whistlestop.storage.records import TransferTask

T = TypeVar("T")


class Overtaken(Exception):
    """The attempt found runs that are not the ones meant any more, and has to be made again."""


class _OutOfOrder(Exception):
    """The lock of that run has to be taken before others that are held already."""

    def __init__(self, key: ExecutionKey) -> None:
        super().__init__(key)
        self.key = key


class Next(Enum):
    """What to do about a run that holds the workflow id of a new one."""

    FOLLOW = auto()
    """Start the new run after this closed one."""
    REPLACE = auto()
    """Terminate this open run in the same commit."""
    READ_AGAIN = auto()
    """Try to start the new run again: this one closed meanwhile."""


class Changes:
    """The runs that one attempt reads and changes, as working copies, under their locks.

    What was changed of them, and the runs that were added, are committed when the attempt returns.
    """

    def __init__(self, engine: Engine, done: TransferTask | None) -> None:
        self._done = done
        self._engine = engine
        self._locks: dict[ExecutionKey, asyncio.Lock] = {}
        self._entries: dict[ExecutionKey, Entry] = {}
        self._runs: dict[ExecutionKey, Run] = {}
        self._added: list[Run] = []

    async def run(self, key: ExecutionKey) -> Run:
        """Return a working copy of that run, as it is stored now. Raise NOT_FOUND."""
        run = self._runs.get(key)
        if run is None:
            await self._hold(key)
            entry = self._entries[key] = await self._engine.read(key)
            run = self._runs[key] = self._engine.run_of(entry)
        return run

    async def get(self, key: ExecutionKey) -> Run | None:
        """Return a working copy of that run, as it is stored now; None when it is gone. Raise StorageError."""
        try:
            return await self.run(key)
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None

    async def current(self, namespace_id: str, workflow_id: str, *beside: ExecutionKey) -> Run | None:
        """Return a working copy of the run that holds the workflow id; None when there is none.

        `beside` are runs that the attempt needs, too: their locks are taken as well. Raise StorageError.
        """
        try:
            key = await self._engine.resolve(namespace_id, workflow_id)
            await self.hold({key, *beside})
            run = await self.run(key)
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None
        if not run.is_open and await self._engine.is_succeeded(key):
            raise Overtaken  # before its lock was taken
        return run

    def discard(self, run: Run) -> None:
        """Commit nothing of what was changed of this run."""
        del self._runs[run.key]

    def entry(self, run: Run) -> Entry:
        """Return the entry from which the working copy was made."""
        return self._entries[run.key]

    async def event(self, run: Run, batch_id: int, event_id: int) -> history_pb.HistoryEvent:
        """Return one event of the run's batch that begins with `batch_id`. Raise LookupError and StorageError."""
        return await histories.read_event(self._engine, self._entries[run.key], batch_id, event_id)

    def keep_transfer_task(self) -> None:
        """Do not delete the transfer task: it has to be delivered again."""
        self._done = None

    def add(self, *runs: Run) -> None:
        """Commit these new runs together with the changed ones."""
        self._added += runs

    async def hold(self, keys: set[ExecutionKey]) -> None:
        """Take the locks of these runs, in the order in which all attempts take them."""
        for key in sorted(keys):
            await self._hold(key)

    async def _hold(self, key: ExecutionKey) -> None:
        if key in self._locks:
            return
        if self._locks and key < max(self._locks):
            raise _OutOfOrder(key)
        lock = self._engine.lock(key)
        await lock.acquire()
        self._locks[key] = lock

    @property
    def held(self) -> set[ExecutionKey]:
        """The runs whose locks are held."""
        return set(self._locks)

    async def commit(self) -> None:
        """Commit all that was changed and added. Without any of it, only delete the transfer task."""
        changed = [*(run for run in self._runs.values() if run.is_dirty), *self._added]
        if changed:
            await self._engine.commit(*changed, done=self._done)
        elif self._done is not None:
            await self._engine.store.delete_transfer_task(self._done)

    def release(self) -> None:
        """Release all locks."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()


async def change_together(
    engine: Engine,
    attempt: Callable[[Changes], Awaitable[T]],
    *,
    workflow_id: str,
    done: TransferTask | None = None,
) -> T:
    """Let the attempt change several runs, and commit; make it again after a conflict.

    `workflow_id` is named when there were too many conflicts; `done` is a transfer task that the commit deletes.
    Return what the attempt returned. Raise what it raises, in which case nothing is committed, and UNAVAILABLE after
    too many conflicts; see `Engine.commit` for the errors of the store.
    """
    needed: set[ExecutionKey] = set()
    for _ in range(MAX_CONFLICTS):
        changes = Changes(engine, done)
        try:
            await changes.hold(needed)
            answer = await attempt(changes)
            await changes.commit()
        except _OutOfOrder as order:
            needed = {*changes.held, order.key}
        except (VersionConflict, CurrentConflict, Overtaken):
            needed = set(changes.held)
            for key in needed:
                engine.forget(key)
        else:
            return answer
        finally:
            changes.release()
    raise too_busy(workflow_id)


async def create(
    engine: Engine, new_run: Callable[[str | None], Run], resolve: Callable[[Entry], Awaitable[T | Next]]
) -> Run | T:
    """Commit a new run, unless another one holds its workflow id: then do as `resolve` says of that one.

    `new_run` is called for each attempt with the id of the run that the new one follows or replaces, if any. Return
    the new run as committed, or what `resolve` returned instead of a step. Raise what these raise, and UNAVAILABLE
    after too many conflicts; see `Engine.commit` for the errors of the store.
    """
    follows: str | None = None
    for _ in range(MAX_CONFLICTS):
        run = new_run(follows)
        try:
            await engine.commit(run)
        except CurrentConflict as conflict:
            if conflict.current is None:
                follows = None
                continue
            key = ExecutionKey(run.key.namespace_id, run.key.workflow_id, conflict.current.run_id)
        else:
            return run
        entry = await engine.read_if_any(key)
        if entry is None:
            continue
        step = await resolve(entry)
        if step is Next.FOLLOW:
            follows = key.run_id
        elif step is Next.REPLACE:
            replacing = await _replace(engine, key, new_run)
            if replacing is not None:
                return replacing
        elif not isinstance(step, Next):
            return step
    raise too_busy(run.key.workflow_id)


async def _replace(engine: Engine, key: ExecutionKey, new_run: Callable[[str | None], Run]) -> Run | None:
    """Terminate the open run and commit the new one; return None when the open one has closed meanwhile."""
    async with engine.lock(key):
        old = engine.run_of(await engine.read(key))
        if not old.is_open:
            return None
        run = new_run(key.run_id)
        close.terminate_for(old, run.key.run_id)
        try:
            await engine.commit(old, run)
        except (CurrentConflict, VersionConflict):
            engine.forget(key)
            return None
        return run
