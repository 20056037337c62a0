"""A long-lived server and functions on one Postgres: what a function commits, the server's waiting callers hear at once."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.worker import Worker

from tests.cluster.workflows import WORKFLOWS
from tests.functions import small_lambda
from tests.functions.client import Cloud
from tests.parity import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Cluster

SOON_S = 20.0
"""On a busy machine. Without a hint the server would look again after half a minute."""
IDLE_S = 2.0


@contextmanager
def functions(url: str) -> Iterator[Cloud]:
    with tempfile.TemporaryDirectory(prefix="ws-") as folder, small_lambda.running(Path(folder), 2):
        yield Cloud(Path(folder), {"WHISTLESTOP_DATABASE_URL": url})


async def test_a_held_poll_gets_a_task_that_a_function_wrote(cluster: Cluster) -> None:
    cluster.start("a")
    a = await cluster.client("a")
    with functions(cluster.url) as cloud:
        async with Worker(a, task_queue="sleepers", workflows=WORKFLOWS):
            await asyncio.sleep(IDLE_S)
            began = time.monotonic()
            await cloud.start(
                "sleeper",
                workflow_type={"name": "Sleeper"},
                task_queue={"name": "sleepers"},
                input={"payloads": [{"metadata": {"encoding": b"json/plain"}, "data": b"0.1"}]},
            )
            assert await a.get_workflow_handle("sleeper").result() == "awake"
            assert time.monotonic() - began < SOON_S


async def test_a_client_of_the_server_hears_of_an_end_that_a_function_wrote(cluster: Cluster) -> None:
    cluster.start("a")
    a = await cluster.client("a")
    with functions(cluster.url) as cloud:
        handle = await a.start_workflow("Journey", id="journey", task_queue="line")
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.sleep(IDLE_S)
        assert not waiting.done()
        began = time.monotonic()
        await cloud.step(commands.complete_workflow("done"))
        assert await waiting == "done"
        assert time.monotonic() - began < SOON_S
