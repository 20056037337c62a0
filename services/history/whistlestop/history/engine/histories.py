"""Read a run's history as whole batches, which are passed on without being parsed where possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.messages import nesting
from whistlestop.history.engine.indexed_batches import IndexedBatch
from whistlestop.storage.records import BranchRange, HistoryBatch

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.engine.indexed_batches import IndexedBatches
    from whistlestop.storage.interface import ExecutionStore

MAX_BATCHES = 256
MAX_PAGE_BYTES = 2 * 1024 * 1024
_LEAST_BATCHES = 4
_LEAST_INDEXED = 8
"""The fewest events of a batch that is worth indexing."""


class Source(Protocol):
    """What histories are read from: an engine."""

    @property
    def store(self) -> ExecutionStore:
        """Where batches are stored."""
        ...

    @property
    def indexed(self) -> IndexedBatches:
        """Batches of which single events were read."""
        ...


def branches_of(state: MutableState) -> list[BranchRange]:
    """Return the ranges that hold the run's events; the last one ends at its next event."""
    return [BranchRange(b.branch_id, b.first_event_id, b.next_event_id or state.next_event_id) for b in state.branches]


async def read_batches(
    engine: Source,
    entry: Entry,
    first_event_id: int,
    next_event_id: int,
    limit: int = MAX_BATCHES,
    *,
    reverse: bool = False,
) -> list[HistoryBatch]:
    """Return up to `limit` batches that cover events `first_event_id <= id < next_event_id`; edge batches are whole.

    Fewer are returned if they are large, because what exceeds a page is hardly ever needed. Raise StorageError.
    """
    if first_event_id >= next_event_id:
        return []
    recent = entry.recent
    if not reverse and recent and recent[0].first_event_id <= first_event_id:
        found = [b for b in recent if b.next_event_id > first_event_id and b.first_event_id < next_event_id]
        return found[:limit]
    bytes_per_event = max(entry.state.history_size_bytes // entry.state.next_event_id, 1)
    bearable = max(2 * MAX_PAGE_BYTES // bytes_per_event, _LEAST_BATCHES)
    return await engine.store.read_history(
        entry.key.namespace_id,
        branches_of(entry.state),
        first_event_id,
        next_event_id,
        min(limit, bearable),
        reverse=reverse,
    )


def trimmed(batch: HistoryBatch, first_event_id: int, next_event_id: int) -> bytes:
    """Return the batch's data without events outside the range; it is only parsed if some have to be removed.

    Raise DecodeError.
    """
    if batch.first_event_id >= first_event_id and batch.next_event_id <= next_event_id:
        return batch.data
    history = nesting.parse(history_pb.History, batch.data)
    kept = [e for e in history.events if first_event_id <= e.event_id < next_event_id]
    return history_pb.History(events=kept).SerializeToString()


async def read_event(engine: Source, entry: Entry, batch_id: int, event_id: int) -> history_pb.HistoryEvent:
    """Return one event of the batch that begins with `batch_id`. Raise LookupError when history does not have it."""
    first_event_id = batch_id or event_id
    indexed = engine.indexed.get(entry.key, first_event_id)
    if indexed is not None and event_id < first_event_id + len(indexed):
        return indexed.event(event_id - first_event_id)
    for batch in await read_batches(engine, entry, first_event_id, event_id + 1, limit=MAX_BATCHES):
        if batch.first_event_id <= event_id < batch.next_event_id:
            index, length = event_id - batch.first_event_id, batch.next_event_id - batch.first_event_id
            is_worth_it = length >= _LEAST_INDEXED
            indexed = IndexedBatch(batch.data, length if is_worth_it else index + 1)
            if is_worth_it:
                engine.indexed.keep(entry.key, batch.first_event_id, indexed)
            event = indexed.event(index)
            if event.event_id == event_id:
                return event
    raise LookupError(f"event {event_id} of {entry.key.workflow_id}/{entry.key.run_id} is not in history")


def spliced(field_number: int, data: bytes) -> bytes:
    """Return `data` as a length-delimited field; appended to a serialised message, it sets (merges) that field."""
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
