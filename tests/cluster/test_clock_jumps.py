"""Somebody sets the wall clocks: who lives is told by heartbeats, and nobody is taken for gone."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.cluster.test_ranges import ALL, World
from tests.cluster.test_ranges import world as world  # noqa: PLC0414 - a fixture
from whistlestop.server.membership import ALONE_S, CALL_S, SILENCE_S
from whistlestop.storage.sqlite.store import SqliteStore

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [2 * HOUR_S, -HOUR_S], ids=["forward", "back"])


async def advance(world: World, seconds: float) -> None:
    for _ in range(round(seconds * 2)):
        await world.clock.advance(0.5)
        for _ in range(3):
            # What was to be written before is written when this is.
            await world.store.remove_member("nobody")
            for _ in range(5):
                await asyncio.sleep(0)


async def two_members(world: World) -> None:
    await world.join("a")
    await world.join("b")
    await advance(world, CALL_S * 2 + 3)
    assert sorted(world.members) == ["a", "b"]
    assert world.scans["a"].now
    assert world.scans["b"].now


@JUMPS
async def test_members_that_beat_are_alive_whatever_the_date_is(world: World, jump_s: float) -> None:
    await two_members(world)
    shares = {name: world.scans[name].now for name in world.members}
    world.clock.set_wall(jump_s)
    await advance(world, 15)
    assert world.lost == {"a": 0, "b": 0}
    assert {name: world.scans[name].now for name in world.members} == shares


@JUMPS
async def test_a_killed_member_is_detected_as_soon_as_without_a_jump(world: World, jump_s: float) -> None:
    await two_members(world)
    world.clock.set_wall(jump_s)
    await world.kill("a")
    await advance(world, SILENCE_S + 4)
    assert world.lost["b"] == 1
    assert world.scans["b"].now == ALL


@JUMPS
async def test_a_member_that_is_alone_sends_slow_heartbeats(jump_s: float) -> None:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    world = World(store)
    beats: list[float] = []
    heartbeat = store.heartbeat

    async def note(*members: object, **fields: object) -> object:
        beats.append(world.clock.steady_ns() / 1e9)
        return await heartbeat(*members, **fields)  # type: ignore[arg-type]

    store.heartbeat = note  # type: ignore[method-assign, assignment]
    await world.join("a")
    await advance(world, 5)
    world.clock.set_wall(jump_s)
    await advance(world, 2 * ALONE_S)
    await world.members["a"].leave()
    await asyncio.sleep(0)
    await store.close()
    paces = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert len(paces) == 2
    assert all(ALONE_S <= pace <= ALONE_S + 1 for pace in paces)
