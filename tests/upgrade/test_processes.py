"""A rolling upgrade from release 0.1.0 and back, process by process, under load: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests import postgres
from tests.cluster.services import Deployment
from tests.cluster.test_failover import asleep, finish, sleepers
from tests.cluster.test_services_failover import load, more_than
from tests.cluster.worker import worker_process
from tests.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.upgrade.release import CURRENT, Release

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.sdk]


async def add_what_may_come(url: str) -> None:
    """Change every table as additive migrations may: a column more, an index more, and a table besides."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        found = await db.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        tables = [row[0] for row in await found.fetchall()]
        assert "executions" in tables
        for table in tables:
            await db.execute(f"ALTER TABLE {table} ADD COLUMN of_the_future TEXT".encode())
            await db.execute(f"CREATE INDEX {table}_future ON {table} (of_the_future)".encode())
        await db.execute("CREATE TABLE of_the_future (id BIGINT PRIMARY KEY)")
        await db.execute("INSERT INTO schema_migrations (version, name) VALUES (9001, '9001_of_the_future')")


async def test_service_by_service_up_and_back(cluster: Cluster, old_release: Release) -> None:
    """Every mixture of old and new roles works on, and an old process restarts on the migrated database."""
    deployment = Deployment(cluster, free_ports(1), free_ports(1))
    cluster.release = old_release
    deployment.start(*deployment.names)
    client = await cluster.client("frontend")
    acknowledged: dict[str, int] = {}
    ended = asyncio.Event()
    with worker_process(f"127.0.0.1:{deployment.frontend}", "load"):
        loads = [asyncio.create_task(load(client, f"load-{n}", acknowledged, ended)) for n in range(3)]
        handles = await sleepers(client, "load", 10, 10.0)
        await asleep(client, 10)

        async def replace(name: str, release: Release) -> None:
            before = len(acknowledged)
            assert await cluster.stop(name) == 0
            cluster.release = release
            await asyncio.to_thread(deployment.start, name)
            await more_than(acknowledged, before + 6)

        migrated = False
        for release in (CURRENT, old_release):
            for name in deployment.names:
                await replace(name, release)
                if not migrated:
                    await add_what_may_come(cluster.url)
                    migrated = True
                    for other in ("matching-0", "frontend"):
                        await replace(other, old_release)
        ended.set()
        await asyncio.gather(*loads)
        async with asyncio.timeout(PATIENCE_S):
            for handle in handles:
                assert await handle.result() == "awake"
            started = [one.id async for one in client.list_workflows("WorkflowType IN ('Counter', 'Parent')")]
            assert set(started) >= set(acknowledged)
            for workflow_id in started:
                if not workflow_id.endswith(("-p", "-p-child")):
                    acknowledged.setdefault(workflow_id, 0)
            await asyncio.gather(*(finish(client, workflow_id, least) for workflow_id, least in acknowledged.items()))
            while (await client.count_workflows("ExecutionStatus = 'Running'")).count:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.2)
    for release in (CURRENT, old_release):
        cluster.release = release
        checked = await cluster.command("db", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_whole_servers_one_after_the_other(cluster: Cluster, old_release: Release) -> None:
    """Two servers that do everything, one of each release, in every order of restarts."""
    cluster.release = old_release
    ports = dict(zip("ab", free_ports(2), strict=True))

    def start(name: str, release: Release) -> None:
        cluster.release = release
        cluster.launch(name, "--port", str(ports[name]))
        cluster.servers[name].until_ready()

    for name in ports:
        await asyncio.to_thread(start, name, old_release)
    acknowledged: dict[str, int] = {}
    ended = asyncio.Event()
    with worker_process(f"127.0.0.1:{ports['a']}", "load"), worker_process(f"127.0.0.1:{ports['b']}", "load"):
        clients = {name: await cluster.client(name) for name in ports}
        loads = [
            asyncio.create_task(load(client, f"load-{name}", acknowledged, ended)) for name, client in clients.items()
        ]
        for name, release in (("a", CURRENT), ("b", old_release), ("b", CURRENT), ("a", old_release)):
            before = len(acknowledged)
            assert await cluster.stop(name) == 0
            await asyncio.to_thread(start, name, release)
            await more_than(acknowledged, before + 6)
        ended.set()
        await asyncio.gather(*loads)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(finish(clients["b"], name, least) for name, least in acknowledged.items()))
    cluster.release = CURRENT
    checked = await cluster.command("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_release_0_1_0_refuses_unknown_schema_versions(old_release: Release) -> None:
    """Release 0.1.0 refuses what it does not know in schema_version, and reads nothing else."""
    async with postgres.migrated_database() as url:

        def status() -> subprocess.CompletedProcess[str]:
            command = [*old_release.command, "db", "status", "--database-url", url]
            return subprocess.run(command, env=old_release.environment, capture_output=True, text=True, check=False)

        await add_what_may_come(url)
        done = await asyncio.to_thread(status)
        assert (done.returncode, "up to date" in done.stdout) == (0, True), done
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
            await db.execute("INSERT INTO schema_version (version, name) VALUES (4, 'recorded_as_0_1_0_did')")
        done = await asyncio.to_thread(status)
        assert (done.returncode, "schema version 4" in done.stderr) == (1, True), done
