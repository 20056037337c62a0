"""Work begun through one process, done through another. Clients talk to a, workers to b."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    GetWorkflowExecutionHistoryRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import WorkflowUpdateStage
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import Worker

from tests.cluster.workflows import WORKFLOWS, Counter, Echo, Parent, Retries, Sleeper, fails_twice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from temporalio.client import Client

    from tests.cluster.conftest import Cluster

MOST_RATIO = 10
"""How much longer than within one process, measured in the same run, the median across two may take. A notification
that did not arrive costs a thousand times as much: the end of a long poll.
"""


class Spans:
    """How long calls took, those across two processes apart from those within one."""

    def __init__(self) -> None:
        self._spans_s: dict[bool, list[float]] = {True: [], False: []}

    @contextmanager
    def of(self, *, across: bool) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._spans_s[across].append(time.monotonic() - began)

    def check(self) -> None:
        across_s, within_s = statistics.median(self._spans_s[True]), statistics.median(self._spans_s[False])
        print(f"median across processes {across_s * 1000:.1f} ms, within one {within_s * 1000:.1f} ms")
        assert across_s < MOST_RATIO * within_s


@asynccontextmanager
async def working(client: Client, queue: str) -> AsyncIterator[None]:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[fails_twice]):
        yield


async def test_a_workflow_is_finished_by_a_worker_of_the_other_process(pair: Cluster) -> None:
    """The start on a notifies the poll on b, the completion on b the waiting client on a."""
    a, b = await pair.client("a"), await pair.client("b")
    spans = Spans()
    async with working(b, "echo"):
        for n in range(20):
            for client in (a, b):
                with spans.of(across=client is a):
                    answer = client.execute_workflow(Echo.run, f"{n}", id=f"echo-{n}-{client is a}", task_queue="echo")
                    assert await answer == f"{n}"
    spans.check()


async def test_activities_are_retried_across_processes(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    async with working(b, "retries"):
        result = await a.execute_workflow(Retries.run, "it", id="retries", task_queue="retries")
    assert result == "it at attempt 3"


async def test_children_and_external_signals_reach_across_processes(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    async with working(b, "family"):
        assert await a.execute_workflow(Parent.run, "family", id="family", task_queue="family") == 3


async def test_signals_updates_and_queries_are_answered_by_a_worker_of_the_other_process(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    spans = Spans()
    async with working(b, "counter"):
        started = await a.start_workflow(Counter.run, id="counter", task_queue="counter")
        for n in range(0, 40, 4):
            for client, value in ((a, n), (b, n + 2)):
                handle = client.get_workflow_handle("counter")
                with spans.of(across=client is a):
                    assert await handle.execute_update(Counter.add_and_tell, 1) == value + 1
                    await handle.signal(Counter.add, 1)
                    assert await handle.query(Counter.value) == value + 2
        await b.get_workflow_handle("counter").signal(Counter.end)
        assert await started.result() == 40
    spans.check()


async def test_an_update_that_was_started_here_is_waited_for_there(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    await a.start_workflow(Counter.run, id="waited", task_queue="waited")
    started = asyncio.create_task(
        a.get_workflow_handle("waited").start_update(
            Counter.add_and_tell, 5, id="five", wait_for_stage=WorkflowUpdateStage.ACCEPTED
        )
    )
    async with working(b, "waited"):
        await started
        assert await b.get_workflow_handle("waited").get_update_handle("five", result_type=int).result() == 5
        assert await b.get_workflow_handle("waited").query(Counter.value) == 5


async def test_a_long_poll_of_history_ends_with_a_commit_of_the_other_process(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    handle = await b.start_workflow(Counter.run, id="watched", task_queue="nobody")
    request = GetWorkflowExecutionHistoryRequest(namespace="default", wait_new_event=True)
    request.execution.workflow_id = "watched"
    page = await a.workflow_service.get_workflow_execution_history(request)
    spans = Spans()
    for n in range(20):
        request.next_page_token = page.next_page_token
        waiting = asyncio.create_task(a.workflow_service.get_workflow_execution_history(request))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        signaller = b if n % 2 else a
        with spans.of(across=signaller is b):
            await signaller.get_workflow_handle("watched").signal(Counter.add, n)
            page = await waiting
        (event,) = page.history.events
        assert event.HasField("workflow_execution_signaled_event_attributes")
    spans.check()
    await handle.terminate()


async def test_a_cached_run_is_reached_by_way_of_the_other_process(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    handle = await a.start_workflow(Counter.run, id="sticky", task_queue="sticky")
    async with working(b, "sticky"):
        assert await handle.query(Counter.value) == 0
    # Its worker is gone, and its sticky queue with it; the next one, at the other process, replays.
    async with working(a, "sticky"):
        await b.get_workflow_handle("sticky").signal(Counter.add, 2)
        assert await b.get_workflow_handle("sticky").query(Counter.value) == 2
        await b.get_workflow_handle("sticky").signal(Counter.end)
        assert await handle.result() == 2
    # Nothing was sent to the queue of the one that is gone, to time out there.
    events = (await handle.fetch_history()).events
    assert not any(event.HasField("workflow_task_timed_out_event_attributes") for event in events)


async def test_pollers_and_backlog_of_one_are_seen_by_the_other(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    request = DescribeTaskQueueRequest(namespace="default")
    request.task_queue.name = "seen"
    request.task_queue_type = 1  # type: ignore[assignment]  # workflow tasks
    async with Worker(b, task_queue="seen", workflows=WORKFLOWS, identity="the one of b"):
        await b.execute_workflow(Echo.run, "x", id="seen", task_queue="seen")
        reply = await a.workflow_service.describe_task_queue(request)
    assert [poller.identity for poller in reply.pollers] == ["the one of b"]


async def test_a_namespace_made_here_is_there(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    request = RegisterNamespaceRequest(namespace="fresh")
    request.workflow_execution_retention_period.FromSeconds(86400)
    await a.workflow_service.register_namespace(request)
    there = await pair.client("b", "fresh")
    handle = await there.start_workflow(Echo.run, "x", id="in-fresh", task_queue="fresh")
    async with working(await pair.client("a", "fresh"), "fresh"):
        assert await handle.result() == "x"
    assert b.namespace == "default"


async def test_a_new_search_attribute_is_visible_in_the_other_process_at_once(pair: Cluster) -> None:
    a, b = await pair.client("a"), await pair.client("b")
    # Both have the namespace in their caches, without the attribute.
    for client in (a, b):
        assert (await client.count_workflows("WorkflowId = 'nothing'")).count == 0
    request = AddSearchAttributesRequest(namespace="default")
    request.search_attributes["Platform"] = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    await a.operator_service.add_search_attributes(request)
    key = SearchAttributeKey.for_keyword("Platform")
    handle = await b.start_workflow(
        Sleeper.run, 600.0, id="with-attribute", task_queue="nobody",
        search_attributes=TypedSearchAttributes([SearchAttributePair(key, "nine")]),
    )  # fmt: skip
    for client in (a, b):
        found = [one.id async for one in client.list_workflows("Platform = 'nine'")]
        assert found == ["with-attribute"]
    await handle.terminate()


async def test_both_are_members(pair: Cluster) -> None:
    found = await pair.members()
    ports = {pair.servers[name].address for name in ("a", "b")}
    assert {(member["address"], member["role"]) for member in found} == {
        (address, role) for address in ports for role in ("frontend", "history", "matching")
    }
