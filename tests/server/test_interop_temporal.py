"""Temporal's own clients against the real command: the SDK (tonic), and the CLI (grpc-go)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import GrpcCompression, RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.conftest import Running

pytestmark = pytest.mark.sdk
_CLI = Path(sys.executable).with_name("temporal")


@activity.defn
async def large(size: int) -> str:
    return "x" * size


@workflow.defn
class Large:
    @workflow.run
    async def run(self, size: int) -> int:
        text: str = await workflow.execute_activity(large, size, start_to_close_timeout=timedelta(seconds=30))
        return len(text)


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@pytest.mark.parametrize("compression", [GrpcCompression.GZIP, GrpcCompression.NONE])
async def test_the_sdk_runs_workflows(start_dev: Callable[..., Running], compression: GrpcCompression) -> None:
    """With large payloads, long polls, and a result that is waited for."""
    server = start_dev()
    client = await Client.connect(server.address, grpc_compression=compression)
    queue = uuid.uuid4().hex
    worker = Worker(
        client, task_queue=queue, workflows=[Large], activities=[large], workflow_runner=UnsandboxedWorkflowRunner()
    )
    async with worker:
        runs = (client.execute_workflow(Large.run, 200_000, id=f"w{n}", task_queue=queue) for n in range(5))
        assert await asyncio.gather(*runs) == [200_000] * 5
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle("none").describe()
    assert await server.end_async() == 0


async def test_an_open_long_poll_is_no_obstacle_to_the_end(start_dev: Callable[..., Running]) -> None:
    """SIGTERM with polls and a waiting client."""
    server = start_dev()
    client = await Client.connect(server.address)
    handle = await client.start_workflow(Waits.run, id="w", task_queue="q")
    waiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(0.2)
    assert await asyncio.wait_for(server.end_async(), 15) == 0
    waiting.cancel()
    with pytest.raises((asyncio.CancelledError, RPCError, WorkflowFailureError)):
        await waiting


@pytest.mark.skipif(not _CLI.exists(), reason="needs the temporal CLI")
async def test_the_cli(start_dev: Callable[..., Running]) -> None:
    """Start, list, describe, terminate, and the words of an error."""
    server = start_dev()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(_CLI), *arguments, "--address", server.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def check() -> None:
        start = run("workflow", "start", "--type", "T", "--task-queue", "q", "--workflow-id", "from-cli", "-o", "json")
        assert start.returncode == 0, start.stderr
        assert "from-cli" in run("workflow", "list").stdout
        assert "from-cli" in run("workflow", "describe", "-w", "from-cli").stdout
        assert run("workflow", "terminate", "-w", "from-cli").returncode == 0
        assert "not found" in run("workflow", "describe", "-w", "nobody").stderr
        assert "SERVING" in run("operator", "cluster", "health").stdout

    await asyncio.to_thread(check)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_server_does_without_grpcio(start_dev: Callable[..., Running]) -> None:
    """Nine megabytes that nothing uses."""
    server = start_dev()
    assert "cygrpc" not in Path(f"/proc/{server.process.pid}/maps").read_text()
