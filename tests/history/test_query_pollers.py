"""A query that no worker can answer: shortly before its time is over, its caller is told that nobody polls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import NAMESPACE_ID, Bench
from tests.support.history_ports import replace_ports
from tests.turns import turns
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc


class Pollers:
    """A matching service that only knows whether somebody polls."""

    def __init__(self) -> None:
        self.polled = False
        self.asked: list[Any] = []

    async def call(self, rpc: Rpc[Any, Any], request: Any, context: CallContext) -> internal.HasPollerResponse:
        assert rpc is MatchingService.HasPoller
        self.asked.append(request)
        return internal.HasPollerResponse(has_poller=self.polled)


class Asking(Bench):
    """A bench with a workflow that waits for nothing but queries."""

    async def open(self) -> None:
        self.pollers = Pollers()
        replace_ports(self.history, matching=MatchingService(self.pollers))
        await self.start()
        [row] = await self.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)
        request = internal.RecordWorkflowTaskStartedRequest(
            scheduled_event_id=row.scheduled_event_id, stamp=row.stamp, request_id="r", task_queue="q"
        )
        request.execution.workflow_id, request.execution.run_id = row.workflow_id, row.run_id
        request.poll.task_queue.name = "q"
        reply = await self.history.call(HistoryService.RecordWorkflowTaskStarted, request, self.context)
        task: Any = decoded(reply, rr.PollWorkflowTaskQueueResponse)
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token)

    async def query(self, seconds: int) -> Code:
        """Ask with that much time; the code of the refusal."""
        request = rr.QueryWorkflowRequest(namespace="default")
        request.execution.workflow_id, request.query.query_type = "wf", "q"
        context = replace(self.context, deadline_ns=self.clock.steady_ns() + seconds * SECOND_NS)
        with pytest.raises(ServiceError) as refused:
            await self.history.call(HistoryService.QueryWorkflow, request, context)
        return refused.value.code

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await turns()


@pytest.fixture
async def bench() -> AsyncIterator[Asking]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    made = Asking(store)
    await made.open()
    yield made
    await made.history.close()
    await store.close()


async def test_nobody_has_polled(bench: Asking) -> None:
    asking = asyncio.create_task(bench.query(10))
    await turns()
    await bench.advance(8.9)
    assert not bench.pollers.asked
    await bench.advance(0.2)
    assert await asking is Code.FAILED_PRECONDITION
    [asked] = bench.pollers.asked
    assert (asked.task_queue, asked.within_s) == ("q", 20)
    assert not await bench.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)


async def test_there_is_less_time_than_it_takes_to_say_so(bench: Asking) -> None:
    assert await bench.query(1) is Code.FAILED_PRECONDITION


async def test_somebody_has_polled(bench: Asking) -> None:
    bench.pollers.polled = True
    asking = asyncio.create_task(bench.query(10))
    await turns()
    await bench.advance(9.5)
    assert not asking.done()
    await bench.advance(0.6)
    assert await asking is Code.DEADLINE_EXCEEDED
    assert len(bench.pollers.asked) == 1


async def test_a_worker_has_taken_it(bench: Asking) -> None:
    asking = asyncio.create_task(bench.query(10))
    await turns()
    await bench.store.delete_tasks([row.key for row in await bench.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)])
    await bench.advance(9.5)
    await bench.advance(0.6)
    assert await asking is Code.DEADLINE_EXCEEDED
    assert not bench.pollers.asked
