"""A rolling upgrade from release 0.1.0 and back, function by function, under load: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tests import postgres
from tests.crash import load
from tests.functions.instance import FUNCTIONS
from tests.functions.line import built
from tests.patience import PATIENCE_S
from tests.upgrade.release import CURRENT, Release
from tests.upgrade.test_processes import add_what_may_come

if TYPE_CHECKING:
    from tests.functions.line import Line

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.sdk]

SWEEP_S = 2.0
ORDERS = 2
"""Results that have to come before the next function is replaced."""


async def _migrate(release: Release, url: str) -> None:
    """As `deploy aws` does: the schema goes first."""
    done = await asyncio.to_thread(
        subprocess.run, [*release.command, "db", "migrate", "--database-url", url],
        env=release.environment or None, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


async def _replace_all(line: Line, url: str, traffic: load.Load) -> None:
    async def more_results() -> None:
        before = len(traffic.told.results)
        async with asyncio.timeout(PATIENCE_S):
            while len(traffic.told.results) < before + ORDERS:  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.1)

    await more_results()
    await _migrate(CURRENT, url)
    await add_what_may_come(url)
    await more_results()
    for which in ("new", "old"):
        for function in FUNCTIONS:
            line.release(function, which)
            await more_results()


async def test_function_by_function_up_and_back(old_release: Release) -> None:
    """The schema first, then each function; a rollback of the stack goes the same way."""
    async with postgres.fresh_database() as url:
        await _migrate(old_release, url)
        async with built(url, instances=6, old=old_release) as line:
            sweeping = asyncio.create_task(line.sweep(SWEEP_S))
            client = await Client.connect(line.bridge.address)
            traffic = load.Load(client, "order-", 3)
            async with Worker(
                client, task_queue=load.QUEUE, workflows=[load.Order, load.Child],
                activities=[load.quick, load.from_outside], max_cached_workflows=20,
                graceful_shutdown_timeout=timedelta(),
            ):  # fmt: skip
                running = asyncio.create_task(traffic.run())
                await _replace_all(line, url, traffic)
                traffic.stopping = True
                await asyncio.wait_for(running, PATIENCE_S)
                assert await load.check(client, traffic.told) == []
            sweeping.cancel()
        checked = await asyncio.to_thread(
            subprocess.run, [*CURRENT.command, "db", "check", "--database-url", url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr
