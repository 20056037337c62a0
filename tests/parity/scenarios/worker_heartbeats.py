"""What workers say of themselves, and how it is shown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.parity.puppet import cases
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def told_and_shown(p: Puppet) -> None:
    for number in (1, 2):
        heartbeat = {
            "worker_instance_key": p.id(f"worker-{number}"),
            "worker_identity": f"worker {number}",
            "task_queue": p.task_queue,
            "sdk_name": "puppet",
            "sdk_version": f"1.{number}",
            "status": "WORKER_STATUS_RUNNING",
            "workflow_task_slots_info": {"current_available_slots": 5, "current_used_slots": number},
        }
        await p.call("RecordWorkerHeartbeat", identity="worker", worker_heartbeat=[heartbeat])
    query = f"TaskQueue = '{p.task_queue}'"
    for _ in range(3000):
        if (await p.call("CountWorkers", record=False, query=query)).count == 2:
            break
        await asyncio.sleep(0.1)
    await p.call("DescribeWorker", worker_instance_key=p.id("worker-1"))
    await p.refused("DescribeWorker", worker_instance_key=p.id("nobody"))
    await p.refused("DescribeWorker")
    for fields in cases(
        {"query": query},
        {"query": f"{query} AND SdkVersion = '1.2'"},
        {"query": f"{query} AND WorkerIdentity = 'nobody'"},
        {"query": "Nonsense = 'x'"},
    ):
        await p.attempt("CountWorkers", **fields)
