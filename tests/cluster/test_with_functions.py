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
    from collections.abc import Awaitable, Callable, Iterator

    from tests.cluster.conftest import Cluster

IDLE_S = 2.0
LONG_POLL_S = 20.0
"""At which the server answers, whether or not something happened."""


async def at_least_once_before_the_long_poll_ends(attempt: Callable[[str], Awaitable[float]]) -> None:
    """Try up to three times, on a busy machine; `attempt` is given an id and returns the seconds that it waited.

    Without a notification each try would last until the server ends its long poll.
    """
    spans_s = []
    for number in range(3):
        spans_s.append(await attempt(f"attempt-{number}"))
        if spans_s[-1] < LONG_POLL_S:
            return
    raise AssertionError(f"no notification arrived: {spans_s} s")


@contextmanager
def functions(url: str) -> Iterator[Cloud]:
    with tempfile.TemporaryDirectory(prefix="ws-") as folder, small_lambda.running(Path(folder), 2):
        yield Cloud(Path(folder), {"WHISTLESTOP_DATABASE_URL": url})


async def test_a_waiting_poll_gets_a_task_that_a_function_wrote(cluster: Cluster) -> None:
    cluster.start("a")
    a = await cluster.client("a")
    with functions(cluster.url) as cloud:
        async with Worker(a, task_queue="sleepers", workflows=WORKFLOWS):

            async def start_there(workflow_id: str) -> float:
                await asyncio.sleep(IDLE_S)
                began = time.monotonic()
                await cloud.start(
                    workflow_id,
                    workflow_type={"name": "Sleeper"},
                    task_queue={"name": "sleepers"},
                    input={"payloads": [{"metadata": {"encoding": b"json/plain"}, "data": b"0.1"}]},
                )
                assert await a.get_workflow_handle(workflow_id).result() == "awake"
                return time.monotonic() - began

            await at_least_once_before_the_long_poll_ends(start_there)


async def test_a_client_of_the_server_sees_an_end_that_a_function_wrote(cluster: Cluster) -> None:
    cluster.start("a")
    a = await cluster.client("a")
    with functions(cluster.url) as cloud:

        async def end_there(workflow_id: str) -> float:
            handle = await a.start_workflow("Journey", id=workflow_id, task_queue="line")
            waiting = asyncio.ensure_future(handle.result())
            await asyncio.sleep(IDLE_S)
            assert not waiting.done()
            began = time.monotonic()
            await cloud.step(commands.complete_workflow("done"))
            assert await waiting == "done"
            return time.monotonic() - began

        await at_least_once_before_the_long_poll_ends(end_there)
