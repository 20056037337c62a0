"""Task queues, their tasks and their pollers on Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.fairness import FIRST, last_of
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.limits import check_value
from whistlestop.storage.postgres.base import PostgresBase
from whistlestop.storage.postgres.statement import Statement
from whistlestop.storage.postgres.transition import SET_TASK, TASK, TASK_TYPES, task_row
from whistlestop.storage.records import (
    EXPIRED_POLLERS_KEPT_NS,
    Backlog,
    MatchingTask,
    PollerRecord,
    TaskKey,
    TaskQueueRecord,
    add_backlog,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUEUE = "namespace_id = $1 AND task_queue = $2 AND task_type = $3"
_LIST_TASKS = (
    "SELECT namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id, scheduled_event_id, stamp,"
    f" created_ns, query_id, data FROM tasks WHERE {_QUEUE} AND (priority, task_id) > ($4, $5)"
    " ORDER BY priority, task_id LIMIT $6"
)
_KEY_TYPES = ("text", "text", "bigint", "bigint", "bigint")
_NEXT_PRIORITY = f"SELECT min(priority) FROM tasks WHERE {_QUEUE} AND priority > $4"
_BACKLOG = (
    "SELECT count(*), min(created_ns) FROM"
    f" (SELECT created_ns FROM tasks WHERE {_QUEUE} AND priority BETWEEN $4 AND $5 ORDER BY priority, task_id LIMIT $6)"
    " AS first_ones"
)
_NEXT_QUEUE = (
    "SELECT namespace_id, task_queue, task_type FROM tasks WHERE (namespace_id, task_queue, task_type) > ($1, $2, $3)"
    " ORDER BY namespace_id, task_queue, task_type LIMIT 1"
)
_GET_QUEUE = f"SELECT range_id, data, updated_ns FROM task_queues WHERE {_QUEUE}"
_POLLER = "task_queue_pollers (namespace_id, task_queue, task_type, identity, last_access_ns, expires_ns, data)"
_POLLER_TYPES = ("text", "text", "bigint", "text", "bigint", "bigint", "bytea")
_SET_POLLER = (
    "ON CONFLICT (namespace_id, task_queue, task_type, identity) DO UPDATE SET"
    " last_access_ns = excluded.last_access_ns, expires_ns = excluded.expires_ns, data = excluded.data"
    " WHERE excluded.last_access_ns >= task_queue_pollers.last_access_ns"
)
# Sticky queues come and go with their workers: each poll deletes some rows of pollers that are gone. (Not rows that
# the same statement writes.)
_SWEEP_POLLERS = (
    "DELETE FROM task_queue_pollers WHERE (namespace_id, task_queue, task_type, identity) IN"
    " (SELECT namespace_id, task_queue, task_type, identity FROM task_queue_pollers"
    " WHERE expires_ns <= {now} AND identity <> ALL ({identities}) LIMIT 100)"
)
# This takes one index step per level, whatever the number of tasks in it.
_LIST_BY_LEVEL = f"""
WITH RECURSIVE levels (level, number) AS (
    SELECT min(priority), CAST(1 AS BIGINT) FROM tasks WHERE {_QUEUE} AND priority > $4
    UNION ALL
    SELECT (SELECT min(priority) FROM tasks WHERE {_QUEUE} AND priority > levels.level), levels.number + 1
    FROM levels WHERE levels.level IS NOT NULL AND levels.number < $6
)
SELECT first_ones.* FROM levels, LATERAL (
    SELECT namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id, scheduled_event_id, stamp,
        created_ns, query_id, data
    FROM tasks WHERE {_QUEUE} AND priority = levels.level ORDER BY task_id LIMIT $5
) AS first_ones ORDER BY first_ones.priority, first_ones.task_id
"""
_COUNT_TASKS = (
    "(SELECT count(*) FROM (SELECT 1 FROM tasks WHERE namespace_id = {} AND task_queue = {} AND task_type = {}"
    " LIMIT {}) AS first_ones)"
)
_POLLERS = (
    "SELECT namespace_id, task_queue, task_type, identity, last_access_ns, data, expires_ns FROM task_queue_pollers"
)
_GET_POLLER = f"{_POLLERS} WHERE {_QUEUE} AND identity = $4"
_LIST_POLLERS = f"{_POLLERS} WHERE {_QUEUE} AND identity > $4 AND expires_ns > $5 ORDER BY identity LIMIT $6"


class PostgresTasks(PostgresBase):
    """See whistlestop.storage.interface.TaskStore."""

    async def list_tasks(
        self, namespace_id: str, task_queue: str, task_type: int, after: tuple[int, int] | None, limit: int
    ) -> list[MatchingTask]:
        """Return up to `limit` tasks after `after` (None: from the first), ordered by (priority, task_id).

        Raise StorageError.
        """
        rows = await self._all(_LIST_TASKS, (namespace_id, task_queue, task_type, *(after or (FIRST, 0)), limit))
        return [MatchingTask(TaskKey(*row[:5]), *row[5:]) for row in rows]

    async def list_tasks_by_level(
        self, namespace_id: str, task_queue: str, task_type: int, after: int, per_level: int, levels: int
    ) -> list[MatchingTask]:
        """Return the first `per_level` tasks of each of the first `levels` levels (values of `priority`) above `after`.

        They are ordered by (priority, task_id). Raise StorageError.
        """
        parameters = (namespace_id, task_queue, task_type, after, per_level, levels)
        rows = await self._all(_LIST_BY_LEVEL, parameters)
        return [MatchingTask(TaskKey(*row[:5]), *row[5:]) for row in rows]

    async def count_tasks(self, queues: Sequence[tuple[str, str, int]], limit: int) -> list[int]:
        """Return the number of tasks in each queue (namespace_id, task_queue, task_type), counted up to `limit`.

        Raise StorageError.
        """
        if not queues:
            return []
        statement = Statement()
        most = statement.add(limit)
        counts = [_COUNT_TASKS.format(*statement.add(*queue).split(", "), most) for queue in queues]
        return list(await self._one(f"SELECT {', '.join(counts)}", statement.parameters))

    async def put_tasks(self, tasks: Sequence[MatchingTask]) -> None:
        """Write the tasks, replacing those of equal keys. Raise TooLarge."""
        if not tasks:
            return
        for task in tasks:
            check_value("task", len(task.data))
        statement = Statement()
        relation = statement.rows(TASK_TYPES, [task_row(task) for task in tasks])
        await self._run(f"INSERT INTO {TASK} SELECT * FROM {relation} {SET_TASK}", statement.parameters)

    async def delete_tasks(self, keys: Sequence[TaskKey]) -> None:
        """Delete the tasks; keys without a task are ignored. Raise StorageError."""
        if not keys:
            return
        statement = Statement()
        relation = statement.rows(
            _KEY_TYPES, [(key.namespace_id, key.task_queue, key.task_type, key.priority, key.task_id) for key in keys]
        )
        names = "namespace_id, task_queue, task_type, priority, task_id"
        await self._run(f"DELETE FROM tasks WHERE ({names}) IN (SELECT * FROM {relation})", statement.parameters)

    async def backlog(self, namespace_id: str, task_queue: str, task_type: int, limit: int) -> dict[int, Backlog]:
        """Return the backlog by priority, over all fairness keys; each count stops at `limit`.

        Priorities without tasks are left out. Raise StorageError.
        """
        # At most ten steps, however many fairness keys there are.
        queue = (namespace_id, task_queue, task_type)
        found: dict[int, Backlog] = {}
        last = FIRST
        while (level := (await self._one(_NEXT_PRIORITY, (*queue, last)))[0]) is not None:
            last = last_of(level)
            count, oldest_ns = await self._one(_BACKLOG, (*queue, level, last, limit))
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
        while len(found) < limit and (row := await self._one(_NEXT_QUEUE, at)) is not None:
            found.append(row)
            at = row
        return found

    async def get_task_queue(self, namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None:
        """Return the settings of the queue, or None if none were written. Raise StorageError."""
        row = await self._one(_GET_QUEUE, (namespace_id, task_queue, task_type))
        return TaskQueueRecord(namespace_id, task_queue, task_type, *row) if row else None

    async def put_task_queue(self, record: TaskQueueRecord, expected_range_id: int) -> None:
        """Write the settings. Raise LeaseLost when the row's range id is not `expected_range_id` (0: no row)."""
        check_value("task queue", len(record.data))
        values = (
            record.namespace_id, record.task_queue, record.task_type, record.range_id, record.data, record.updated_ns,
        )  # fmt: skip
        if expected_range_id:
            count = await self._run(
                f"UPDATE task_queues SET range_id = $4, data = $5, updated_ns = $6 WHERE {_QUEUE} AND range_id = $7",
                (*values, expected_range_id),
            )
        else:
            count = await self._run(
                "INSERT INTO task_queues (namespace_id, task_queue, task_type, range_id, data, updated_ns)"
                " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                values,
            )
        if count != 1:
            raise LeaseLost(f"task queue {record.task_queue} was changed by another writer")

    async def put_pollers(self, pollers: Sequence[PollerRecord]) -> None:
        """Write each poller, unless its stored row has a later `last_access_ns`.

        So a poll that was in flight does not undo the poller's shutdown. Raise StorageError.
        """
        if not pollers:
            return
        # Sorted by key, so that two servers that write the same pollers do not deadlock.
        rows = sorted(
            (p.namespace_id, p.task_queue, p.task_type, p.identity, p.last_access_ns, p.expires_ns, p.data)
            for p in pollers
        )
        statement = Statement()
        relation = statement.rows(_POLLER_TYPES, rows)
        statement.expression("put", f"INSERT INTO {_POLLER} SELECT * FROM {relation} {_SET_POLLER}")
        now = statement.add(max(poller.last_access_ns for poller in pollers) - EXPIRED_POLLERS_KEPT_NS)
        identities = f"{statement.add(sorted({poller.identity for poller in pollers}))}::text[]"
        sweep = _SWEEP_POLLERS.format(now=now, identities=identities)
        await self._run(statement.text(sweep).decode(), statement.parameters)

    async def get_poller(
        self, namespace_id: str, task_queue: str, task_type: int, identity: str
    ) -> PollerRecord | None:
        """Return the poller's row, even an expired one, or None. Raise StorageError."""
        row = await self._one(_GET_POLLER, (namespace_id, task_queue, task_type, identity))
        return PollerRecord(*row) if row else None

    async def list_pollers(
        self, namespace_id: str, task_queue: str, task_type: int, now_ns: int, limit: int, after: str = ""
    ) -> list[PollerRecord]:
        """Return up to `limit` pollers that have not expired, ordered by identity, after the identity `after`.

        Raise StorageError.
        """
        rows = await self._all(_LIST_POLLERS, (namespace_id, task_queue, task_type, after, now_ns, limit))
        return [PollerRecord(*row) for row in rows]
