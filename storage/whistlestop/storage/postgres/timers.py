"""Timer rows and transfer tasks by ranges of slots, on Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage.limits import TIMER_LIMIT, check_value
from whistlestop.storage.postgres.base import PostgresBase
from whistlestop.storage.postgres.connection import CHUNK_BYTES
from whistlestop.storage.postgres.transition import SET_TIMER, TIMER, timer_row, transfer_task_owner
from whistlestop.storage.records import ExecutionKey, TimerTask, TransferTask

if TYPE_CHECKING:
    from collections.abc import Sequence

# Only the index timer_tasks_due is read, in its order.
_TIMERS = "SELECT kind, shard_id, namespace_id, workflow_id, run_id, fire_at_ns, data FROM timer_tasks"
_IN_RANGE = "AND shard_id >= $2 AND shard_id < $3 ORDER BY fire_at_ns, shard_id LIMIT $4"
_HAS_EXPIRED_ROWS = (
    "SELECT EXISTS (SELECT 1 FROM timer_tasks WHERE fire_at_ns <= $1)"
    " OR EXISTS (SELECT 1 FROM transfer_tasks WHERE visible_at_ns <= $2)"
)
_SCAN_TIMERS = f"{_TIMERS} WHERE fire_at_ns <= $1 {_IN_RANGE}"
_NEXT_TIMERS = f"{_TIMERS} WHERE fire_at_ns > $1 {_IN_RANGE}"
_PUT_TIMER = f"INSERT INTO {TIMER} VALUES ($1, $2, $3, $4, $5, $6, $7) {SET_TIMER}"
_DELETE_TIMER = (
    "DELETE FROM timer_tasks"
    " WHERE namespace_id = $1 AND run_id = $2 AND workflow_id = $3 AND kind = $4 AND fire_at_ns = $5"
)
_POSTPONE_TIMER = (
    "UPDATE timer_tasks SET fire_at_ns = $6"
    " WHERE namespace_id = $1 AND run_id = $2 AND workflow_id = $3 AND kind = $4 AND fire_at_ns = $5"
)
_SCAN_TRANSFER_TASKS = (
    "SELECT shard_id, task_id, namespace_id, workflow_id, run_id, kind, data, visible_at_ns, attempt, parts"
    " FROM transfer_tasks WHERE visible_at_ns <= $1 AND shard_id >= $2 AND shard_id < $3"
    " ORDER BY visible_at_ns, task_id LIMIT $4"
)
_DELETE_TRANSFER_TASK = "DELETE FROM transfer_tasks WHERE shard_id = $1 AND task_id = $2"
_DELETE_CHUNKED_TRANSFER_TASK = (
    "WITH gone AS (DELETE FROM transfer_tasks WHERE shard_id = $1 AND task_id = $2)"
    " DELETE FROM chunks WHERE kind = 'transfer' AND owner = $3"
)
_POSTPONE = "UPDATE transfer_tasks SET visible_at_ns = $3, attempt = $4 WHERE shard_id = $1 AND task_id = $2"


class PostgresTimers(PostgresBase):
    """See whistlestop.storage.interface.TimerStore."""

    async def scan_timers(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns <= now_ns`, earliest first. Raise StorageError."""
        return _timers(await self._all(_SCAN_TIMERS, (now_ns, first_slot, next_slot, limit)))

    async def has_expired_rows(self, timers_ns: int, transfer_tasks_ns: int) -> bool:
        """Return whether any slot has a timer due by `timers_ns` or a transfer task visible by `transfer_tasks_ns`.

        Raise StorageError.
        """
        return bool((await self._one(_HAS_EXPIRED_ROWS, (timers_ns, transfer_tasks_ns)))[0])

    async def next_timers(self, first_slot: int, next_slot: int, after_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns > after_ns`, earliest first. Raise StorageError."""
        return _timers(await self._all(_NEXT_TIMERS, (after_ns, first_slot, next_slot, limit)))

    async def put_timer(self, timer: TimerTask) -> None:
        """Write the row, replacing the one of the same run and kind. Raise StorageError."""
        check_value("timer", len(timer.data), TIMER_LIMIT)
        await self._run(_PUT_TIMER, timer_row(timer))

    async def delete_timer(self, timer: TimerTask) -> None:
        """Delete this row, unless it was re-armed (has another `fire_at_ns`) or deleted since. Raise StorageError."""
        key = timer.key
        await self._run(_DELETE_TIMER, (key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns))

    async def postpone_timer(self, timer: TimerTask, fire_at_ns: int) -> bool:
        """Move this row to another time. Return False when it was re-armed or deleted since. Raise StorageError."""
        key = timer.key
        values = (key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns, fire_at_ns)
        return await self._run(_POSTPONE_TIMER, values) == 1

    async def scan_transfer_tasks(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TransferTask]:
        """Return up to `limit` transfer tasks with `visible_at_ns <= now_ns`, oldest first. Raise StorageError."""
        found = []
        for row in await self._all(_SCAN_TRANSFER_TASKS, (now_ns, first_slot, next_slot, limit)):
            task = TransferTask(row[0], row[1], ExecutionKey(*row[2:5]), *row[5:9])
            if row[9]:
                data = await self._whole("transfer", transfer_task_owner(task), row[9], task.data)
                task = TransferTask(task.slot, task.task_id, task.key, task.kind, data, row[7], row[8])
            found.append(task)
        return found

    async def delete_transfer_task(self, task: TransferTask) -> None:
        """Delete the transfer task; nothing happens if it is gone. Raise StorageError."""
        if len(task.data) > CHUNK_BYTES:
            await self._run(_DELETE_CHUNKED_TRANSFER_TASK, (task.slot, task.task_id, transfer_task_owner(task)))
        else:
            await self._run(_DELETE_TRANSFER_TASK, (task.slot, task.task_id))

    async def postpone_transfer_task(self, task: TransferTask, visible_at_ns: int, attempt: int) -> None:
        """Set when the transfer task is due next, and its attempt; nothing happens if it is gone.

        Raise StorageError.
        """
        await self._run(_POSTPONE, (task.slot, task.task_id, visible_at_ns, attempt))


def _timers(rows: Sequence[Any]) -> list[TimerTask]:
    return [TimerTask(row[0], row[1], ExecutionKey(*row[2:5]), row[5], row[6]) for row in rows]
