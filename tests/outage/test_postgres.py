"""A database that goes away, answers late or never, or has too many clients: calls are refused, nothing is lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.disk.load import Load
from tests.outage.proxy import Proxy, proxy
from tests.patience import PATIENCE_S
from tests.postgres import available, migrated_database
from tests.storage.factories import commit, run_key, start, step
from whistlestop.common.clock import SystemClock
from whistlestop.storage.errors import Unavailable, VersionConflict
from whistlestop.storage.postgres import PostgresStore, connection, notify
from whistlestop.storage.records import Transition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not available(), reason="no Postgres here"),
    pytest.mark.timeout(2 * PATIENCE_S),
]
SILENT_S = 1.0


@pytest.fixture(autouse=True)
def _short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes 20 s there."""
    monkeypatch.setattr(connection.Pool.connection, "__kwdefaults__", {"silent_s": SILENT_S})
    for module in (connection, notify):
        monkeypatch.setattr(module, "SILENT_S", SILENT_S)
    monkeypatch.setattr(connection, "POOL_TIMEOUT_S", SILENT_S)


@asynccontextmanager
async def _behind(between: Proxy, pool_size: int = 8) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(between.url, pool_size=pool_size)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _cut(between: Proxy) -> None:
    between.cut()


def _refuse(between: Proxy) -> None:
    between.refuses = True
    between.cut()


def _delay(between: Proxy) -> None:
    between.delay_s = 0.05


def _swallow(between: Proxy) -> None:
    between.swallows = True


def _swallow_answers(between: Proxy) -> None:
    between.swallows_answers = True


def _mend(between: Proxy) -> None:
    between.refuses = between.swallows = between.swallows_answers = False
    between.delay_s = 0.0


@pytest.mark.parametrize("trouble", [_cut, _refuse, _delay, _swallow, _swallow_answers])
async def test_network_faults(trouble: Callable[[Proxy], None]) -> None:
    """Who can't be answered is refused before long; when it is over, the same store goes on, and all is there."""
    async with migrated_database() as url, proxy(url) as between, _behind(between) as store:
        load = Load(random.Random(1))
        await load.work(store, 20)
        refused = load.refused
        assert not refused
        trouble(between)
        async with asyncio.timeout(PATIENCE_S):
            await load.work(store, 4 if trouble in (_swallow, _swallow_answers, _refuse) else 40)
        assert load.refused > refused or trouble in (_cut, _delay)
        _mend(between)
        await _until_it_serves(store)
        await load.check(store)
        await load.settle(store)
        await load.work(store, 20)
        await load.check(store)


async def _until_it_serves(store: PostgresStore) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.ping()
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_server_that_ends_all_its_connections_again_and_again() -> None:
    """As a restart does, in the middle of transactions."""
    async with migrated_database() as url, await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        store = PostgresStore(url)
        await store.open()
        load = Load(random.Random(2))
        working = asyncio.create_task(load.work(store, 200))
        for _ in range(20):
            await asyncio.sleep(0.02)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        async with asyncio.timeout(PATIENCE_S):
            await working
            await _until_it_serves(store)
        await load.check(store)
        await load.settle(store)
        await load.check(store)
        await store.close()


async def test_more_callers_than_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are served in their turn, or refused when their turn does not come; none waits for ever."""
    async with migrated_database() as url, proxy(url) as between, _behind(between, pool_size=2) as store:
        between.delay_s = 0.01
        load = Load(random.Random(3))
        async with asyncio.timeout(PATIENCE_S):
            await load.work(store, 40, together=20)
        refused = load.refused
        assert not refused
        await load.check(store)
        between.swallows = True
        assert store._pool is not None
        monkeypatch.setattr(store._pool, "timeout", 0.2)
        async with asyncio.timeout(PATIENCE_S):
            await load.work(store, 12, together=12)
        assert load.refused > refused
        between.swallows = False
        await _until_it_serves(store)
        await load.check(store)


async def test_writers_that_are_in_each_other_s_way() -> None:
    """Two stores change the same two runs at once, in either order: of each version one wins, the others hear so."""
    keys = [run_key(f"run-{n}", f"order-{n}") for n in (1, 2)]
    async with migrated_database() as url:
        stores = [PostgresStore(url), PostgresStore(url)]
        for store in stores:
            await store.open()
        await commit(stores[0], *(start(key) for key in keys))
        won = 0

        async def write(number: int) -> None:
            nonlocal won
            store, order = stores[number % 2], keys if number % 3 else keys[::-1]
            for _ in range(12):
                found = await store.get_execution(keys[0])
                assert found is not None
                version = found.db_record_version
                try:
                    await store.commit(Transition(tuple(step(key, version) for key in order)))
                except VersionConflict:
                    continue
                won += 1

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(write(number) for number in range(16)))
        for key in keys:
            found = await stores[0].get_execution(key)
            assert found is not None
            assert found.db_record_version == won + 1
        assert won > 12
        assert await stores[0].check(10) == []
        for store in stores:
            await store.close()


async def test_notifications_over_a_half_open_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notifier notices, listens anew, and wakes everybody, since hints may be lost."""
    monkeypatch.setattr(notify, "CHECK_S", 0.2)
    async with migrated_database() as url, proxy(url) as between:
        heard = notify.PostgresNotifier(between.url, SystemClock())
        other = notify.PostgresNotifier(url, SystemClock())
        await heard.start()
        await other.start()
        try:
            with heard.subscribe("topic") as audience:
                before = between.connections
                between.swallows = True
                async with asyncio.timeout(PATIENCE_S):
                    while between.connections == before:  # noqa: ASYNC110 - the proxy only counts
                        await asyncio.sleep(0.05)
                between.swallows = False
                assert await audience.wait(SystemClock().steady_ns() + round(PATIENCE_S * 1e9))
            async with asyncio.timeout(PATIENCE_S):
                with heard.subscribe("another") as audience:
                    while not await audience.wait(SystemClock().steady_ns() + 100_000_000):
                        other.publish(["another"])
        finally:
            await heard.close()
            await other.close()


async def test_a_connection_that_goes_silent_before_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notifier cuts it and connects again: nobody else would end its wait."""
    ping = notify.ping
    async with migrated_database() as url, proxy(url) as between:

        async def silence(connection: psycopg.AsyncConnection[object]) -> None:
            await ping(connection)
            between.swallows = True

        monkeypatch.setattr(notify, "ping", silence)
        heard = notify.PostgresNotifier(between.url, SystemClock())
        await heard.start()
        try:
            monkeypatch.setattr(notify, "ping", ping)
            between.swallows = False
            with heard.subscribe("topic") as audience:
                assert await audience.wait(SystemClock().steady_ns() + round(PATIENCE_S * 1e9))
        finally:
            await heard.close()
