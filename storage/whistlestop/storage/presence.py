"""The row of a function instance in `cluster_membership`, written by its calls, since nothing runs between them.

Instances are not told when they end: the row expires. Membership is for people and for placement, never for safety.
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

EVERY_NS = 30 * SECOND_NS
EXPIRY_NS = 90 * SECOND_NS
"""An instance without a call for this long is not counted as alive."""


class Presence:
    """One instance of one function."""

    def __init__(self, store: ClusterStore, clock: Clock, instance: str, role: str) -> None:
        self._store = store
        self._clock = clock
        self._host_id = f"{instance}/{role}"
        self._role = role
        self._began_ns = clock.now_ns()
        self._noted_ns = 0

    async def note(self) -> None:
        """A call was served: renew the row when it has grown old. A failure is logged."""
        steady_ns = self._clock.steady_ns()
        if steady_ns - self._noted_ns < EVERY_NS:
            return
        self._noted_ns = steady_ns
        now_ns = self._clock.now_ns()
        member = Member(self._host_id, self._role, "", 0, self._began_ns, now_ns, now_ns + EXPIRY_NS)
        try:
            await self._store.heartbeat(member)
        except StorageError as error:
            _log.warning("the instance could not be noted as a member: %s", error)
