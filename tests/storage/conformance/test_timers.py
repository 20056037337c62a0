"""Timer rows and the outbox, by ranges of slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.storage.factories import SLOTS_ALL, START_NS, commit, run_key, start, timer, transfer

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import TimerTask


def _timers(count: int) -> list[TimerTask]:
    """One per run, a nanosecond apart, in slots 0, 10, 20 ..."""
    return [timer(START_NS + n, run_key(f"run-{n}"), slot=10 * n) for n in range(count)]


async def test_expired_timers_are_listed_earliest_first_up_to_the_limit(store: Store) -> None:
    timers = _timers(4)
    for row in reversed(timers):
        await store.put_timer(row)
    assert await store.scan_timers(*SLOTS_ALL, START_NS + 2, 10) == timers[:3]
    assert await store.scan_timers(*SLOTS_ALL, START_NS + 2, 2) == timers[:2]
    assert await store.scan_timers(*SLOTS_ALL, START_NS - 1, 10) == []


async def test_next_timers_are_those_behind_an_instant(store: Store) -> None:
    timers = _timers(4)
    for row in timers:
        await store.put_timer(row)
    assert await store.next_timers(*SLOTS_ALL, START_NS + 1, 10) == timers[2:]
    assert await store.next_timers(*SLOTS_ALL, START_NS - 1, 1) == timers[:1]


async def test_timers_of_other_slots_are_not_seen(store: Store) -> None:
    timers = _timers(4)
    for row in timers:
        await store.put_timer(row)
    assert await store.scan_timers(10, 30, START_NS + 9, 10) == timers[1:3]
    assert await store.next_timers(0, 10, START_NS - 1, 10) == timers[:1]


async def test_a_timer_is_put_once_per_kind_and_owner(store: Store) -> None:
    await store.put_timer(timer(START_NS + 5))
    await store.put_timer(timer(START_NS + 3))
    await store.put_timer(timer(START_NS + 4, kind="schedule"))
    assert await store.scan_timers(*SLOTS_ALL, START_NS + 9, 10) == [
        timer(START_NS + 3),
        timer(START_NS + 4, kind="schedule"),
    ]


async def test_data_of_a_timer_comes_back(store: Store) -> None:
    row = type(timer(1))("schedule", 7, run_key(), START_NS, b"\x00\xff")
    await store.put_timer(row)
    assert await store.scan_timers(*SLOTS_ALL, START_NS, 1) == [row]


async def test_a_timer_is_deleted(store: Store) -> None:
    await store.put_timer(timer(START_NS))
    await store.delete_timer(timer(START_NS))
    assert await store.scan_timers(*SLOTS_ALL, START_NS, 1) == []


async def test_a_timer_that_was_re_armed_is_not_deleted(store: Store) -> None:
    await store.put_timer(timer(START_NS))
    await store.put_timer(timer(START_NS + 60))
    await store.delete_timer(timer(START_NS))
    assert await store.scan_timers(*SLOTS_ALL, START_NS + 60, 1) == [timer(START_NS + 60)]


async def test_a_timer_of_another_kind_is_not_deleted(store: Store) -> None:
    await store.put_timer(timer(START_NS, kind="retention"))
    await store.delete_timer(timer(START_NS))
    assert await store.scan_timers(*SLOTS_ALL, START_NS, 1) == [timer(START_NS, kind="retention")]


async def test_expired_rows_are_detected(store: Store) -> None:
    """A timer by its time, a transfer by another."""
    await store.put_timer(timer(START_NS + 5, slot=16383))
    await commit(store, start(transfer_tasks_added=(transfer(1, visible_at_ns=START_NS + 7),)))
    assert not await store.has_expired_rows(START_NS + 4, START_NS + 6)
    assert await store.has_expired_rows(START_NS + 5, 0)
    assert await store.has_expired_rows(0, START_NS + 7)


async def test_visible_transfer_tasks_are_listed_oldest_first_up_to_the_limit(store: Store) -> None:
    rows = tuple(transfer(n, slot=n, visible_at_ns=START_NS + n) for n in range(4))
    await commit(store, start(transfer_tasks_added=rows[::-1]))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS + 2, 10) == list(rows[:3])
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS + 9, 2) == list(rows[:2])
    assert await store.scan_transfer_tasks(1, 3, START_NS + 9, 10) == list(rows[1:3])


async def test_transfer_tasks_of_one_instant_are_ordered_by_id(store: Store) -> None:
    rows = (transfer(3, slot=1), transfer(1, slot=9), transfer(2, slot=5))
    await commit(store, start(transfer_tasks_added=rows))
    found = await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10)
    assert [row.task_id for row in found] == [1, 2, 3]


async def test_a_transfer_task_is_deleted(store: Store) -> None:
    await commit(store, start(transfer_tasks_added=(transfer(1), transfer(2))))
    await store.delete_transfer_task(transfer(1))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10) == [transfer(2)]


async def test_a_postponed_transfer_task_is_visible_later(store: Store) -> None:
    await commit(store, start(transfer_tasks_added=(transfer(1),)))
    await store.postpone_transfer_task(transfer(1), START_NS + 60, 3)
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS + 59, 10) == []
    late = transfer(1, visible_at_ns=START_NS + 60, attempt=3)
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS + 60, 10) == [late]


async def test_postponing_a_completed_transfer_task_does_not_restore_it(store: Store) -> None:
    await commit(store, start(transfer_tasks_added=(transfer(1),)))
    await store.delete_transfer_task(transfer(1))
    await store.postpone_transfer_task(transfer(1), START_NS + 60, 3)
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS + 60, 10) == []
