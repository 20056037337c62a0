"""What one commit writes, and that it writes all of it or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    COMPLETED,
    CONTINUED,
    NAMESPACE,
    QUEUE,
    RUNNING,
    SLOTS_ALL,
    START_NS,
    TERMINATED,
    WORKFLOW_QUEUE,
    batch,
    close,
    commit,
    current,
    everything,
    history,
    run_key,
    start,
    step,
    stored,
    task,
    timer,
    transfer,
)
from whistlestop.storage.errors import CurrentConflict, StorageError, VersionConflict
from whistlestop.storage.records import CurrentWrite, Transition

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store

SECOND = run_key("run-2")


async def test_a_run_that_was_never_written_is_not_there(store: Store) -> None:
    assert await store.get_execution(run_key()) is None
    assert await store.get_current(NAMESPACE, "order-7") is None
    assert await history(store) == []


async def test_a_start_is_stored_whole(store: Store) -> None:
    write = start(tasks_added=(task(1),), timer=timer(START_NS + 5), transfer_tasks_added=(transfer(9),))
    await commit(store, write)
    assert await everything(store) == {
        "executions": [stored(write)],
        "current": {"order-7": current(run_key())},
        "history": {"run-1": [batch(1, 3)]},
        "tasks": [task(1)],
        "timers": [timer(START_NS + 5)],
        "transfers": [transfer(9)],
    }


async def test_the_version_counts_up_by_one_per_commit(store: Store) -> None:
    await commit(store, start())
    await commit(store, step(version=1))
    await commit(store, step(version=2))
    assert await store.get_execution(run_key()) == stored(step(version=2))
    assert await history(store) == [batch(1, 3), batch(3, 5), batch(5, 7)]


async def test_several_batches_may_come_with_one_commit(store: Store) -> None:
    await commit(store, start(history=(batch(1, 2), batch(2, 3))))
    assert await history(store) == [batch(1, 2), batch(2, 3)]


async def test_a_commit_without_history_is_stored(store: Store) -> None:
    await commit(store, start())
    write = step(history=(), next_event_id=3)
    await commit(store, write)
    assert await store.get_execution(run_key()) == stored(write)


async def test_an_encoding_of_the_state_is_kept(store: Store) -> None:
    await commit(store, start(data_encoding="zstd"))
    assert await store.get_execution(run_key()) == stored(start(data_encoding="zstd"))


async def test_tasks_are_added_and_removed(store: Store) -> None:
    await commit(store, start(tasks_added=(task(1), task(2, priority=1))))
    await commit(store, step(tasks_removed=(task(1).key,), tasks_added=(task(3), task(4))))
    tasks = await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 10)
    assert tasks == [task(2, priority=1), task(3), task(4)]


async def test_removing_a_task_that_is_gone_is_fine(store: Store) -> None:
    await commit(store, start())
    await commit(store, step(tasks_removed=(task(1).key,)))
    assert await store.get_execution(run_key()) == stored(step())


async def test_a_timer_replaces_the_one_of_its_kind(store: Store) -> None:
    await commit(store, start(timer=timer(START_NS + 5), retention_timer=timer(START_NS + 90, kind="retention")))
    await commit(store, step(timer=timer(START_NS + 2)))
    timers = await store.scan_timers(*SLOTS_ALL, START_NS + 100, 10)
    assert timers == [timer(START_NS + 2), timer(START_NS + 90, kind="retention")]


async def test_timer_removed_deletes_the_execution_timer_alone(store: Store) -> None:
    await commit(store, start(timer=timer(START_NS + 5)))
    await commit(store, step(timer_removed=True, retention_timer=timer(START_NS + 90, kind="retention")))
    assert await store.scan_timers(*SLOTS_ALL, START_NS + 100, 10) == [timer(START_NS + 90, kind="retention")]


async def test_transfer_tasks_are_deleted_by_the_commit_that_completes_them(store: Store) -> None:
    await commit(store, start(transfer_tasks_added=(transfer(1), transfer(2))))
    await commit(store, step(), done=(transfer(1),))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10) == [transfer(2)]


async def test_transfer_tasks_may_be_completed_without_a_write(store: Store) -> None:
    await commit(store, start(transfer_tasks_added=(transfer(1),)))
    await store.commit(Transition((), transfer_tasks_done=(transfer(1),)))
    assert await store.scan_transfer_tasks(*SLOTS_ALL, START_NS, 10) == []


async def test_closing_marks_the_current_run_closed(store: Store) -> None:
    await commit(store, start())
    await commit(store, close())
    found = await store.get_current(NAMESPACE, "order-7")
    assert found == current(run_key(), COMPLETED, close_time_ns=START_NS + 60_000_000_000)


async def test_a_stale_version_writes_nothing_at_all(store: Store) -> None:
    await commit(store, start(tasks_added=(task(1),), timer=timer(START_NS + 5), transfer_tasks_added=(transfer(1),)))
    await commit(store, step())
    before = await everything(store)
    stale = step(
        version=1, state=b"stale", tasks_added=(task(7),), tasks_removed=(task(1).key,), timer=timer(START_NS + 1),
        retention_timer=timer(START_NS + 1, kind="retention"), transfer_tasks_added=(transfer(8),),
        current=CurrentWrite(current(run_key(), COMPLETED), "run-1"),
    )  # fmt: skip
    with pytest.raises(VersionConflict) as caught:
        await commit(store, stale, done=(transfer(1),))
    assert caught.value.key == run_key()
    assert await everything(store) == before


async def test_a_version_ahead_of_the_stored_one_conflicts(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(VersionConflict):
        await commit(store, step(version=2))
    assert await everything(store) == before


async def test_a_commit_to_a_run_that_is_not_there_conflicts(store: Store) -> None:
    with pytest.raises(VersionConflict):
        await commit(store, step(tasks_added=(task(1),)))
    assert await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 10) == []


async def test_creating_a_run_twice_conflicts(store: Store) -> None:
    await commit(store, start(current=None))
    before = await everything(store)
    with pytest.raises(VersionConflict):
        await commit(store, start(current=None, state=b"other", tasks_added=(task(1),)))
    assert await everything(store) == before


async def test_a_start_conflicts_with_the_run_that_holds_the_workflow_id(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(CurrentConflict) as caught:
        await commit(store, start(SECOND, tasks_added=(task(2, SECOND),)))
    assert caught.value.current == current(run_key())
    assert await everything(store) == before


async def test_a_start_may_follow_a_closed_run_that_is_still_current(store: Store) -> None:
    await commit(store, start())
    await commit(store, close())
    await commit(store, start(SECOND, current=CurrentWrite(current(SECOND), "run-1", COMPLETED)))
    assert await store.get_current(NAMESPACE, "order-7") == current(SECOND)


async def test_a_start_conflicts_when_the_current_run_is_another_than_expected(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(CurrentConflict) as caught:
        await commit(store, start(SECOND, current=CurrentWrite(current(SECOND), "run-0")))
    assert caught.value.current == current(run_key())
    assert await everything(store) == before


async def test_a_start_conflicts_when_the_current_run_has_another_status_than_expected(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(CurrentConflict) as caught:
        await commit(store, start(SECOND, current=CurrentWrite(current(SECOND), "run-1", COMPLETED)))
    assert caught.value.current == current(run_key())
    assert await everything(store) == before


async def test_a_start_conflicts_when_the_expected_current_run_is_gone(store: Store) -> None:
    with pytest.raises(CurrentConflict) as caught:
        await commit(store, start(current=CurrentWrite(current(run_key()), "run-0")))
    assert caught.value.current is None
    assert await store.list_executions(None, 10) == []


async def test_a_stale_close_reports_the_version_before_the_current_row(store: Store) -> None:
    await commit(store, start())
    await commit(store, close())
    await commit(store, start(SECOND, current=CurrentWrite(current(SECOND), "run-1")))
    with pytest.raises(VersionConflict):
        await commit(store, close())


async def test_two_runs_are_written_by_one_commit(store: Store) -> None:
    await commit(store, start())
    old = close(status=CONTINUED)
    new = start(SECOND, current=CurrentWrite(current(SECOND), "run-1"), tasks_added=(task(1, SECOND),))
    await commit(store, old, new)
    assert [run.status for run in await store.list_executions(None, 10)] == [CONTINUED, RUNNING]
    assert await store.get_current(NAMESPACE, "order-7") == current(SECOND)
    assert await history(store, SECOND) == [batch(1, 3)]


async def test_conditions_see_the_rows_as_of_the_commit(store: Store) -> None:
    await commit(store, start())
    new = start(SECOND, current=CurrentWrite(current(SECOND), "run-1", RUNNING))
    await commit(store, close(status=TERMINATED), new)
    assert await store.get_current(NAMESPACE, "order-7") == current(SECOND)


async def test_the_first_of_two_runs_is_not_written_when_the_second_conflicts(store: Store) -> None:
    await commit(store, start())
    await commit(store, start(SECOND, current=None))
    before = await everything(store)
    with pytest.raises(VersionConflict) as caught:
        await commit(store, close(status=CONTINUED), start(SECOND, current=None))
    assert caught.value.key == SECOND
    assert await everything(store) == before


async def test_the_second_of_two_runs_is_not_written_when_the_first_conflicts(store: Store) -> None:
    await commit(store, start())
    await commit(store, step())
    before = await everything(store)
    new = start(SECOND, current=CurrentWrite(current(SECOND), "run-1"))
    with pytest.raises(VersionConflict) as caught:
        await commit(store, close(version=1, status=CONTINUED), new)
    assert caught.value.key == run_key()
    assert await everything(store) == before


async def test_neither_of_two_runs_is_written_when_the_current_row_conflicts(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    new = start(SECOND, current=CurrentWrite(current(SECOND), "run-0"))
    with pytest.raises(CurrentConflict):
        await commit(store, replace(close(), current=None), new)
    assert await everything(store) == before


async def test_a_commit_that_writes_a_run_twice_is_refused(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(StorageError):
        await commit(store, step(version=1), step(version=2))
    assert await everything(store) == before


async def test_an_existing_batch_is_refused(store: Store) -> None:
    await commit(store, start())
    before = await everything(store)
    with pytest.raises(StorageError):
        await commit(store, step(history=(batch(1, 3),), tasks_added=(task(1),)))
    assert await everything(store) == before


async def test_exactly_one_of_racing_commits_of_a_version_wins(store: Store) -> None:
    await commit(store, start())
    results = await asyncio.gather(
        *(commit(store, step(state=f"racer {n}".encode(), tasks_added=(task(n),))) for n in range(8)),
        return_exceptions=True,
    )
    winners = [n for n, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert [type(result) for result in results if result is not None] == [VersionConflict] * 7
    assert await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 10) == [task(winners[0])]


async def test_exactly_one_of_racing_starts_of_a_workflow_id_wins(store: Store) -> None:
    keys = [run_key(f"run-{n}") for n in range(8)]
    results = await asyncio.gather(*(commit(store, start(key)) for key in keys), return_exceptions=True)
    winners = [key for key, result in zip(keys, results, strict=True) if result is None]
    assert len(winners) == 1
    assert [type(result) for result in results if result is not None] == [CurrentConflict] * 7
    assert [run.key for run in await store.list_executions(None, 10)] == winners


async def test_many_commits_at_once_all_land(store: Store) -> None:
    keys = [run_key(f"run-{n}", f"order-{n}") for n in range(50)]
    await asyncio.gather(*(commit(store, start(key, tasks_added=(task(n, key),))) for n, key in enumerate(keys)))
    await asyncio.gather(*(commit(store, step(key)) for key in keys))
    assert {run.key for run in await store.list_executions(None, 100)} == set(keys)
    assert len(await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 100)) == 50


async def test_a_conflict_among_many_commits_affects_no_other(store: Store) -> None:
    await commit(store, start())
    keys = [run_key(f"run-{n}", f"order-{n}") for n in range(20, 30)]
    results = await asyncio.gather(
        *(commit(store, start(key)) for key in keys[:5]), commit(store, step(version=9)),
        commit(store, step(history=(batch(1, 3),))), *(commit(store, start(key)) for key in keys[5:]),
        return_exceptions=True,
    )  # fmt: skip
    assert [result is None for result in results] == [True] * 5 + [False] * 2 + [True] * 5
    assert len(await store.list_executions(None, 100)) == 11


async def test_runs_are_listed_in_key_order_page_by_page(store: Store) -> None:
    keys = sorted(
        (run_key(f"run-{n}", f"order-{n % 2}", namespace) for n in range(4) for namespace in (NAMESPACE, "another")),
        key=lambda key: (key.namespace_id, key.workflow_id, key.run_id),
    )
    for key in keys:
        await commit(store, start(key, current=None))
    found = []
    page = await store.list_executions(None, 3)
    while page:
        found += [run.key for run in page]
        page = await store.list_executions(page[-1].key, 3)
    assert found == keys


async def test_runs_are_listed_of_one_namespace(store: Store) -> None:
    keys = [run_key("run-1"), run_key("run-2"), run_key("run-3", namespace="another")]
    for key in keys:
        await commit(store, start(key, current=None))
    first = await store.list_executions(None, 1, NAMESPACE)
    rest = await store.list_executions(first[0].key, 10, NAMESPACE)
    assert [run.key for run in first + rest] == keys[:2]


async def test_a_task_id_that_is_taken_changes_nothing(store: Store) -> None:
    """Two processes may draw the same id in the same microsecond: neither may lose its task to the other."""
    first, other = run_key(), run_key("run-9", "order-9")
    await commit(store, start(first, tasks_added=(task(1, first),), transfer_tasks_added=(transfer(9, first),)))
    before = await everything(store)
    with pytest.raises(StorageError):
        await commit(store, start(other, tasks_added=(task(1, other),)))
    with pytest.raises(StorageError):
        await commit(store, start(other, transfer_tasks_added=(transfer(9, other),)))
    assert await everything(store) == before
