"""Nexus endpoints: names are unique, changes are by compare-and-set, lists go by id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from whistlestop.storage.errors import EndpointConflict, EndpointExists
from whistlestop.storage.records import NexusEndpointRecord

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store


def endpoint(
    endpoint_id: str = "id-1", name: str = "orders", data: bytes = b"target", version: int = 0
) -> NexusEndpointRecord:
    return NexusEndpointRecord(endpoint_id, name, data, version)


async def test_an_endpoint_is_found_by_id_and_by_name(store: Store) -> None:
    await store.create_nexus_endpoint(endpoint())
    stored = endpoint(version=1)
    assert await store.get_nexus_endpoint(endpoint_id="id-1") == stored
    assert await store.get_nexus_endpoint(name="orders") == stored
    assert await store.get_nexus_endpoint(endpoint_id="orders") is None
    assert await store.get_nexus_endpoint(name="id-1") is None


async def test_a_name_is_taken_once(store: Store) -> None:
    await store.create_nexus_endpoint(endpoint())
    with pytest.raises(EndpointExists):
        await store.create_nexus_endpoint(endpoint("id-2"))
    await store.create_nexus_endpoint(endpoint("id-2", "other"))
    with pytest.raises(EndpointExists):
        await store.update_nexus_endpoint(endpoint("id-2", "orders", version=1))
    assert await store.get_nexus_endpoint(endpoint_id="id-2") == endpoint("id-2", "other", version=1)


async def test_an_update_needs_the_version_that_was_read(store: Store) -> None:
    await store.create_nexus_endpoint(endpoint())
    await store.update_nexus_endpoint(endpoint(name="renamed", data=b"elsewhere", version=1))
    changed = endpoint(name="renamed", data=b"elsewhere", version=2)
    assert await store.get_nexus_endpoint(name="renamed") == changed
    with pytest.raises(EndpointConflict):
        await store.update_nexus_endpoint(replace(changed, data=b"late", version=1))
    with pytest.raises(EndpointConflict):
        await store.update_nexus_endpoint(endpoint("id-9", "nobody", version=1))
    assert await store.get_nexus_endpoint(endpoint_id="id-1") == changed


async def test_pages_go_by_id_from_the_one_named(store: Store) -> None:
    for number in (3, 1, 2):
        await store.create_nexus_endpoint(endpoint(f"id-{number}", f"n{number}"))
    assert [each.endpoint_id for each in await store.list_nexus_endpoints("", 2)] == ["id-1", "id-2"]
    assert [each.endpoint_id for each in await store.list_nexus_endpoints("id-2", 9)] == ["id-2", "id-3"]


async def test_a_deleted_endpoint_is_not_found(store: Store) -> None:
    await store.create_nexus_endpoint(endpoint())
    assert await store.delete_nexus_endpoint("id-1") is True
    assert await store.delete_nexus_endpoint("id-1") is False
    assert await store.get_nexus_endpoint(name="orders") is None
