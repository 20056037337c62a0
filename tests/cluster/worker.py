"""A worker as a process of its own, to be killed: `python -m tests.cluster.worker ADDRESS QUEUE`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.client import Client
from temporalio.worker import Worker

from tests.cluster.workflows import WORKFLOWS, fails_twice

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def worker_process(address: str, queue: str) -> Iterator[None]:
    """One that may lose its server: in the test's own process it would wait for it for ever."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.worker", address, queue], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


async def main(address: str, queue: str) -> None:
    client = await Client.connect(address)
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[fails_twice]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
