"""Hints between processes over LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio

from tests import postgres
from tests.storage.factories import (
    NAMESPACE,
    QUEUE,
    WORKFLOW_QUEUE,
    close,
    member,
    query,
    run_key,
    start,
    step,
    task,
)
from whistlestop.common.clock import SECOND_NS, SystemClock
from whistlestop.common.notify import closed_topic, execution_topic, query_topic, task_queue_topic
from whistlestop.storage.notifications import Notifications
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.postgres.notify import PAYLOAD_BYTES, PostgresNotifier, digest, payloads
from whistlestop.storage.postgres.transition import prepare
from whistlestop.storage.records import Transition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.skipif(not postgres.available(), reason="no Postgres here")


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[PostgresNotifier, PostgresNotifier, str]]:
    async with postgres.fresh_database() as url:
        notifiers = PostgresNotifier(url, SystemClock()), PostgresNotifier(url, SystemClock())
        for notifier in notifiers:
            await notifier.start()
        yield *notifiers, url
        for notifier in notifiers:
            await notifier.close()


def _soon() -> int:
    return SystemClock().steady_ns() + 5 * SECOND_NS


async def test_a_notification_within_the_process_needs_no_database() -> None:
    notifier = PostgresNotifier("postgresql://127.0.0.1:1/nothing", SystemClock())
    with notifier.subscribe("x/1") as subscription:
        notifier.publish(["x/1"])
        assert await subscription.wait(_soon())


async def test_a_notification_reaches_another_process(pair: tuple[PostgresNotifier, PostgresNotifier, str]) -> None:
    one, other, _ = pair
    with other.subscribe("x/1", "x/2") as subscription:
        one.publish(["x/2"])
        assert await subscription.wait(_soon())


async def test_a_notification_on_another_topic_wakes_no_waiter(
    pair: tuple[PostgresNotifier, PostgresNotifier, str],
) -> None:
    one, other, _ = pair
    with other.subscribe("x/1") as silent, other.subscribe("x/9") as last:
        one.publish(["x/2"])
        one.publish(["x/9"])
        assert await last.wait(_soon())
        assert not await silent.wait(0)


async def test_waiters_wake_when_notifications_may_be_lost() -> None:
    notifier = PostgresNotifier("postgresql://nowhere.invalid/none", SystemClock())
    with notifier.subscribe("a") as mine, notifier.subscribe("b") as other:
        notifier.notify_all()
        assert await mine.wait(0)
        assert mine.remote
        assert await other.wait(0)


async def test_many_notifications_all_arrive(pair: tuple[PostgresNotifier, PostgresNotifier, str]) -> None:
    one, other, _ = pair
    subscriptions = [other.subscribe(f"topic {n} of a rather long name") for n in range(2000)]
    for subscription in subscriptions:
        subscription.__enter__()
    one.publish([f"topic {n} of a rather long name" for n in range(2000)])
    assert all(await asyncio.gather(*(subscription.wait(_soon()) for subscription in subscriptions)))


async def test_all_waiters_wake_after_a_broken_connection_and_notifications_arrive_again(
    pair: tuple[PostgresNotifier, PostgresNotifier, str],
) -> None:
    one, other, url = pair
    with other.subscribe("x/1") as subscription:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await subscription.wait(_soon())
        for _ in range(50):
            one.publish(["x/1"])
            if await subscription.wait(SystemClock().steady_ns() + SECOND_NS // 10):
                break
        else:
            pytest.fail("no hint after the reconnect")


def test_payloads_are_short_and_hold_every_digest() -> None:
    digests = [digest(f"topic {n}") for n in range(3000)]
    found = payloads("me", digests)
    assert all(len(payload) <= PAYLOAD_BYTES for payload in found)
    assert [item for payload in found for item in payload.split(" ")[1:]] == digests
    assert len(found) == 5
    assert payloads("me", []) == []


async def test_servers_are_notified_of_commits_of_functions() -> None:
    """By the statement of the commit itself, of its run, its tasks and its answers, and of a query's task."""
    async with postgres.migrated_database() as url:
        notifier = PostgresNotifier(url, SystemClock())
        await notifier.start()
        store = PostgresStore(url, pool_size=1, prepare=False)
        await store.open()
        store.notifications = Notifications(sender="function")
        now_ns = SystemClock().now_ns()
        topics = [
            execution_topic(NAMESPACE, "order-7", "run-1"), task_queue_topic(NAMESPACE, QUEUE, WORKFLOW_QUEUE),
            query_topic("query-1"), closed_topic(NAMESPACE, "run-1"),
        ]  # fmt: skip
        with (
            notifier.subscribe(topics[0]) as run,
            notifier.subscribe(topics[1]) as queue,
            notifier.subscribe(topics[2]) as answer,
            notifier.subscribe(topics[3]) as closed,
        ):
            # No server lives: nobody is told, though somebody would listen.
            await store.commit(Transition((start(tasks_added=(task(1),)),)))
            assert not await queue.wait(SystemClock().steady_ns() + SECOND_NS // 5)
            await store.heartbeat(member(expires_ns=now_ns + 60 * SECOND_NS))

            await store.commit(Transition((step(tasks_added=(task(2),)),), answers=(("query-1", run_key(), b"yes"),)))
            assert await run.wait(_soon())
            assert await queue.wait(_soon())
            assert await answer.wait(_soon())
            await store.put_query(query("query-1", answer=None), task(3, query_id="query-1"))
            assert await queue.wait(_soon())
            assert not await answer.wait(0)
            assert await store.answer_query("query-1", run_key(), b"yes")
            assert await answer.wait(_soon())
            assert not await closed.wait(0)
            await store.commit(Transition((close(version=2),)))
            assert await closed.wait(_soon())
        await store.close()
        await notifier.close()


async def test_a_commit_with_notifications_is_one_statement() -> None:
    async with postgres.migrated_database() as url:
        store = PostgresStore(url, pool_size=1, prepare=False)
        await store.open()
        store.notifications = Notifications(sender="function")
        prepared = prepare(Transition((start(tasks_added=(task(1),)),)), store.notifications)
        assert (prepared.sql.count(b"pg_notify"), prepared.sql.count(b";")) == (1, 0)
        await store.commit(prepared.transition)
        await store.close()
