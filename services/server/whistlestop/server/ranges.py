"""The ranges of slots that this process scans for timers and transfer tasks.

The slots are divided into RANGES ranges. The living members agree without communication on the owner of each range:
the one with the highest hash of range and member. `shards` records who actually scans it: a row changes hands by
compare-and-set on its `range_id`, so if two members disagree on who is alive, only one gets the range, and the other
finds out at its next check. A lease is valid while its owner is a living member; it is not renewed, so it costs
nothing while nothing changes.

Safety does not depend on this: what fires twice has no effect the second time.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.records import SLOTS, ShardLease

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from whistlestop.storage.interface import ClusterStore

RANGES = 16
WIDTH = SLOTS // RANGES
HANDOVER_NS = 10 * SECOND_NS
"""How long a living owner may take to release a range that belongs to another member now."""

log = logging.getLogger(__name__)


def owner_of(range_number: int, members: Collection[str]) -> str:
    """Return the member to which the range belongs (rendezvous hashing)."""
    return max(members, key=lambda member: (blake2b(f"{range_number}/{member}".encode()).digest(), member))


def merged(ranges: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Merge ranges into as few spans of slots as possible, each (first, next)."""
    spans: list[tuple[int, int]] = []
    for number in sorted(ranges):
        first = number * WIDTH
        if spans and spans[-1][1] == first:
            spans[-1] = (spans[-1][0], first + WIDTH)
        else:
            spans.append((first, first + WIDTH))
    return tuple(spans)


class Leases:
    """The ranges of a member."""

    def __init__(self, store: ClusterStore, me: str) -> None:
        self._store = store
        self._me = me
        self._owned: dict[int, int] = {}
        """Range ids, by range."""
        self._waiting: dict[int, int] = {}
        """Since when each range that should be ours is held by another living member."""

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The spans of slots to scan."""
        return merged(self._owned)

    @property
    def is_waiting(self) -> bool:
        """Whether another member has to release a range first."""
        return bool(self._waiting)

    async def settle(self, members: Collection[str], now_ns: int, expires_ns: int) -> bool:
        """Take the ranges that are ours among the living `members`, and release others; return whether a row changed.

        `now_ns` is an instant of the steady clock, `expires_ns` (for display) of the wall clock. Raise StorageError.
        """
        leases = {lease.shard_id: lease for lease in await self._store.list_leases()}
        changed = False
        for number in range(RANGES):
            lease = leases.get(number)
            if number in self._owned and (lease is None or lease.range_id != self._owned[number]):
                log.info("range %s was taken over by %s", number, lease.owner if lease else "nobody")
                del self._owned[number]
            ours = self._me in members and owner_of(number, members) == self._me
            if ours and number not in self._owned:
                if self._may_take(number, lease, members, now_ns):
                    changed |= await self._write(number, lease, self._me, expires_ns)
            elif not ours:
                self._waiting.pop(number, None)
                if number in self._owned:
                    changed |= await self._write(number, lease, "", expires_ns)
        return changed

    async def release(self, now_ns: int, expires_ns: int) -> None:
        """Release all ranges; times are in nanoseconds since the Unix epoch. Raise StorageError."""
        await self.settle((), now_ns, expires_ns)

    def _may_take(self, number: int, lease: ShardLease | None, members: Collection[str], now_ns: int) -> bool:
        if lease is not None and lease.owner in members and lease.owner != self._me:
            since_ns = self._waiting.setdefault(number, now_ns)
            if now_ns - since_ns < HANDOVER_NS:
                return False
        self._waiting.pop(number, None)
        return True

    async def _write(self, number: int, lease: ShardLease | None, owner: str, expires_ns: int) -> bool:
        expected = 0 if lease is None else lease.range_id
        first = number * WIDTH
        self._owned.pop(number, None)
        try:
            await self._store.take_lease(
                ShardLease(number, first, first + WIDTH, expected + 1, owner, expires_ns), expected
            )
        except LeaseLost:
            return False
        if owner:
            self._owned[number] = expected + 1
        return True
