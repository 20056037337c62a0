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
from tests.upgrade.release import CURRENT
from whistlestop.bridge import BridgeConfig, RunningBridge
from whistlestop.bridge.sqs import SqsNotificationQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.upgrade.release import Release

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

    def release(self, function: str, which: str) -> None:
        """Let calls go to the `new` or the `old` release of a function."""
        _point(self.cloud.folder, function, which)

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
    notification_queue: str = "auto",
    instances: int = INSTANCES,
    old: Release | None = None,
) -> AsyncIterator[Line]:
    """The three functions over that database, with the namespace `default`. `faults` are those of all messages.

    With an `old` release there are functions of that one as well, which are those that are called at first.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    env = {"WHISTLESTOP_DATABASE_URL": database_url, **fake_aws.ENVIRONMENT}
    async with AsyncExitStack() as stack:
        if old is None:
            async with opened(env) as store:
                await store.migrate()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ws-")))
        if old is None:
            running = stack.enter_context(small_lambda.running(folder, instances))
        else:
            running = _two_releases(stack, folder, instances, old)
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
        stack.enter_context(mock.patch.object(SqsNotificationQueue, "_client", return_value=fake.client()))
        config = BridgeConfig(url, notification_queue=notification_queue, log_every_s=0)
        bridge = await stack.enter_async_context(RunningBridge(config))
        yield Line(running, cloud, front, fake, bridge)


def _two_releases(stack: AsyncExitStack, folder: Path, instances: int, old: Release) -> small_lambda.Platform:
    """Start both; the sockets of `folder` lead to one or the other. Returns the platform of the new ones."""
    platforms = {}
    for which, release in (("old", old), ("new", CURRENT)):
        (folder / which).mkdir()
        platforms[which] = stack.enter_context(
            small_lambda.running(folder / which, instances, calls=folder, release=release)
        )
    for function in instance.FUNCTIONS:
        _point(folder, function, "old")
    return platforms["new"]


def _point(folder: Path, function: str, which: str) -> None:
    link = folder / f"{function}.next"
    link.symlink_to(folder / which / f"{function}.sock")
    link.rename(folder / f"{function}.sock")
