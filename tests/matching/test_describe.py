"""What DescribeTaskQueue shows, in the shapes that the real server answers with."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import Bench, code_of, settle
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.config import MatchingConfig

QUEUE = queue_pb.TaskQueue(name="q")
SYSTEM = rr.DescribeTaskQueueResponse.EffectiveRateLimit(
    requests_per_second=4000, rate_limit_source=queue_enums.RATE_LIMIT_SOURCE_SYSTEM
)
VERSIONING = queue_pb.TaskQueueVersioningInfo(
    current_version="__unversioned__", update_time=timestamp_pb2.Timestamp(seconds=-62135596800)
)
EMPTY_STATS = queue_pb.TaskQueueStats(approximate_backlog_age=duration_pb2.Duration())


def request(**fields: Any) -> rr.DescribeTaskQueueRequest:
    fields.setdefault("task_queue", QUEUE)
    return rr.DescribeTaskQueueRequest(**fields)


def at(now_ns: int) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=now_ns // SECOND_NS, nanos=now_ns % SECOND_NS)


async def test_an_unused_queue() -> None:
    reply = await Bench().ask("DescribeTaskQueue", request())
    assert reply == rr.DescribeTaskQueueResponse(versioning_info=VERSIONING, effective_rate_limit=SYSTEM)


async def test_all_statistics_at_once() -> None:
    bench = Bench()
    bench.poll(seconds=3)
    await settle()
    await bench.clock.advance(2)
    bench.commit("a", "b")
    bench.commit("c", priority=1)
    await bench.clock.advance(3)
    reply = await bench.ask(
        "DescribeTaskQueue", request(report_stats=True, report_config=True, include_task_queue_status=True)
    )
    age = duration_pb2.Duration(seconds=3)
    usual = queue_pb.TaskQueueStats(approximate_backlog_count=2, approximate_backlog_age=age, tasks_add_rate=2 / 3)
    first = queue_pb.TaskQueueStats(approximate_backlog_count=1, approximate_backlog_age=age, tasks_add_rate=1 / 3)
    total = queue_pb.TaskQueueStats(
        approximate_backlog_count=3,
        approximate_backlog_age=age,
        tasks_add_rate=first.tasks_add_rate + usual.tasks_add_rate,
    )
    assert reply == rr.DescribeTaskQueueResponse(
        pollers=[
            queue_pb.PollerInfo(
                identity="me", last_access_time=at(bench.clock.now_ns() - 3 * SECOND_NS), rate_per_second=100_000
            )
        ],
        stats=total,
        stats_by_priority_key={3: usual, 1: first},
        versioning_info=VERSIONING,
        effective_rate_limit=SYSTEM,
        task_queue_status=queue_pb.TaskQueueStatus(
            backlog_count_hint=3,
            rate_per_second=4000,
            task_id_block=queue_pb.TaskIdBlock(start_id=1, end_id=100_000),
        ),
    )


async def test_an_empty_queue_has_figures_for_the_usual_priority() -> None:
    reply = await Bench().ask("DescribeTaskQueue", request(report_stats=True))
    assert reply.stats == EMPTY_STATS
    assert dict(reply.stats_by_priority_key) == {3: EMPTY_STATS}


async def test_settings_show_on_request() -> None:
    bench = Bench()
    update = rr.UpdateTaskQueueConfigRequest(task_queue="q", task_queue_type=queue_enums.TASK_QUEUE_TYPE_ACTIVITY)
    update.update_queue_rate_limit.rate_limit.requests_per_second = 7
    await bench.ask("UpdateTaskQueueConfig", update)
    reply = await bench.ask("DescribeTaskQueue", request(task_queue_type=2, report_config=True))
    assert reply.config.queue_rate_limit.rate_limit.requests_per_second == 7
    assert reply.effective_rate_limit == rr.DescribeTaskQueueResponse.EffectiveRateLimit(
        requests_per_second=7, rate_limit_source=queue_enums.RATE_LIMIT_SOURCE_API
    )
    assert not (await bench.ask("DescribeTaskQueue", request(task_queue_type=2))).HasField("config")


async def test_pollers_of_other_processes_show_through_their_rows() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    other = bench.another()
    bench.poll(identity="here")
    bench.poll(identity="there", matching=other)
    await settle()
    reply = await bench.ask("DescribeTaskQueue", request())
    assert sorted(poller.identity for poller in reply.pollers) == ["here", "there"]
    await bench.clock.advance(361)
    assert list((await bench.ask("DescribeTaskQueue", request())).pollers) == []


async def test_pollers_shut_down_in_another_process_disappear_soon() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    bench.poll(seconds=3)
    await settle()
    await bench.clock.advance(14)
    await bench.another().call(
        MatchingService.ShutdownWorker, rr.ShutdownWorkerRequest(task_queue="q", identity="me"), bench.context()
    )
    assert list((await bench.ask("DescribeTaskQueue", request())).pollers) == []


async def test_a_busy_poller_writes_its_row_every_ten_seconds_at_most() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    for n in range(100):
        poll = bench.poll()
        await settle()
        bench.commit(str(n))
        await settle()
        assert poll.done()
        await bench.clock.advance(0.3)
    assert bench.rows.writes == 3


async def test_pollers_are_forgotten_after_five_minutes_and_bounded() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False, share_pollers=False, pollers_per_queue=5))
    polls = [bench.poll(identity=f"w{n}", seconds=3) for n in range(20)]
    await settle()
    assert len((await bench.ask("DescribeTaskQueue", request())).pollers) == 5
    await bench.clock.advance(303)
    assert all(poll.done() for poll in polls)
    assert len((await bench.ask("DescribeTaskQueue", request())).pollers) == 0


async def test_the_enhanced_description() -> None:
    bench = Bench()
    bench.poll(seconds=3)
    await settle()
    await bench.clock.advance(2)
    seen = at(bench.clock.now_ns())
    bench.commit("a")
    reply = await bench.ask(
        "DescribeTaskQueue",
        request(
            api_mode=queue_enums.DESCRIBE_TASK_QUEUE_MODE_ENHANCED,
            report_stats=True,
            report_pollers=True,
        ),
    )
    assert list(reply.versions_info) == [""]
    info = reply.versions_info[""]
    poller = queue_pb.PollerInfo(identity="me", last_access_time=seen, rate_per_second=100_000)
    stats = queue_pb.TaskQueueStats(
        approximate_backlog_count=1, approximate_backlog_age=duration_pb2.Duration(), tasks_add_rate=0.0
    )
    assert info.types_info[1] == queue_pb.TaskQueueTypeInfo(pollers=[poller], stats=stats)
    assert info.types_info[2] == queue_pb.TaskQueueTypeInfo(stats=EMPTY_STATS)
    assert not reply.HasField("effective_rate_limit")


async def test_the_enhanced_description_of_chosen_builds() -> None:
    bench = Bench()
    bench.poll()
    await settle()
    versions = queue_pb.TaskQueueVersionSelection(build_ids=["b1"], unversioned=True)
    reply = await bench.ask("DescribeTaskQueue", request(api_mode=1, report_pollers=True, versions=versions))
    assert sorted(reply.versions_info) == ["", "b1"]
    assert len(reply.versions_info[""].types_info[1].pollers) == 1
    assert reply.versions_info["b1"].types_info[1] == queue_pb.TaskQueueTypeInfo()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (rr.DescribeTaskQueueRequest(), "taskQueue is not set"),
        (request(task_queue=queue_pb.TaskQueue()), "missing task queue name"),
        (
            request(task_queue=queue_pb.TaskQueue(name="/_sys/q/1"), report_stats=True),
            "DescribeTaskQueue stats are only supported for the root partition",
        ),
        (
            request(task_queue=queue_pb.TaskQueue(name="s", kind=2, normal_name="q"), report_stats=True),  # type: ignore[arg-type]
            "DescribeTaskQueue stats are only supported for the root partition",
        ),
        (
            request(task_queue=queue_pb.TaskQueue(name="s", kind=2, normal_name="q"), api_mode=1),  # type: ignore[arg-type]
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue.",
        ),
        (
            request(task_queue=queue_pb.TaskQueue(name="/_sys/q/1"), api_mode=1),
            "task queue name cannot start with reserved prefix /_sys/",
        ),
    ],
)
async def test_a_malformed_request_is_refused(request_: rr.DescribeTaskQueueRequest, message: str) -> None:
    with pytest.raises(ServiceError) as refusal:
        await Bench().ask("DescribeTaskQueue", request_)
    assert (code_of(refusal.value), refusal.value.message) == ("INVALID_ARGUMENT", message)


async def test_a_queue_is_one_partition_of_each_type() -> None:
    reply = await Bench().ask("ListTaskQueuePartitions", rr.ListTaskQueuePartitionsRequest(task_queue=QUEUE))
    partition = queue_pb.TaskQueuePartitionMetadata(key="q", owner_host_name="127.0.0.1:7233")
    assert reply == rr.ListTaskQueuePartitionsResponse(
        activity_task_queue_partitions=[partition], workflow_task_queue_partitions=[partition]
    )
