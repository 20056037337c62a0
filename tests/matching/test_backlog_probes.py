"""ProbeBacklog: where something waits, told without taking it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import WorkerVersioningMode
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.worker.v1 import message_pb2 as workers_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, Bench, settle
from tests.patience import PATIENCE_S
from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.common.versioning.deployments import ROW_NAME, ROW_TYPE
from whistlestop.matching.config import MatchingConfig


def request(*queues: str, limit: int = 0) -> worker_pb.ProbeBacklogRequest:
    """Workflow polls of these queues, and an activity poll of the first."""
    return worker_pb.ProbeBacklogRequest(
        namespace="ns",
        workflow_polls=[
            rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue(name=name), identity="me") for name in queues
        ],
        activity_polls=[rr.PollActivityTaskQueueRequest(task_queue=queue_pb.TaskQueue(name=queues[0]), identity="me")],
        limit=limit,
    )


def probe(bench: Bench, *queues: str, limit: int = 0, can_long_poll: bool = True) -> asyncio.Task[Any]:
    return asyncio.ensure_future(bench.ask("ProbeBacklog", request(*queues, limit=limit), can_long_poll=can_long_poll))


async def test_counts_come_in_the_order_of_the_request_and_up_to_the_limit() -> None:
    bench = Bench()
    bench.commit("a", "b", "c", queue="two")
    bench.commit("d", queue="one", task_type=2)
    assert await probe(bench, "one", "two", limit=2) == worker_pb.ProbeBacklogResponse(
        workflow_tasks=[0, 2], activity_tasks=[1], nexus_tasks=[], holds=True
    )
    # Nothing was taken.
    assert len(bench.rows.rows) == 4
    await bench.matching.close()


def _of_a_version(polls: worker_pb.ProbeBacklogRequest) -> worker_pb.ProbeBacklogRequest:
    for options in (polls.workflow_polls[0].deployment_options, polls.activity_polls[0].deployment_options):
        options.deployment_name = "shop"
        options.build_id = "1.0"
        options.worker_versioning_mode = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    return polls


async def test_a_version_is_registered_by_its_first_probe() -> None:
    """A bridge polls only where a task waits, and without a version there is no task for it."""
    bench = Bench()
    polls = _of_a_version(request("one"))
    await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    row = bench.rows.queues[NAMESPACE, ROW_NAME, ROW_TYPE]
    [deployment] = NamespaceDeployments.FromString(row.data).deployments
    [version] = (each.worker_deployment_version_info for each in deployment.versions)
    assert version.version == "shop.1.0"
    assert [(queue.name, queue.type) for queue in version.task_queue_infos] == [("one", 1), ("one", 2)]
    await bench.matching.close()


async def test_a_worker_that_another_instance_saw_leave_polls_no_more() -> None:
    """No instance of a function remembers it."""
    bench = Bench()
    await bench.ask("ProbeBacklog", _of_a_version(request("one")), can_long_poll=False)
    describe = rr.DescribeTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="one"))
    described = await bench.ask("DescribeTaskQueue", describe, can_long_poll=False)
    assert [poller.identity for poller in described.pollers] == ["me"]
    goodbye = rr.ShutdownWorkerRequest(task_queue="one", identity="me")
    goodbye.worker_heartbeat.deployment_version.deployment_name = "shop"
    goodbye.worker_heartbeat.deployment_version.build_id = "1.0"
    other = bench.another()
    await other.call(MatchingService.ShutdownWorker, goodbye, bench.context(can_long_poll=False))
    assert list((await bench.ask("DescribeTaskQueue", describe, can_long_poll=False)).pollers) == []
    await bench.matching.close()
    await other.close()


async def test_a_probe_waits_for_a_commit_on_any_of_its_queues() -> None:
    bench = Bench()
    waiting = probe(bench, "one", "two")
    await settle()
    assert not waiting.done()
    bench.commit("a", queue="two")
    await settle()
    assert list((await waiting).workflow_tasks) == [0, 1]
    await bench.matching.close()


async def test_a_probe_ends_empty_before_its_deadline() -> None:
    bench = Bench()
    waiting = probe(bench, "one")
    await settle()
    await bench.clock.advance(58)
    assert not waiting.done()
    await bench.clock.advance(12)
    assert list((await waiting).workflow_tasks) == [0]
    await bench.matching.close()


async def test_a_function_answers_a_probe_at_once_and_reports_no_long_polls() -> None:
    bench = Bench()
    answer = await probe(bench, "one", can_long_poll=False)
    assert (list(answer.workflow_tasks), answer.holds) == ([0], False)
    await bench.matching.close()


async def test_a_prober_counts_as_a_poller() -> None:
    bench = Bench()
    waiting = probe(bench, "one")
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
    assert list((await probe(bench, "one", "x" * 2000)).workflow_tasks) == [0, 1]
    await bench.matching.close()


async def test_closing_ends_probes() -> None:
    bench = Bench()
    waiting = probe(bench, "one")
    await settle()
    await bench.matching.close()
    assert list((await asyncio.wait_for(waiting, PATIENCE_S)).workflow_tasks) == [0]


FUNCTION = MatchingConfig(remote_notifications=False, notification_queue_prefix="stack-bridge-")


async def test_a_notification_queue_is_registered_for_the_probed_queues() -> None:
    """Once per queue, and again when the row has grown old."""
    bench = Bench(FUNCTION)
    polls = request("one", "two")
    polls.wake_queue = "stack-bridge-7"
    answer = await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    assert (answer.wakes, answer.wake_queue_prefix) == (True, "stack-bridge-")
    registered = {key: row for key, row in bench.rows.pollers.items() if row.identity == "stack-bridge-7"}
    assert sorted(registered) == [
        (NAMESPACE, "one", -2, "stack-bridge-7"), (NAMESPACE, "one", -1, "stack-bridge-7"),
        (NAMESPACE, "two", -1, "stack-bridge-7"),
    ]  # fmt: skip
    writes = bench.rows.writes
    await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    assert bench.rows.writes == writes
    await bench.clock.advance(70)
    await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    assert bench.rows.writes == writes + 1
    row = bench.rows.pollers[NAMESPACE, "two", -1, "stack-bridge-7"]
    assert row.expires_ns - bench.clock.now_ns() == 300 * 10**9
    await bench.matching.close()


@pytest.mark.parametrize("name", ["payroll", "stack-bridge-7/..", "stack-bridge-" + "x" * 70, "my-stack-bridge-7", ""])
async def test_a_notification_queue_with_another_prefix_is_not_registered(name: str) -> None:
    """Whoever may look is not to have messages sent to whatever queue."""
    bench = Bench(FUNCTION)
    polls = request("one")
    polls.wake_queue = name
    answer = await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    assert (answer.wakes, answer.wake_queue_prefix) == (False, "stack-bridge-")
    assert {row.identity for row in bench.rows.pollers.values()} == {"me"}
    await bench.matching.close()


async def test_a_process_with_long_polls_sends_no_notifications() -> None:
    bench = Bench(FUNCTION)
    polls = request("one")
    polls.wake_queue = "stack-bridge-7"
    bench.commit("a", queue="one")
    answer = await bench.ask("ProbeBacklog", polls)
    assert (answer.holds, answer.wakes, answer.wake_queue_prefix) == (True, False, "")
    await bench.matching.close()


async def test_heartbeats_sent_with_a_probe_count() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    polls = request("one")
    polls.heartbeats.append(workers_pb.WorkerHeartbeat(worker_instance_key="k1", worker_identity="me"))
    await bench.ask("ProbeBacklog", polls, can_long_poll=False)
    listed = await bench.ask("ListWorkers", rr.ListWorkersRequest())
    assert [info.worker_instance_key for info in listed.workers] == ["k1"]
    await bench.matching.close()
