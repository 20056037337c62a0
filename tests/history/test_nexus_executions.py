"""Standalone Nexus operations over a real store and a clock that is moved: attempts, ends, races, what is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import DAY_NS, NAMESPACE_ID, Bench
from tests.patience import PATIENCE_S
from tests.support.history_ports import replace_ports
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.nexus_pb2 import (
    CompleteNexusOperationRequest,
    NexusEndpointData,
    NexusTaskData,
    RecordNexusTaskStartedRequest,
)
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api.activity.standalone import ACTIVITIES
from whistlestop.history.api.nexus.executions import OPERATIONS
from whistlestop.history.core.limits import Limits
from whistlestop.storage.records import NamespaceRecord, NexusEndpointRecord
from whistlestop.storage.sqlite.store import SqliteStore
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.history.api.standalone import Standalone

NEXUS = 3
DIVISION = "TemporalNamespaceDivision = '131748067'"
RESULT = {"metadata": {"encoding": b"json/plain"}, "data": b'"out"'}


class Desk(Bench):
    """A bench with an endpoint "e" and a standalone operation named "o", which lasts a minute at most."""

    async def open(self) -> None:
        await self.store.create_namespace(NamespaceRecord(NAMESPACE_ID, "default", b"", 0))
        data = NexusEndpointData(target_namespace_id=NAMESPACE_ID)
        data.endpoint.spec.target.worker.task_queue = "q"
        await self.store.create_nexus_endpoint(NexusEndpointRecord(self.ids.uuid(), "e", data.SerializeToString(), 0))

    async def begin(self, **fields: Any) -> Any:
        wanted: dict[str, Any] = {
            "operation_id": "o", "request_id": "start", "endpoint": "e", "service": "s", "operation": "op",
            "schedule_to_close_timeout": {"seconds": 60},
            "id_reuse_policy": enums.NEXUS_OPERATION_ID_REUSE_POLICY_ALLOW_DUPLICATE,
            "id_conflict_policy": enums.NEXUS_OPERATION_ID_CONFLICT_POLICY_FAIL,
        }  # fmt: skip
        reply = await self.call("StartNexusOperationExecution", **(wanted | fields))
        await self.history.transfers.drain()
        return reply

    async def describe(self) -> Any:
        return await self.call("DescribeNexusOperationExecution", operation_id="o", include_outcome=True)

    async def status(self) -> str:
        described: rr.DescribeNexusOperationExecutionResponse = await self.describe()
        name = enums.NexusOperationExecutionStatus.Name(described.info.status)
        return name.removeprefix("NEXUS_OPERATION_EXECUTION_STATUS_")

    async def offered(self) -> list[Any]:
        await self.history.transfers.drain()
        return await self.store.list_tasks(NAMESPACE_ID, "q", NEXUS, None, 10)

    async def take(self) -> Any:
        """A worker polls."""
        [task] = await self.offered()
        request = RecordNexusTaskStartedRequest(
            task=NexusTaskData.FromString(task.data), workflow_id=task.workflow_id, run_id=task.run_id,
            scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, handler_namespace_id=NAMESPACE_ID,
        )  # fmt: skip
        reply = await self.history.call(HistoryService.RecordNexusTaskStarted, request, self.context)
        return decoded(reply, rr.PollNexusTaskQueueResponse)

    async def answer(self, task: Any, **response: Any) -> None:
        await self.call("RespondNexusTaskCompleted", task_token=task.task_token, response=response)
        await self.history.transfers.drain()

    async def call_back(self, task: Any, state: str = "succeeded") -> None:
        headers = {**task.request.start_operation.callback_header, "nexus-operation-state": state}
        request = CompleteNexusOperationRequest(headers=headers, body=b"")
        await self.history.call(HistoryService.CompleteNexusOperation, request, self.context)

    async def pass_time(self, span_s: float) -> None:
        await self.clock.advance(span_s)
        while await self.history.timers.fire_page(100):
            pass
        await self.history.transfers.drain()


@pytest.fixture(params=[True, False], ids=["alone", "among_others"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    bench = Desk(store, exclusive=request.param)
    await bench.open()
    yield bench
    await bench.history.close()
    await store.close()


STARTED = {"async_success": {"operation_token": "token"}}


async def test_an_answer_at_once_is_its_end(desk: Desk) -> None:
    await desk.begin()
    task = await desk.take()
    [link] = task.request.start_operation.links
    assert "/nexus-operations/o/" in link.url
    await desk.answer(task, start_operation={"sync_success": {"payload": RESULT}})
    assert (await desk.describe()).result.data == b'"out"'
    assert await desk.store.check(10) == []


async def test_an_operation_without_an_answer_is_retried_until_its_timeout(desk: Desk) -> None:
    await desk.begin()
    await desk.take()
    await desk.pass_time(10)
    described = await desk.describe()
    assert described.info.last_attempt_failure.nexus_handler_failure_info.type == "UPSTREAM_TIMEOUT"
    await desk.pass_time(1)
    await desk.take()
    assert (await desk.describe()).info.attempt == 2
    for _ in range(60):
        await desk.pass_time(1)
    assert await desk.status() == "TIMED_OUT"
    assert await desk.offered() == []


async def test_a_callback_ends_it_once(desk: Desk) -> None:
    await desk.begin()
    task = await desk.take()
    await desk.answer(task, start_operation=STARTED)
    results = await asyncio.gather(*(desk.call_back(task) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "ServiceError", "ServiceError"]
    assert await desk.status() == "COMPLETED"


async def test_a_callback_may_come_before_the_answer_to_the_start(desk: Desk) -> None:
    await desk.begin()
    task = await desk.take()
    await desk.call_back(task)
    await desk.answer(task, start_operation=STARTED)
    assert await desk.status() == "COMPLETED"
    with pytest.raises(ServiceError) as refused:
        await desk.answer(task, start_operation=STARTED)
    assert refused.value.code is Code.NOT_FOUND


async def test_a_started_one_times_out(desk: Desk) -> None:
    await desk.begin(start_to_close_timeout={"seconds": 20})
    await desk.answer(await desk.take(), start_operation=STARTED)
    await desk.pass_time(20)
    failure = (await desk.describe()).failure
    assert failure.timeout_failure_info.timeout_type == wf.TIMEOUT_TYPE_START_TO_CLOSE


async def test_a_request_to_cancel_waits_for_the_start(desk: Desk) -> None:
    await desk.begin()
    task = await desk.take()
    await desk.call("RequestCancelNexusOperationExecution", operation_id="o", request_id="c", reason="why")
    assert await desk.offered() == []
    await desk.answer(task, start_operation=STARTED)
    asked = await desk.take()
    assert asked.request.cancel_operation.operation_token == "token"
    await desk.answer(asked, cancel_operation={})
    info = (await desk.describe()).info.cancellation_info
    assert (info.state, info.reason) == (common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED, "why")
    assert await desk.status() == "RUNNING"


async def test_callers_that_wait_for_the_outcome_get_it(desk: Desk) -> None:
    await desk.begin()
    waiting = asyncio.ensure_future(desk.call("PollNexusOperationExecution", operation_id="o"))
    await desk.answer(await desk.take(), start_operation={"sync_success": {"payload": RESULT}})
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).result.data == b'"out"'


async def test_exactly_one_of_racing_starts_wins(desk: Desk) -> None:
    results = await asyncio.gather(*(desk.begin(request_id=str(n)) for n in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, ServiceError)]
    assert [error.code for error in refused] == [Code.ALREADY_EXISTS] * 4
    assert len(await desk.offered()) == 1


async def test_nothing_remains_after_retention_or_deletion(desk: Desk) -> None:
    await desk.begin()
    await desk.call("TerminateNexusOperationExecution", operation_id="o", request_id="t", reason="enough")
    await desk.begin(operation_id="p")
    await desk.call("DeleteNexusOperationExecution", operation_id="p")
    assert await desk.offered() == []
    assert await desk.store.check(10) == []
    assert await desk.store.count_visibility(NAMESPACE_ID, parse("", {})) == 0
    assert await desk.store.count_visibility(NAMESPACE_ID, parse(DIVISION, {})) == 1
    await desk.pass_time(DAY_NS / SECOND_NS)
    assert await desk.store.check(10) == []
    assert await desk.store.count_visibility(NAMESPACE_ID, parse(DIVISION, {})) == 0


@pytest.mark.parametrize(
    ("left_s", "can_long_poll", "waits_s"),
    [(None, True, 60), (100, True, 60), (30, True, 29), (1, True, 0), (0, True, 0), (100, False, 20), (10, False, 9)],
)
@pytest.mark.parametrize("kind", [OPERATIONS, ACTIVITIES], ids=["operations", "activities"])
def test_a_long_poll_is_answered_before_its_deadline(
    kind: Standalone, left_s: int | None, waits_s: int, *, can_long_poll: bool
) -> None:
    """As `longPollTimeout` and `longPollBuffer` say: a minute, and a second. A function waits no longer than it did."""
    service: Any = SimpleNamespace(limits=Limits(), clock=FakeClock())
    now_ns = service.clock.steady_ns()
    deadline_ns = None if left_s is None else now_ns + left_s * SECOND_NS
    context = CallContext(deadline_ns, namespace="default", can_long_poll=can_long_poll)
    assert kind.deadline(service, context) == now_ns + waits_s * SECOND_NS


async def test_news_that_do_not_come_are_an_empty_answer(desk: Desk) -> None:
    await desk.begin()
    token = (await desk.describe()).long_poll_token
    replace_ports(desk.history, limits=replace(desk.history.ports.limits, nexus_long_poll_ns=0))
    assert await desk.call("DescribeNexusOperationExecution", operation_id="o", long_poll_token=token) == (
        rr.DescribeNexusOperationExecutionResponse()
    )
