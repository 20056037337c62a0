"""The row of a function instance in `cluster_membership`, renewed by its calls since nothing runs between them.

An instance is not told when it ends: its row expires. Membership informs operators and placement; safety never depends
on it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import Member

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import ClusterStore

_log = logging.getLogger(__name__)

INTERVAL_NS = 30 * SECOND_NS
EXPIRY_NS = 90 * SECOND_NS
"""An instance without a call for this long no longer counts as alive."""


class MembershipHeartbeat:
    """The membership row of one instance of one function."""

    def __init__(self, store: ClusterStore, clock: Clock, instance: str, role: str) -> None:
        self._store = store
        self._clock = clock
        self._host_id = f"{instance}/{role}"
        self._role = role
        self._began_ns = clock.now_ns()
        self._noted_ns = 0

    async def renew(self) -> None:
        """Renew the row after a call, if it is older than EVERY_NS. A failure is logged, not raised."""
        steady_ns = self._clock.steady_ns()
        if steady_ns - self._noted_ns < INTERVAL_NS:
            return
        self._noted_ns = steady_ns
        now_ns = self._clock.now_ns()
        member = Member(self._host_id, self._role, "", 0, self._began_ns, now_ns, now_ns + EXPIRY_NS)
        try:
            await self._store.heartbeat(member)
        except StorageError as error:
            _log.warning("the row of this instance in cluster_membership could not be renewed: %s", error)
