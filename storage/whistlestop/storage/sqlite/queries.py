"""Queries and their answers on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage.limits import check_chunked
from whistlestop.storage.records import ExecutionKey, QueryRecord
from whistlestop.storage.sqlite.base import SqliteBase
from whistlestop.storage.sqlite.transition import ANSWER_QUERY, INSERT_TASK, notification_queues, task_row

if TYPE_CHECKING:
    import sqlite3

    from whistlestop.storage.records import MatchingTask

_QUERY = "SELECT query_id, namespace_id, workflow_id, run_id, request, buffered, expires_ns, answer FROM queries"
_BUFFERED = (
    f"{_QUERY} WHERE run_id = ? AND namespace_id = ? AND workflow_id = ? AND buffered = 1 AND answer IS NULL"
    " AND expires_ns > ? ORDER BY expires_ns, query_id LIMIT ?"
)
_PUT = (
    "INSERT OR REPLACE INTO queries (query_id, namespace_id, workflow_id, run_id, buffered, expires_ns, request,"
    " answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_PURGE = (
    "DELETE FROM queries WHERE query_id IN"
    " (SELECT query_id FROM queries WHERE expires_ns <= ? ORDER BY expires_ns LIMIT ?)"
)


class SqliteQueries(SqliteBase):
    """See whistlestop.storage.interface.QueryStore."""

    async def put_query(self, query: QueryRecord, task: MatchingTask | None) -> None:
        """Store the query and, for a direct one, the task that carries it to a worker (None: a buffered query).

        Raise StorageError.
        """
        check_chunked("query", len(query.request))
        key = query.key
        row = (
            query.query_id, key.namespace_id, key.workflow_id, key.run_id, int(query.buffered), query.expires_ns,
            query.request, query.answer,
        )  # fmt: skip

        def run(cursor: sqlite3.Cursor) -> list[str]:
            cursor.execute(_PUT, row)
            if task is None:
                return []
            cursor.execute(INSERT_TASK, task_row(task))
            return notification_queues(cursor, (task,)) if self.notifications is not None else []

        self._notify_workers(await self._write(run))

    async def get_query(self, query_id: str) -> QueryRecord | None:
        """Return the query, with its answer if there is one; None when it is gone. Raise StorageError."""
        row = self._one(f"{_QUERY} WHERE query_id = ?", (query_id,))
        return _query(row) if row else None

    async def list_buffered_queries(self, key: ExecutionKey, now_ns: int, limit: int) -> list[QueryRecord]:
        """Return up to `limit` of the run's buffered queries that are neither answered nor expired, oldest first.

        Raise StorageError.
        """
        rows = self._all(_BUFFERED, (key.run_id, key.namespace_id, key.workflow_id, now_ns, limit))
        return [_query(row) for row in rows]

    async def answer_query(self, query_id: str, key: ExecutionKey, answer: bytes) -> bool:
        """Store the answer. Return False when the query is gone, already answered, or was asked of another run.

        Raise StorageError.
        """
        check_chunked("query answer", len(answer))

        def run(cursor: sqlite3.Cursor) -> bool:
            row = (answer, query_id, key.namespace_id, key.workflow_id, key.run_id)
            return cursor.execute(ANSWER_QUERY, row).rowcount == 1

        return await self._write(run)

    async def delete_query(self, query_id: str) -> None:
        """Delete the query and its answer; nothing happens if it is gone. Raise StorageError."""

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.execute("DELETE FROM queries WHERE query_id = ?", (query_id,))

        await self._write(run)

    async def purge_queries(self, now_ns: int, limit: int) -> int:
        """Delete up to `limit` expired queries; return how many were deleted. Raise StorageError."""

        def run(cursor: sqlite3.Cursor) -> int:
            return cursor.execute(_PURGE, (now_ns, limit)).rowcount

        return await self._write(run)


def _query(row: Any) -> QueryRecord:
    return QueryRecord(row[0], ExecutionKey(*row[1:4]), row[4], bool(row[5]), row[6], row[7])
