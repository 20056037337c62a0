"""Task queues and pollers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import NAMESPACE, QUEUE, START_NS, WORKFLOW_QUEUE, poller, queue_record, task
from whistlestop.common.fairness import FIRST, level
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.records import EXPIRED_POLLERS_KEPT_NS, Backlog, TaskKey

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask

ORDERS = (NAMESPACE, QUEUE, WORKFLOW_QUEUE)


def _elsewhere(namespace_id: str, queue: str, task_type: int, task_id: int = 1) -> MatchingTask:
    row = task(task_id)
    return type(row)(TaskKey(namespace_id, queue, task_type, 3, task_id), row.workflow_id, row.run_id, 2, 1, START_NS)


async def test_tasks_are_listed_by_priority_then_id(store: Store) -> None:
    await store.put_tasks([task(4), task(2), task(9, priority=1), task(1, priority=5)])
    assert await store.list_tasks(*ORDERS, None, 10) == [task(9, priority=1), task(2), task(4), task(1, priority=5)]


async def test_a_list_goes_on_behind_a_task(store: Store) -> None:
    tasks = [task(7, priority=1), task(2), task(4), task(1, priority=5)]
    await store.put_tasks(tasks)
    assert await store.list_tasks(*ORDERS, None, 2) == tasks[:2]
    assert await store.list_tasks(*ORDERS, (3, 2), 2) == tasks[2:]
    assert await store.list_tasks(*ORDERS, (5, 1), 2) == []


async def test_every_field_of_a_task_comes_back(store: Store) -> None:
    whole = task(1, scheduled_event_id=12, stamp=3, query_id="query-1", data=b"fairness")
    await store.put_tasks([whole])
    assert await store.list_tasks(*ORDERS, None, 2) == [whole]


async def test_queues_are_apart(store: Store) -> None:
    others = [_elsewhere("another", QUEUE, 1), _elsewhere(NAMESPACE, "other", 1), _elsewhere(NAMESPACE, QUEUE, 2)]
    await store.put_tasks([task(1), *others])
    assert await store.list_tasks(*ORDERS, None, 10) == [task(1)]


async def test_many_queues_are_counted_at_once(store: Store) -> None:
    """In the order in which they were asked for, each up to the limit."""
    other = (NAMESPACE, "other", 1)
    await store.put_tasks([task(n) for n in range(5)] + [_elsewhere(*other)])
    assert await store.count_tasks([other, (NAMESPACE, "none", 1), ORDERS], 3) == [1, 0, 3]
    assert await store.count_tasks([], 3) == []


async def test_putting_a_task_twice_stores_it_once(store: Store) -> None:
    await store.put_tasks([task(1)])
    await store.put_tasks([task(1, stamp=2)])
    assert await store.list_tasks(*ORDERS, None, 10) == [task(1, stamp=2)]


async def test_deleting_tasks_leaves_the_others(store: Store) -> None:
    await store.put_tasks([task(1), task(2), task(3)])
    await store.delete_tasks([task(1).key, task(3).key, task(99).key])
    assert await store.list_tasks(*ORDERS, None, 10) == [task(2)]


async def test_putting_and_deleting_nothing_is_fine(store: Store) -> None:
    await store.put_tasks([])
    await store.delete_tasks([])
    await store.put_pollers([])


async def test_a_backlog_is_counted_by_priority_up_to_the_limit(store: Store) -> None:
    await store.put_tasks([task(n, created_ns=START_NS + n) for n in range(2, 7)])
    await store.put_tasks([task(1, priority=1, created_ns=START_NS)])
    assert await store.backlog(*ORDERS, 10) == {1: Backlog(1, START_NS), 3: Backlog(5, START_NS + 2)}
    assert await store.backlog(*ORDERS, 3) == {1: Backlog(1, START_NS), 3: Backlog(3, START_NS + 2)}


async def test_the_first_tasks_of_each_level_are_listed(store: Store) -> None:
    """Levels below zero, too: those of fairness keys."""
    tasks = [task(n, priority=at) for at in (-3_000_000, -5, 1, 3) for n in range(1, 6)]
    await store.put_tasks([*tasks, _elsewhere(NAMESPACE, "another", 1, 1)])
    assert await store.list_tasks(*ORDERS, None, 100) == tasks
    assert await store.list_tasks_by_level(*ORDERS, FIRST, 2, 100) == [each for each in tasks if each.key.task_id <= 2]
    assert await store.list_tasks_by_level(*ORDERS, FIRST, 100, 2) == tasks[:10]
    assert await store.list_tasks_by_level(*ORDERS, -5, 100, 1) == tasks[10:15]
    assert await store.list_tasks_by_level(*ORDERS, 3, 100, 1) == []
    assert await store.list_tasks_by_level(NAMESPACE, "nobody", 1, FIRST, 100, 2) == []


async def test_a_backlog_of_many_keys_is_counted_by_priority(store: Store) -> None:
    at = ((1, "a"), (1, "b"), (3, ""), (3, "c"), (3, "d"), (5, "a"))
    await store.put_tasks(
        [task(n, priority=level(priority, key), created_ns=START_NS + n) for n, (priority, key) in enumerate(at)]
    )
    assert await store.backlog(*ORDERS, 10) == {
        1: Backlog(2, START_NS), 3: Backlog(3, START_NS + 2), 5: Backlog(1, START_NS + 5)
    }  # fmt: skip
    assert (await store.backlog(*ORDERS, 2))[3].count == 2


async def test_an_empty_queue_has_no_backlog(store: Store) -> None:
    assert await store.backlog(*ORDERS, 10) == {}


async def test_backlogged_queues_are_listed_once_each_in_order(store: Store) -> None:
    queues = [("another", "a", 2), (NAMESPACE, "a", 1), (NAMESPACE, "a", 2), (NAMESPACE, "b", 1)]
    queues.sort()
    await store.put_tasks([_elsewhere(*queue, task_id) for queue in queues for task_id in (1, 2, 3)])
    assert await store.list_backlogged_queues(None, 10) == queues
    assert await store.list_backlogged_queues(None, 2) == queues[:2]
    assert await store.list_backlogged_queues(queues[1], 10) == queues[2:]


async def test_settings_of_a_queue_are_stored_once_and_then_by_compare_and_set(store: Store) -> None:
    assert await store.get_task_queue(*ORDERS) is None
    await store.put_task_queue(queue_record(), 0)
    await store.put_task_queue(queue_record(range_id=2, data=b"new"), 1)
    assert await store.get_task_queue(*ORDERS) == queue_record(range_id=2, data=b"new")


@pytest.mark.parametrize("expected", [0, 2])
async def test_settings_of_a_queue_are_kept_when_the_range_id_is_another(store: Store, expected: int) -> None:
    await store.put_task_queue(queue_record(), 0)
    with pytest.raises(LeaseLost):
        await store.put_task_queue(queue_record(range_id=3, data=b"new"), expected)
    assert await store.get_task_queue(*ORDERS) == queue_record()


async def test_settings_of_a_queue_that_is_not_there_are_not_replaced(store: Store) -> None:
    with pytest.raises(LeaseLost):
        await store.put_task_queue(queue_record(range_id=2), 1)
    assert await store.get_task_queue(*ORDERS) is None


async def test_live_pollers_are_listed_by_identity(store: Store) -> None:
    await store.put_pollers([poller("worker-2"), poller("worker-1"), poller("worker-3", task_queue="other")])
    assert await store.list_pollers(*ORDERS, START_NS, 10) == [poller("worker-1"), poller("worker-2")]
    assert await store.list_pollers(*ORDERS, START_NS, 1) == [poller("worker-1")]
    assert await store.list_pollers(*ORDERS, START_NS, 1, "worker-1") == [poller("worker-2")]
    assert await store.get_poller(*ORDERS, "worker-2") == poller("worker-2")
    assert await store.get_poller(*ORDERS, "worker-3") is None


async def test_an_expired_poller_is_not_listed(store: Store) -> None:
    await store.put_pollers([poller("worker-1"), poller("worker-2", expires_ns=START_NS + 20)])
    found = await store.list_pollers(*ORDERS, START_NS + 10, 10)
    assert found == [poller("worker-2", expires_ns=START_NS + 20)]


async def test_a_poller_comes_back_after_its_row_has_expired(store: Store) -> None:
    """Whoever writes sweeps old rows away, and not what is written at this moment."""
    back = poller(
        last_access_ns=START_NS + 50 + EXPIRED_POLLERS_KEPT_NS, expires_ns=START_NS + 90 + EXPIRED_POLLERS_KEPT_NS
    )
    await store.put_pollers([poller(), poller("worker-2")])
    await store.put_pollers([back])
    assert await store.list_pollers(*ORDERS, 0, 10) == [back]


async def test_a_poll_that_began_before_the_shutdown_does_not_undo_it(store: Store) -> None:
    """Nor when another poller's row, written meanwhile, sweeps old rows away."""
    goodbye = poller(last_access_ns=START_NS + 5, expires_ns=START_NS + 5)
    await store.put_pollers([poller()])
    await store.put_pollers([goodbye])
    other = poller("worker-2", last_access_ns=START_NS + 6, expires_ns=START_NS + 100)
    await store.put_pollers([other])
    await store.put_pollers([poller(last_access_ns=START_NS + 4, expires_ns=START_NS + 100)])
    assert await store.list_pollers(*ORDERS, START_NS + 7, 10) == [other]


async def test_a_poller_is_seen_again(store: Store) -> None:
    again = poller(last_access_ns=START_NS + 5, expires_ns=START_NS + 15, data=b"newer")
    await store.put_pollers([poller()])
    await store.put_pollers([again])
    assert await store.list_pollers(*ORDERS, START_NS, 10) == [again]
