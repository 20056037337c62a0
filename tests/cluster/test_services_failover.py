"""One service process of several is killed under load: its callers are told to try again, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError
from temporalio.worker import Worker

from tests.cluster.services import Deployment
from tests.cluster.test_failover import CALL_S, asleep, finish, sleepers
from tests.cluster.worker import worker_process
from tests.cluster.workflows import WORKFLOWS, Counter, Echo, Parent
from tests.patience import PATIENCE_S
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from temporalio.client import Client

    from tests.cluster.conftest import Cluster


@pytest.mark.slow
async def test_kill_of_each_in_turn_under_load_loses_nothing(cluster: Cluster) -> None:
    deployment = Deployment(cluster, free_ports(1), free_ports(1))
    deployment.start(*deployment.names)
    client = await cluster.client("frontend")
    acknowledged: dict[str, int] = {}
    ended = asyncio.Event()
    with worker_process(f"127.0.0.1:{deployment.frontend}", "load"):
        loads = [asyncio.create_task(load(client, f"load-{n}", acknowledged, ended)) for n in range(4)]
        handles = await sleepers(client, "load", 10, 6.0)
        await asleep(client, 10)
        counts = []
        for name in deployment.names:
            before = len(acknowledged)
            cluster.kill(name)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(deployment.start, name)
            await more_than(acknowledged, before + 8)
            counts.append(len(acknowledged) - before)
        ended.set()
        await asyncio.gather(*loads)
        print(f"{len(acknowledged)} workflows acknowledged; after each kill: {counts}")
        async with asyncio.timeout(PATIENCE_S):
            for handle in handles:
                assert await handle.result() == "awake"
            # Started, too, may be what was not acknowledged.
            started = [one.id async for one in client.list_workflows("WorkflowType IN ('Counter', 'Parent')")]
            assert set(started) >= set(acknowledged)
            for workflow_id in started:
                if not workflow_id.endswith(("-p", "-p-child")):
                    acknowledged.setdefault(workflow_id, 0)
            await asyncio.gather(*(finish(client, workflow_id, least) for workflow_id, least in acknowledged.items()))
            while (await client.count_workflows("ExecutionStatus = 'Running'")).count:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.2)
    checked = await cluster.command("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def load(client: Client, name: str, acknowledged: dict[str, int], ended: asyncio.Event) -> None:
    """Start workflows, signal and update them; note what was acknowledged, as `finish` wants it. Failures are met."""
    n = 0
    while not ended.is_set():
        n += 1
        workflow_id = f"{name}-{n}"
        with suppress(RPCError, TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            async with asyncio.timeout(CALL_S):
                handle = await client.start_workflow(Counter.run, id=workflow_id, task_queue="load")
                acknowledged[workflow_id] = 0
                await client.start_workflow(Parent.run, f"{workflow_id}-p", id=f"{workflow_id}-p", task_queue="load")
                acknowledged[f"{workflow_id}-p"] = -1
                await handle.signal(Counter.add, 1)
                acknowledged[workflow_id] = 1
                await handle.execute_update(Counter.add_and_tell, 2)
                acknowledged[workflow_id] = 3


async def more_than(acknowledged: dict[str, int], count: int) -> None:
    """Until the load has got that far."""
    async with asyncio.timeout(PATIENCE_S):
        while len(acknowledged) <= count:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_each_of_two_processes_survives_the_other(cluster: Cluster) -> None:
    """No restart is waited for: who takes no connection is passed over."""
    deployment = Deployment(cluster, free_ports(2), free_ports(2))
    deployment.start(*deployment.names)
    client = await cluster.client("frontend")

    async def echo(prefix: str) -> float:
        began = time.monotonic()
        jobs = (client.execute_workflow(Echo.run, "x", id=f"{prefix}-{n}", task_queue=f"q{n % 4}") for n in range(20))
        async with asyncio.timeout(PATIENCE_S):
            assert set(await asyncio.gather(*jobs)) == {"x"}
        return time.monotonic() - began

    workers = [Worker(client, task_queue=f"q{n}", workflows=WORKFLOWS) for n in range(4)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    await echo("before")
    cluster.kill("history-0")
    print(f"without one history: {await echo('without-history'):.1f} s")
    cluster.kill("matching-1")
    print(f"without one matching: {await echo('without-matching'):.1f} s")
    await asyncio.gather(*(worker.shutdown() for worker in workers))
    await asyncio.gather(*running)
