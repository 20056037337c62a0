"""Namespaces as they are cached: for how long, by which names, and from a damaged row."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from temporalio.api.enums.v1 import namespace_pb2 as enums_pb

from whistlestop.common.clock import FakeClock
from whistlestop.common.proto import namespace_pb2 as namespace_pb
from whistlestop.storage import namespaces
from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.namespaces import NamespaceCache, parse
from whistlestop.storage.records import NamespaceRecord

if TYPE_CHECKING:
    import pytest

    from whistlestop.storage.interface import NamespaceStore


def record(name: str = "shop", namespace_id: str = "id-1", retention_s: int = 60) -> NamespaceRecord:
    data = namespace_pb.NamespaceData()
    data.info.name, data.info.id = name, namespace_id
    data.info.state = enums_pb.NAMESPACE_STATE_DEPRECATED
    data.config.workflow_execution_retention_ttl.seconds = retention_s
    data.config.workflow_execution_retention_ttl.nanos = 5
    data.custom_search_attributes["City"] = AttributeType.Keyword
    data.custom_search_attributes["New"] = 999  # of a later release
    data.workflow_rules["r"].spec.id = "r"
    return NamespaceRecord(namespace_id, name, data.SerializeToString(), 1)


class Records:
    def __init__(self, *records: NamespaceRecord) -> None:
        self.records = list(records)
        self.reads = 0

    async def get_namespace(self, *, name: str = "", namespace_id: str = "") -> NamespaceRecord | None:
        self.reads += 1
        return next((each for each in self.records if each.name == name or each.namespace_id == namespace_id), None)


def cache_of(*records: NamespaceRecord) -> tuple[NamespaceCache, Records, FakeClock]:
    store, clock = Records(*records), FakeClock()
    return NamespaceCache(cast("NamespaceStore", store), clock), store, clock


def test_a_record_is_parsed_whole() -> None:
    found = parse(record())
    assert (found.namespace_id, found.name, found.state) == ("id-1", "shop", enums_pb.NAMESPACE_STATE_DEPRECATED)
    assert found.retention_ns == 60_000_000_005
    assert dict(found.custom_search_attributes) == {"City": AttributeType.Keyword}
    assert [rule.spec.id for rule in found.workflow_rules] == ["r"]
    assert found.record == record()
    assert found.data.info.name == "shop"


def test_a_damaged_row_keeps_its_name_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    damaged = NamespaceRecord("id-damaged", "shop", b"\xff\xff", 1)
    namespaces._damaged.discard("id-damaged")
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            found = parse(damaged)
    assert (found.namespace_id, found.name, found.retention_ns) == ("id-damaged", "shop", 0)
    assert (found.data.info.id, found.data.info.name) == ("id-damaged", "shop")
    assert found.state == enums_pb.NAMESPACE_STATE_REGISTERED
    assert len(caplog.records) == 1


async def test_a_namespace_is_cached_for_ten_seconds() -> None:
    cache, store, clock = cache_of(record())
    assert cache.peek("shop") is None
    assert cache.peek_id("id-1") is None
    found = await cache.by_name("shop")
    assert found is not None
    await clock.advance(9.999)
    assert await cache.by_name("shop") is await cache.by_id("id-1") is found
    assert cache.peek("shop") is cache.peek_id("id-1") is found
    assert store.reads == 1
    await clock.advance(0.001)
    assert cache.peek("shop") is None
    assert cache.peek_id("id-1") is None
    assert await cache.by_id("id-1") is not found
    assert store.reads == 2


async def test_a_namespace_that_is_absent_is_looked_for_again() -> None:
    cache, store, _ = cache_of()
    assert await cache.by_name("shop") is None
    assert await cache.by_id("id-1") is None
    store.records.append(record())
    assert await cache.by_name("shop") is not None
    assert store.reads == 3


async def test_what_was_written_is_read_again() -> None:
    cache, store, _ = cache_of(record())
    await cache.by_name("shop")
    store.records[:] = [record(retention_s=90)]
    again = await cache.refresh("id-1")
    assert again is not None
    assert again.retention_ns == 90_000_000_005
    assert cache.peek("shop") is again
    cache.forget("id-1")
    assert cache.peek("shop") is None
    assert cache.peek_id("id-1") is None
    cache.forget("id-1")
    assert await cache.refresh("unknown") is None


async def test_after_a_rename_the_old_name_leads_nowhere() -> None:
    cache, store, _ = cache_of(record())
    await cache.by_name("shop")
    store.records[:] = [record("store")]
    await cache.refresh("id-1")
    assert cache.peek("shop") is None
    renamed = cache.peek("store")
    assert renamed is not None
    assert renamed.namespace_id == "id-1"


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "MAX_ENTRIES", 2)
    names = ("a", "b", "c")
    cache, _, _ = cache_of(*(record(name, f"id-{name}") for name in names))
    for name in names:
        await cache.by_name(name)
        assert cache.peek(name) is not None
    assert cache.peek("a") is None
    assert cache.peek_id("id-b") is None
