"""Signals and queries."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - the SDK reads the hints of handlers
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition, RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client


@workflow.defn
class Ledger:
    """Keeps what it is told until it is closed."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.closed = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.closed)
        return self.entries

    @workflow.signal
    def enter(self, text: str) -> None:
        self.entries.append(text)

    @workflow.signal
    def close(self) -> None:
        self.closed = True

    @workflow.signal(dynamic=True)
    async def other(self, name: str, args: Sequence[RawValue]) -> None:
        self.entries.append(f"{name} with {len(args)}")

    @workflow.query
    def all(self) -> list[str]:
        return self.entries

    @workflow.query
    def last(self, count: int) -> list[str]:
        if count < 1:
            raise ApplicationError("at least one", type="BadCount")
        return self.entries[-count:]


@on_every_store
async def test_signals_arrive_in_order(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        for number in range(10):
            await handle.signal(Ledger.enter, str(number))
        await handle.signal(Ledger.close)
        assert await handle.result() == [str(number) for number in range(10)]


async def test_signals_wait_for_a_worker(client: Client) -> None:
    queue = new("queue")
    handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
    await handle.signal(Ledger.enter, "early")
    await handle.signal(Ledger.close)
    async with worker(client, Ledger, queue=queue):
        assert await handle.result() == ["early"]


async def test_signals_of_any_name_reach_a_dynamic_handler(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        await handle.signal("unheard-of", args=[1, 2])
        await handle.signal(Ledger.close)
        assert await handle.result() == ["unheard-of with 2"]


@on_every_store
async def test_signal_with_start_starts_and_signals(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(
            Ledger.run, id=new("ledger"), task_queue=queue, start_signal="enter", start_signal_args=["first"]
        )
        await handle.signal(Ledger.close)
        assert await handle.result() == ["first"]
    assert (await kinds(handle))[:3] == [
        "WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED",
    ]  # fmt: skip


async def test_signal_with_start_signals_a_run_that_is_there(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        first = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        second = await client.start_workflow(
            Ledger.run, id=first.id, task_queue=queue, start_signal="enter", start_signal_args=["more"]
        )
        await first.signal(Ledger.close)
        assert (second.result_run_id, await first.result()) == (first.result_run_id, ["more"])


async def test_a_closed_run_takes_no_signal(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        await handle.signal(Ledger.close)
        await handle.result()
        with pytest.raises(RPCError) as refused:
            await handle.signal(Ledger.enter, "late")
    assert (refused.value.status, str(refused.value)) == (
        RPCStatusCode.NOT_FOUND, "workflow execution already completed",
    )  # fmt: skip


@on_every_store
async def test_a_query_sees_every_signal_sent_before_it(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        for number in range(5):
            await handle.signal(Ledger.enter, str(number))
            assert await handle.query(Ledger.last, 1) == [str(number)]
        await handle.terminate()


async def test_a_query_leaves_no_event(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        before = await kinds(handle)
        assert await handle.query(Ledger.all) == []
        assert await kinds(handle) == before
        await handle.terminate()


@on_every_store
async def test_a_closed_run_answers_queries(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        await handle.signal(Ledger.enter, "kept")
        await handle.signal(Ledger.close)
        await handle.result()
    async with worker(client, Ledger, queue=queue):
        assert await handle.query(Ledger.all) == ["kept"]


async def test_a_query_may_refuse_closed_runs(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        await handle.signal(Ledger.close)
        await handle.result()
        with pytest.raises(WorkflowQueryRejectedError) as rejected:
            await handle.query(Ledger.all, reject_condition=QueryRejectCondition.NOT_OPEN)
    assert rejected.value.status is not None
    assert rejected.value.status.name == "COMPLETED"


QUERY_FAILURES: list[tuple[str, list[Any], str]] = [
    ("last", [0], "at least one"),
    ("unheard-of", [], "unheard-of"),
]


@pytest.mark.parametrize(("name", "args", "said"), QUERY_FAILURES, ids=["its handler fails", "it has no handler"])
async def test_a_failed_query_has_a_reason(client: Client, name: str, args: list[Any], said: str) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        with pytest.raises(WorkflowQueryFailedError, match=said):
            await handle.query(name, args=args)
        await handle.terminate()


async def test_a_query_of_an_unknown_workflow_is_not_found(client: Client) -> None:
    with pytest.raises(RPCError) as refused:
        await client.get_workflow_handle(new("nobody")).query("anything")
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_the_stack_trace_shows_where_a_workflow_waits(client: Client) -> None:
    async with worker(client, Ledger) as queue:
        handle = await client.start_workflow(Ledger.run, id=new("ledger"), task_queue=queue)
        trace: str = await handle.query("__stack_trace")
        await handle.terminate()
    assert "Ledger" in trace
