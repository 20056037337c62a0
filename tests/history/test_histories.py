"""Single events of stored batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history import histories
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.engine import Engine, Entry
from whistlestop.storage.records import ExecutionKey, HistoryBatch

if TYPE_CHECKING:
    from collections.abc import Sequence


def _entry(*batches: Sequence[history_pb.HistoryEvent]) -> Entry:
    stored = [
        HistoryBatch(
            events[0].event_id, events[-1].event_id + 1, history_pb.History(events=events).SerializeToString()
        )
        for events in batches
    ]
    return Entry(ExecutionKey("n", "order-7", "run-1"), MutableState(), 1, 0, stored)


def _event(event_id: int, size: int) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_id=event_id)
    event.workflow_execution_signaled_event_attributes.signal_name = "s" * size
    return event


async def test_every_event_of_a_batch_is_found_whatever_the_sizes_before_it() -> None:
    first, second = [_event(1, 3)], [_event(2 + n, size) for n, size in enumerate((0, 100, 127, 128, 20_000, 5))]
    entry, engine = _entry(first, second), cast("Engine", None)  # what is in the entry needs no store
    wanted = {event.event_id: event for event in first + second}
    found = {
        event_id: await histories.read_event(engine, entry, 1 if event_id == 1 else 2, event_id) for event_id in wanted
    }
    assert found == wanted


async def test_an_event_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(LookupError, match="event 3 of order-7/run-1 is not in history"):
        await histories.read_event(cast("Engine", None), _entry([_event(1, 3)]), 1, 3)
