"""The same service over the real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, Bench, got, settle
from tests.patience import PATIENCE_S
from whistlestop.common.clients import Encoded, Reply
from whistlestop.common.fairness import level
from whistlestop.matching.config import MatchingConfig
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc


class StoreHistory:
    """Removes the row in the store, as the started transition does."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        message: Any = request
        name = message.execution.workflow_id
        rows = await self._bench.store.list_tasks(NAMESPACE, "q", 1, None, 1000)
        await self._bench.store.delete_tasks([row.key for row in rows if row.workflow_id == name])
        reply = rr.PollWorkflowTaskQueueResponse()
        reply.workflow_execution.workflow_id = name
        return Encoded(reply.SerializeToString())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = SqliteStore(str(tmp_path / "matching.db"))
    await store.open()
    await store.migrate()
    bench = Bench(MatchingConfig(remote_notifications=False), store=store)
    bench.history = StoreHistory(bench)  # type: ignore[assignment]
    bench.matching = bench.another()
    yield bench
    await store.close()


async def eventually(poll: asyncio.Task[rr.PollWorkflowTaskQueueResponse]) -> str:
    await asyncio.wait([poll], timeout=PATIENCE_S)
    return got(poll)


async def test_a_backlog_is_drained_in_order_and_its_rows_are_deleted(bench: Bench) -> None:
    names = [str(n) for n in range(20)]
    tasks = [bench.task(name) for name in names]
    await bench.store.put_tasks(tasks)
    assert [await eventually(bench.poll()) for _ in names] == names
    assert await bench.store.backlog(NAMESPACE, "q", 1, 10) == {}
    await bench.matching.close()


async def test_settings_and_pollers_reach_a_fresh_instance(bench: Bench) -> None:
    update = rr.UpdateTaskQueueConfigRequest(task_queue="q", task_queue_type=1)  # type: ignore[arg-type]
    update.set_fairness_weight_overrides["a"] = 2
    await bench.ask("UpdateTaskQueueConfig", update)
    poll = bench.poll(identity="somebody")
    await settle()
    bench.matching.offer([])
    old, bench.matching = bench.matching, bench.another()
    await old.close()
    await poll
    reply = await bench.ask(
        "DescribeTaskQueue", rr.DescribeTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q"), report_config=True)
    )
    assert dict(reply.config.fairness_weight_overrides) == {"a": 2}
    assert [poller.identity for poller in reply.pollers] == ["somebody"]


async def test_describing_a_queue_costs_the_same_however_many_keys_wait(bench: Bench) -> None:
    store: Any = bench.store
    request = rr.DescribeTaskQueueRequest(report_stats=True, report_config=True)
    request.task_queue.name = "q"
    costs = []
    for keys in (1, 5000):
        rows = [bench.task(f"{n}", priority=level(1 + n % 5, f"key {n // 5}")) for n in range(keys * 5)]
        await store.put_tasks(rows)
        statements: list[str] = []
        store._reader.connection.set_trace_callback(statements.append)
        answer = await bench.ask("DescribeTaskQueue", request)
        costs.append(len(statements))
        store._reader.connection.set_trace_callback(None)
    assert answer.stats.approximate_backlog_count == 25_005
    assert costs[1] == costs[0] <= 15
