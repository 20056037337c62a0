"""A bridge of one release beside a server of the other."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.bridge.programs import QUEUE, Order, Outcome, Parcel, charge
from tests.patience import PATIENCE_S
from tests.upgrade.release import CURRENT, Release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.sdk]


@asynccontextmanager
async def running(release: Release, folder: Path, *arguments: str, until: str) -> AsyncIterator[str]:
    """Run a command of a release; yield what it prints up to the line that begins with `until`."""
    process = await asyncio.create_subprocess_exec(
        *release.command, *arguments, cwd=folder, env={**os.environ, **release.environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        printed = ""
        async with asyncio.timeout(PATIENCE_S):
            while until not in printed:
                line = await process.stdout.readline()
                assert line, printed
                printed += line.decode()
        yield printed
    finally:
        process.terminate()
        await process.communicate()


def port_of(printed: str, label: str) -> int:
    return int(printed.partition(f"{label}:")[2].split()[0].rpartition(":")[2].strip("/"))


@pytest.mark.parametrize("which", ["an old bridge", "an old server"])
async def test_a_bridge_serves_beside_a_server_of_the_other_release(
    which: str, old_release: Release, tmp_path: Path
) -> None:
    server, bridge = (CURRENT, old_release) if which == "an old bridge" else (old_release, CURRENT)
    async with running(server, tmp_path, "server", "start-dev", "--port", "0", "--headless", until="State:") as started:
        target = f"http://127.0.0.1:{port_of(started, 'HTTP')}"
        async with running(
            bridge, tmp_path, "bridge", "--target", target, "--listen", "127.0.0.1:0", until="Target:"
        ) as listening:
            client = await Client.connect(f"127.0.0.1:{port_of(listening, 'gRPC')}")
            async with (
                asyncio.timeout(PATIENCE_S),
                Worker(client, task_queue=QUEUE, workflows=[Order, Parcel], activities=[charge]),
            ):
                handle = await client.start_workflow(Order.run, "tea", id=f"order-{uuid.uuid4()}", task_queue=QUEUE)
                await handle.signal(Order.note, "by train")
                assert await handle.execute_update(Order.address, "Paddington") == "sent to Paddington"
                assert await handle.result() == Outcome("charged tea", ["by train"], "Paddington", "parcel of tea")
