"""Values beyond what one column of the narrowest store holds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    SLOTS_ALL,
    START_NS,
    commit,
    history,
    message,
    namespace,
    query,
    queue_record,
    run_key,
    start,
    step,
    stored,
    task,
    timer,
    transfer,
    visibility,
)
from whistlestop.storage.errors import TooLarge, VersionConflict
from whistlestop.storage.limits import TIMER_LIMIT, VALUE_LIMIT
from whistlestop.storage.records import HistoryBatch, NexusEndpointRecord
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.storage.interface import Store


def _long(size: int = 3_500_000, seed: int = 1) -> bytes:
    """Bytes in which a chunk that is missing, doubled or out of order shows."""
    return b"".join((n * seed).to_bytes(5, "big") for n in range(size // 5))


async def test_a_long_state_comes_back_whole(store: Store) -> None:
    write = start(state=_long())
    await commit(store, write)
    assert await store.get_execution(run_key()) == stored(write)
    assert await store.list_executions(None, 10) == [stored(write)]


async def test_a_state_may_grow_and_shrink_around_the_limit(store: Store) -> None:
    await commit(store, start())
    for version, size in enumerate((1_000_000, 1_000_005, 3_000_000, 2_000_000, 5, 1_048_580), 1):
        write = step(version=version, state=_long(size, version))
        await commit(store, write)
        assert await store.get_execution(run_key()) == stored(write)


async def test_a_conflict_leaves_a_long_state_alone(store: Store) -> None:
    write = start(state=_long())
    await commit(store, write)
    with pytest.raises(VersionConflict):
        await commit(store, step(version=2, state=_long(seed=7)))
    assert await store.get_execution(run_key()) == stored(write)


async def test_long_batches_come_back_whole(store: Store) -> None:
    batches = (HistoryBatch(1, 3, _long()), HistoryBatch(3, 4, b"short"), HistoryBatch(4, 6, _long(1_200_000, 3)))
    await commit(store, start(history=batches, next_event_id=6))
    assert await history(store) == list(batches)
    await store.delete_execution(run_key())
    assert await history(store) == []


async def test_a_long_transfer_task_is_read_whole_and_deleted(store: Store) -> None:
    long = transfer(1, data=_long())
    await commit(store, start(transfer_tasks_added=(long, transfer(2))))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10) == [long, transfer(2)]
    await commit(store, step(transfer_tasks_added=(transfer(3, data=_long(seed=5)),)), done=(long,))
    await store.delete_transfer_task(transfer(3, data=_long(seed=5)))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10) == [transfer(2)]


async def test_long_queries_and_answers_come_back_whole(store: Store) -> None:
    long = query(request=_long(1_500_000))
    await store.put_query(long, None)
    assert await store.list_buffered_queries(run_key(), START_NS, 10) == [long]
    assert await store.answer_query("query-1", run_key(), _long(seed=3)) is True
    assert await store.answer_query("query-1", run_key(), _long(seed=4)) is False
    assert await store.get_query("query-1") == replace(long, answer=_long(seed=3))
    await store.delete_query("query-1")
    assert await store.get_query("query-1") is None


async def test_long_memos_come_back_whole_and_may_shrink(store: Store) -> None:
    sizes = (1_048_570, 1_048_580, 2_097_150, 10, 1_000_000, 1_000_005, 3_500_000)
    await commit(store, start())
    for version, size in enumerate(sizes, 1):
        row = visibility(memo=_long(size, version))
        await commit(store, step(version=version, visibility=row))
        assert await store.list_visibility(row.key.namespace_id, parse("", {}), 10, b"") == ([row], b"")
    await store.delete_execution(run_key())
    assert await store.list_visibility(run_key().namespace_id, parse("", {}), 10, b"") == ([], b"")


async def test_pages_of_long_memos_hold_each_run_once(store: Store) -> None:
    rows = [visibility(run_key(f"run-{n}", f"order {n}"), memo=_long(2_000_000, n + 1)) for n in range(12)]
    for row in rows:
        await commit(store, start(row.key, current=None, visibility=row))
    found, after = await store.list_visibility(rows[0].key.namespace_id, parse("", {}), 100, b"")
    while after:
        more, after = await store.list_visibility(rows[0].key.namespace_id, parse("", {}), 100, after)
        found += more
    assert sorted(found, key=lambda row: int(row.key.run_id[4:])) == rows


async def test_values_that_cannot_be_chunked_are_refused_and_nothing_is_written(store: Store) -> None:
    with pytest.raises(TooLarge):
        await commit(store, start(visibility=visibility(search_attributes='"' + "a" * 3_500_000 + '"')))
    with pytest.raises(TooLarge):
        await commit(store, start(tasks_added=(task(1, data=_long()),)))
    assert await store.list_executions(None, 10) == []


async def _create_namespace(store: Store, data: bytes) -> None:
    await store.create_namespace(namespace(data=data))


async def _update_namespace(store: Store, data: bytes) -> None:
    if await store.get_namespace(name="default") is None:
        await store.create_namespace(namespace())
    known = await store.get_namespace(name="default")
    assert known is not None
    await store.update_namespace(replace(known, data=data))


async def _create_endpoint(store: Store, data: bytes) -> None:
    await store.create_nexus_endpoint(NexusEndpointRecord("id-1", "orders", data, 0))


async def _update_endpoint(store: Store, data: bytes) -> None:
    if await store.get_nexus_endpoint(name="orders") is None:
        await _create_endpoint(store, b"")
    known = await store.get_nexus_endpoint(name="orders")
    assert known is not None
    await store.update_nexus_endpoint(replace(known, data=data))


async def _put_tasks(store: Store, data: bytes) -> None:
    await store.put_tasks([task(1), task(2, data=data)])


async def _put_task_queue(store: Store, data: bytes) -> None:
    await store.put_task_queue(queue_record(data=data), 0)


async def _put_timer(store: Store, data: bytes) -> None:
    await store.put_timer(replace(timer(START_NS), data=data))


async def _commit_timer(store: Store, data: bytes) -> None:
    await commit(store, start(timer=replace(timer(START_NS), data=data)))


async def _enqueue(store: Store, data: bytes) -> None:
    await store.enqueue(replace(message(1), data=data))


@pytest.mark.parametrize(
    ("write", "most"),
    [
        *((write, VALUE_LIMIT) for write in (
            _create_namespace, _update_namespace, _create_endpoint, _update_endpoint, _put_tasks, _put_task_queue, _enqueue,
        )),
        *((write, TIMER_LIMIT) for write in (_put_timer, _commit_timer)),
    ],
)  # fmt: skip
async def test_each_write_takes_what_a_column_holds_and_no_byte_more(
    store: Store, write: Callable[[Store, bytes], Awaitable[None]], most: int
) -> None:
    """A timer's data is part of an index, of which Postgres takes 2.7 kB."""
    with pytest.raises(TooLarge):
        await write(store, bytes(most + 1))
    assert await store.list_executions(None, 10) == []
    # No bytes that a store could compress.
    await write(store, random.Random(1).randbytes(most))
