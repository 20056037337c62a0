"""The three functions, their AWS, and a bridge before them, all on this machine and counted."""

from __future__ import annotations

import asyncio
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from tests.bridge.targets import Front, serving
from tests.functions import fake_aws, instance, small_lambda
from tests.functions.client import SCHEDULED, Cloud, opened
from whistlestop.bridge import BridgeConfig, RunningBridge
from whistlestop.bridge.sqs import SqsWakeQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INSTANCES = 12
NO_FAULTS = fake_aws.Faults()
THREADS = 64
"""Calls under way at once: updates and queries are held by a function."""


@dataclass(slots=True)
class Line:
    """Functions, their AWS, and a bridge before them."""

    platform: small_lambda.Platform
    cloud: Cloud
    front: Front
    aws: fake_aws.FakeAws
    bridge: RunningBridge

    async def sweep(self, every_s: float) -> None:
        """The recurring schedule."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(instance.call, self.cloud.folder, "history", SCHEDULED, self.cloud.env)


@asynccontextmanager
async def built(
    database_url: str,
    *,
    seed: int = 0,
    faults: fake_aws.Faults = NO_FAULTS,
    wake_queue: str = "auto",
    instances: int = INSTANCES,
) -> AsyncIterator[Line]:
    """The three functions over that database, with the namespace `default`. `faults` are those of all messages."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    env = {"WHISTLESTOP_DATABASE_URL": database_url, **fake_aws.ENVIRONMENT}
    async with AsyncExitStack() as stack:
        async with opened(env) as store:
            await store.migrate()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ws-")))
        running = stack.enter_context(small_lambda.running(folder, instances))
        cloud = Cloud(folder, env)

        async def wake(bodies: list[str]) -> object:
            records = [{"eventSource": "aws:sqs", "messageId": body, "body": body} for body in bodies]
            return await asyncio.to_thread(instance.call, folder, "history", {"Records": records}, cloud.env)

        fake = await stack.enter_async_context(fake_aws.FakeAws(folder, wake, random.Random(seed), faults, faults))
        await cloud.call(
            "RegisterNamespace", namespace="default", workflow_execution_retention_period={"seconds": 24 * 3600}
        )
        front = Front(cloud)
        url = await stack.enter_async_context(serving(front))
        stack.enter_context(mock.patch.object(SqsWakeQueue, "_client", return_value=fake.client()))
        config = BridgeConfig(url, wake_queue=wake_queue, log_every_s=0)
        bridge = await stack.enter_async_context(RunningBridge(config))
        yield Line(running, cloud, front, fake, bridge)
