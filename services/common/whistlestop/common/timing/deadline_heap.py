"""A heap of items with deadlines."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class DeadlineHeap(Generic[T]):
    """Items by their deadlines; those with the same one in the order in which they were added."""

    __slots__ = ("_entries", "_numbers")

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_ns(self) -> int | None:
        """The earliest deadline; None if the heap is empty."""
        return self._entries[0][0] if self._entries else None

    def push(self, deadline_ns: int, item: T) -> None:
        """Add an item with its deadline in nanoseconds. Equal items may be added several times."""
        heapq.heappush(self._entries, (deadline_ns, next(self._numbers), item))

    def pop(self) -> T:
        """Remove and return the item with the earliest deadline. Raises IndexError when there is none."""
        return heapq.heappop(self._entries)[2]

    def pop_expired(self, now_ns: int) -> Iterator[T]:
        """Remove and yield the items whose deadline is `now_ns` or earlier, those that are added meanwhile included."""
        while self._entries and self._entries[0][0] <= now_ns:
            yield heapq.heappop(self._entries)[2]

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Remove all items for which `wanted` is false, if there are any."""
        self._entries = [entry for entry in self._entries if wanted(entry[2])]
        heapq.heapify(self._entries)

    def clear(self) -> None:
        """Remove all items."""
        self._entries.clear()
