"""Single events of stored batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.engine import histories
from whistlestop.history.engine.entries import Entry
from whistlestop.history.engine.indexed_batches import IndexedBatch, IndexedBatches
from whistlestop.storage.records import ExecutionKey, HistoryBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.history.engine.engine import Engine


def _entry(*batches: Sequence[history_pb.HistoryEvent]) -> Entry:
    stored = [
        HistoryBatch(events[0].event_id, events[-1].event_id + 1, history_pb.History(events=events).SerializeToString())
        for events in batches
    ]
    return Entry(ExecutionKey("n", "order-7", "run-1"), MutableState(), 1, 0, stored)


def _engine(store: object = None) -> Engine:
    """What is in the entry needs no store."""
    return cast("Engine", SimpleNamespace(indexed=IndexedBatches(), store=store))


def _event(event_id: int, size: int) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_id=event_id)
    event.workflow_execution_signaled_event_attributes.signal_name = "s" * size
    return event


async def test_every_event_of_a_batch_is_found_whatever_the_sizes_before_it() -> None:
    first, second = [_event(1, 3)], [_event(2 + n, size) for n, size in enumerate((0, 100, 127, 128, 20_000, 5))]
    entry, engine = _entry(first, second), _engine()
    wanted = {event.event_id: event for event in first + second}
    found = {
        event_id: await histories.read_event(engine, entry, 1 if event_id == 1 else 2, event_id) for event_id in wanted
    }
    assert found == wanted


async def test_a_missing_event_is_reported() -> None:
    with pytest.raises(LookupError, match="event 3 of order-7/run-1 is not in history"):
        await histories.read_event(_engine(), _entry([_event(1, 3)]), 1, 3)


class _Store:
    """Holds one batch, and counts how often it was read."""

    def __init__(self, batch: HistoryBatch) -> None:
        self.batch = batch
        self.reads = 0

    async def read_history(self, *_: object, **__: object) -> list[HistoryBatch]:
        self.reads += 1
        return [self.batch]


async def test_a_batch_is_read_once_for_all_its_events() -> None:
    """A worker takes a thousand activities that one workflow task has scheduled: their events stand in one batch."""
    events = [_event(2 + number, 10) for number in range(1000)]
    [batch] = _entry(events).recent
    store, entry = _Store(batch), _entry()
    engine = _engine(store)
    entry.state.next_event_id = 1002
    found = [await histories.read_event(engine, entry, 2, event.event_id) for event in events]
    assert found == events
    assert store.reads == 1
    with pytest.raises(LookupError):
        await histories.read_event(engine, entry, 2, 1002)


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    data = history_pb.History(events=[_event(1 + number, 100) for number in range(10)]).SerializeToString()
    keys = [ExecutionKey("n", "order-7", f"run-{number}") for number in range(3)]
    kept = IndexedBatches(2 * IndexedBatch(data, 10).size_bytes)
    for key in keys[:2]:
        kept.keep(key, 1, IndexedBatch(data, 10))
    assert kept.get(keys[0], 1) is not None
    kept.keep(keys[2], 1, IndexedBatch(data, 10))
    assert [kept.get(key, 1) is not None for key in keys] == [True, False, True]


def test_a_batch_that_is_too_large_is_not_kept() -> None:
    data = history_pb.History(events=[_event(1, 100)]).SerializeToString()
    kept, key = IndexedBatches(100), ExecutionKey("n", "order-7", "run-1")
    kept.keep(key, 1, IndexedBatch(data, 10))
    assert kept.get(key, 1) is None
