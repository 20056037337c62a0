"""The workers' last heartbeats in rows, for several processes or for functions.

They are stored among the rows of pollers, under a queue name that no poll can use, by the worker's instance key.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import PollerRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from whistlestop.matching.config import MatchingConfig
    from whistlestop.storage.interface import TaskStore

log = logging.getLogger(__name__)

_NO_QUEUE = ("", 0)
_BATCH = 1000


class WorkerRows:
    """Write and read heartbeats in rows."""

    def __init__(self, store: TaskStore, config: MatchingConfig) -> None:
        self._store = store
        self._ttl_ns = int(config.heartbeat_ttl_s * SECOND_NS)
        self._most = config.shared_heartbeats

    async def write(self, namespace_id: str, heartbeats: Iterable[worker_pb.WorkerHeartbeat], now_ns: int) -> None:
        """Store the heartbeats; that of a worker that shuts down expires at once.

        A failure is logged: more will come. Raise StorageError.
        """
        rows = [
            PollerRecord(
                namespace_id, *_NO_QUEUE, heartbeat.worker_instance_key, now_ns, heartbeat.SerializeToString(),
                now_ns + (0 if heartbeat.status == common_enums.WORKER_STATUS_SHUTDOWN else self._ttl_ns),
            )
            for heartbeat in heartbeats
        ]  # fmt: skip
        try:
            await self._store.put_pollers(rows)
        except StorageError as error:
            log.warning("heartbeats of workers could not be stored: %s", error)

    async def find(self, namespace_id: str, key: str, now_ns: int) -> worker_pb.WorkerHeartbeat | None:
        """Return the worker's last heartbeat; None when there is none or it has expired. Raise StorageError."""
        row = await self._store.get_poller(namespace_id, *_NO_QUEUE, key)
        if row is None or row.expires_ns <= now_ns:
            return None
        return _read(row)

    async def after(
        self, namespace_id: str, key: str, now_ns: int, few: int
    ) -> AsyncIterator[worker_pb.WorkerHeartbeat]:
        """Yield the heartbeats that have not expired, by instance key, after `key`. Raise StorageError."""
        left, size = self._most, few
        while left > 0:
            rows = await self._store.list_pollers(namespace_id, *_NO_QUEUE, now_ns, min(size, left), key)
            for row in rows:
                heartbeat = _read(row)
                if heartbeat is not None:
                    yield heartbeat
            if len(rows) < min(size, left):
                return
            left, size, key = left - len(rows), _BATCH, rows[-1].identity


def _read(row: PollerRecord) -> worker_pb.WorkerHeartbeat | None:
    """Return the heartbeat; None for a damaged row, which the next heartbeat overwrites."""
    try:
        return worker_pb.WorkerHeartbeat.FromString(row.data)
    except DecodeError:
        return None
