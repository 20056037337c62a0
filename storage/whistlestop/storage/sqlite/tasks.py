"""Task queues, their tasks and their pollers on SQLite."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from whistlestop.common.fairness import FIRST, last_of
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.limits import check_text, check_value
from whistlestop.storage.records import (
    EXPIRED_POLLERS_KEPT_NS,
    Backlog,
    MatchingTask,
    PollerRecord,
    TaskKey,
    TaskQueueRecord,
    add_backlog,
)
from whistlestop.storage.sqlite.base import SqliteBase
from whistlestop.storage.sqlite.transition import DELETE_TASK, PUT_TASK, task_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_QUEUE = "namespace_id = ? AND task_queue = ? AND task_type = ?"
_LIST_TASKS = (
    "SELECT namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id, scheduled_event_id, stamp,"
    f" created_ns, query_id, data FROM tasks WHERE {_QUEUE} AND (priority, task_id) > (?, ?)"
    " ORDER BY priority, task_id LIMIT ?"
)
_LIST_LEVEL = (
    "SELECT namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id, scheduled_event_id, stamp,"
    f" created_ns, query_id, data FROM tasks WHERE {_QUEUE} AND priority = ? ORDER BY task_id LIMIT ?"
)
_COUNT_TASKS = f"SELECT count(*) FROM (SELECT 1 FROM tasks WHERE {_QUEUE} LIMIT ?)"
_NEXT_PRIORITY = f"SELECT min(priority) FROM tasks WHERE {_QUEUE} AND priority > ?"
_BACKLOG = (
    "SELECT count(*), min(created_ns) FROM"
    f" (SELECT created_ns FROM tasks WHERE {_QUEUE} AND priority BETWEEN ? AND ? ORDER BY priority, task_id LIMIT ?)"
)
_NEXT_QUEUE = (
    "SELECT namespace_id, task_queue, task_type FROM tasks WHERE (namespace_id, task_queue, task_type) > (?, ?, ?)"
    " ORDER BY namespace_id, task_queue, task_type LIMIT 1"
)
_GET_QUEUE = f"SELECT range_id, data, updated_ns FROM task_queues WHERE {_QUEUE}"
_PUT_POLLER = (
    "INSERT INTO task_queue_pollers (namespace_id, task_queue, task_type, identity, last_access_ns,"
    " expires_ns, data) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace_id, task_queue, task_type, identity) DO UPDATE SET"
    " last_access_ns = excluded.last_access_ns, expires_ns = excluded.expires_ns, data = excluded.data"
    " WHERE excluded.last_access_ns >= task_queue_pollers.last_access_ns"
)
# Sticky queues come and go with their workers: each poll deletes some rows of pollers that are gone.
_SWEEP_POLLERS = (
    "DELETE FROM task_queue_pollers WHERE (namespace_id, task_queue, task_type, identity) IN"
    " (SELECT namespace_id, task_queue, task_type, identity FROM task_queue_pollers WHERE expires_ns <= ? LIMIT 100)"
)
_POLLERS = (
    "SELECT namespace_id, task_queue, task_type, identity, last_access_ns, data, expires_ns FROM task_queue_pollers"
)
_GET_POLLER = f"{_POLLERS} WHERE {_QUEUE} AND identity = ?"
_LIST_POLLERS = f"{_POLLERS} WHERE {_QUEUE} AND identity > ? AND expires_ns > ? ORDER BY identity LIMIT ?"


class SqliteTasks(SqliteBase):
    """See whistlestop.storage.interface.TaskStore."""

    async def list_tasks(
        self, namespace_id: str, task_queue: str, task_type: int, after: tuple[int, int] | None, limit: int
    ) -> list[MatchingTask]:
        """Return up to `limit` tasks after `after` (None: from the first), ordered by (priority, task_id).

        Raise StorageError.
        """
        rows = self._all(_LIST_TASKS, (namespace_id, task_queue, task_type, *(after or (FIRST, 0)), limit))
        return [MatchingTask(TaskKey(*row[:5]), *row[5:]) for row in rows]

    async def list_tasks_by_level(
        self, namespace_id: str, task_queue: str, task_type: int, after: int, per_level: int, levels: int
    ) -> list[MatchingTask]:
        """Return the first `per_level` tasks of each of the first `levels` levels (values of `priority`) above `after`.

        They are ordered by (priority, task_id). Raise StorageError.
        """
        # This takes one index step per level, whatever the number of tasks in it.
        queue = (namespace_id, task_queue, task_type)
        found: list[MatchingTask] = []
        level = self._one(_NEXT_PRIORITY, (*queue, after))[0]
        while level is not None and levels > 0:
            rows = self._all(_LIST_LEVEL, (*queue, level, per_level))
            found += [MatchingTask(TaskKey(*row[:5]), *row[5:]) for row in rows]
            level = self._one(_NEXT_PRIORITY, (*queue, level))[0]
            levels -= 1
        return found

    async def count_tasks(self, queues: Sequence[tuple[str, str, int]], limit: int) -> list[int]:
        """Return the number of tasks in each queue (namespace_id, task_queue, task_type), counted up to `limit`.

        Raise StorageError.
        """
        return [self._one(_COUNT_TASKS, (*queue, limit))[0] for queue in queues]

    async def put_tasks(self, tasks: Sequence[MatchingTask]) -> None:
        """Write the tasks, replacing those of equal keys. Raise TooLarge."""
        for task in tasks:
            check_value("task", len(task.data))
        check_text(*(task.key.task_queue for task in tasks), *(task.workflow_id for task in tasks))
        rows = [task_row(task) for task in tasks]

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.executemany(PUT_TASK, rows)

        await self._write(run)

    async def delete_tasks(self, keys: Sequence[TaskKey]) -> None:
        """Delete the tasks; keys without a task are ignored. Raise StorageError."""
        rows = [(key.namespace_id, key.task_queue, key.task_type, key.priority, key.task_id) for key in keys]

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.executemany(DELETE_TASK, rows)

        await self._write(run)

    async def backlog(self, namespace_id: str, task_queue: str, task_type: int, limit: int) -> dict[int, Backlog]:
        """Return the backlog by priority, over all fairness keys; each count stops at `limit`.

        Priorities without tasks are left out. Raise StorageError.
        """
        # At most ten steps, however many fairness keys there are.
        queue = (namespace_id, task_queue, task_type)
        found: dict[int, Backlog] = {}
        last = FIRST
        while (level := self._one(_NEXT_PRIORITY, (*queue, last))[0]) is not None:
            last = last_of(level)
            count, oldest_ns = self._one(_BACKLOG, (*queue, level, last, limit))
            add_backlog(found, level, count, oldest_ns, limit)
        return found

    async def list_backlogged_queues(
        self, after: tuple[str, str, int] | None, limit: int
    ) -> list[tuple[str, str, int]]:
        """Return up to `limit` queues (namespace_id, task_queue, task_type) that hold a task.

        They are in key order, after the key `after`. Raise StorageError.
        """
        # This takes one index step per queue, whatever the number of tasks in it.
        found: list[tuple[str, str, int]] = []
        at = after or ("", "", -1)
        while len(found) < limit and (row := self._one(_NEXT_QUEUE, at)) is not None:
            found.append(row)
            at = row
        return found

    async def get_task_queue(self, namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None:
        """Return the settings of the queue, or None if none were written. Raise StorageError."""
        row = self._one(_GET_QUEUE, (namespace_id, task_queue, task_type))
        return TaskQueueRecord(namespace_id, task_queue, task_type, *row) if row else None

    async def put_task_queue(self, record: TaskQueueRecord, expected_range_id: int) -> None:
        """Write the settings. Raise LeaseLost when the row's range id is not `expected_range_id` (0: no row)."""
        check_value("task queue", len(record.data))
        check_text(record.task_queue)
        await self._write(partial(_put_queue, record, expected_range_id))

    async def put_pollers(self, pollers: Sequence[PollerRecord]) -> None:
        """Write each poller, unless its stored row has a later `last_access_ns`.

        So a poll that was in flight does not undo the poller's shutdown. Raise StorageError.
        """
        if not pollers:
            return
        check_text(*(p.task_queue for p in pollers), *(p.identity for p in pollers))
        rows = [
            (p.namespace_id, p.task_queue, p.task_type, p.identity, p.last_access_ns, p.expires_ns, p.data)
            for p in pollers
        ]
        now_ns = max(poller.last_access_ns for poller in pollers)

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.executemany(_PUT_POLLER, rows)
            cursor.execute(_SWEEP_POLLERS, (now_ns - EXPIRED_POLLERS_KEPT_NS,))

        await self._write(run)

    async def get_poller(
        self, namespace_id: str, task_queue: str, task_type: int, identity: str
    ) -> PollerRecord | None:
        """Return the poller's row, even an expired one, or None. Raise StorageError."""
        row = self._one(_GET_POLLER, (namespace_id, task_queue, task_type, identity))
        return PollerRecord(*row) if row else None

    async def list_pollers(
        self, namespace_id: str, task_queue: str, task_type: int, now_ns: int, limit: int, after: str = ""
    ) -> list[PollerRecord]:
        """Return up to `limit` pollers that have not expired, ordered by identity, after the identity `after`.

        Raise StorageError.
        """
        rows = self._all(_LIST_POLLERS, (namespace_id, task_queue, task_type, after, now_ns, limit))
        return [PollerRecord(*row) for row in rows]


def _put_queue(record: TaskQueueRecord, expected_range_id: int, cursor: sqlite3.Cursor) -> None:
    queue = (record.namespace_id, record.task_queue, record.task_type)
    if expected_range_id:
        cursor.execute(
            f"UPDATE task_queues SET range_id = ?, data = ?, updated_ns = ? WHERE {_QUEUE} AND range_id = ?",
            (record.range_id, record.data, record.updated_ns, *queue, expected_range_id),
        )
    else:
        cursor.execute(
            "INSERT INTO task_queues (namespace_id, task_queue, task_type, range_id, data, updated_ns)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*queue, record.range_id, record.data, record.updated_ns),
        )
    if cursor.rowcount != 1:
        raise LeaseLost(f"task queue {record.task_queue} was changed by another writer")
