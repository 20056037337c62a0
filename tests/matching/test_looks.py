"""LookForTasks: where something waits, told without taking it."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import Bench, settle
from whistlestop.common.proto import worker_pb2 as worker_pb


def request(*queues: str, limit: int = 0) -> worker_pb.LookForTasksRequest:
    """Workflow polls of these queues, and an activity poll of the first."""
    return worker_pb.LookForTasksRequest(
        namespace="ns",
        workflow_polls=[
            rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue(name=name), identity="me") for name in queues
        ],
        activity_polls=[rr.PollActivityTaskQueueRequest(task_queue=queue_pb.TaskQueue(name=queues[0]), identity="me")],
        limit=limit,
    )


def look(bench: Bench, *queues: str, limit: int = 0, can_hold: bool = True) -> asyncio.Task[Any]:
    return asyncio.ensure_future(bench.ask("LookForTasks", request(*queues, limit=limit), can_hold=can_hold))


async def test_counts_come_in_the_order_of_the_request_and_up_to_the_limit() -> None:
    bench = Bench()
    bench.commit("a", "b", "c", queue="two")
    bench.commit("d", queue="one", task_type=2)
    assert await look(bench, "one", "two", limit=2) == worker_pb.LookForTasksResponse(
        workflow_tasks=[0, 2], activity_tasks=[1], nexus_tasks=[], holds=True
    )
    # Nothing was taken.
    assert len(bench.rows.rows) == 4
    await bench.matching.close()


async def test_a_look_waits_for_a_commit_on_any_of_its_queues() -> None:
    bench = Bench()
    waiting = look(bench, "one", "two")
    await settle()
    assert not waiting.done()
    bench.commit("a", queue="two")
    await settle()
    assert list((await waiting).workflow_tasks) == [0, 1]
    await bench.matching.close()


async def test_a_look_ends_empty_before_its_deadline() -> None:
    bench = Bench()
    waiting = look(bench, "one")
    await settle()
    await bench.clock.advance(58)
    assert not waiting.done()
    await bench.clock.advance(12)
    assert list((await waiting).workflow_tasks) == [0]
    await bench.matching.close()


async def test_a_function_looks_once_and_says_that_it_does_not_wait() -> None:
    bench = Bench()
    answer = await look(bench, "one", can_hold=False)
    assert (list(answer.workflow_tasks), answer.holds) == ([0], False)
    await bench.matching.close()


async def test_who_looks_counts_as_a_poller() -> None:
    bench = Bench()
    waiting = look(bench, "one")
    await settle()
    described = await bench.ask(
        "DescribeTaskQueue", rr.DescribeTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="one"))
    )
    assert [poller.identity for poller in described.pollers] == ["me"]
    waiting.cancel()
    await bench.matching.close()


async def test_a_poll_that_would_be_refused_counts_as_having_a_task() -> None:
    """So that it is sent, and its poller hears why."""
    bench = Bench()
    assert list((await look(bench, "one", "x" * 2000)).workflow_tasks) == [0, 1]
    await bench.matching.close()


async def test_closing_ends_looks() -> None:
    bench = Bench()
    waiting = look(bench, "one")
    await settle()
    await bench.matching.close()
    assert list((await asyncio.wait_for(waiting, 5)).workflow_tasks) == [0]
