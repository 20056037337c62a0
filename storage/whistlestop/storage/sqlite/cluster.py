"""Namespaces, membership, leases of slot ranges and the administrative queue on SQLite."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

from whistlestop.storage.errors import LeaseLost, NamespaceConflict, NamespaceExists
from whistlestop.storage.limits import check_text, check_value
from whistlestop.storage.records import Member, NamespaceRecord, QueueMessage, ShardLease
from whistlestop.storage.sqlite.base import SqliteBase

if TYPE_CHECKING:
    import sqlite3

_NAMESPACE = "SELECT id, name, data, version, is_global FROM namespaces"
HOUR_NS = 3600 * 1_000_000_000


class SqliteCluster(SqliteBase):
    """See NamespaceStore and ClusterStore of whistlestop.storage.interface."""

    async def create_namespace(self, record: NamespaceRecord) -> None:
        """Store a new namespace with version 1. Raise NamespaceExists."""
        check_value("namespace", len(record.data))
        check_text(record.name)

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.execute(
                "INSERT INTO namespaces (id, name, data, version, is_global) VALUES (?, ?, ?, 1, ?)"
                " ON CONFLICT DO NOTHING",
                (record.namespace_id, record.name, record.data, int(record.is_global)),
            )
            if cursor.rowcount != 1:
                raise NamespaceExists(f"namespace {record.name} ({record.namespace_id}) exists already")

        await self._write(run)

    async def get_namespace(self, *, name: str = "", namespace_id: str = "") -> NamespaceRecord | None:
        """Return the namespace of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        if namespace_id:
            row = self._one(f"{_NAMESPACE} WHERE id = ?", (namespace_id,))
        else:
            row = self._one(f"{_NAMESPACE} WHERE name = ?", (name,))
        return _namespace(row) if row else None

    async def update_namespace(self, record: NamespaceRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise NamespaceConflict when the version differs, the namespace is gone, or the name is taken.
        """
        check_value("namespace", len(record.data))
        check_text(record.name)
        await self._write(partial(_update_namespace, record))

    async def list_namespaces(self, after_name: str, limit: int) -> list[NamespaceRecord]:
        """Return up to `limit` namespaces ordered by name, after `after_name`. Raise StorageError."""
        rows = self._all(f"{_NAMESPACE} WHERE name > ? ORDER BY name LIMIT ?", (after_name, limit))
        return [_namespace(row) for row in rows]

    async def delete_namespace(self, namespace_id: str) -> None:
        """Delete the namespace's record, not its runs; nothing happens if it is gone. Raise StorageError."""
        await self._write(partial(_delete, "DELETE FROM namespaces WHERE id = ?", (namespace_id,)))

    async def heartbeat(self, *members: Member, limit: int = 0, since_ns: int = 0) -> list[Member]:
        """Write these rows, delete rows that expired long ago, and return up to `limit` other live members by host id.

        A member is live when it expires after `since_ns`, or, where that is 0, after the newest heartbeat of `members`.
        Raise StorageError.
        """
        now_ns = since_ns or max(member.last_heartbeat_ns for member in members)
        hosts = {member.host_id for member in members}

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.executemany(
                "INSERT OR REPLACE INTO cluster_membership (host_id, role, rpc_address, rpc_port, session_start_ns,"
                " last_heartbeat_ns, expires_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [astuple(member) for member in members],
            )
            # Function instances are not told when they end, so other members delete rows that expired long ago.
            cursor.execute(
                "DELETE FROM cluster_membership WHERE host_id IN"
                " (SELECT host_id FROM cluster_membership WHERE expires_ns < ? LIMIT 100)",
                (now_ns - HOUR_NS,),
            )

        await self._write(run)
        if not limit:
            return []
        found = await self.list_members(now_ns, limit + len(hosts))
        return [member for member in found if member.host_id not in hosts][:limit]

    async def remove_member(self, host_id: str) -> None:
        """Delete the member's row; nothing happens if it is gone. Raise StorageError."""
        await self._write(partial(_delete, "DELETE FROM cluster_membership WHERE host_id = ?", (host_id,)))

    async def list_members(self, now_ns: int, limit: int) -> list[Member]:
        """Return up to `limit` live members, ordered by host id. Raise StorageError."""
        rows = self._all(
            "SELECT host_id, role, rpc_address, rpc_port, session_start_ns, last_heartbeat_ns, expires_ns"
            " FROM cluster_membership WHERE expires_ns > ? ORDER BY host_id LIMIT ?",
            (now_ns, limit),
        )
        return [Member(*row) for row in rows]

    async def list_leases(self) -> list[ShardLease]:
        rows = self._all(
            "SELECT shard_id, first_slot, next_slot, range_id, owner, expires_ns FROM shards ORDER BY shard_id", ()
        )
        return [ShardLease(*row) for row in rows]

    async def take_lease(self, lease: ShardLease, expected_range_id: int) -> None:
        """Write `lease` if the row's range_id is `expected_range_id` (0: no row). Raise LeaseLost otherwise."""
        await self._write(partial(_take_lease, lease, expected_range_id))

    async def enqueue(self, message: QueueMessage) -> None:
        """Write the message, replacing one of the same id. Raise StorageError."""
        check_value("queue message", len(message.data))
        check_text(message.queue_name)

        def run(cursor: sqlite3.Cursor) -> None:
            cursor.execute(
                "INSERT OR REPLACE INTO queue (queue_name, message_id, data) VALUES (?, ?, ?)",
                (message.queue_name, message.message_id, message.data),
            )

        await self._write(run)

    async def read_queue(self, queue_name: str, after_id: int, limit: int) -> list[QueueMessage]:
        """Return up to `limit` messages of the queue ordered by id, after `after_id`. Raise StorageError."""
        rows = self._all(
            "SELECT queue_name, message_id, data FROM queue WHERE queue_name = ? AND message_id > ?"
            " ORDER BY message_id LIMIT ?",
            (queue_name, after_id, limit),
        )
        return [QueueMessage(*row) for row in rows]

    async def delete_message(self, message: QueueMessage) -> None:
        """Delete the message; nothing happens if it is gone. Raise StorageError."""
        sql = "DELETE FROM queue WHERE queue_name = ? AND message_id = ?"
        await self._write(partial(_delete, sql, (message.queue_name, message.message_id)))


def _namespace(row: Any) -> NamespaceRecord:
    return NamespaceRecord(row[0], row[1], row[2], row[3], bool(row[4]))


def _delete(sql: str, parameters: tuple[object, ...], cursor: sqlite3.Cursor) -> None:
    cursor.execute(sql, parameters)


def _update_namespace(record: NamespaceRecord, cursor: sqlite3.Cursor) -> None:
    taken = cursor.execute("SELECT id FROM namespaces WHERE name = ?", (record.name,)).fetchone()
    if taken is not None and taken[0] != record.namespace_id:
        raise NamespaceConflict(f"another namespace is named {record.name}")
    cursor.execute(
        "UPDATE namespaces SET name = ?, data = ?, is_global = ?, version = version + 1 WHERE id = ? AND version = ?",
        (record.name, record.data, int(record.is_global), record.namespace_id, record.version),
    )
    if cursor.rowcount != 1:
        raise NamespaceConflict(f"namespace {record.name} was changed by another writer, or is gone")


def _take_lease(lease: ShardLease, expected_range_id: int, cursor: sqlite3.Cursor) -> None:
    values = (lease.first_slot, lease.next_slot, lease.range_id, lease.owner, lease.expires_ns)
    if expected_range_id:
        cursor.execute(
            "UPDATE shards SET first_slot = ?, next_slot = ?, range_id = ?, owner = ?, expires_ns = ?"
            " WHERE shard_id = ? AND range_id = ?",
            (*values, lease.shard_id, expected_range_id),
        )
    else:
        cursor.execute(
            "INSERT INTO shards (first_slot, next_slot, range_id, owner, expires_ns, shard_id)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*values, lease.shard_id),
        )
    if cursor.rowcount != 1:
        raise LeaseLost(f"the lease of range {lease.shard_id} is held under another range id")
