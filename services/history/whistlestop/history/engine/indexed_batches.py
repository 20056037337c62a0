"""History batches of which single events are read, with the position of each event.

A worker that takes a thousand activities of one workflow task causes a thousand reads of events in the same batch: to
walk through the batch each time would cost the square of their number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.messages import nesting

if TYPE_CHECKING:
    from whistlestop.storage.records import ExecutionKey

MOST_BYTES = 16 * 1024 * 1024


class IndexedBatch:
    """The events of a serialised batch, each parsed when it is read.

    Each is a length-delimited field, and their ids have no gap.
    """

    __slots__ = ("_data", "_ends", "_starts")

    def __init__(self, data: bytes, most: int) -> None:
        """Find the first `most` events of `data`; there may be fewer."""
        self._data = data
        self._starts: list[int] = []
        self._ends: list[int] = []
        at, end = 0, len(data)
        while at < end and len(self._starts) < most:
            size = shift = 0
            at += 1  # the field's tag
            while True:
                byte = data[at]
                at += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
            self._starts.append(at)
            at += size
            self._ends.append(at)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def size_bytes(self) -> int:
        """The approximate memory that it takes."""
        return len(self._data) + 80 * len(self._starts)

    def event(self, index: int) -> history_pb.HistoryEvent:
        """Return the event at that index (from 0) in the batch. Raise IndexError."""
        return nesting.parse(history_pb.HistoryEvent, self._data[self._starts[index] : self._ends[index]])


class IndexedBatches:
    """The recently used batches.

    A batch under a run and an event id never changes once it is committed. The total size is bounded; the least
    recently used batches are dropped.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[ExecutionKey, int], IndexedBatch] = OrderedDict()

    def get(self, key: ExecutionKey, first_event_id: int) -> IndexedBatch | None:
        """Return the batch that begins with this event, or None if it is not kept."""
        place = key, first_event_id
        found = self._kept.get(place)
        if found is not None:
            self._kept.move_to_end(place)
        return found

    def keep(self, key: ExecutionKey, first_event_id: int, batch: IndexedBatch) -> None:
        """Keep a batch in place of the least recently used ones, unless it is larger than the bound."""
        place = key, first_event_id
        if place in self._kept or batch.size_bytes > self._most_bytes:
            return
        self._kept[place] = batch
        self._bytes += batch.size_bytes
        while self._bytes > self._most_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.size_bytes
