"""Queries and their answers on Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.notify import query_topic
from whistlestop.storage.limits import check_chunked
from whistlestop.storage.notifications import task_topics
from whistlestop.storage.postgres.base import PostgresBase, split
from whistlestop.storage.postgres.statement import Statement
from whistlestop.storage.postgres.transition import (
    CHUNK,
    CHUNK_TYPES,
    SET_CHUNK,
    TASK,
    TASK_TYPES,
    notify,
    set_answer,
    task_row,
)
from whistlestop.storage.records import ExecutionKey, QueryRecord

if TYPE_CHECKING:
    from whistlestop.storage.records import MatchingTask

_QUERY = (
    "SELECT query_id, namespace_id, workflow_id, run_id, request, buffered, expires_ns, answer, parts, answer_parts"
    " FROM queries"
)
_BUFFERED = (
    f"{_QUERY} WHERE run_id = $1 AND namespace_id = $2 AND workflow_id = $3 AND buffered AND answer IS NULL"
    " AND expires_ns > $4 ORDER BY expires_ns, query_id LIMIT $5"
)
_PUT = (
    "INSERT INTO queries (query_id, namespace_id, workflow_id, run_id, buffered, expires_ns, parts, request,"
    " answer_parts) VALUES ({values}, 0) ON CONFLICT (query_id) DO UPDATE SET request = excluded.request RETURNING 1"
)
_DELETE = "DELETE FROM queries WHERE query_id = $1 RETURNING query_id, parts + answer_parts"
_PURGE = (
    "DELETE FROM queries WHERE query_id IN"
    " (SELECT query_id FROM queries WHERE expires_ns <= $1 ORDER BY expires_ns LIMIT $2)"
    " RETURNING query_id, parts + answer_parts"
)


class PostgresQueries(PostgresBase):
    """See whistlestop.storage.interface.QueryStore."""

    async def put_query(self, query: QueryRecord, task: MatchingTask | None) -> None:
        """Store the query and, for a direct one, the task that carries it to a worker (None: a buffered query).

        Raise StorageError.
        """
        check_chunked("query", len(query.request))
        key = query.key
        request, more = split(query.request)
        statement = Statement()
        values = statement.add(
            query.query_id, key.namespace_id, key.workflow_id, key.run_id, query.buffered, query.expires_ns, len(more),
            request,
        )  # fmt: skip
        statement.expression("ok", _PUT.format(values=values))
        if task is not None:
            statement.insert("t", TASK, TASK_TYPES, [task_row(task)])
        if more:
            rows = [("query", query.query_id, part, piece) for part, piece in enumerate(more, 1)]
            statement.insert("k", CHUNK, CHUNK_TYPES, rows, SET_CHUNK)
        select = "SELECT 1"
        if self.notifications is not None and task is not None:
            select += notify(statement, self.notifications, (task,), task_topics((task,)))
        rows_found = await self._all(statement.text(select).decode(), statement.parameters, read=False)
        if self.notifications is not None and self.notifications.notify_workers is not None and task is not None:
            self._notify_workers(rows_found[0][-1])

    async def get_query(self, query_id: str) -> QueryRecord | None:
        """Return the query, with its answer if there is one; None when it is gone. Raise StorageError."""
        row = await self._one(f"{_QUERY} WHERE query_id = $1", (query_id,))
        return await self._query(row) if row else None

    async def _query(self, row: Any) -> QueryRecord:
        request = await self._whole("query", row[0], row[8], row[4])
        answer = row[7] if row[7] is None else await self._whole("answer", row[0], row[9], row[7])
        return QueryRecord(row[0], ExecutionKey(*row[1:4]), request, row[5], row[6], answer)

    async def list_buffered_queries(self, key: ExecutionKey, now_ns: int, limit: int) -> list[QueryRecord]:
        """Return up to `limit` of the run's buffered queries that are neither answered nor expired, oldest first.

        Raise StorageError.
        """
        rows = await self._all(_BUFFERED, (key.run_id, key.namespace_id, key.workflow_id, now_ns, limit))
        return [await self._query(row) for row in rows]

    async def answer_query(self, query_id: str, key: ExecutionKey, answer: bytes) -> bool:
        """Store the answer. Return False when the query is gone, already answered, or was asked of another run.

        Raise StorageError.
        """
        check_chunked("query answer", len(answer))
        data, more = split(answer)
        statement = Statement()
        statement.expression("ok", set_answer(statement, query_id, key, data, len(more)))
        if more:
            rows = [("answer", query_id, part, piece) for part, piece in enumerate(more, 1)]
            statement.insert("k", CHUNK, CHUNK_TYPES, rows, SET_CHUNK)
        select = "SELECT 1"
        if self.notifications is not None:
            select += notify(statement, self.notifications, (), (query_topic(query_id),))
        sql = statement.text(f"{select} FROM ok").decode()
        rows_found = await self._all(sql, statement.parameters, read=False)
        return len(rows_found) == 1

    async def delete_query(self, query_id: str) -> None:
        """Delete the query and its answer; nothing happens if it is gone. Raise StorageError."""
        await self._drop_chunks(await self._all(_DELETE, (query_id,), read=False))

    async def purge_queries(self, now_ns: int, limit: int) -> int:
        """Delete up to `limit` expired queries; return how many were deleted. Raise StorageError."""
        deleted = await self._all(_PURGE, (now_ns, limit), read=False)
        await self._drop_chunks(deleted)
        return len(deleted)

    async def _drop_chunks(self, deleted: list[Any]) -> None:
        for query_id, parts in deleted:
            if parts:
                await self._run("DELETE FROM chunks WHERE kind IN ('query', 'answer') AND owner = $1", (query_id,))
