"""Group commit: all jobs that are ready go into one SQL transaction, and so share one flush to disk.

Rules of this file:

- A job checks all its conditions before it writes anything, so one that raises a StorageError leaves nothing behind
  and needs no savepoint. Any other error rolls the group back, and the group is run again without that job.
- Statements run on the event loop (microseconds each; on another thread every one of them would wait for the
  interpreter lock), the COMMIT with its flush runs on the writer thread, and meanwhile the next group gathers.
- No caller gets its result before the COMMIT has returned.
- Every accepted job is settled with a result or an error, whatever goes wrong: its caller can't be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.storage.errors import PermanentError, StorageError, Unavailable
from whistlestop.storage.sqlite import file
from whistlestop.storage.sqlite.connection import translate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Work: TypeAlias = Callable[[], None]
    _Then: TypeAlias = Callable[["StorageError | None"], None]

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
        if future is None or future.done():
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
        self._in_flight: list[_Job] = []
        """The jobs whose COMMIT is running."""
        self._busy = False
        self._scheduled = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self.groups = 0
        """Commits so far; fewer than jobs when groups form."""
        self._jobs_since_check = 0
        """Jobs since the WAL's size was checked."""
        self._start_thread()

    async def write(self, run: Callable[[sqlite3.Cursor], T]) -> T:
        """Run the job in the next group; return its result once it is durable. Raise its StorageError."""
        if self._closed or self._loop.is_closed():
            raise Unavailable("the store is closed")
        future: _Ending[T] = _Ending(loop=self._loop)
        self._pending.append(_Job(run, future))
        self._idle.clear()
        self._schedule()
        return await _end_of(future)

    def _schedule(self) -> None:
        # By call_soon, so that everything that is ready in this turn of the loop gets into the group.
        if (self._pending or self._seal_pending) and not self._busy and not self._scheduled:
            self._loop.call_soon(self._start_group)
            self._scheduled = True

    def _start_group(self) -> None:
        self._scheduled = False
        if self._seal_pending:
            self._seal_pending = False
            self._busy = True
            self._hand_over(self._seal, self._sealed)
            return
        jobs, self._pending = self._pending[:GROUP_LIMIT], self._pending[GROUP_LIMIT:]
        self._in_flight = jobs
        try:
            # Not on the writer thread: each system call there releases the interpreter lock and waits to get it back.
            problem = self._identity.problem()
            if not problem:
                run_group(self._db, self._cursor, jobs)
        except BaseException as error:  # nobody else would end the wait of these callers
            self._finish(_as_storage_error(error))
            if not isinstance(error, Exception):
                raise
            return
        if problem:
            self._finish(PermanentError(problem))
            return
        self._busy = True
        self._hand_over(self._commit, self._finish)

    # The writer thread.

    def _start_thread(self) -> None:
        self._work: queue.SimpleQueue[tuple[_Work, _Then] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work_forever, name="sqlite-writer", daemon=True)
        self._thread.start()

    def _hand_over(self, work: _Work, then: _Then) -> None:
        """Do the work on the writer thread, then call `then` on the event loop with the error or None."""
        self._work.put((work, then))

    def _work_forever(self) -> None:
        try:
            while (item := self._work.get()) is not None:
                work, then = item
                error: StorageError | None = None
                try:
                    work()
                except BaseException as failure:  # noqa: BLE001 - whatever it is, somebody waits for it
                    error = _as_storage_error(failure)
                self._loop.call_soon_threadsafe(then, error)
        except Exception:
            if not self._loop.is_closed():
                log.exception("the thread that writes the database has ended")
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it everybody who waited
                self._loop.call_soon_threadsafe(self._end)

    def _commit(self) -> None:
        self._cursor.execute("COMMIT")

    def _seal(self) -> None:
        if not self._identity.problem():
            file.seal(self._db)

    # On the event loop.

    def _finish(self, error: StorageError | None) -> None:
        """Settle the jobs in flight, and go on with the next group."""
        jobs, self._in_flight = self._in_flight, []
        self.groups += 1
        self._jobs_since_check += len(jobs)
        try:
            if error is not None:
                with contextlib.suppress(sqlite3.Error):  # then the next group cannot begin, and says so
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        finally:
            for job in jobs:
                job.settle(error)
            try:
                self._plan_seal()
            finally:
                self._next()

    def _plan_seal(self) -> None:
        if self._sealing is None:
            if not self._closed:
                self._sealing = self._loop.call_later(CHECKPOINT_S, self._seal_soon)
        elif self._jobs_since_check >= JOBS_PER_WAL_CHECK:
            self._jobs_since_check = 0
            if file.frames_in_wal(self._path) > CHECKPOINT_FRAMES:
                self._seal_pending = True

    def _seal_soon(self) -> None:
        self._sealing = None
        self._seal_pending = True
        self._idle.clear()
        self._schedule()

    def _sealed(self, error: StorageError | None) -> None:
        if error is not None:  # the next checkpoint will do it
            log.warning("a checkpoint failed: %s", error)
        self._next()

    def _next(self) -> None:
        self._busy = False
        if self._pending or self._seal_pending:
            self._schedule()
        else:
            self._idle.set()

    def _end(self) -> None:
        """Refuse what is left, since the writer thread has ended."""
        self._closed = True
        jobs, self._in_flight, self._pending = [*self._in_flight, *self._pending], [], []
        for job in jobs:
            job.settle(Unavailable("the thread that writes the database has ended: restart the server"))
        self._idle.set()

    async def close(self) -> None:
        """Finish the writes that were accepted."""
        self._closed = True
        if self._sealing is not None:
            self._sealing.cancel()  # SQLite checkpoints when the last connection closes
        if not self._loop.is_closed():  # otherwise nobody waits any more
            await self._idle.wait()
        self._stop_thread()
        # SQLite keeps a closed connection open for as long as a cursor has a statement.
        self._cursor.close()

    def _stop_thread(self) -> None:
        self._work.put(None)
        self._thread.join()


def _as_storage_error(error: BaseException) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return translate(error) if isinstance(error, Exception) else Unavailable(f"interrupted by {error!r}")


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
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise translate(error) from error
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    async def close(self) -> None:
        """Refuse further writes; none is ever in flight."""
        self._closed = True
        self._cursor.close()
