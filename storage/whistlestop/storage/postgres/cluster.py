"""Namespaces, membership, leases of slot ranges and the administrative queue on Postgres."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from psycopg import errors

from whistlestop.storage.errors import LeaseLost, NamespaceConflict, NamespaceExists, StorageError
from whistlestop.storage.limits import check_value
from whistlestop.storage.postgres.base import PostgresBase
from whistlestop.storage.postgres.statement import Statement
from whistlestop.storage.records import Member, NamespaceRecord, QueueMessage, ShardLease

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMESPACE = "SELECT id, name, data, version, is_global FROM namespaces"
_MEMBER = "cluster_membership (host_id, role, rpc_address, rpc_port, session_start_ns, last_heartbeat_ns, expires_ns)"
_MEMBER_TYPES = ("text", "text", "text", "bigint", "bigint", "bigint", "bigint")
_SET_MEMBER = (
    "ON CONFLICT (host_id) DO UPDATE SET role = excluded.role, rpc_address = excluded.rpc_address,"
    " rpc_port = excluded.rpc_port, session_start_ns = excluded.session_start_ns,"
    " last_heartbeat_ns = excluded.last_heartbeat_ns, expires_ns = excluded.expires_ns"
)
_MEMBERS = (
    "SELECT host_id, role, rpc_address, rpc_port, session_start_ns, last_heartbeat_ns, expires_ns"
    " FROM cluster_membership"
)
HOUR_NS = 3600 * 1_000_000_000


class PostgresCluster(PostgresBase):
    """See NamespaceStore and ClusterStore of whistlestop.storage.interface."""

    async def create_namespace(self, record: NamespaceRecord) -> None:
        """Store a new namespace with version 1. Raise NamespaceExists."""
        check_value("namespace", len(record.data))
        count = await self._run(
            "INSERT INTO namespaces (id, name, data, version, is_global) VALUES ($1, $2, $3, 1, $4)"
            " ON CONFLICT DO NOTHING",
            (record.namespace_id, record.name, record.data, record.is_global),
        )
        if count != 1:
            raise NamespaceExists(f"namespace {record.name} ({record.namespace_id}) exists already")

    async def get_namespace(self, *, name: str = "", namespace_id: str = "") -> NamespaceRecord | None:
        """Return the namespace of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        if namespace_id:
            row = await self._one(f"{_NAMESPACE} WHERE id = $1", (namespace_id,))
        else:
            row = await self._one(f"{_NAMESPACE} WHERE name = $1", (name,))
        return NamespaceRecord(*row) if row else None

    async def update_namespace(self, record: NamespaceRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise NamespaceConflict when the version differs, the namespace is gone, or the name is taken.
        """
        check_value("namespace", len(record.data))
        try:
            count = await self._run(
                "UPDATE namespaces SET name = $1, data = $2, is_global = $3, version = version + 1"
                " WHERE id = $4 AND version = $5",
                (record.name, record.data, record.is_global, record.namespace_id, record.version),
            )
        except StorageError as error:
            if isinstance(error.__cause__, errors.UniqueViolation):
                raise NamespaceConflict(f"another namespace is named {record.name}") from error
            raise
        if count != 1:
            raise NamespaceConflict(f"namespace {record.name} was changed by another writer, or is gone")

    async def list_namespaces(self, after_name: str, limit: int) -> list[NamespaceRecord]:
        """Return up to `limit` namespaces ordered by name, after `after_name`. Raise StorageError."""
        rows = await self._all(f"{_NAMESPACE} WHERE name > $1 ORDER BY name LIMIT $2", (after_name, limit))
        return [NamespaceRecord(*row) for row in rows]

    async def delete_namespace(self, namespace_id: str) -> None:
        """Delete the namespace's record, not its runs; nothing happens if it is gone. Raise StorageError."""
        await self._run("DELETE FROM namespaces WHERE id = $1", (namespace_id,))

    async def heartbeat(self, *members: Member, limit: int = 0, since_ns: int = 0) -> list[Member]:
        """Write these rows, delete rows that expired long ago, and return up to `limit` other live members by host id.

        A member is live when it expires after `since_ns`, or, where that is 0, after the newest heartbeat of `members`.
        Raise StorageError.
        """
        now_ns = since_ns or max(member.last_heartbeat_ns for member in members)
        statement = Statement()
        hosts = statement.add([member.host_id for member in members])
        now, long_ago, most = statement.add(now_ns, now_ns - HOUR_NS, limit).split(", ")
        relation = statement.rows(_MEMBER_TYPES, [astuple(member) for member in members])
        statement.expression("mine", f"INSERT INTO {_MEMBER} SELECT * FROM {relation} {_SET_MEMBER}")
        # Function instances are not told when they end, so other members delete rows that expired long ago.
        statement.expression(
            "gone",
            "DELETE FROM cluster_membership WHERE host_id IN (SELECT host_id FROM cluster_membership"
            f" WHERE expires_ns < {long_ago} AND NOT host_id = ANY({hosts}) LIMIT 100)",
        )
        select = f"{_MEMBERS} WHERE expires_ns > {now} AND NOT host_id = ANY({hosts}) ORDER BY host_id LIMIT {most}"
        # This may be retried like a read: writing the same rows twice is harmless.
        rows = await self._all(statement.text(select).decode(), statement.parameters)
        return [Member(*row) for row in rows]

    async def remove_member(self, host_id: str) -> None:
        """Delete the member's row; nothing happens if it is gone. Raise StorageError."""
        await self._run("DELETE FROM cluster_membership WHERE host_id = $1", (host_id,))

    async def list_members(self, now_ns: int, limit: int) -> list[Member]:
        """Return up to `limit` live members, ordered by host id. Raise StorageError."""
        rows = await self._all(f"{_MEMBERS} WHERE expires_ns > $1 ORDER BY host_id LIMIT $2", (now_ns, limit))
        return [Member(*row) for row in rows]

    async def list_leases(self) -> list[ShardLease]:
        rows = await self._all(
            "SELECT shard_id, first_slot, next_slot, range_id, owner, expires_ns FROM shards ORDER BY shard_id"
        )
        return [ShardLease(*row) for row in rows]

    async def take_lease(self, lease: ShardLease, expected_range_id: int) -> None:
        """Write `lease` if the row's range_id is `expected_range_id` (0: no row). Raise LeaseLost otherwise."""
        values: Sequence[Any] = (
            lease.first_slot, lease.next_slot, lease.range_id, lease.owner, lease.expires_ns, lease.shard_id,
        )  # fmt: skip
        if expected_range_id:
            count = await self._run(
                "UPDATE shards SET first_slot = $1, next_slot = $2, range_id = $3, owner = $4, expires_ns = $5"
                " WHERE shard_id = $6 AND range_id = $7",
                (*values, expected_range_id),
            )
        else:
            count = await self._run(
                "INSERT INTO shards (first_slot, next_slot, range_id, owner, expires_ns, shard_id)"
                " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                values,
            )
        if count != 1:
            raise LeaseLost(f"the lease of range {lease.shard_id} is held under another range id")

    async def enqueue(self, message: QueueMessage) -> None:
        """Write the message, replacing one of the same id. Raise StorageError."""
        check_value("queue message", len(message.data))
        await self._run(
            "INSERT INTO queue (queue_name, message_id, data) VALUES ($1, $2, $3)"
            " ON CONFLICT (queue_name, message_id) DO UPDATE SET data = excluded.data",
            (message.queue_name, message.message_id, message.data),
        )

    async def read_queue(self, queue_name: str, after_id: int, limit: int) -> list[QueueMessage]:
        """Return up to `limit` messages of the queue ordered by id, after `after_id`. Raise StorageError."""
        rows = await self._all(
            "SELECT queue_name, message_id, data FROM queue WHERE queue_name = $1 AND message_id > $2"
            " ORDER BY message_id LIMIT $3",
            (queue_name, after_id, limit),
        )
        return [QueueMessage(*row) for row in rows]

    async def delete_message(self, message: QueueMessage) -> None:
        """Delete the message; nothing happens if it is gone. Raise StorageError."""
        await self._run(
            "DELETE FROM queue WHERE queue_name = $1 AND message_id = $2", (message.queue_name, message.message_id)
        )
