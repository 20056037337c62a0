"""The row of a namespace's worker deployments under many writers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from whistlestop.common.clock import FakeClock
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import LeaseLost

if TYPE_CHECKING:
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import TaskQueueRecord

WRITERS = 60


class SlowStore:
    """One row; every call takes long enough that all who begin together read the same row."""

    def __init__(self) -> None:
        self.row: TaskQueueRecord | None = None
        self.puts = 0

    async def get_task_queue(self, *key: Any) -> TaskQueueRecord | None:
        found = self.row
        await asyncio.sleep(0)
        return found

    async def put_task_queue(self, row: TaskQueueRecord, expected: int) -> None:
        self.puts += 1
        if (self.row.range_id if self.row is not None else 0) != expected:
            raise LeaseLost("changed")
        self.row = row
        await asyncio.sleep(0)


def _adds(name: str) -> Any:
    def change(known: NamespaceDeployments) -> None:
        known.deployments.add().description.worker_deployment_info.name = name

    return change


async def _all_write(writers: list[Deployments], clock: FakeClock) -> list[object]:
    tasks = [asyncio.ensure_future(each.change("n", _adds(f"d{index}"))) for index, each in enumerate(writers)]
    while not all(task.done() for task in tasks):
        await clock.advance(0.01)
    return [task.exception() for task in tasks if task.exception() is not None]


async def test_many_processes_that_change_the_row_at_once_all_succeed() -> None:
    clock, store = FakeClock(), SlowStore()
    writers = [Deployments(cast("TaskStore", store), clock) for _ in range(WRITERS)]
    assert await _all_write(writers, clock) == []
    assert len((await writers[0].read("n")).deployments) == WRITERS


async def test_writers_of_one_process_take_turns_instead_of_competing() -> None:
    clock, store = FakeClock(), SlowStore()
    writer = Deployments(cast("TaskStore", store), clock)
    assert await _all_write([writer] * WRITERS, clock) == []
    assert store.puts == WRITERS
