"""Runs, their history and the current run of each workflow id on Postgres."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from whistlestop.storage.admin import SHARED_BRANCHES
from whistlestop.storage.errors import CurrentConflict, Unavailable
from whistlestop.storage.limits import check_transition
from whistlestop.storage.postgres.base import PostgresBase
from whistlestop.storage.postgres.statement import numbered
from whistlestop.storage.postgres.transition import current_of, execution_owner, node_owner, prepare
from whistlestop.storage.records import (
    BranchRange,
    CurrentExecution,
    ExecutionKey,
    HistoryBatch,
    StoredExecution,
    own_branch,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

    from whistlestop.storage.postgres.writer import TransitionWriter
    from whistlestop.storage.records import Transition

_EXECUTION = (
    "SELECT namespace_id, workflow_id, run_id, shard_id, db_record_version, data, data_encoding, next_event_id, status,"
    " parts FROM executions"
)
_RUN = "namespace_id = $1 AND workflow_id = $2 AND run_id = $3"
_GET_EXECUTION = f"{_EXECUTION} WHERE {_RUN}"
# State and chunks change together, so one statement reads both.
_GET_CHUNKED = (
    "SELECT shard_id, db_record_version, e.data, data_encoding, next_event_id, status, c.data FROM executions e"
    " JOIN chunks c ON c.kind = 'execution' AND c.owner = $4 AND c.part <= e.parts"
    f" WHERE {_RUN} ORDER BY c.part"
)
_GET_CURRENT = (
    "SELECT namespace_id, workflow_id, run_id, create_request_id, status, start_time_ns, close_time_ns"
    " FROM current_executions WHERE namespace_id = $1 AND workflow_id = $2"
)
_LIST_ALL = (
    f"{_EXECUTION} WHERE (namespace_id, workflow_id, run_id) > ($1, $2, $3)"
    " ORDER BY namespace_id, workflow_id, run_id LIMIT $4"
)
_LIST_NAMESPACE = (
    f"{_EXECUTION} WHERE namespace_id = $1 AND (workflow_id, run_id) > ($2, $3) ORDER BY workflow_id, run_id LIMIT $4"
)
# The batch that holds the first wanted event starts at or before that event.
_READ_NODES = (
    "SELECT node_id, next_event_id, data, parts FROM history_node WHERE namespace_id = $1 AND branch_id = $2"
    " AND node_id >= COALESCE((SELECT max(node_id) FROM history_node"
    " WHERE namespace_id = $1 AND branch_id = $2 AND node_id <= $3), 0)"
    " AND node_id < $4 AND next_event_id > $3 ORDER BY node_id {order} LIMIT $5"
)
_READ_FORWARD = _READ_NODES.format(order="ASC")
_READ_BACKWARD = _READ_NODES.format(order="DESC")
_DELETE_NODES = (
    "DELETE FROM history_node WHERE namespace_id = $1 AND branch_id = $2 AND NOT EXISTS (SELECT 1 FROM forks"
    " WHERE forks.namespace_id = $1 AND forks.branch_id = $2 AND forks.first_event_id < history_node.next_event_id"
    " AND forks.next_event_id > history_node.node_id) RETURNING node_id, parts"
)
# The branch's own run exists, or one has a row in `forks` for the branch because its run id is another.
_OWNED = (
    "SELECT 1 FROM executions WHERE namespace_id = $1 AND workflow_id = $2 AND run_id = $3 AND branch_id = $3"
    " UNION ALL SELECT 1 FROM forks WHERE namespace_id = $1 AND branch_id = $3 AND first_event_id = 0"
)


class PostgresExecutions(PostgresBase):
    """See whistlestop.storage.interface.ExecutionStore."""

    _writer: TransitionWriter | None = None

    defers_cancellation = False

    async def commit(self, transition: Transition) -> None:
        """Write the whole transition or nothing.

        Raise VersionConflict or CurrentConflict when a condition does not hold, TooLarge when a value exceeds the
        store's limits, and Unavailable when the database does not answer.
        """
        check_transition(transition)
        if self._writer is None:
            raise Unavailable("the store is not open")
        try:
            prepared = prepare(transition, self.notifications)
            row = await self._writer.commit(prepared)
        except CurrentConflict as conflict:
            if conflict.current is None:
                raise CurrentConflict(await self.get_current(*current_of(transition))) from None
            raise
        if prepared.notifies_workers:
            self._notify_workers(row[-1])

    async def get_execution(self, key: ExecutionKey) -> StoredExecution | None:
        """Return the run as last committed, or None if it does not exist. Raise StorageError."""
        row = await self._one(_GET_EXECUTION, (key.namespace_id, key.workflow_id, key.run_id))
        return await self._stored(row) if row else None

    async def _stored(self, row: Any) -> StoredExecution | None:
        key = ExecutionKey(*row[:3])
        if not row[9]:
            return StoredExecution(key, *row[3:9])
        parameters = (key.namespace_id, key.workflow_id, key.run_id, execution_owner(key))
        pieces = await self._all(_GET_CHUNKED, parameters)
        if not pieces:  # The state shrank or the run was deleted in between.
            return await self.get_execution(key)
        slot, version, first, encoding, next_id, status, _ = pieces[0]
        state = first + b"".join(piece[6] for piece in pieces)
        return StoredExecution(key, slot, version, state, encoding, next_id, status)

    async def get_current(self, namespace_id: str, workflow_id: str) -> CurrentExecution | None:
        """Return the current run of the workflow id, open or closed; None when there is none. Raise StorageError."""
        row = await self._one(_GET_CURRENT, (namespace_id, workflow_id))
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
            rows = await self._all(sql, (namespace_id, branch.branch_id, first, end, limit - len(found)))
            for node_id, next_id, data, parts in rows:
                owner = node_owner(namespace_id, branch.branch_id, node_id)
                found.append(HistoryBatch(node_id, next_id, await self._whole("history", owner, parts, data)))
        return found

    async def branches_of(self, key: ExecutionKey) -> list[BranchRange]:
        """Return the ranges of the run's history: those shared with other branches, then its own open-ended one.

        Raise StorageError.
        """
        run = (key.namespace_id, key.workflow_id, key.run_id)
        rows = await self._all(numbered(SHARED_BRANCHES, "?"), (key.namespace_id, key.run_id))
        shared = [BranchRange(*row) for row in rows]
        own = await self._one(f"SELECT branch_id FROM executions WHERE {_RUN}", run)
        return [*shared, own_branch(shared, own[0] if own else key.run_id)]

    async def list_executions(
        self, after: ExecutionKey | None, limit: int, namespace_id: str = ""
    ) -> list[StoredExecution]:
        """Return up to `limit` runs after `after` in key order, of one namespace if given.

        Used by checks and administration. Raise StorageError.
        """
        start = after or ExecutionKey(namespace_id, "", "")
        if namespace_id:
            rows = await self._all(_LIST_NAMESPACE, (namespace_id, start.workflow_id, start.run_id, limit))
        else:
            rows = await self._all(_LIST_ALL, (start.namespace_id, start.workflow_id, start.run_id, limit))
        found = [await self._stored(row) for row in rows]
        return [run for run in found if run is not None]

    async def delete_execution(self, key: ExecutionKey) -> None:
        """Delete the run with its visibility, timers, tasks, current row and the history that no other run shares.

        Nothing happens if it is gone. Raise StorageError.
        """
        await self._transaction(partial(_delete, key))


async def _delete(key: ExecutionKey, db: AsyncConnection[Any]) -> None:
    """Delete the run, and of the branches that only it held those nodes that no fork needs."""
    namespace_id, run_id = key.namespace_id, key.run_id
    run = (namespace_id, key.workflow_id, run_id)
    cursor = await db.execute(f"DELETE FROM executions WHERE {_RUN} RETURNING branch_id".encode(), run)
    row = await cursor.fetchone()
    branches = {row[0] if row else run_id}
    cursor = await db.execute(
        "DELETE FROM forks WHERE namespace_id = $1 AND run_id = $2 RETURNING branch_id", (namespace_id, run_id)
    )
    branches.update([branch_id for (branch_id,) in await cursor.fetchall()])
    for table in ("current_executions", "timer_tasks"):
        await db.execute(f"DELETE FROM {table} WHERE {_RUN}".encode(), run)
    delete_visibility = "DELETE FROM executions_visibility WHERE namespace_id = $1 AND run_id = $2"
    await db.execute(delete_visibility, (namespace_id, run_id))
    await db.execute("DELETE FROM tasks WHERE run_id = $3 AND namespace_id = $1 AND workflow_id = $2", run)
    await db.execute("DELETE FROM chunks WHERE kind IN ('execution', 'memo') AND owner = $1", (execution_owner(key),))
    for branch_id in sorted(branches):
        owner = await (await db.execute(_OWNED, (namespace_id, key.workflow_id, branch_id))).fetchone()
        if owner is not None:
            continue
        nodes = await (await db.execute(_DELETE_NODES, (namespace_id, branch_id))).fetchall()
        for node_id, parts in nodes:
            if parts:
                chunked = (node_owner(namespace_id, branch_id, node_id),)
                await db.execute("DELETE FROM chunks WHERE kind = 'history' AND owner = $1", chunked)
