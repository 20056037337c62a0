"""Group commit: all jobs that are ready go into one SQL transaction, and so share one flush to disk.

Rules of this file: - a job checks all its conditions before it writes anything, so one that raises a StorageError
leaves nothing behind
    and needs no savepoint; any other error rolls the group back, and the group is run again without that job;
- statements run on the event loop (microseconds each; on another thread every one of them would wait for the
    interpreter lock), the COMMIT with its flush runs on the writer thread, and meanwhile the next group gathers;
- no caller gets its result before the COMMIT has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.storage.errors import PermanentError, StorageError, Unavailable
from whistlestop.storage.sqlite import file
from whistlestop.storage.sqlite.connection import translate

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECKPOINT_S = 10.0
"""Seconds after a write within which it is moved into the file itself."""

CHECKPOINT_FRAMES = 4000
"""Pages in the WAL that cause an earlier checkpoint under load, so that the WAL stays small."""

JOBS_PER_WAL_CHECK = 128
"""Jobs between two checks of the WAL's size."""

GROUP_LIMIT = 128
"""The maximum number of jobs in a group, which bounds how long the event loop is held."""


class _Ending(asyncio.Future[T]):
    """A future that cannot be cancelled, so that a write always runs to its end in its caller's task."""

    def cancel(self, msg: object = None) -> bool:
        return False


async def _end_of(future: _Ending[T]) -> T:
    """Return the future's result. Pass a cancellation on to the task's next wait."""
    try:
        return await future
    except asyncio.CancelledError:
        # A task that is cancelled while it waits for a future that refuses hears of it when the future is done.
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        task.cancel()
        return future.result()


class _Job:
    __slots__ = ("error", "future", "result", "run")

    def __init__(self, run: Callable[[sqlite3.Cursor], Any], future: asyncio.Future[Any] | None) -> None:
        self.run = run
        self.future = future
        self.result: Any = None
        self.error: StorageError | None = None

    def settle(self, commit_error: StorageError | None) -> None:
        """Give the waiter its result or error."""
        future = self.future
        if future is None:
            return
        error = self.error or commit_error
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(self.result)


def run_group(db: sqlite3.Connection, cursor: sqlite3.Cursor, jobs: list[_Job]) -> None:
    """Run the jobs in one transaction and leave it open for the COMMIT; each job then has its result or error."""
    left = jobs
    while True:
        cursor.execute("BEGIN IMMEDIATE")
        broken = None
        for job in left:
            try:
                job.result = job.run(cursor)
            except StorageError as error:
                job.error = error
            except Exception as error:  # noqa: BLE001 - whatever it is, only this job's caller is to hear it
                job.error = translate(error)
                broken = job
                break
        if broken is None:
            return
        if db.in_transaction:
            cursor.execute("ROLLBACK")
        left = [job for job in left if job is not broken]
        for job in left:
            job.result, job.error = None, None


class GroupWriter:
    """The only writer of a database file."""

    def __init__(self, db: sqlite3.Connection, path: str) -> None:
        self._db = db
        self._path = os.path.realpath(path)
        self._identity = file.Identity(path)
        self._seal_pending = True
        """True before the first group as well, so that the file says that it is in use."""
        self._sealing: asyncio.TimerHandle | None = None
        self._cursor = db.cursor()
        self._pending: list[_Job] = []
        self._busy = False
        self._scheduled = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work_forever, name="sqlite-writer", daemon=True)
        self._thread.start()
        self.groups = 0
        """Commits so far; fewer than jobs when groups form."""
        self._jobs_since_check = 0
        """Jobs since the WAL's size was checked."""

    async def write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        """Run the job in the next group; return its result once it is durable. Raise its StorageError."""
        if self._closed:
            raise Unavailable("the store is closed")
        future: _Ending[T] = _Ending(loop=self._loop)
        self._pending.append(_Job(run, future))
        self._idle.clear()
        self._schedule()
        return await _end_of(future)

    def _schedule(self) -> None:
        # By call_soon, so that everything that is ready in this turn of the loop gets into the group.
        if (self._pending or self._seal_pending) and not self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start_group)

    def _start_group(self) -> None:
        self._scheduled = False
        if self._seal_pending:
            self._seal_pending = False
            self._busy = True
            self._work.put(self._seal)
            return
        jobs, self._pending = self._pending[:GROUP_LIMIT], self._pending[GROUP_LIMIT:]
        # Not on the writer thread: each system call there releases the interpreter lock and waits to get it back.
        if problem := self._identity.problem():
            self._finish(jobs, PermanentError(problem))
            return
        try:
            run_group(self._db, self._cursor, jobs)
        except Exception as error:  # noqa: BLE001 - nobody else would end the wait of these callers
            self._finish(jobs, translate(error))
            return
        self._busy = True
        self._work.put(partial(self._commit, jobs))

    # On the writer thread.

    def _work_forever(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except RuntimeError:  # the loop is closed, and with it everybody who waited
                return

    def _commit(self, jobs: list[_Job]) -> None:
        error: StorageError | None = None
        try:
            self._cursor.execute("COMMIT")
        except Exception as failure:  # noqa: BLE001 - as above
            error = translate(failure)
        self._loop.call_soon_threadsafe(self._finish, jobs, error)

    def _seal(self) -> None:
        try:
            if not self._identity.problem():
                file.seal(self._db)
        except sqlite3.Error as failure:  # the next checkpoint will do it
            log.warning("a checkpoint failed: %s", failure)
        self._loop.call_soon_threadsafe(self._next)

    # On the event loop.

    def _finish(self, jobs: list[_Job], error: StorageError | None) -> None:
        self.groups += 1
        self._jobs_since_check += len(jobs)
        if error is not None and self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # then the next group cannot begin, and says so
                self._db.execute("ROLLBACK")
        for job in jobs:
            job.settle(error)
        if self._sealing is None:
            self._sealing = self._loop.call_later(CHECKPOINT_S, self._seal_soon)
        elif self._jobs_since_check >= JOBS_PER_WAL_CHECK:
            self._jobs_since_check = 0
            if file.frames_in_wal(self._path) > CHECKPOINT_FRAMES:
                self._seal_pending = True
        self._next()

    def _seal_soon(self) -> None:
        self._sealing = None
        self._seal_pending = True
        self._idle.clear()
        self._schedule()

    def _next(self) -> None:
        self._busy = False
        if self._pending or self._seal_pending:
            self._schedule()
        else:
            self._idle.set()

    async def close(self) -> None:
        """Finish the writes that were accepted."""
        self._closed = True
        if self._sealing is not None:
            self._sealing.cancel()  # SQLite checkpoints when the last connection closes
        await self._idle.wait()
        self._work.put(None)
        self._thread.join()


class DirectWriter:
    """Write to a database in memory: there is nothing to flush, so each job is a transaction of its own."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._cursor = db.cursor()
        self._closed = False
        self.groups = 0

    async def write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        """Run the job now and return its result. Raise its StorageError."""
        if self._closed:
            raise Unavailable("the store is closed")
        job = _Job(run, None)
        try:
            run_group(self._db, self._cursor, [job])
            self._cursor.execute("COMMIT")
            self.groups += 1
        except sqlite3.Error as error:
            raise translate(error) from error
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    async def close(self) -> None:
        """Refuse further writes; none is ever in flight."""
        self._closed = True
