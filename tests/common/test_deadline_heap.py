"""Items come out in the order of their deadlines."""

from __future__ import annotations

import pytest

from whistlestop.common.timing.deadline_heap import DeadlineHeap


def test_items_come_by_deadline_then_in_the_order_in_which_they_were_added() -> None:
    """Items need no order of their own."""
    heap: DeadlineHeap[object] = DeadlineHeap()
    late, first, second, early = object(), object(), object(), object()
    for deadline_ns, item in ((9, late), (5, first), (5, second), (1, early)):
        heap.push(deadline_ns, item)
    assert heap.next_ns == 1
    assert list(heap.pop_expired(5)) == [early, first, second]
    assert (heap.next_ns, len(heap), list(heap.pop_expired(8))) == (9, 1, [])
    assert heap.pop() is late
    assert heap.next_ns is None


def test_items_that_are_added_meanwhile_are_yielded() -> None:
    heap: DeadlineHeap[str] = DeadlineHeap()
    heap.push(1, "a")
    found = []
    for item in heap.pop_expired(3):
        found.append(item)
        if item == "a":
            heap.push(2, "b")
            heap.push(4, "c")
    assert found == ["a", "b"]
    assert len(heap) == 1


def test_unwanted_items_are_removed_and_the_rest_keeps_its_order() -> None:
    heap: DeadlineHeap[int] = DeadlineHeap()
    for deadline_ns in (7, 3, 9, 1, 4, 8):
        heap.push(deadline_ns, deadline_ns)
    heap.keep(lambda item: item % 2 == 1)
    assert list(heap.pop_expired(100)) == [1, 3, 7, 9]


def test_a_cleared_heap_is_empty() -> None:
    heap: DeadlineHeap[int] = DeadlineHeap()
    heap.push(1, 1)
    heap.clear()
    with pytest.raises(IndexError):
        heap.pop()
