"""List and count runs on SQLite. The first call imports the list filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.interface import MAX_READ_S
from whistlestop.storage.records import ExecutionKey, VisibilityRow
from whistlestop.storage.sqlite.base import SqliteBase
from whistlestop.storage.sqlite.transition import VISIBILITY_COLUMNS

if TYPE_CHECKING:
    from typing import Any

    from whistlestop.storage.visibility import Query

_COLUMNS = ", ".join(VISIBILITY_COLUMNS)


class SqliteVisibility(SqliteBase):
    """See whistlestop.storage.interface.VisibilityStore."""

    async def list_visibility(
        self, namespace_id: str, query: Query, limit: int, after: bytes, within_s: float = MAX_READ_S
    ) -> tuple[list[VisibilityRow], bytes]:
        """Return a page of up to `limit` rows and the token of the next page.

        A full page always has a token, as with Temporal, though the next page may be empty. A page with a token may be
        shorter than `limit` when its memos are large. An empty token marks the last page. Raise
        whistlestop.storage.visibility.InvalidQuery.
        """
        from whistlestop.storage.visibility import SQLITE, PageKey, compiled, list_clause, page_steps, parse_page_token

        where, values = await compiled(list_clause, query, SQLITE)
        rows: list[Any] = []
        for behind, more, order in page_steps(query, parse_page_token(after), SQLITE):
            rows += await self._list(
                f"SELECT {_COLUMNS} FROM executions_visibility WHERE namespace_id = ? AND {where} AND {behind}"
                f" ORDER BY {order} LIMIT ?",
                (namespace_id, *values, *more, limit - len(rows)),
                is_large=query.is_large,
                within_s=within_s,
            )
            if len(rows) == limit:
                break
        found = [_row(row) for row in rows]
        if len(rows) < limit or not found:
            return found, b""
        last = found[-1]
        return found, PageKey(last.close_time_us, last.start_time_us, last.key.run_id).token()

    async def count_visibility(self, namespace_id: str, query: Query, within_s: float = MAX_READ_S) -> int:
        """Return the number of runs that the query matches. Raise InvalidQuery or TimedOut."""
        from whistlestop.storage.visibility import SQLITE, compiled, where_clause

        where, values = await compiled(where_clause, query, SQLITE)
        sql = f"SELECT count(*) FROM executions_visibility WHERE namespace_id = ? AND {where}"
        rows = await self._list(sql, (namespace_id, *values), is_large=query.is_large, within_s=within_s)
        return int(rows[0][0])

    async def count_visibility_groups(
        self, namespace_id: str, query: Query, limit: int, within_s: float = MAX_READ_S
    ) -> list[tuple[tuple[object, ...], int]]:
        """Return the group values and counts of a query with GROUP BY, at most `limit` groups. Raise StorageError."""
        from whistlestop.storage.visibility import SQLITE, compiled, group_by_columns, where_clause

        columns, values = group_by_columns(query, SQLITE)
        where, more = await compiled(where_clause, query, SQLITE)
        numbers = ", ".join(str(n) for n in range(1, len(columns) + 1))
        rows = await self._list(
            f"SELECT {', '.join(columns)}, count(*) FROM executions_visibility WHERE namespace_id = ? AND {where}"
            f" GROUP BY {numbers} ORDER BY {numbers} LIMIT ?",
            (*values, namespace_id, *more, limit),
            is_large=query.is_large,
            within_s=within_s,
        )
        return [(tuple(row[:-1]), row[-1]) for row in rows]


def _row(row: Any) -> VisibilityRow:
    return VisibilityRow(ExecutionKey(*row[:3]), *row[3:])
