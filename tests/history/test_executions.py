"""The history service over a real store: starts that race, ends, resets, retention, histories in pages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import Reply, decoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.ids import CountedIds
from whistlestop.common.notify import LocalNotifier
from whistlestop.common.proto import internal_pb2
from whistlestop.common.proto.namespace_pb2 import NamespaceData
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.core.limits import Limits
from whistlestop.history.service import History
from whistlestop.storage.namespaces import Namespace, NamespaceCache
from whistlestop.storage.records import SLOTS, ExecutionKey, NamespaceRecord
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Rpc

NAMESPACE_ID = "11111111-1111-7111-8111-111111111111"
DAY_NS = 24 * 3600 * SECOND_NS


class NoMatching:
    """Nobody polls."""

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        raise AssertionError(f"{rpc} is not expected")


class OneDay(NamespaceCache):
    """Every namespace retains its closed runs for a day."""

    async def by_id(self, namespace_id: str) -> Namespace | None:
        record = NamespaceRecord(namespace_id, "default", NamespaceData().SerializeToString(), 1)
        return Namespace(namespace_id, "default", 1, DAY_NS, {}, (), NamespaceData(), record)


class Bench:
    """The service and what it stands on."""

    def __init__(self, store: SqliteStore, limits: Limits | None = None, *, exclusive: bool = True) -> None:
        self.store = store
        self.clock = FakeClock()
        self.ids = CountedIds()
        self.history = History(
            store, NoMatching(), self.clock, self.ids, LocalNotifier(self.clock), limits=limits, exclusive=exclusive,
            namespaces=OneDay(store, self.clock),
        )  # fmt: skip
        self.context = CallContext(namespace_id=NAMESPACE_ID, namespace="default")

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace="default", **fields)
        return decoded(
            await self.history.call(HistoryService.rpcs[method], request, self.context),
            getattr(rr, f"{method}Response"),
        )

    async def start(self, workflow_id: str = "wf", **fields: Any) -> Any:
        wanted: dict[str, Any] = {
            "request_id": self.ids.uuid(),
            "workflow_type": {"name": "T"},
            "task_queue": {"name": "q"},
        }
        return await self.call("StartWorkflowExecution", workflow_id=workflow_id, **(wanted | fields))

    async def signal(self, request_id: str) -> None:
        await self.call(
            "SignalWorkflowExecution", workflow_execution={"workflow_id": "wf"}, signal_name="s", request_id=request_id
        )

    async def ids_of(self, run_id: str = "", **fields: Any) -> list[int]:
        reply = await self.call(
            "GetWorkflowExecutionHistory", execution={"workflow_id": "wf", "run_id": run_id}, **fields
        )
        return [event.event_id for event in reply.history.events]


@pytest.fixture(params=[True, False], ids=["alone", "among_others"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    yield Bench(store, exclusive=request.param)
    await store.close()


async def test_exactly_one_of_racing_starts_wins(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.start() for _ in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, ServiceError)]
    assert len(refused) == 4
    assert {error.code for error in refused} == {Code.ALREADY_EXISTS}


async def test_the_last_of_racing_replacing_starts_runs(bench: Bench) -> None:
    policy = wf.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    results = await asyncio.gather(*(bench.start(workflow_id_conflict_policy=policy) for _ in range(5)))
    statuses = [
        (
            await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "wf", "run_id": result.run_id})
        ).workflow_execution_info.status
        for result in results
    ]
    assert sorted(statuses) == [wf.WORKFLOW_EXECUTION_STATUS_RUNNING] + [wf.WORKFLOW_EXECUTION_STATUS_TERMINATED] * 4


async def test_signals_with_start_that_race_all_arrive(bench: Bench) -> None:
    results = await asyncio.gather(
        *(
            bench.call(
                "SignalWithStartWorkflowExecution",
                workflow_id="wf",
                workflow_type={"name": "T"},
                task_queue={"name": "q"},
                signal_name="s",
                request_id=f"r{n}",
            )
            for n in range(5)
        )
    )
    assert len({result.run_id for result in results}) == 1
    assert [result.started for result in results].count(True) == 1
    reply = await bench.call("GetWorkflowExecutionHistory", execution={"workflow_id": "wf"})
    signals = [e for e in reply.history.events if e.HasField("workflow_execution_signaled_event_attributes")]
    assert len(signals) == 5


async def test_a_deleted_run_is_not_found_and_its_id_is_free(bench: Bench) -> None:
    await bench.start()
    await bench.call("DeleteWorkflowExecution", workflow_execution={"workflow_id": "wf"})
    with pytest.raises(ServiceError) as refused:
        await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "wf"})
    assert refused.value.code is Code.NOT_FOUND
    assert (await bench.start()).started


async def test_a_closed_run_is_kept_for_the_retention(bench: Bench) -> None:
    run_id = (await bench.start()).run_id
    await bench.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "wf"})
    (timer,) = await bench.store.next_timers(0, SLOTS, 0, 10)
    assert (timer.kind, timer.fire_at_ns) == ("retention", bench.clock.now_ns() + DAY_NS)
    await bench.clock.advance(24 * 3600)
    await bench.history.timers.fire(timer)
    assert await bench.store.get_execution(ExecutionKey(NAMESPACE_ID, "wf", run_id)) is None
    assert await bench.store.next_timers(0, SLOTS, 0, 10) == []
    assert (await bench.start()).started


async def test_a_history_comes_in_pages_both_ways(bench: Bench) -> None:
    await bench.start()
    for n in range(4):
        await bench.signal(f"r{n}")
    for method, expected in (
        ("GetWorkflowExecutionHistory", [1, 2, 3, 4, 5, 6]),
        ("GetWorkflowExecutionHistoryReverse", [6, 5, 4, 3, 2, 1]),
    ):
        seen: list[int] = []
        token = b""
        while True:
            reply = await bench.call(
                method, execution={"workflow_id": "wf"}, maximum_page_size=2, next_page_token=token
            )
            seen += [event.event_id for event in reply.history.events]
            token = reply.next_page_token
            if not token:
                break
        assert seen == expected


async def test_a_worker_gets_a_long_history_in_pages(bench: Bench) -> None:
    await bench.start()
    for n in range(600):
        await bench.signal(f"r{n}")
    (task,) = await bench.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)
    request = internal_pb2.RecordWorkflowTaskStartedRequest(
        scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id="poll", task_queue="q"
    )
    request.execution.workflow_id = "wf"
    request.execution.run_id = task.run_id
    answer = await bench.history.call(HistoryService.RecordWorkflowTaskStarted, request, bench.context)
    reply = decoded(answer, rr.PollWorkflowTaskQueueResponse)
    assert isinstance(reply, rr.PollWorkflowTaskQueueResponse)
    await bench.signal("while the worker is at it")
    seen = [event.event_id for event in reply.history.events]
    token = reply.next_page_token
    pages = 1
    while token:
        page = await bench.call("GetWorkflowExecutionHistory", execution={"workflow_id": "wf"}, next_page_token=token)
        seen += [event.event_id for event in page.history.events]
        token = page.next_page_token
        pages += 1
    assert seen == list(range(1, reply.started_event_id + 1))
    assert pages == 3


async def test_a_reset_is_the_same_for_the_same_request(bench: Bench) -> None:
    base = (await bench.start()).run_id
    await bench.signal("s")
    wanted = {"workflow_execution": {"workflow_id": "wf"}, "workflow_task_finish_event_id": 3, "request_id": "again"}
    first = await bench.call("ResetWorkflowExecution", **wanted)
    second = await bench.call("ResetWorkflowExecution", **wanted)
    assert first == second
    assert await bench.ids_of(base) == [1, 2, 3, 4]
    assert await bench.ids_of(first.run_id) == [1, 2, 3, 4, 5, 6]
    described = await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "wf", "run_id": base})
    assert described.workflow_extended_info.reset_run_id == first.run_id


async def test_a_reset_keeps_its_history_when_its_base_is_deleted(bench: Bench) -> None:
    base = (await bench.start()).run_id
    await bench.signal("s")
    reset = await bench.call(
        "ResetWorkflowExecution",
        workflow_execution={"workflow_id": "wf"},
        workflow_task_finish_event_id=3,
        request_id="r",
    )
    await bench.call("DeleteWorkflowExecution", workflow_execution={"workflow_id": "wf", "run_id": base})
    assert await bench.ids_of(reset.run_id) == [1, 2, 3, 4, 5, 6]


async def test_a_run_that_is_too_long_is_terminated(bench: Bench) -> None:
    limited = Bench(bench.store, Limits(history_count_error=3))
    await limited.start()
    for n in range(2):
        await limited.signal(f"r{n}")
    with pytest.raises(ServiceError) as refused:
        await limited.signal("last")
    assert refused.value.message == "Workflow history count exceeds limit."
    described = await limited.call("DescribeWorkflowExecution", execution={"workflow_id": "wf"})
    assert described.workflow_execution_info.status == wf.WORKFLOW_EXECUTION_STATUS_TERMINATED
