"""Namespaces, membership, leases and the administrative queue."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import START_NS, lease, member, message, namespace
from whistlestop.storage.errors import LeaseLost, NamespaceConflict, NamespaceExists

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store


async def test_a_namespace_is_found_by_name_and_by_id(store: Store) -> None:
    await store.create_namespace(namespace(is_global=True))
    expected = namespace(version=1, is_global=True)
    assert await store.get_namespace(name="default") == expected
    assert await store.get_namespace(namespace_id="id of default") == expected
    assert await store.get_namespace(name="other") is None
    assert await store.get_namespace(namespace_id="other") is None


async def test_a_namespace_is_created_once(store: Store) -> None:
    await store.create_namespace(namespace())
    for twin in (namespace(data=b"x"), namespace("other", namespace_id="id of default"), namespace(namespace_id="x")):
        with pytest.raises(NamespaceExists):
            await store.create_namespace(twin)
    assert await store.list_namespaces("", 10) == [namespace(version=1)]


async def test_a_namespace_is_updated_by_compare_and_set(store: Store) -> None:
    await store.create_namespace(namespace())
    await store.update_namespace(namespace(version=1, data=b"new"))
    with pytest.raises(NamespaceConflict):
        await store.update_namespace(namespace(version=1, data=b"stale"))
    assert await store.get_namespace(name="default") == namespace(version=2, data=b"new")


async def test_a_namespace_may_be_renamed(store: Store) -> None:
    await store.create_namespace(namespace())
    await store.update_namespace(namespace(version=1, name="renamed", namespace_id="id of default"))
    assert await store.get_namespace(name="default") is None
    assert await store.get_namespace(name="renamed") == replace(namespace(version=2), name="renamed")


async def test_a_namespace_is_not_renamed_onto_another(store: Store) -> None:
    await store.create_namespace(namespace())
    await store.create_namespace(namespace("other"))
    with pytest.raises(NamespaceConflict):
        await store.update_namespace(replace(namespace(version=1), name="other"))
    assert await store.list_namespaces("", 10) == [namespace(version=1), namespace("other", version=1)]


async def test_a_namespace_that_is_gone_is_not_updated(store: Store) -> None:
    await store.create_namespace(namespace())
    await store.delete_namespace("id of default")
    with pytest.raises(NamespaceConflict):
        await store.update_namespace(namespace(version=1))
    assert await store.list_namespaces("", 10) == []


async def test_namespaces_are_listed_by_name_page_by_page(store: Store) -> None:
    for name in ("c", "a", "b"):
        await store.create_namespace(namespace(name))
    assert [row.name for row in await store.list_namespaces("", 2)] == ["a", "b"]
    assert [row.name for row in await store.list_namespaces("b", 2)] == ["c"]


async def test_live_members_are_listed(store: Store) -> None:
    await store.heartbeat(member("host-2"))
    await store.heartbeat(member("host-1", expires_ns=START_NS + 5))
    assert await store.list_members(START_NS, 10) == [member("host-1", expires_ns=START_NS + 5), member("host-2")]
    assert await store.list_members(START_NS, 1) == [member("host-1", expires_ns=START_NS + 5)]
    assert await store.list_members(START_NS + 5, 10) == [member("host-2")]


async def test_a_heartbeat_keeps_a_member_alive(store: Store) -> None:
    await store.heartbeat(member())
    again = member(last_heartbeat_ns=START_NS + 10, expires_ns=START_NS + 40_000_000_000)
    await store.heartbeat(again)
    assert await store.list_members(START_NS + 35_000_000_000, 10) == [again]


async def test_a_heartbeat_of_several_members_returns_the_other_live_ones(store: Store) -> None:
    for host in ("host-3", "host-4"):
        await store.heartbeat(member(host))
    await store.heartbeat(member("host-5", expires_ns=START_NS))
    assert await store.heartbeat(member("host-1"), member("host-2")) == []
    assert await store.heartbeat(member("host-1"), member("host-2"), limit=10) == [member("host-3"), member("host-4")]
    assert await store.heartbeat(member("host-1"), member("host-2"), limit=1) == [member("host-3")]
    assert len(await store.list_members(START_NS, 10)) == 4


async def test_a_member_that_leaves_is_not_listed(store: Store) -> None:
    await store.heartbeat(member())
    await store.remove_member("host-1")
    await store.remove_member("host-1")
    assert await store.list_members(START_NS, 10) == []


async def test_a_lease_is_taken_renewed_and_listed(store: Store) -> None:
    await store.take_lease(lease(1), 0)
    await store.take_lease(lease(0), 0)
    renewed = lease(1, range_id=2, owner="host-2", first_slot=4096, next_slot=8192, expires_ns=START_NS + 99)
    await store.take_lease(renewed, 1)
    assert await store.list_leases() == [lease(0), renewed]


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_an_older_holder_is_fenced_off(store: Store, expected: int) -> None:
    await store.take_lease(lease(), 0)
    await store.take_lease(lease(range_id=2, owner="host-2"), 1)
    with pytest.raises(LeaseLost):
        await store.take_lease(lease(range_id=expected + 1), expected)
    assert await store.list_leases() == [lease(range_id=2, owner="host-2")]


async def test_a_lease_that_is_not_there_can_not_be_renewed(store: Store) -> None:
    with pytest.raises(LeaseLost):
        await store.take_lease(lease(range_id=2), 1)
    assert await store.list_leases() == []


async def test_exactly_one_of_racing_takers_gets_the_lease(store: Store) -> None:
    results = await asyncio.gather(
        *(store.take_lease(lease(owner=f"host-{n}"), 0) for n in range(5)), return_exceptions=True
    )
    winners = [n for n, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert await store.list_leases() == [lease(owner=f"host-{winners[0]}")]


async def test_messages_are_read_in_order_from_behind_an_id(store: Store) -> None:
    for n in (3, 1, 2):
        await store.enqueue(message(n))
    await store.enqueue(message(1, "other"))
    assert await store.read_queue("deletions", 0, 10) == [message(1), message(2), message(3)]
    assert await store.read_queue("deletions", 1, 1) == [message(2)]


async def test_a_message_is_deleted_by_itself(store: Store) -> None:
    await store.enqueue(message(1))
    await store.enqueue(message(2))
    await store.enqueue(message(1, "other"))
    await store.delete_message(message(1))
    assert await store.read_queue("deletions", 0, 10) == [message(2)]
    assert await store.read_queue("other", 0, 10) == [message(1, "other")]
