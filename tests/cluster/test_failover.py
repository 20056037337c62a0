"""A process of several is killed, or leaves: the others take over what it had armed, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from psycopg import AsyncConnection
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError
from temporalio.worker import Worker

from tests.cluster.worker import worker_process
from tests.cluster.workflows import WORKFLOWS, Counter, Parent, Sleeper, fails_twice
from tests.patience import PATIENCE_S
from whistlestop.server.ranges import RANGES

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

    from tests.cluster.conftest import Cluster


CALL_S = 15.0
"""After which a call to a server that was killed is given up."""
ENOUGH = 10
"""Workflows that were acknowledged before the kill."""


async def owners(cluster: Cluster) -> dict[str, int]:
    """How many ranges each member scans, by host id ('': nobody)."""
    async with await AsyncConnection.connect(cluster.url) as connection:
        rows = await (await connection.execute("SELECT owner, count(*) FROM shards GROUP BY owner")).fetchall()
    return dict(rows)


async def shared_by(cluster: Cluster, count: int) -> float:
    """Wait until `count` members scan all ranges between them; return how long that took in seconds."""
    began = time.monotonic()
    while True:
        found = await owners(cluster)
        if len(found) == count and "" not in found and sum(found.values()) == RANGES:
            return time.monotonic() - began
        assert time.monotonic() < began + PATIENCE_S, f"ranges are scanned by {found}"
        await asyncio.sleep(0.1)


async def test_ranges_are_shared_and_handed_over_by_one_that_leaves(cluster: Cluster) -> None:
    cluster.start("a", "b", "c")
    await shared_by(cluster, 3)
    a, b = await cluster.client("a"), await cluster.client("b")
    async with Worker(a, task_queue="sleepers", workflows=WORKFLOWS):
        handles = await sleepers(a, "sleepers", 10, 3.0)
        await asleep(a, 10)
    assert await cluster.stop("a") == 0
    after_goodbye_s = await shared_by(cluster, 2)
    assert {member["address"] for member in await cluster.members()} == {
        cluster.servers["b"].address, cluster.servers["c"].address,
    }  # fmt: skip
    async with Worker(b, task_queue="sleepers", workflows=WORKFLOWS):
        for handle in handles:
            assert await b.get_workflow_handle(handle.id).result() == "awake"
    cluster.kill("b")
    after_kill_s = await shared_by(cluster, 1)
    assert after_goodbye_s < after_kill_s / 2, "one that leaves must not be waited for until it counts as silent"


async def expiry(cluster: Cluster) -> datetime:
    """When the first row of a member expires."""
    async with await AsyncConnection.connect(cluster.url) as connection:
        row = await (await connection.execute("SELECT min(expires_ns) FROM cluster_membership")).fetchone()
    assert row is not None
    return datetime.fromtimestamp(row[0] / 1e9, UTC)


async def sleepers(client: Client, queue: str, count: int, seconds: float) -> list[WorkflowHandle[Sleeper, str]]:
    return [
        await client.start_workflow(Sleeper.run, seconds, id=f"sleeper-{n}", task_queue=queue) for n in range(count)
    ]


async def asleep(client: Client, count: int) -> None:
    """Until that many have their timer."""
    while (await client.count_workflows("HistoryLength >= 5")).count < count:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.05)


async def load(client: Client, other: Client, name: str, acknowledged: dict[str, int]) -> None:
    """Start workflows, signal and update them, until the server is gone; note what was acknowledged.

    The value is what a counter has to come to at least; -1 for a parent.
    """
    for n in range(1000):
        workflow_id = f"{name}-{n}"
        with suppress(RPCError, TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            async with asyncio.timeout(CALL_S):
                handle = await client.start_workflow(Counter.run, id=workflow_id, task_queue="load")
                acknowledged[workflow_id] = 0
                parent_id = f"{workflow_id}-p"
                await client.start_workflow(Parent.run, parent_id, id=parent_id, task_queue="load")
                acknowledged[parent_id] = -1
                await other.get_workflow_handle(workflow_id).signal(Counter.add, 1)
                acknowledged[workflow_id] = 1
                await handle.execute_update(Counter.add_and_tell, 2)
                acknowledged[workflow_id] = 3
                continue
        return


async def finish(client: Client, workflow_id: str, least: int) -> None:
    handle = client.get_workflow_handle(workflow_id, result_type=int)
    if least < 0:
        # Its child ends when the parent says so.
        assert await handle.result() == 3
        return
    await handle.signal(Counter.end)
    assert await handle.result() >= least


async def test_kill_of_one_under_load_loses_nothing(cluster: Cluster) -> None:
    cluster.start("a", "b")
    await shared_by(cluster, 2)
    a, b = await cluster.client("a"), await cluster.client("b")
    acknowledged: dict[str, int] = {}
    async with Worker(b, task_queue="load", workflows=WORKFLOWS, activities=[fails_twice], max_cached_workflows=50):
        with worker_process(cluster.servers["a"].address, "load"):
            loads = [asyncio.create_task(load(a, b, f"load-{n}", acknowledged)) for n in range(4)]
            handles = await sleepers(a, "load", 10, 4.0)
            async with asyncio.timeout(PATIENCE_S):
                while len(acknowledged) <= ENOUGH:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
            killed = time.monotonic()
            cluster.kill("a")
        await asyncio.gather(*loads)
        await shared_by(cluster, 1)
        print(f"taken over after {time.monotonic() - killed:.1f} s; {len(acknowledged)} workflows acknowledged")
        for handle in handles:
            assert await b.get_workflow_handle(handle.id).result() == "awake"
        # Started, too, may be what was not acknowledged any more.
        started = [one.id async for one in b.list_workflows("WorkflowType IN ('Counter', 'Parent')")]
        assert set(started) >= set(acknowledged)
        for workflow_id in started:
            if not workflow_id.endswith(("-p", "-p-child")):
                acknowledged.setdefault(workflow_id, 0)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(finish(b, workflow_id, least) for workflow_id, least in acknowledged.items()))
            while (await b.count_workflows("ExecutionStatus = 'Running'")).count:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)
        print(f"all finished after {time.monotonic() - killed:.1f} s")
    checked = await cluster.command("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_a_server_started_after_a_kill_does_not_wait_for_rows_to_expire(cluster: Cluster) -> None:
    cluster.start("a")
    a = await cluster.client("a")
    with worker_process(cluster.servers["a"].address, "sleepers"):
        await sleepers(a, "sleepers", 1, 1.0)
        await asleep(a, 1)
        cluster.kill("a")
    expires = await expiry(cluster)
    cluster.start("b")
    b = await cluster.client("b")
    async with Worker(b, task_queue="sleepers", workflows=WORKFLOWS):
        handle = b.get_workflow_handle("sleeper-0")
        assert await handle.result() == "awake"
        closed = (await handle.describe()).close_time
    assert closed is not None
    assert closed < expires


DUE = 250
DUE_IN_S = 8.0
LAST_START_S = 2.0
BATCHES = 5
"""So many tries to catch the scan in the middle."""


async def start_due_at(clients: list[Client], at: float, prefix: str) -> list[str]:
    """Workflows that nobody works on, and whose time is over at one instant; as many as can be started before."""
    names: list[str] = []

    async def start_some(client: Client) -> None:
        while len(names) < DUE and (left_s := at - time.time()) > LAST_START_S:
            names.append(f"{prefix}-{len(names)}")
            await client.start_workflow(
                Sleeper.run, 0.0, id=names[-1], task_queue="nobody", execution_timeout=timedelta(seconds=left_s)
            )

    await asyncio.gather(*(start_some(client) for client in clients * 8))
    return names


async def test_kill_of_one_in_the_middle_of_a_scan(cluster: Cluster) -> None:
    """What it was about to fire fires, once: no run stays open, none ends twice."""
    cluster.start("a", "b")
    await shared_by(cluster, 2)
    a, b = await cluster.client("a"), await cluster.client("b")
    names: list[str] = []
    for batch in range(BATCHES):
        before = len(names)
        names += await start_due_at([a, b], time.time() + DUE_IN_S, f"due-{batch}")
        ended = 0
        while ended <= before:
            ended = (await b.count_workflows("ExecutionStatus = 'TimedOut'")).count
        if ended < len(names):
            break
    cluster.kill("a")
    print(f"killed when {ended} of {len(names)} had fired")
    assert ended < len(names), "all was over before anything was killed"
    async with asyncio.timeout(PATIENCE_S):
        while (await b.count_workflows("ExecutionStatus = 'TimedOut'")).count < len(names):  # noqa: ASYNC110 - of others
            await asyncio.sleep(0.2)
    for name in names:
        history = await b.get_workflow_handle(name).fetch_history()
        ends = [event for event in history.events if event.HasField("workflow_execution_timed_out_event_attributes")]
        assert len(ends) == 1
        assert history.events[-1] == ends[0]
    checked = await cluster.command("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
