"""A server's row in `cluster_membership`: written at start, renewed while it lives, removed when it leaves.

Membership is for placement and for people, never for safety: a row that is late or lost changes nothing that is true.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import Member

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import ClusterStore

HEARTBEAT_S = 10.0
EXPIRY_S = 30.0
"""Three beats may be lost before others take the member for gone."""

log = logging.getLogger(__name__)


class Membership:
    """Keeps one member's rows alive, one for each role."""

    def __init__(
        self, store: ClusterStore, clock: Clock, host_id: str, roles: tuple[str, ...], heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._store = store
        self._clock = clock
        self._host_id = host_id
        self._roles = roles
        self._heartbeat_s = heartbeat_s
        self._members: list[Member] = []
        self._task: asyncio.Task[None] | None = None

    async def join(self, rpc_address: str, rpc_port: int) -> None:
        """Write the first heartbeat and go on."""
        now_ns = self._clock.now_ns()
        self._members = [
            Member(f"{self._host_id}/{role}", role, rpc_address, rpc_port, now_ns, now_ns, now_ns)
            for role in self._roles
        ]
        await self._beat()
        self._task = asyncio.create_task(self._keep(), name="membership")

    async def leave(self) -> None:
        """Stop, and take the rows out."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for member in self._members:
            try:
                await self._store.remove_member(member.host_id)
            except StorageError as error:
                log.warning(
                    "could not leave the cluster (%s); the row expires by itself",
                    error,
                    extra={"host_id": member.host_id},
                )

    async def _beat(self) -> None:
        now_ns = self._clock.now_ns()
        expires_ns = now_ns + round(EXPIRY_S * SECOND_NS)
        for member in self._members:
            await self._store.heartbeat(replace(member, last_heartbeat_ns=now_ns, expires_ns=expires_ns))

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_s)
            try:
                await self._beat()
            except StorageError as error:
                log.warning("the heartbeat was not written: %s", error, extra={"host_id": self._host_id})
