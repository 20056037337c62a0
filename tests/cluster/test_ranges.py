"""Who scans what, on one store and one fake clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest

from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.notify import LocalNotifier
from whistlestop.server.membership import ALONE_S, BESIDE_OTHERS_S, CALL_S, SILENCE_S, Membership
from whistlestop.server.ranges import HANDOVER_NS, RANGES, Leases, merged, owner_of
from whistlestop.storage.records import SLOTS, ShardLease
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from whistlestop.common.notify import Subscription

ALL = ((0, SLOTS),)


class Hall:
    """Notifiers of several processes: a hint of one is heard by all."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.notifiers: list[LocalNotifier] = []

    def notifier(self) -> Voice:
        self.notifiers.append(LocalNotifier(self.clock))
        return Voice(self, self.notifiers[-1])


class Voice:
    def __init__(self, hall: Hall, own: LocalNotifier) -> None:
        self.hall = hall
        self.own = own

    def publish(self, topics: Iterable[str]) -> None:
        names = list(topics)
        for notifier in self.hall.notifiers:
            notifier.publish(names, remote=notifier is not self.own)

    def subscribe(self, *topics: str) -> Subscription:
        return self.own.subscribe(*topics)


@dataclass
class Scans:
    """What a process was told to scan, each time."""

    told: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        self.told.append(tuple(spans))

    @property
    def now(self) -> tuple[tuple[int, int], ...]:
        return self.told[-1] if self.told else ()


class World:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = FakeClock(1_000_000 * SECOND_NS)
        self.hall = Hall(self.clock)
        self.scans: dict[str, Scans] = {}
        self.members: dict[str, Membership] = {}
        self.lost: dict[str, int] = {}
        """How often each was told that another is gone."""

    async def join(self, name: str) -> None:
        await self.clock.advance(0.5)
        scans = self.scans[name] = Scans()
        self.members[name] = Membership(
            self.store, self.clock, self.hall.notifier(), name, ("history",),
            leases=Leases(self.store, f"{name}/history"), scanner=scans,
        )  # fmt: skip
        self.lost[name] = 0
        self.members[name].on_member_lost = partial(self._lose, name)
        await self.members[name].join("127.0.0.1", 7233)
        await self.settle()

    def _lose(self, name: str) -> None:
        self.lost[name] += 1

    async def kill(self, name: str) -> None:
        task = self.members.pop(name)._task
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def settle(self) -> None:
        # The store writes in a thread of its own.
        for _ in range(60):
            await asyncio.sleep(0.001)

    async def advance(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            await self.clock.advance(0.5)
            await self.settle()

    def shared(self) -> list[tuple[int, int]]:
        """All that is scanned by the living, in order."""
        return sorted(span for name in self.members for span in self.scans[name].now)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    made = World(store)
    yield made
    for name in list(made.members):
        await made.kill(name)
    await store.close()


def covers(spans: list[tuple[int, int]]) -> bool:
    """They lie side by side and leave nothing out."""
    ends = [0, *(following for _, following in spans)]
    return [first for first, _ in spans] == ends[:-1] and ends[-1] == SLOTS


def test_ranges_side_by_side_are_one_span() -> None:
    width = SLOTS // RANGES
    assert merged(range(RANGES)) == ALL
    assert merged([3, 1, 2, 5]) == ((width, 4 * width), (5 * width, 6 * width))
    assert merged([]) == ()


def test_a_member_that_goes_moves_only_its_own_ranges() -> None:
    before = {n: owner_of(n, {"a", "b", "c"}) for n in range(RANGES)}
    after = {n: owner_of(n, {"a", "b"}) for n in range(RANGES)}
    assert all(after[n] == owner for n, owner in before.items() if owner != "c")
    assert set(before.values()) == {"a", "b", "c"}


async def test_a_member_that_is_alone_scans_everything_at_once(world: World) -> None:
    await world.join("a")
    assert world.scans["a"].told == [ALL]


async def test_two_members_share_all_ranges(world: World) -> None:
    await world.join("a")
    await world.join("b")
    await world.advance(CALL_S + 1)
    assert covers(world.shared())
    assert world.scans["a"].now
    assert world.scans["b"].now


async def test_a_killed_member_is_followed_within_its_silence_and_a_beat(world: World) -> None:
    await world.join("a")
    await world.join("b")
    await world.advance(BESIDE_OTHERS_S * 3)
    await world.kill("a")
    await world.advance(SILENCE_S + BESIDE_OTHERS_S + 0.5)
    assert world.scans["b"].now == ALL


async def test_other_members_are_notified_once_of_a_lost_member(world: World) -> None:
    for name in "abc":
        await world.join(name)
    await world.advance(CALL_S * 4)
    assert world.lost == {"a": 0, "b": 0, "c": 0}
    await world.kill("a")
    await world.advance(2 * (SILENCE_S + BESIDE_OTHERS_S))
    assert (world.lost["b"], world.lost["c"]) == (1, 1)


async def test_timers_of_a_killed_member_are_scanned_by_every_other(world: World) -> None:
    for name in "abc":
        await world.join(name)
    await world.advance(CALL_S * 4)
    told = {name: len(world.scans[name].told) for name in "bc"}
    await world.kill("a")
    await world.advance(SILENCE_S + BESIDE_OTHERS_S + 0.5)
    assert all(len(world.scans[name].told) > count for name, count in told.items())
    assert covers(world.shared())


async def test_the_ranges_of_a_leaving_member_are_taken_at_once(world: World) -> None:
    await world.join("a")
    await world.join("b")
    await world.advance(CALL_S * 2)
    await world.members.pop("a").leave()
    await world.settle()
    assert world.scans["b"].now == ALL
    assert [member.host_id for member in await world.store.list_members(world.clock.now_ns(), 10)] == ["b/history"]


async def test_a_joining_member_waits_for_an_answer_not_for_the_row_of_a_killed_one(world: World) -> None:
    await world.join("a")
    await world.kill("a")
    await world.join("b")
    await world.advance(CALL_S + 0.5)
    assert world.scans["b"].now == ALL


async def test_a_member_wrongly_considered_dead_gets_its_ranges_back(world: World) -> None:
    await world.join("a")
    world.hall.notifiers.clear()  # It hears nobody any more.
    await world.join("b")
    await world.advance(CALL_S + 0.5)
    assert world.scans["b"].now == ALL
    await world.advance(ALONE_S + BESIDE_OTHERS_S * 3)
    assert covers(world.shared())
    assert world.scans["a"].now


async def test_an_owner_that_does_not_release_a_range_is_fenced_off(world: World) -> None:
    now_ns = world.clock.now_ns()
    ours = next(n for n in range(RANGES) if owner_of(n, {"a", "b"}) == "a")
    await world.store.take_lease(ShardLease(ours, 0, 1, 7, "b", now_ns), 0)
    leases = Leases(world.store, "a")
    waiting = []
    for later_ns in (0, HANDOVER_NS):
        await leases.settle({"a", "b"}, now_ns + later_ns, now_ns)
        waiting.append(leases.is_waiting)
    assert waiting == [True, False]
    (lease,) = [lease for lease in await world.store.list_leases() if lease.shard_id == ours]
    assert (lease.owner, lease.range_id) == ("a", 8)


async def test_a_fenced_off_owner_stops(world: World) -> None:
    now_ns = world.clock.now_ns()
    leases = Leases(world.store, "a")
    other = Leases(world.store, "b")
    scanned = []
    for one, members in ((leases, {"a"}), (other, {"b"}), (leases, {"b"})):
        await one.settle(members, now_ns, now_ns)
        scanned.append(one.spans)
    assert scanned == [ALL, ALL, ()]
