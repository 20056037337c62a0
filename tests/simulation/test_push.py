"""Workers on demand in bad weather: crashes, lost hints, writes that fail. Nobody works but who is started."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.faults import Weather
from tests.simulation.loop import SimulatedLoop, simulate
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.matching.push.provider import Work

VERSION = {"deployment_name": "d", "build_id": "1"}
OPTIONS = {**VERSION, "worker_versioning_mode": 2}
QUEUE = {"name": "q"}
WORKFLOWS = 25
LONGEST_S = 900


class Site:
    """A backend, and a provider whose workers work until they find nothing, and then say goodbye, mostly."""

    backlog_per_worker = 5

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        weather = Weather(crash=0.006)
        self.loop = SimulatedLoop()
        self.backend = Backend(self.chance, processes=2, weather=weather, note=lambda _: None, loop=self.loop)
        self.backend.providers = {"aws-lambda": self}
        self.workers: dict[asyncio.Task[None], None] = {}
        self.started = self.most_at_once = 0

    def check(self, details: Mapping[str, Any]) -> None:
        return None

    async def validate(self, details: Mapping[str, Any]) -> None:
        return None

    async def start(self, details: Mapping[str, Any], work: Work, count: int) -> int:
        for _ in range(count):
            self.started += 1
            worker = asyncio.ensure_future(self._work(f"w{self.started}"))
            self.workers[worker] = None
            worker.add_done_callback(self.workers.pop)
        self.most_at_once = max(self.most_at_once, len(self.workers))
        return count

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
        return await self.backend.call(method, request, getattr(rr, f"{method}Response"))

    async def insist(self, method: str, **fields: Any) -> Any:
        """As SDKs do: again, while the server is away."""
        while True:
            try:
                return await self.call(method, **fields)
            except ServiceError as error:
                if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    raise
                await self.backend.clock.sleep(0.2)

    async def _work(self, name: str) -> None:
        await self.backend.clock.sleep(self.chance.random() * 3)
        if self.chance.random() < 0.15:
            return  # It never came up.
        for _ in range(20):
            task = await self.insist(
                "PollWorkflowTaskQueue", task_queue=QUEUE, identity=name, deployment_options=OPTIONS
            )
            if not task.task_token:
                break
            if self.chance.random() < 0.05:
                return  # It died with a task in its hands.
            try:
                await self.insist(
                    "RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS,
                    commands=[{"command_type": 4, "complete_workflow_execution_command_attributes": {}}],
                )  # fmt: skip
            except ServiceError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
        goodbye = {"worker_heartbeat": {"deployment_version": VERSION}, "identity": name}
        await self.insist("ShutdownWorker", task_queue=QUEUE["name"], **goodbye)

    async def run(self) -> None:
        """Set up, start workflows in the storm, and wait until all are done."""
        await self.insist("CreateWorkerDeployment", deployment_name="d", request_id="d")
        config = {"scaling_groups": {"default": {"provider": {"type": "aws-lambda"}}}}
        await self.insist(
            "CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id="v", compute_config=config
        )
        while not (
            await self.insist("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
        ).version_task_queues:
            await self.backend.clock.sleep(1)
            if not self.workers:
                await self.start({}, None, 1)  # type: ignore[arg-type]
        await self.insist("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
        for number in range(WORKFLOWS):
            await self.insist(
                "StartWorkflowExecution", workflow_id=f"w{number}", request_id=f"r{number}", workflow_type={"name": "T"},
                task_queue=QUEUE,
            )  # fmt: skip
            await self.backend.clock.sleep(self.chance.random() * 4)
        while (await self.insist("CountWorkflowExecutions", query="ExecutionStatus = 'Running'")).count:
            await self.backend.clock.sleep(1)

    async def until_over(self) -> None:
        """Run for at most LONGEST_S, starting processes in place of those that died."""
        await self.backend.open()
        running = asyncio.ensure_future(self.run())
        try:
            for _ in range(LONGEST_S):
                await self.backend.clock.sleep(1)
                await self.backend.fill()
                if running.done():
                    break
            assert running.done(), f"not over after {LONGEST_S} s with {self.started} workers"
            await running
        finally:
            running.cancel()
            for worker in self.workers:
                worker.cancel()
            await asyncio.gather(running, *self.workers, return_exceptions=True)
            await self.backend.close()


@pytest.mark.parametrize("seed", range(1, 13))
def test_every_workflow_finds_a_worker(seed: int) -> None:
    site = Site(seed)
    simulate(site.until_over(), site.loop)
    assert site.most_at_once <= 11, "the cap, and one of whom nobody heard"
