"""Timer rows and transfer tasks by ranges of slots, on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage.limits import TIMER_LIMIT, check_value
from whistlestop.storage.records import ExecutionKey, TimerTask, TransferTask
from whistlestop.storage.sqlite.base import SqliteBase
from whistlestop.storage.sqlite.transition import DELETE_TRANSFER_TASK, PUT_TIMER, timer_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

# Only the index timer_tasks_due is read, in its order.
_TIMERS = "SELECT kind, shard_id, namespace_id, workflow_id, run_id, fire_at_ns, data FROM timer_tasks"
_IN_RANGE = "AND shard_id >= ? AND shard_id < ? ORDER BY fire_at_ns, shard_id LIMIT ?"
_HAS_EXPIRED_ROWS = (
    "SELECT EXISTS (SELECT 1 FROM timer_tasks WHERE fire_at_ns <= ?)"
    " OR EXISTS (SELECT 1 FROM transfer_tasks WHERE visible_at_ns <= ?)"
)
_SCAN_TIMERS = f"{_TIMERS} WHERE fire_at_ns <= ? {_IN_RANGE}"
_NEXT_TIMERS = f"{_TIMERS} WHERE fire_at_ns > ? {_IN_RANGE}"
_DELETE_TIMER = (
    "DELETE FROM timer_tasks WHERE namespace_id = ? AND run_id = ? AND workflow_id = ? AND kind = ? AND fire_at_ns = ?"
)
_POSTPONE_TIMER = (
    "UPDATE timer_tasks SET fire_at_ns = ?"
    " WHERE namespace_id = ? AND run_id = ? AND workflow_id = ? AND kind = ? AND fire_at_ns = ?"
)
# `+` keeps the planner off the primary key: it would sort all waiting rows instead of reading the first in order.
_SCAN_TRANSFER_TASKS = (
    "SELECT shard_id, task_id, namespace_id, workflow_id, run_id, kind, data, visible_at_ns, attempt"
    " FROM transfer_tasks WHERE visible_at_ns <= ? AND +shard_id >= ? AND +shard_id < ?"
    " ORDER BY visible_at_ns, task_id LIMIT ?"
)
_POSTPONE = "UPDATE transfer_tasks SET visible_at_ns = ?, attempt = ? WHERE shard_id = ? AND task_id = ?"


class SqliteTimers(SqliteBase):
    """See whistlestop.storage.interface.TimerStore."""

    async def scan_timers(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns <= now_ns`, earliest first. Raise StorageError."""
        return [_timer(row) for row in self._all(_SCAN_TIMERS, (now_ns, first_slot, next_slot, limit))]

    async def has_expired_rows(self, timers_ns: int, transfer_tasks_ns: int) -> bool:
        """Return whether any slot has a timer due by `timers_ns` or a transfer task visible by `transfer_tasks_ns`.

        Raise StorageError.
        """
        return bool(self._one(_HAS_EXPIRED_ROWS, (timers_ns, transfer_tasks_ns))[0])

    async def next_timers(self, first_slot: int, next_slot: int, after_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns > after_ns`, earliest first. Raise StorageError."""
        return [_timer(row) for row in self._all(_NEXT_TIMERS, (after_ns, first_slot, next_slot, limit))]

    async def put_timer(self, timer: TimerTask) -> None:
        """Write the row, replacing the one of the same run and kind. Raise StorageError."""
        check_value("timer", len(timer.data), TIMER_LIMIT)
        await self._run(PUT_TIMER, timer_row(timer))

    async def delete_timer(self, timer: TimerTask) -> None:
        """Delete this row, unless it was re-armed (has another `fire_at_ns`) or deleted since. Raise StorageError."""
        key = timer.key
        await self._run(_DELETE_TIMER, (key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns))

    async def postpone_timer(self, timer: TimerTask, fire_at_ns: int) -> bool:
        """Move this row to another time. Return False when it was re-armed or deleted since. Raise StorageError."""
        key = timer.key
        values = (fire_at_ns, key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns)

        def run(cursor: sqlite3.Cursor) -> bool:
            cursor.execute(_POSTPONE_TIMER, values)
            return cursor.rowcount == 1

        return await self._write(run)

    async def scan_transfer_tasks(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TransferTask]:
        """Return up to `limit` transfer tasks with `visible_at_ns <= now_ns`, oldest first. Raise StorageError."""
        rows = self._all(_SCAN_TRANSFER_TASKS, (now_ns, first_slot, next_slot, limit))
        return [TransferTask(row[0], row[1], ExecutionKey(*row[2:5]), *row[5:]) for row in rows]

    async def delete_transfer_task(self, task: TransferTask) -> None:
        """Delete the transfer task; nothing happens if it is gone. Raise StorageError."""
        await self._run(DELETE_TRANSFER_TASK, (task.slot, task.task_id))

    async def postpone_transfer_task(self, task: TransferTask, visible_at_ns: int, attempt: int) -> None:
        """Set when the transfer task is due next, and its attempt; nothing happens if it is gone.

        Raise StorageError.
        """
        await self._run(_POSTPONE, (visible_at_ns, attempt, task.slot, task.task_id))

    async def _run(self, sql: str, parameters: Sequence[Any]) -> None:
        def run(cursor: sqlite3.Cursor) -> None:
            cursor.execute(sql, parameters)

        await self._write(run)


def _timer(row: Any) -> TimerTask:
    return TimerTask(row[0], row[1], ExecutionKey(*row[2:5]), row[5], row[6])
