"""Nexus endpoints on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage.errors import EndpointConflict, EndpointExists
from whistlestop.storage.limits import check_text, check_value
from whistlestop.storage.records import NexusEndpointRecord
from whistlestop.storage.sqlite.base import SqliteBase

if TYPE_CHECKING:
    import sqlite3

_ENDPOINT = "SELECT id, name, data, version FROM nexus_endpoints"


class SqliteNexus(SqliteBase):
    """See whistlestop.storage.interface.NexusEndpointStore."""

    async def create_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Store a new endpoint with version 1. Raise EndpointExists."""
        check_value("nexus endpoint", len(record.data))
        check_text(record.name)

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.execute(
                "INSERT INTO nexus_endpoints (id, name, data, version) VALUES (?, ?, ?, 1) ON CONFLICT DO NOTHING",
                (record.endpoint_id, record.name, record.data),
            )
            if cursor.rowcount != 1:
                raise EndpointExists(f"a Nexus endpoint named {record.name} exists already")

        await self._write(run)

    async def get_nexus_endpoint(self, *, endpoint_id: str = "", name: str = "") -> NexusEndpointRecord | None:
        """Return the endpoint of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        column, value = ("id", endpoint_id) if endpoint_id else ("name", name)
        row = self._one(f"{_ENDPOINT} WHERE {column} = ?", (value,))
        return _endpoint(row) if row else None

    async def update_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise EndpointConflict when the version differs or the endpoint is gone, EndpointExists when the name is taken.
        """
        check_value("nexus endpoint", len(record.data))
        check_text(record.name)

        def run(cursor: sqlite3.Cursor) -> None:
            taken = cursor.execute("SELECT id FROM nexus_endpoints WHERE name = ?", (record.name,)).fetchone()
            if taken is not None and taken[0] != record.endpoint_id:
                raise EndpointExists(f"another Nexus endpoint is named {record.name}")
            cursor.execute(
                "UPDATE nexus_endpoints SET name = ?, data = ?, version = version + 1 WHERE id = ? AND version = ?",
                (record.name, record.data, record.endpoint_id, record.version),
            )
            if cursor.rowcount != 1:
                raise EndpointConflict(f"Nexus endpoint {record.name} was changed by another writer, or is gone")

        await self._write(run)

    async def list_nexus_endpoints(self, first_id: str, limit: int) -> list[NexusEndpointRecord]:
        """Return up to `limit` endpoints ordered by id, starting at `first_id`. Raise StorageError."""
        rows = self._all(f"{_ENDPOINT} WHERE id >= ? ORDER BY id LIMIT ?", (first_id, limit))
        return [_endpoint(row) for row in rows]

    async def delete_nexus_endpoint(self, endpoint_id: str) -> bool:
        """Delete the endpoint. Return False when there is none. Raise StorageError."""

        def run(cursor: sqlite3.Cursor) -> bool:
            return cursor.execute("DELETE FROM nexus_endpoints WHERE id = ?", (endpoint_id,)).rowcount == 1

        return await self._write(run)


def _endpoint(row: Any) -> NexusEndpointRecord:
    return NexusEndpointRecord(*row)
