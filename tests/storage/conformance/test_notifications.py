"""What a function's store tells of its own writes, and whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    NAMESPACE,
    QUEUE,
    START_NS,
    WORKFLOW_QUEUE,
    commit,
    query,
    run_key,
    start,
    step,
    task,
)
from whistlestop.storage.errors import VersionConflict
from whistlestop.storage.notifications import Notifications, notification_queue_record
from whistlestop.storage.records import TaskKey

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import PollerRecord


@pytest.fixture
def woken(store: Store) -> list[str]:
    """The names of notification queues, as the store tells them."""
    names: list[str] = []
    store.notifications = Notifications(names.extend)
    return names


def sleeper(name: str = "bridge-1", expires_ns: int = START_NS + 10, task_type: int = WORKFLOW_QUEUE) -> PollerRecord:
    return notification_queue_record(NAMESPACE, QUEUE, task_type, name, START_NS, expires_ns)


async def test_a_commit_returns_the_notification_queues_of_its_tasks(store: Store, woken: list[str]) -> None:
    await store.put_pollers([sleeper("bridge-2"), sleeper("bridge-1"), sleeper("other", task_type=2)])
    await commit(store, start(tasks_added=(task(1),)))
    assert sorted(woken) == ["bridge-1", "bridge-2"]


async def test_a_notification_queue_is_returned_once_for_all_its_task_queues(store: Store, woken: list[str]) -> None:
    other = task(2)
    other = type(other)(TaskKey(NAMESPACE, QUEUE, 2, 3, 2), other.workflow_id, other.run_id, 2, 1, START_NS)
    await store.put_pollers([sleeper(), sleeper(task_type=2)])
    await commit(store, start(tasks_added=(task(1), other)))
    assert woken == ["bridge-1"]


async def test_a_later_transition_notifies_as_well(store: Store, woken: list[str]) -> None:
    await store.put_pollers([sleeper()])
    await commit(store, start())
    assert woken == []
    await commit(store, step(tasks_added=(task(1),)))
    assert woken == ["bridge-1"]


async def test_a_commit_of_several_runs_notifies(store: Store, woken: list[str]) -> None:
    other = run_key(run="run-2", workflow="order-8")
    await store.put_pollers([sleeper()])
    await commit(store, start(), start(other, tasks_added=(task(1, other),)))
    assert woken == ["bridge-1"]


async def test_an_expired_notification_queue_is_not_notified(store: Store, woken: list[str]) -> None:
    await store.put_pollers([sleeper(expires_ns=START_NS)])
    await commit(store, start(tasks_added=(task(1),)))
    assert woken == []


async def test_a_refused_commit_sends_no_notification(store: Store, woken: list[str]) -> None:
    await store.put_pollers([sleeper()])
    await commit(store, start())
    with pytest.raises(VersionConflict):
        await commit(store, step(version=7, tasks_added=(task(1),)))
    assert woken == []


async def test_a_query_returns_the_notification_queues_of_its_task_queue(store: Store, woken: list[str]) -> None:
    await store.put_pollers([sleeper()])
    await store.put_query(query("query-1"), None)
    assert woken == []
    await store.put_query(query("query-2"), task(1, query_id="query-2"))
    assert woken == ["bridge-1"]


async def test_notification_queues_are_not_listed_as_pollers(store: Store) -> None:
    await store.put_pollers([sleeper()])
    assert await store.list_pollers(NAMESPACE, QUEUE, WORKFLOW_QUEUE, START_NS, 10) == []


async def test_without_notifications_none_are_sent(store: Store) -> None:
    await store.put_pollers([sleeper()])
    await commit(store, start(tasks_added=(task(1),)))
    assert store.notifications is None
