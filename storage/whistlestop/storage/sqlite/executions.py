"""Runs, their history and the current run of each workflow id on SQLite."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from whistlestop.storage.admin import SHARED_BRANCHES
from whistlestop.storage.limits import check_transition
from whistlestop.storage.notifications import tasks_of
from whistlestop.storage.records import (
    BranchRange,
    CurrentExecution,
    ExecutionKey,
    HistoryBatch,
    StoredExecution,
    own_branch,
)
from whistlestop.storage.sqlite.base import SqliteBase
from whistlestop.storage.sqlite.transition import SELECT_CURRENT, apply_transition, notification_queues

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from whistlestop.storage.records import Transition

_EXECUTION = (
    "SELECT namespace_id, workflow_id, run_id, shard_id, db_record_version, data, data_encoding, next_event_id, status"
    " FROM executions"
)
_GET_EXECUTION = f"{_EXECUTION} WHERE namespace_id = ? AND workflow_id = ? AND run_id = ?"
_LIST_ALL = (
    f"{_EXECUTION} WHERE (namespace_id, workflow_id, run_id) > (?, ?, ?)"
    " ORDER BY namespace_id, workflow_id, run_id LIMIT ?"
)
_LIST_NAMESPACE = (
    f"{_EXECUTION} WHERE namespace_id = ? AND (workflow_id, run_id) > (?, ?) ORDER BY workflow_id, run_id LIMIT ?"
)
# The batch that holds the first wanted event starts at or before that event.
_READ_NODES = (
    "SELECT node_id, next_event_id, data FROM history_node WHERE namespace_id = ? AND branch_id = ?"
    " AND node_id >= COALESCE((SELECT max(node_id) FROM history_node"
    " WHERE namespace_id = ? AND branch_id = ? AND node_id <= ?), 0)"
    " AND node_id < ? AND next_event_id > ? ORDER BY node_id {order} LIMIT ?"
)
_READ_FORWARD = _READ_NODES.format(order="ASC")
_READ_BACKWARD = _READ_NODES.format(order="DESC")


_WHERE_RUN = "WHERE namespace_id = ? AND workflow_id = ? AND run_id = ?"


class SqliteExecutions(SqliteBase):
    """See whistlestop.storage.interface.ExecutionStore."""

    defers_cancellation = True

    async def commit(self, transition: Transition) -> None:
        """Write the whole transition or nothing.

        Raise VersionConflict or CurrentConflict when a condition does not hold, TooLarge when a value exceeds the
        store's limits, and Unavailable when the database does not answer.
        """
        check_transition(transition)
        self._notify_workers(
            await self._write(partial(_commit, transition, notifies_workers=self.notifications is not None))
        )

    async def get_execution(self, key: ExecutionKey) -> StoredExecution | None:
        """Return the run as last committed, or None if it does not exist. Raise StorageError."""
        row = self._one(_GET_EXECUTION, (key.namespace_id, key.workflow_id, key.run_id))
        return StoredExecution(key, *row[3:]) if row else None

    async def get_current(self, namespace_id: str, workflow_id: str) -> CurrentExecution | None:
        """Return the current run of the workflow id, open or closed; None when there is none. Raise StorageError."""
        row = self._one(SELECT_CURRENT, (namespace_id, workflow_id))
        return CurrentExecution(*row) if row else None

    async def read_history(
        self,
        namespace_id: str,
        branches: Sequence[BranchRange],
        first_event_id: int,
        next_event_id: int,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[HistoryBatch]:
        """Return up to `limit` batches that hold events `first_event_id <= id < next_event_id`, in order.

        With `reverse` the order is descending, starting at the end of the range. A batch at either edge may hold events
        outside the range: it is returned whole. The list is empty when no such event is stored. Raise StorageError.
        """
        found: list[HistoryBatch] = []
        sql = _READ_BACKWARD if reverse else _READ_FORWARD
        for branch in reversed(branches) if reverse else branches:
            first = max(first_event_id, branch.first_event_id)
            end = min(next_event_id, branch.next_event_id)
            if first >= end or len(found) >= limit:
                continue
            owner = (namespace_id, branch.branch_id)
            rows = self._all(sql, (*owner, *owner, first, end, first, limit - len(found)))
            found.extend(HistoryBatch(*row) for row in rows)
        return found

    async def branches_of(self, key: ExecutionKey) -> list[BranchRange]:
        """Return the ranges of the run's history: those shared with other branches, then its own open-ended one.

        Raise StorageError.
        """
        run = (key.namespace_id, key.workflow_id, key.run_id)
        shared = [BranchRange(*row) for row in self._all(SHARED_BRANCHES, (key.namespace_id, key.run_id))]
        own = self._one(f"SELECT branch_id FROM executions {_WHERE_RUN}", run)
        return [*shared, own_branch(shared, own[0] if own else key.run_id)]

    async def list_executions(
        self, after: ExecutionKey | None, limit: int, namespace_id: str = ""
    ) -> list[StoredExecution]:
        """Return up to `limit` runs after `after` in key order, of one namespace if given.

        Used by checks and administration. Raise StorageError.
        """
        start = after or ExecutionKey(namespace_id, "", "")
        if namespace_id:
            rows = self._all(_LIST_NAMESPACE, (namespace_id, start.workflow_id, start.run_id, limit))
        else:
            rows = self._all(_LIST_ALL, (start.namespace_id, start.workflow_id, start.run_id, limit))
        return [StoredExecution(ExecutionKey(*row[:3]), *row[3:]) for row in rows]

    async def delete_execution(self, key: ExecutionKey) -> None:
        """Delete the run with its visibility, timers, tasks, current row and the history that no other run shares.

        Nothing happens if it is gone. Raise StorageError.
        """
        await self._write(partial(_delete, key))


def _commit(transition: Transition, cursor: sqlite3.Cursor, *, notifies_workers: bool) -> list[str]:
    apply_transition(cursor, transition)
    return notification_queues(cursor, tasks_of(transition)) if notifies_workers else []


def _delete(key: ExecutionKey, cursor: sqlite3.Cursor) -> None:
    """Delete the run, and of the branches that only it held those nodes that no fork needs."""
    namespace_id, run_id = key.namespace_id, key.run_id
    run = (namespace_id, key.workflow_id, run_id)
    row = cursor.execute(f"SELECT branch_id FROM executions {_WHERE_RUN}", run).fetchone()
    branches = {row[0] if row else run_id}
    shared = cursor.execute("SELECT branch_id FROM forks WHERE namespace_id = ? AND run_id = ?", (namespace_id, run_id))
    branches.update(branch_id for (branch_id,) in shared.fetchall())
    cursor.execute("DELETE FROM forks WHERE namespace_id = ? AND run_id = ?", (namespace_id, run_id))
    for table in ("executions", "current_executions", "timer_tasks"):
        cursor.execute(f"DELETE FROM {table} {_WHERE_RUN}", run)
    cursor.execute("DELETE FROM executions_visibility WHERE namespace_id = ? AND run_id = ?", (namespace_id, run_id))
    cursor.execute(
        "DELETE FROM tasks WHERE run_id = ? AND namespace_id = ? AND workflow_id = ?",
        (run_id, namespace_id, key.workflow_id),
    )
    for branch_id in branches:
        if not _owned(cursor, key, branch_id):
            cursor.execute(
                "DELETE FROM history_node WHERE namespace_id = ? AND branch_id = ? AND NOT EXISTS (SELECT 1 FROM forks"
                " WHERE forks.namespace_id = history_node.namespace_id AND forks.branch_id = history_node.branch_id"
                " AND forks.first_event_id < history_node.next_event_id"
                " AND forks.next_event_id > history_node.node_id)",
                (namespace_id, branch_id),
            )


def _owned(cursor: sqlite3.Cursor, key: ExecutionKey, branch_id: str) -> bool:
    """Return whether another run writes the branch: one of that run id, or one whose row names the branch."""
    named = cursor.execute(
        "SELECT 1 FROM executions WHERE namespace_id = ? AND workflow_id = ? AND run_id = ? AND branch_id = ?",
        (key.namespace_id, key.workflow_id, branch_id, branch_id),
    ).fetchone()
    other = cursor.execute(
        "SELECT 1 FROM executions WHERE namespace_id = ? AND branch_id = ? AND branch_id <> run_id",
        (key.namespace_id, branch_id),
    ).fetchone()
    return named is not None or other is not None
