"""Reading history: ranges, pages, both directions, branches that a reset shares; and what deletion keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.storage.factories import (
    COMPLETED,
    NAMESPACE,
    QUEUE,
    SLOTS_ALL,
    START_NS,
    WORKFLOW_QUEUE,
    batch,
    close,
    commit,
    current,
    everything,
    history,
    one_branch,
    run_key,
    start,
    step,
    task,
    timer,
)
from whistlestop.storage.records import BranchRange, CurrentWrite, HistoryBatch

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store

BASE, RESET, AGAIN = run_key("run-a"), run_key("run-b"), run_key("run-c")
RESET_BRANCHES = (BranchRange("run-a", 1, 5), BranchRange("run-b", 5, 1_000_000))
AGAIN_BRANCHES = (BranchRange("run-a", 1, 3), BranchRange("run-c", 3, 1_000_000))


async def _grow(store: Store, commits: int = 5) -> None:
    """Events 1..2n in batches of two under run-a."""
    await commit(store, start(BASE))
    for version in range(1, commits):
        await commit(store, step(BASE, version))


async def _reset(store: Store) -> None:
    """run-b shares events 1..4 of run-a and goes on with its own 5 and 6."""
    await commit(
        store,
        start(
            RESET, history=(batch(5, 7),), next_event_id=7, forked_from=(RESET_BRANCHES[0],),
            current=CurrentWrite(current(RESET), "run-a"),
        ),
    )  # fmt: skip


async def _read(store: Store, branches: tuple[BranchRange, ...], reverse: bool = False) -> list[HistoryBatch]:
    return await store.read_history(NAMESPACE, branches, 1, 1_000_000, 100, reverse=reverse)


async def test_a_range_gives_every_batch_that_holds_an_event_of_it(store: Store) -> None:
    await _grow(store)
    found = await store.read_history(NAMESPACE, one_branch(BASE), 4, 8, 100)
    assert found == [batch(3, 5), batch(5, 7), batch(7, 9)]


async def test_an_empty_range_gives_nothing(store: Store) -> None:
    await _grow(store)
    assert await store.read_history(NAMESPACE, one_branch(BASE), 5, 5, 100) == []
    assert await store.read_history(NAMESPACE, one_branch(BASE), 11, 20, 100) == []


async def test_a_limit_stops_a_read_and_the_next_goes_on_behind_it(store: Store) -> None:
    await _grow(store)
    first = await store.read_history(NAMESPACE, one_branch(BASE), 1, 100, 2)
    rest = await store.read_history(NAMESPACE, one_branch(BASE), first[-1].next_event_id, 100, 100)
    assert first == [batch(1, 3), batch(3, 5)]
    assert rest == [batch(5, 7), batch(7, 9), batch(9, 11)]


async def test_a_reverse_read_gives_the_last_batches_first(store: Store) -> None:
    await _grow(store)
    found = await store.read_history(NAMESPACE, one_branch(BASE), 1, 8, 2, reverse=True)
    assert found == [batch(7, 9), batch(5, 7)]


async def test_a_reset_run_reads_its_base_and_then_its_own(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    assert await _read(store, RESET_BRANCHES) == [batch(1, 3), batch(3, 5), batch(5, 7)]
    assert await _read(store, RESET_BRANCHES, reverse=True) == [batch(5, 7), batch(3, 5), batch(1, 3)]


async def test_the_base_of_a_reset_keeps_its_own_events(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    assert await _read(store, one_branch(BASE)) == [batch(n, n + 2) for n in (1, 3, 5, 7, 9)]


async def test_a_limit_counts_over_branches(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    assert await store.read_history(NAMESPACE, RESET_BRANCHES, 4, 100, 2) == [batch(3, 5), batch(5, 7)]
    assert await store.read_history(NAMESPACE, RESET_BRANCHES, 1, 100, 1) == [batch(1, 3)]
    assert await store.read_history(NAMESPACE, RESET_BRANCHES, 1, 100, 2, reverse=True) == [batch(5, 7), batch(3, 5)]


async def test_histories_of_two_namespaces_are_apart(store: Store) -> None:
    await _grow(store)
    assert await store.read_history("another", one_branch(BASE), 1, 100, 100) == []


async def test_deleting_a_run_removes_all_of_it(store: Store) -> None:
    await commit(
        store,
        start(
            tasks_added=(task(1),), timer=timer(START_NS + 5), retention_timer=timer(START_NS + 90, kind="retention")
        ),
    )
    other = run_key("run-2", "order-8")
    await commit(store, start(other, tasks_added=(task(2, other),), timer=timer(START_NS + 7, other)))
    await store.delete_execution(run_key())
    assert await everything(store) == {
        "executions": [await store.get_execution(other)],
        "current": {"order-8": current(other)},
        "history": {"run-2": [batch(1, 3)]},
        "tasks": [task(2, other)],
        "timers": [timer(START_NS + 7, other)],
        "transfers": [],
    }
    assert await history(store) == []
    assert await store.get_current(NAMESPACE, "order-7") is None


async def test_deleting_a_run_that_is_gone_is_fine(store: Store) -> None:
    await store.delete_execution(run_key())
    assert await store.list_executions(None, 10) == []


async def test_deleting_an_older_run_leaves_the_current_one(store: Store) -> None:
    await commit(store, start())
    await commit(store, close())
    second = run_key("run-2")
    await commit(store, start(second, current=CurrentWrite(current(second), "run-1", COMPLETED)))
    await store.delete_execution(run_key())
    assert await store.get_current(NAMESPACE, "order-7") == current(second)
    assert await history(store, second) == [batch(1, 3)]


async def test_deleting_the_base_keeps_what_a_reset_shares(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    await store.delete_execution(BASE)
    assert await _read(store, RESET_BRANCHES) == [batch(1, 3), batch(3, 5), batch(5, 7)]
    assert await _read(store, one_branch(BASE)) == [batch(1, 3), batch(3, 5)]


async def test_deleting_a_reset_run_keeps_its_base(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    await store.delete_execution(RESET)
    assert await _read(store, one_branch(BASE)) == [batch(n, n + 2) for n in (1, 3, 5, 7, 9)]
    assert await _read(store, one_branch(RESET)) == []


async def test_deleting_base_and_reset_leaves_nothing(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    await store.delete_execution(BASE)
    await store.delete_execution(RESET)
    assert await _read(store, one_branch(BASE)) == []
    assert await _read(store, one_branch(RESET)) == []


async def test_deleting_one_of_two_resets_keeps_what_the_other_shares(store: Store) -> None:
    await _grow(store)
    await _reset(store)
    await commit(
        store,
        start(
            AGAIN, history=(batch(3, 5),), next_event_id=5, forked_from=(AGAIN_BRANCHES[0],),
            current=CurrentWrite(current(AGAIN), "run-b"),
        ),
    )  # fmt: skip
    await store.delete_execution(BASE)
    await store.delete_execution(RESET)
    assert await _read(store, AGAIN_BRANCHES) == [batch(1, 3), batch(3, 5)]
    assert await _read(store, one_branch(BASE)) == [batch(1, 3)]


async def test_a_branch_may_be_named_otherwise_than_its_run(store: Store) -> None:
    branches = (BranchRange("branch-x", 1, 100),)
    await commit(store, start(BASE, branch_id="branch-x"))
    await commit(
        store,
        start(
            RESET, history=(batch(3, 5),), forked_from=(BranchRange("branch-x", 1, 3),),
            current=CurrentWrite(current(RESET), "run-a"),
        ),
    )  # fmt: skip
    await store.delete_execution(RESET)
    assert await _read(store, branches) == [batch(1, 3)]
    await store.delete_execution(BASE)
    assert await _read(store, branches) == []


async def test_tasks_of_a_deleted_run_are_removed_from_every_queue(store: Store) -> None:
    await commit(store, start(tasks_added=(task(1), task(2, priority=5))))
    await store.delete_execution(run_key())
    assert await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 10) == []
    assert await store.scan_timers(*SLOTS_ALL, START_NS, 10) == []
