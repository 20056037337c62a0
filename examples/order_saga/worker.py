"""Run a worker for orders: `python -m order_saga.worker [HOST:PORT]`, from the folder `examples`."""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client
from temporalio.worker import Worker

from order_saga import activities
from order_saga.model import TASK_QUEUE
from order_saga.workflows import OrderWorkflow


def make_worker(client: Client) -> Worker:
    """Return a worker that is not running yet."""
    return Worker(client, task_queue=TASK_QUEUE, workflows=[OrderWorkflow], activities=activities.ALL)


async def main(address: str) -> None:
    """Run the worker until interrupted."""
    client = await Client.connect(address)
    print(f"working on task queue {TASK_QUEUE} of {address}; Ctrl-C ends it")
    await make_worker(client).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7233"))
