"""List and count runs on Postgres."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from whistlestop.storage.interface import MAX_READ_S
from whistlestop.storage.postgres.base import PostgresBase, memo_parts
from whistlestop.storage.postgres.statement import numbered
from whistlestop.storage.postgres.transition import VISIBILITY_COLUMNS, execution_owner
from whistlestop.storage.records import ExecutionKey, VisibilityRow
from whistlestop.storage.visibility import (
    POSTGRES,
    PageKey,
    Query,
    compiled,
    group_by_columns,
    list_clause,
    page_steps,
    parse_page_token,
    where_clause,
)

if TYPE_CHECKING:
    from typing import Any

_COLUMNS = ", ".join(VISIBILITY_COLUMNS)

MAX_MEMO_BYTES = 16 * 1024 * 1024
"""The maximum of chunked memos in one page, since those of a thousand runs could take gigabytes."""


class PostgresVisibility(PostgresBase):
    """See whistlestop.storage.interface.VisibilityStore."""

    async def list_visibility(
        self, namespace_id: str, query: Query, limit: int, after: bytes, within_s: float = MAX_READ_S
    ) -> tuple[list[VisibilityRow], bytes]:
        """Return a page of up to `limit` rows and the token of the next page.

        A full page always has a token, as with Temporal, though the next page may be empty. A page with a token may be
        shorter than `limit` when its memos are large. An empty token marks the last page. Raise
        whistlestop.storage.visibility.InvalidQuery.
        """
        where, values = await compiled(list_clause, query, POSTGRES)
        rows: list[Any] = []
        for behind, more, order in page_steps(query, parse_page_token(after), POSTGRES):
            sql = numbered(
                f"SELECT {_COLUMNS} FROM executions_visibility WHERE namespace_id = %s AND {where} AND {behind}"
                f" ORDER BY {order} LIMIT %s"
            )
            rows += await self._within(within_s, sql, (namespace_id, *values, *more, limit - len(rows)))
            if len(rows) == limit:
                break
        found = [_row(row) for row in rows]
        is_cut = await self._fill_long_memos(found)
        if (len(rows) < limit and not is_cut) or not found:
            return found, b""
        last = found[-1]
        return found, PageKey(last.close_time_us, last.start_time_us, last.key.run_id).token()

    async def _fill_long_memos(self, rows: list[VisibilityRow]) -> bool:
        """Read the memos that are in chunks; cut `rows` where they get too large and return whether it was cut."""
        read = 0
        for n, row in enumerate(rows):
            parts = memo_parts(row.memo)
            if not parts:
                continue
            if read > MAX_MEMO_BYTES:
                del rows[n:]
                return True
            memo = await self._whole("memo", execution_owner(row.key), parts, b"")
            rows[n] = replace(row, memo=memo)
            read += len(memo)
        return False

    async def count_visibility(self, namespace_id: str, query: Query, within_s: float = MAX_READ_S) -> int:
        """Return the number of runs that the query matches. Raise InvalidQuery or TimedOut."""
        where, values = await compiled(where_clause, query, POSTGRES)
        sql = numbered(f"SELECT count(*) FROM executions_visibility WHERE namespace_id = %s AND {where}")
        return int((await self._within(within_s, sql, (namespace_id, *values)))[0][0])

    async def count_visibility_groups(
        self, namespace_id: str, query: Query, limit: int, within_s: float = MAX_READ_S
    ) -> list[tuple[tuple[object, ...], int]]:
        """Return the group values and counts of a query with GROUP BY, at most `limit` groups. Raise StorageError."""
        columns, values = group_by_columns(query, POSTGRES)
        where, more = await compiled(where_clause, query, POSTGRES)
        numbers = ", ".join(str(n) for n in range(1, len(columns) + 1))
        sql = numbered(
            f"SELECT {', '.join(columns)}, count(*) FROM executions_visibility WHERE namespace_id = %s AND {where}"
            f" GROUP BY {numbers} ORDER BY {numbers} LIMIT %s"
        )
        rows = await self._within(within_s, sql, (*values, namespace_id, *more, limit))
        return [(tuple(row[:-1]), row[-1]) for row in rows]


def _row(row: Any) -> VisibilityRow:
    return VisibilityRow(ExecutionKey(*row[:3]), *row[3:])
