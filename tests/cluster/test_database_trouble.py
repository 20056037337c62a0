"""A server over a database to which everything happens: restarts, time-outs, a standby, no connections."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import postgres
from tests.patience import PATIENCE_S
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.records import QueueMessage

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster
    from tests.server.conftest import Running


async def _alter(url: str, statement: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    async with await psycopg.AsyncConnection.connect(postgres.server_url(), autocommit=True) as admin:
        await admin.execute(statement.format(name=name).encode())
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


async def _all_gone(url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    async with asyncio.timeout(PATIENCE_S):
        async with await psycopg.AsyncConnection.connect(postgres.server_url(), autocommit=True) as admin:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            while (await (await admin.execute(asked, (name,))).fetchone() or (0,))[0]:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.05)


async def _beat(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as db:
        row = await (await db.execute("SELECT max(last_heartbeat_ns) FROM cluster_membership")).fetchone()
    return int(row[0] or 0) if row else 0


HAPPENINGS = {
    "connections are ended": ("SELECT 1", ""),
    "idle connections are ended": ("ALTER DATABASE {name} SET idle_session_timeout = '700ms'", ""),
    "a standby that only reads": (
        "ALTER DATABASE {name} SET default_transaction_read_only = on",
        "ALTER DATABASE {name} RESET default_transaction_read_only",
    ),
    "no connections are taken": ("ALTER DATABASE {name} ALLOW_CONNECTIONS false", "ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
    "statements are cancelled": (
        "ALTER DATABASE {name} SET statement_timeout = '1ms'", "ALTER DATABASE {name} RESET statement_timeout",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("what", HAPPENINGS)
async def test_a_server_outlives_what_happens_to_its_database(cluster: Cluster, what: str) -> None:
    """It stays a member, says how it fares, and serves again without a restart."""
    bad, good = HAPPENINGS[what]
    await asyncio.to_thread(cluster.launch, "a", "--port", "0", "--http-port", "0")
    server: Running = cluster.servers["a"].until_ready()
    client = await cluster.client("a")
    for _ in range(3 if what.startswith(("connections", "idle")) else 1):
        await _alter(cluster.url, bad)
        await asyncio.sleep(1.0)
    if good:
        await _alter(cluster.url, good)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.count_workflows()
                break
            except Exception:  # noqa: BLE001 - until it serves again
                await asyncio.sleep(0.2)
        before = await _beat(cluster.url)
        while await _beat(cluster.url) <= before:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.5)
        while "failing" in (health := await _health(server)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)
    assert health["status"] == "SERVING"
    assert len(await cluster.members()) == 3
    assert await cluster.stop("a") == 0


async def _health(server: Running) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port("HTTP"))
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def test_a_connection_that_was_closed_while_it_idled_is_not_used() -> None:
    """A write on it could not be tried again: nobody would know whether it took place."""
    async with postgres.migrated_database() as url:
        store = PostgresStore(url, pool_size=2)
        await store.open()
        for n in range(3):
            await asyncio.gather(*(store.ping() for _ in range(8)))
            await _alter(url, "SELECT 1")
            await _all_gone(
                url
            )  # in its last moment a connection may take a write to its grave, and the caller hears it
            await store.enqueue(QueueMessage("queue", n, b""))
        assert len(await store.read_queue("queue", -1, 10)) == 3
        await store.close()
