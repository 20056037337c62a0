"""Sticky queues, workers that say goodbye, and what workers tell of themselves."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import Bench, code_of, got, settle
from whistlestop.common.clients import encoded
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.matching.config import MatchingConfig


async def has_poller(bench: Bench, queue: str, *, can_long_poll: bool = True) -> bool:
    reply = await bench.ask(
        "HasPoller", internal.HasPollerRequest(task_queue=queue, task_type=1), can_long_poll=can_long_poll
    )
    return bool(reply.has_poller)


async def shut_down(bench: Bench, request: rr.ShutdownWorkerRequest, *, can_long_poll: bool = True) -> None:
    await bench.ask("ShutdownWorker", request, can_long_poll=can_long_poll)
    await settle()


async def test_a_sticky_queue_keeps_its_poller_for_ten_seconds() -> None:
    bench = Bench()
    poll = bench.poll("sticky", seconds=3, sticky=True)
    await settle()
    assert await has_poller(bench, "sticky")
    await bench.clock.advance(2)
    assert poll.done()
    await bench.clock.advance(9.9)
    assert await has_poller(bench, "sticky")
    await bench.clock.advance(0.2)
    assert not await has_poller(bench, "sticky")
    assert not await has_poller(bench, "unheard of")


async def test_a_task_for_a_sticky_queue_without_its_worker_is_reset_at_once() -> None:
    bench = Bench()
    bench.poll("sticky", seconds=3, sticky=True)
    await bench.clock.advance(0)
    await bench.clock.advance(12.1)
    bench.commit("a", queue="sticky")
    await settle()
    assert bench.history.resets == ["a"]


async def test_a_task_for_a_normal_queue_without_workers_stays() -> None:
    bench = Bench()
    bench.poll("q", seconds=3)
    await bench.clock.advance(0)
    await bench.clock.advance(60)
    bench.commit("a")
    await settle()
    assert bench.history.resets == []


async def test_another_process_poller_keeps_a_sticky_task_where_it_is() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    other = bench.another()
    bench.poll("sticky", seconds=3, sticky=True)
    await bench.clock.advance(0)
    await bench.clock.advance(12.1)
    poll = bench.poll("sticky", seconds=70, sticky=True, matching=other)
    await settle()
    bench.commit("a", queue="sticky")
    await settle()
    assert bench.history.resets == []
    poll.cancel()


async def test_shutdown_ends_the_worker_s_polls_everywhere_and_no_others() -> None:
    bench = Bench()
    own = [bench.poll("q", worker="w1"), bench.poll("sticky", worker="w1", sticky=True)]
    other = bench.poll("q", worker="w2")
    await settle()
    await shut_down(
        bench,
        rr.ShutdownWorkerRequest(worker_instance_key="w1", task_queue="q", sticky_task_queue="sticky", identity="me"),
    )
    assert [got(poll) for poll in own] == ["", ""]
    assert not other.done()
    bench.commit("a")
    await settle()
    assert got(other) == "a"


async def test_later_polls_of_a_worker_that_left_are_answered_at_once_for_half_a_minute() -> None:
    bench = Bench()
    await shut_down(bench, rr.ShutdownWorkerRequest(worker_instance_key="w1", task_queue="q"))
    bench.commit("a")
    poll = bench.poll(worker="w1")
    await settle()
    assert got(poll) == ""
    await bench.clock.advance(31)
    poll = bench.poll(worker="w1")
    await settle()
    assert got(poll) == "a"


async def test_a_shutdown_during_a_read_of_the_store_ends_the_poll() -> None:
    bench = Bench()
    store_answers = asyncio.Event()
    bench.rows.delay = store_answers.wait
    own, other = bench.poll("q", worker="w1"), bench.poll("p", worker="w2")
    await settle()
    await shut_down(bench, rr.ShutdownWorkerRequest(worker_instance_key="w1", task_queue="q", identity="me"))
    store_answers.set()
    await settle()
    assert (got(own), other.done()) == ("", False)


async def test_a_worker_without_an_instance_key_is_identified_by_identity_and_queue() -> None:
    bench = Bench()
    own, elsewhere, other = bench.poll("q"), bench.poll("p"), bench.poll("q", identity="you")
    await settle()
    await shut_down(bench, rr.ShutdownWorkerRequest(task_queue="q", identity="me"))
    assert (got(own), elsewhere.done(), other.done()) == ("", False, False)


async def test_shutdown_moves_waiting_sticky_tasks_to_the_normal_queue() -> None:
    bench = Bench()
    poll = bench.poll("sticky", sticky=True)
    await settle()
    bench.commit("first", queue="sticky")
    await settle()
    assert got(poll) == "first"
    bench.commit("second", "third", queue="sticky")
    await shut_down(bench, rr.ShutdownWorkerRequest(sticky_task_queue="sticky", identity="me"))
    assert bench.history.resets == ["second", "third"]
    assert not await has_poller(bench, "sticky")
    bench.commit("fourth", queue="sticky")
    await settle()
    assert bench.history.resets == ["second", "third", "fourth"]


async def test_shutdown_in_a_function_is_visible_to_others_through_rows() -> None:
    bench = Bench()
    bench.matching = bench.another()
    poll = bench.poll("sticky", sticky=True, can_long_poll=False)
    await settle()
    await bench.clock.advance(1)
    assert poll.done()
    bench.matching = bench.another()
    assert await has_poller(bench, "sticky", can_long_poll=False)
    bench.task("a", queue="sticky")
    await shut_down(bench, rr.ShutdownWorkerRequest(sticky_task_queue="sticky"), can_long_poll=False)
    bench.matching = bench.another()
    assert not await has_poller(bench, "sticky", can_long_poll=False)
    assert bench.history.resets == ["a"]


async def test_shutdown_takes_the_worker_out_of_the_descriptions() -> None:
    bench = Bench()
    bench.poll("q", worker="w1")
    await settle()
    request = rr.DescribeTaskQueueRequest()
    request.task_queue.name = "q"
    assert [poller.identity for poller in (await bench.ask("DescribeTaskQueue", request)).pollers] == ["me"]
    await shut_down(bench, rr.ShutdownWorkerRequest(worker_instance_key="w1", task_queue="q", identity="me"))
    assert list((await bench.ask("DescribeTaskQueue", request)).pollers) == []


def heartbeat(key: str, queue: str = "q", **fields: object) -> worker_pb.WorkerHeartbeat:
    return worker_pb.WorkerHeartbeat(worker_instance_key=key, task_queue=queue, **fields)  # type: ignore[arg-type]


async def listed(bench: Bench, query: str = "", **fields: object) -> list[str]:
    reply = await bench.ask("ListWorkers", rr.ListWorkersRequest(query=query, **fields))  # type: ignore[arg-type]
    return [worker.worker_instance_key for worker in reply.workers]


async def test_the_latest_heartbeat_of_a_worker_is_kept_for_five_minutes() -> None:
    bench = Bench()
    for version in ("1", "2"):
        request = rr.RecordWorkerHeartbeatRequest(worker_heartbeat=[heartbeat("w1", sdk_version=version)])
        await bench.ask("RecordWorkerHeartbeat", request)
    described = await bench.ask("DescribeWorker", rr.DescribeWorkerRequest(worker_instance_key="w1"))
    assert described.worker_info.worker_heartbeat.sdk_version == "2"
    assert (await bench.ask("CountWorkers", rr.CountWorkersRequest())).count == 1
    with pytest.raises(ServiceError, match=r"^Worker w2 not found$") as refusal:
        await bench.ask("DescribeWorker", rr.DescribeWorkerRequest(worker_instance_key="w2"))
    assert code_of(refusal.value) == "NOT_FOUND"
    await bench.clock.advance(301)
    assert await listed(bench) == []


async def test_a_last_heartbeat_removes_the_worker() -> None:
    bench = Bench()
    await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=[heartbeat("w1")]))
    gone = heartbeat("w1", status=common_enums.WORKER_STATUS_SHUTDOWN)
    await shut_down(bench, rr.ShutdownWorkerRequest(worker_instance_key="w1", worker_heartbeat=gone))
    assert await listed(bench) == []


async def test_the_number_of_heartbeats_is_bounded() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False, share_pollers=False, heartbeats=3))
    for n in range(10):
        await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=[heartbeat(f"w{n}")]))
    assert await listed(bench) == ["w7", "w8", "w9"]


async def test_workers_are_listed_in_pages_and_system_workers_only_on_request() -> None:
    bench = Bench()
    beats = [heartbeat("b"), heartbeat("a"), heartbeat("c"), heartbeat("s", "temporal-sys-tq")]
    await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=beats))
    first = await bench.ask("ListWorkers", rr.ListWorkersRequest(page_size=2))
    assert [worker.worker_instance_key for worker in first.workers] == ["a", "b"]
    rest = await bench.ask("ListWorkers", rr.ListWorkersRequest(page_size=2, next_page_token=first.next_page_token))
    assert [worker.worker_instance_key for worker in rest.workers] == ["c"]
    assert rest.next_page_token == b""
    assert len(await listed(bench, include_system_workers=True)) == 4
    with pytest.raises(ServiceError, match=r"^invalid next_page_token$"):
        await listed(bench, next_page_token=b"zz")


@pytest.mark.parametrize("shared", [True, False])
async def test_a_page_of_workers_costs_the_same_wherever_it_is(shared: bool) -> None:
    """Of ten thousand in rows, a page reads what it shows; a description reads one."""
    bench = Bench(MatchingConfig(remote_notifications=False, share_pollers=shared, shared_heartbeats=10_000))
    beats = [heartbeat(f"w{n:05}") for n in range(10_000)]
    await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=beats))
    token, found, pages = b"", [], 0
    while token or not pages:
        before = bench.rows.rows_read
        reply = await bench.ask("ListWorkers", rr.ListWorkersRequest(page_size=900, next_page_token=token))
        assert bench.rows.rows_read - before <= 901
        token, pages = reply.next_page_token, pages + 1
        found += [worker.worker_instance_key for worker in reply.workers]
    assert (found, pages) == ([beat.worker_instance_key for beat in beats], 12)
    assert (await bench.ask("CountWorkers", rr.CountWorkersRequest())).count == 10_000
    assert len(await listed(bench)) == 1000
    assert await listed(bench, "WorkerInstanceKey = 'w09999'") == ["w09999"]
    before = bench.rows.rows_read
    await bench.ask("DescribeWorker", rr.DescribeWorkerRequest(worker_instance_key="w05000"))
    assert bench.rows.rows_read == before


QUERIES = [
    ("", ["a", "b"]),
    ("TaskQueue = 'q1'", ["a"]),
    ("TaskQueue != 'q1'", ["b"]),
    ("TaskQueue='q1' AND SdkName starts_with 'py'", ["a"]),
    ("TaskQueue = 'q2' OR WorkerInstanceKey = 'a'", ["a", "b"]),
    ("(TaskQueue = 'q2' OR TaskQueue = 'q1') AND HostName = 'h'", ["a"]),
    ("SdkName not starts_with 'py'", ["b"]),
    ("HostName IS NULL", ["b"]),
    ("HostName is not null", ["a"]),
    ("WorkerStatus = 'ShuttingDown'", ["b"]),
    ("`Status` = 'Running'", ["a"]),
    ("StartTime > '2026-01-01T00:00:00Z'", ["b"]),
    ("StartTime BETWEEN '2025-01-01T00:00:00Z' AND '2025-12-31T00:00:00Z'", ["a"]),
    ("StartTime NOT BETWEEN '2025-01-01T00:00:00Z' AND '2025-12-31T00:00:00Z'", ["b"]),
    ("HeartbeatTime IS NULL", ["a", "b"]),
    ("Foo = 'q1'", []),
    ("TaskQueue > 'q'", []),
    ("TaskQueue = ''", []),
    ("StartTime > 'yesterday'", []),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
async def test_workers_are_filtered(query: str, expected: list[str]) -> None:
    bench = Bench()
    first = heartbeat("a", "q1", sdk_name="python", status=common_enums.WORKER_STATUS_RUNNING)
    first.host_info.host_name = "h"
    first.start_time.FromJsonString("2025-06-01T00:00:00Z")
    second = heartbeat("b", "q2", sdk_name="go", status=common_enums.WORKER_STATUS_SHUTTING_DOWN)
    second.start_time.FromJsonString("2026-06-01T00:00:00Z")
    await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=[first, second]))
    assert await listed(bench, query) == expected


@pytest.mark.parametrize(
    "query", ["TaskQueue=", "TaskQueue", "= 'a'", "(TaskQueue = 'a'", "TaskQueue = 'a' AND", "'", "a = 'b' c"]
)
async def test_a_filter_that_does_not_parse_is_refused(query: str) -> None:
    with pytest.raises(ServiceError, match=r"^malformed query: ") as refusal:
        await listed(Bench(), query)
    assert code_of(refusal.value) == "INVALID_ARGUMENT"


async def test_an_unknown_method_is_unimplemented() -> None:
    bench = Bench()
    with pytest.raises(ServiceError) as refusal:
        await bench.matching.call(HistoryService.FireTimers, internal.FireTimersRequest(), bench.context())
    assert code_of(refusal.value) == "UNIMPLEMENTED"
    assert encoded(rr.ShutdownWorkerResponse()) == b""


async def test_the_place_of_a_mistake_is_counted_as_temporal_counts() -> None:
    with pytest.raises(ServiceError, match=r"^malformed query: syntax error at position 38$"):
        await listed(Bench(), "TaskQueue=")
