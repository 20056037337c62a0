"""One backend with a fake clock, and workers of several versions of the deployment `d` on the task queue `q`."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.faults import Weather
from tests.turns import at_once
from whistlestop.common.errors import deadline_exceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

PINNED, AUTO_UPGRADE = 1, 2
CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
INACTIVE = enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
DRAINED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED


def options(build_id: str, deployment: str = "d") -> dict[str, Any]:
    """What a worker of the build says of itself; nothing where it is unversioned."""
    if not build_id:
        return {}
    return {"deployment_options": {"deployment_name": deployment, "build_id": build_id, "worker_versioning_mode": 2}}


class Site:
    """One backend, and workers of several builds."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
        return await self.backend.call(method, request, getattr(rr, f"{method}Response"))

    async def poll(self, build_id: str, kind: str = "Workflow", *, queue: str = "q", deployment: str = "d") -> Any:
        """The task that a worker of the build gets at once; None: it would wait."""
        worker = {"task_queue": {"name": queue}, "identity": f"w{build_id}", **options(build_id, deployment)}
        return await at_once(self.call(f"Poll{kind}TaskQueue", **worker))

    async def within(self, seconds: float, call: Coroutine[Any, Any, Any]) -> Any:
        """What a call that waits answers when so much time has passed; it is given up when it has not answered."""
        task = asyncio.ensure_future(call)
        for _ in range(500):
            await asyncio.sleep(0)
        await self.backend.clock.advance(seconds)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise deadline_exceeded()
        return task.result()

    async def start(self, workflow_id: str, **fields: Any) -> None:
        await self.call(
            "StartWorkflowExecution", workflow_id=workflow_id, request_id=workflow_id, workflow_type={"name": "T"},
            **{"task_queue": {"name": "q"}, **fields},
        )  # fmt: skip

    async def complete(self, task: Any, build_id: str, behavior: int, commands: list[Any] | None = None) -> None:
        await self.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, versioning_behavior=behavior,
            commands=commands or [], **options(build_id),
        )  # fmt: skip

    async def current(self, build_id: str, **fields: Any) -> Any:
        return await self.call("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id=build_id, **fields)

    async def signal(self, workflow_id: str) -> None:
        await self.call(
            "SignalWorkflowExecution", workflow_execution={"workflow_id": workflow_id}, signal_name="s",
            request_id=f"{workflow_id}-{self.backend.clock.now_ns()}",
        )  # fmt: skip

    async def statuses(self) -> dict[str, int]:
        described = await self.call("DescribeWorkerDeployment", deployment_name="d")
        summaries = described.worker_deployment_info.version_summaries
        return {each.deployment_version.build_id: each.status for each in summaries}


@asynccontextmanager
async def opened(*dynamic: str, builds: tuple[str, ...] = ("1", "2")) -> AsyncIterator[Site]:
    """A site with these dynamic settings, where workers of these builds have polled."""
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=1, weather=weather, note=lambda _: None, dynamic=dynamic)
    await backend.open()
    made = Site(backend)
    for build_id in builds:
        for kind in ("Workflow", "Activity"):
            assert await made.poll(build_id, kind) is None
    yield made
    await backend.close()
