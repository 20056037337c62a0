"""A list or a count that takes long goes on beside the event loop, and ends with its caller's time or with its caller."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import AsyncConnection

from tests.bounds.neighbour import beside
from tests.isolation.conftest import STORES
from tests.patience import PATIENCE_S
from whistlestop.common.errors import Code, ServiceError
from whistlestop.storage.errors import TimedOut
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.isolation.backend import Backend
    from whistlestop.storage.interface import Store

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


def endless(store: Store, within_s: float) -> Awaitable[list[Any]]:
    """A read that nothing but its deadline or its caller ends."""
    adapter: Any = store
    if hasattr(adapter, "path"):
        read: Awaitable[list[Any]] = adapter._list(ENDLESS, (), within_s=within_s)
    else:
        read = adapter._within(within_s, "SELECT pg_sleep(100000)", ())
    return read


async def reads_under_way(store: Store) -> int:
    adapter: Any = store
    if hasattr(adapter, "path"):
        return 2 - int(adapter._slow.qsize())
    sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    return int((await adapter._all(sql))[0][0])


async def none_is_left(store: Store) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await reads_under_way(store):  # noqa: ASYNC110 - it is the database that goes on
            await asyncio.sleep(0.01)


async def test_a_long_read_is_stopped_at_its_deadline_and_blocks_no_other_call(store: Store) -> None:
    async with beside() as neighbour:
        with pytest.raises(TimedOut):
            await endless(store, 0.3)
    assert neighbour.turns > 10
    assert neighbour.longest < 60
    await none_is_left(store)


async def test_a_long_read_is_stopped_when_its_caller_goes_away(store: Store) -> None:
    reading = [asyncio.ensure_future(endless(store, 100_000.0)) for _ in range(5)]
    async with asyncio.timeout(PATIENCE_S):
        while not await reads_under_way(store):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    for each in reading:
        each.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*reading, return_exceptions=True)
    )
    await none_is_left(store)
    assert await store.count_visibility("n", parse("", {})) == 0


@pytest.mark.skipif("postgres" not in STORES, reason="needs a Postgres")
@pytest.mark.parametrize("store", ["postgres"], indirect=True)
@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_that_goes_away_when_it_is_given_its_connection(store: Any, turns: int) -> None:
    """Python 3.11's `asyncio.wait_for`, by which the pool waits, loses a cancellation of that very turn."""
    pool = store._connections()
    async with contextlib.AsyncExitStack() as held:
        for _ in range(pool.max_size):
            await held.enter_async_context(pool.connection())
        reading = asyncio.ensure_future(store._run("SELECT pg_sleep(100000)"))
        while not pool.get_stats().get("requests_waiting"):  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0)
        giving = asyncio.ensure_future(held.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await giving
    await asyncio.wait({reading}, timeout=PATIENCE_S)
    assert reading.cancelled()


@pytest.mark.skipif("postgres" not in STORES, reason="needs a Postgres")
@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_request_to_cancel_that_comes_between_two_statements_is_sent_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ignores it; the driver sends one alone."""
    sent = 0
    cancel = AsyncConnection.cancel_safe

    async def comes_too_early(connection: AsyncConnection[Any], *, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        nonlocal sent
        sent += 1
        if sent > 2:
            await cancel(connection, timeout=timeout)

    monkeypatch.setattr(AsyncConnection, "cancel_safe", comes_too_early)
    reading = asyncio.ensure_future(endless(store, 100_000.0))
    async with asyncio.timeout(PATIENCE_S):
        while not await reads_under_way(store):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert sent == 3
    assert await reads_under_way(store) == 0


async def test_long_reads_leave_connections_for_what_is_short(store: Store) -> None:
    reading = [asyncio.ensure_future(endless(store, 100_000.0)) for _ in range(20)]
    await asyncio.sleep(0)
    for _ in range(50):
        await store.get_namespace(name="n")
    for each in reading:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await none_is_left(store)


async def test_a_caller_whose_deadline_passed_gets_deadline_exceeded(backend: Backend) -> None:
    store: Any = backend.store
    name = "_list" if hasattr(store, "path") else "_within"
    read = getattr(store, name)

    async def never_ends(*asked: Any, **named: Any) -> list[Any]:
        found: list[Any] = await (
            read(ENDLESS, (), **named) if named else read(asked[0], "SELECT pg_sleep(100000)", ())
        )
        return found

    setattr(store, name, never_ends)
    for method in ("CountWorkflowExecutions", "ListWorkflowExecutions", "ListSchedules", "CountSchedules"):
        with pytest.raises(ServiceError) as refused:
            await backend.call(method, namespace="default", timeout_s=0.3)
        assert refused.value.code is Code.DEADLINE_EXCEEDED


@pytest.mark.skipif("postgres" not in STORES, reason="needs a Postgres")
@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_the_database_stops_a_statement_that_cannot_be_cancelled_any_more(store: Any) -> None:
    """For a process that dies, or a network that does; and only that statement is bound."""
    assert await store._within(7.0, "SELECT current_setting('statement_timeout')", ()) == [("7s",)]
    assert await store._all("SELECT current_setting('statement_timeout')") == [("0",)]
