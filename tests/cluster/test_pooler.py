"""Everything through a real PgBouncer in transaction mode, which follows no prepared statements and has no sessions."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.test_failover import finish
from tests.cluster.test_services_failover import load, more_than
from tests.cluster.worker import worker_process
from tests.cluster.workflows import Echo
from tests.patience import PATIENCE_S
from tests.pgbouncer import pooled
from tests.postgres import fresh_database
from whistlestop.common.clock import SystemClock
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.postgres.connection import is_pooled, translate
from whistlestop.storage.postgres.notify import PostgresNotifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.postgres


@pytest.fixture
async def addresses() -> AsyncIterator[tuple[str, str]]:
    """The pooler's, and the database's own."""
    async with fresh_database() as direct, pooled(direct) as pooler:
        yield pooler, direct


async def test_a_pooler_is_noticed(addresses: tuple[str, str]) -> None:
    """Whatever it is called: by the process ids that it gives its clients."""
    for url, expected in zip(addresses, (True, False), strict=True):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            assert await is_pooled(connection) is expected


async def test_every_command_works_again_and_again(addresses: tuple[str, str], tmp_path: Path) -> None:
    """`db migrate` failed from the third run on."""
    cluster = Cluster(addresses[0], tmp_path)
    for n in range(4):
        for command in (
            ("db", "migrate"), ("db", "status"), ("db", "check"), ("db", "backup", str(tmp_path / f"copy-{n}.sql")),
            ("cluster", "members"),
        ):  # fmt: skip
            if n and command[1] not in {"migrate", "backup"}:
                continue
            done = await cluster.command(*command)
            assert (n, command, done.returncode) == (n, command, 0), done.stderr


async def test_a_backup_through_it_can_be_restored(addresses: tuple[str, str], tmp_path: Path) -> None:
    """One transaction reads it all."""
    cluster = Cluster(addresses[0], tmp_path)
    assert (await cluster.command("db", "migrate")).returncode == 0
    assert (await cluster.command("db", "backup", str(tmp_path / "copy.sql"))).returncode == 0
    assert "COPY executions (" in (tmp_path / "copy.sql").read_text()


async def test_prepared_statements_that_get_lost_are_one_clear_line() -> None:
    """Behind a pooler that hides itself."""
    for state in ("26000", "42P05"):
        error = translate(psycopg.errors.lookup(state)("prepared statement _pg3_0"))
        assert type(error) is Unavailable
        assert "pooler" in str(error)


@pytest.mark.slow
@pytest.mark.sdk
@pytest.mark.parametrize("listen", [True, False], ids=["listening on the database", "re-checking"])
async def test_two_servers_under_load(addresses: tuple[str, str], tmp_path: Path, *, listen: bool) -> None:
    """The workers poll one, the clients call the other; nothing is lost, and the log says what is to be said once."""
    pooler, direct = addresses
    with ExitStack() as closing:
        cluster = Cluster(pooler, tmp_path)
        closing.callback(cluster.close)
        flags = ["--database-listen-url", direct] if listen else []
        for name in "ab":
            await asyncio.to_thread(cluster.launch, name, "--port", "0", *flags)
            await asyncio.to_thread(cluster.servers[name].until_ready)
        client = await cluster.client("b")
        acknowledged: dict[str, int] = {}
        ended = asyncio.Event()
        with worker_process(cluster.servers["a"].address, "load"):
            loads = [asyncio.create_task(load(client, f"load-{n}", acknowledged, ended)) for n in range(3)]
            await more_than(acknowledged, 6)
            ended.set()
            await asyncio.gather(*loads)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(finish(client, name, least) for name, least in acknowledged.items()))
            began = time.monotonic()
            assert await client.execute_workflow(Echo.run, "x", id="echo", task_queue="load") == "x"
            print(f"an echo from server to server: {time.monotonic() - began:.2f} s")
        checked = await cluster.command("db", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        listed = await cluster.command("workflow", "list", "-o", "json")
        assert (listed.returncode, '"echo"' in listed.stdout) == (0, True), listed.stderr
        for name in "ab":
            assert await cluster.stop(name) == 0
            said = [line for line in cluster.servers[name].stderr if "pooler" in line]
            assert len(said) == (0 if listen else 1)
            assert not [line for line in cluster.servers[name].stderr if "prepared" in line]


async def test_sessions_that_are_pooled_can_listen() -> None:
    """A pooler in session mode is noticed as well, but what is said there is heard."""
    async with fresh_database() as direct, pooled(direct, mode="session") as pooler:
        one, other = PostgresNotifier(pooler, SystemClock()), PostgresNotifier(direct, SystemClock())
        await one.start()
        await other.start()
        try:
            with one.subscribe("topic") as heard:
                for _ in range(100):
                    other.publish(["topic"])
                    if await heard.wait(SystemClock().steady_ns() + 200_000_000):
                        break
                else:
                    raise AssertionError("nothing was heard")
            assert not one._cannot_listen
        finally:
            await one.close()
            await other.close()


async def test_a_store_keeps_no_statements_on_it(addresses: tuple[str, str]) -> None:
    """All connections of several stores run the same statements in turn."""
    stores = [PostgresStore(addresses[0], pool_size=4) for _ in range(2)]
    for store in stores:
        await store.open()
        await store.migrate()
    for _ in range(20):
        await asyncio.gather(*(store.ping() for store in stores for _ in range(8)))
    for store in stores:
        await store.close()
