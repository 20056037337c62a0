"""Which ranges of slots this process scans for timers and transfer tasks.

The slots are cut into RANGES ranges. The live members agree without talking on who each range belongs to: the one with
the highest hash of range and member. `shards` says who really scans it: a row changes hands by compare-and-set on its
`range_id`, so of two who disagree on who lives only one gets the range, and the other finds out at its next look. A
lease holds for as long as its owner is a live member; nothing renews it, so it costs nothing while nothing changes.

None of this is needed for safety. What fires twice finds nothing to do the second time.
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
"""How long a live owner may take to let go of a range that is another's now."""

log = logging.getLogger(__name__)


def owner_of(range_number: int, members: Collection[str]) -> str:
    """Whom the range belongs to among `members` (rendezvous hashing)."""
    return max(members, key=lambda member: (blake2b(f"{range_number}/{member}".encode()).digest(), member))


def merged(ranges: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ranges as few spans of slots (first, next)."""
    spans: list[tuple[int, int]] = []
    for number in sorted(ranges):
        first = number * WIDTH
        if spans and spans[-1][1] == first:
            spans[-1] = (spans[-1][0], first + WIDTH)
        else:
            spans.append((first, first + WIDTH))
    return tuple(spans)


class Leases:
    """The ranges of one member."""

    def __init__(self, store: ClusterStore, me: str) -> None:
        self._store = store
        self._me = me
        self._held: dict[int, int] = {}
        """Range ids, by range."""
        self._waiting: dict[int, int] = {}
        """Since when a range that should be ours is held by another live member."""

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Spans of slots to scan."""
        return merged(self._held)

    @property
    def is_waiting(self) -> bool:
        """Others have to let go of something first."""
        return bool(self._waiting)

    async def settle(self, members: Collection[str], now_ns: int, expires_ns: int) -> bool:
        """Take what is ours among the live `members`, let go of what is not; True when a row changed.

        `now_ns` is the steady clock's, `expires_ns` (for people who read the rows) the wall clock's.
        """
        leases = {lease.shard_id: lease for lease in await self._store.list_leases()}
        changed = False
        for number in range(RANGES):
            lease = leases.get(number)
            if number in self._held and (lease is None or lease.range_id != self._held[number]):
                log.info("range %s was taken over by %s", number, lease.owner if lease else "nobody")
                del self._held[number]
            ours = self._me in members and owner_of(number, members) == self._me
            if ours and number not in self._held:
                if self._may_take(number, lease, members, now_ns):
                    changed |= await self._write(number, lease, self._me, expires_ns)
            elif not ours:
                self._waiting.pop(number, None)
                if number in self._held:
                    changed |= await self._write(number, lease, "", expires_ns)
        return changed

    async def release(self, now_ns: int, expires_ns: int) -> None:
        """Let go of everything."""
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
        self._held.pop(number, None)
        try:
            await self._store.take_lease(
                ShardLease(number, first, first + WIDTH, expected + 1, owner, expires_ns), expected
            )
        except LeaseLost:
            return False
        if owner:
            self._held[number] = expected + 1
        return True
