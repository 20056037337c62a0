"""Nexus endpoints on Postgres."""

from __future__ import annotations

from psycopg import errors

from whistlestop.storage.errors import EndpointConflict, EndpointExists, StorageError
from whistlestop.storage.limits import check_value
from whistlestop.storage.postgres.base import PostgresBase
from whistlestop.storage.records import NexusEndpointRecord

_ENDPOINT = "SELECT id, name, data, version FROM nexus_endpoints"


class PostgresNexus(PostgresBase):
    """See whistlestop.storage.interface.NexusEndpointStore."""

    async def create_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Store a new endpoint with version 1. Raise EndpointExists."""
        check_value("nexus endpoint", len(record.data))
        count = await self._run(
            "INSERT INTO nexus_endpoints (id, name, data, version) VALUES ($1, $2, $3, 1) ON CONFLICT DO NOTHING",
            (record.endpoint_id, record.name, record.data),
        )
        if count != 1:
            raise EndpointExists(f"a Nexus endpoint named {record.name} exists already")

    async def get_nexus_endpoint(self, *, endpoint_id: str = "", name: str = "") -> NexusEndpointRecord | None:
        """Return the endpoint of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        column, value = ("id", endpoint_id) if endpoint_id else ("name", name)
        row = await self._one(f"{_ENDPOINT} WHERE {column} = $1", (value,))
        return NexusEndpointRecord(*row) if row else None

    async def update_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise EndpointConflict when the version differs or the endpoint is gone, EndpointExists when the name is taken.
        """
        check_value("nexus endpoint", len(record.data))
        try:
            count = await self._run(
                "UPDATE nexus_endpoints SET name = $1, data = $2, version = version + 1 WHERE id = $3 AND version = $4",
                (record.name, record.data, record.endpoint_id, record.version),
            )
        except StorageError as error:
            if isinstance(error.__cause__, errors.UniqueViolation):
                raise EndpointExists(f"another Nexus endpoint is named {record.name}") from error
            raise
        if count != 1:
            raise EndpointConflict(f"Nexus endpoint {record.name} was changed by another writer, or is gone")

    async def list_nexus_endpoints(self, first_id: str, limit: int) -> list[NexusEndpointRecord]:
        """Return up to `limit` endpoints ordered by id, starting at `first_id`. Raise StorageError."""
        rows = await self._all(f"{_ENDPOINT} WHERE id >= $1 ORDER BY id LIMIT $2", (first_id, limit))
        return [NexusEndpointRecord(*row) for row in rows]

    async def delete_nexus_endpoint(self, endpoint_id: str) -> bool:
        """Delete the endpoint. Return False when there is none. Raise StorageError."""
        return await self._run("DELETE FROM nexus_endpoints WHERE id = $1", (endpoint_id,)) == 1
