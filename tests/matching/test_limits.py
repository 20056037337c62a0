"""How fast queues hand out, and where the limits are kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import Bench, code_of, settle
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.task_queue_pb2 import TaskQueueData
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.task_queue.rate_limit import RateLimiter
from whistlestop.matching.task_queue.settings import data_of
from whistlestop.matching.task_queue.throughput import Rate
from whistlestop.net.tasks.deadline_queue import DeadlineQueue
from whistlestop.storage.records import TaskQueueRecord


def update(
    rps: float | None = None, *, queue: str = "q", kind: int = 2, **fields: object
) -> rr.UpdateTaskQueueConfigRequest:
    request = rr.UpdateTaskQueueConfigRequest(task_queue=queue, task_queue_type=kind, **fields)  # type: ignore[arg-type]
    if rps is not None:
        request.update_queue_rate_limit.rate_limit.requests_per_second = rps
    return request


async def drained(bench: Bench, seconds: float, *, rps: float | None = None, can_long_poll: bool = True) -> int:
    """How many activities five greedy pollers get in that time."""
    count = 0

    async def greedy() -> None:
        nonlocal count
        while True:
            reply = await bench.poll_activity(rps=rps, can_long_poll=can_long_poll)
            if reply.activity_id:
                count += 1

    pollers = [asyncio.ensure_future(greedy()) for _ in range(5)]
    await settle(100)
    for _ in range(round(seconds * 20)):
        await bench.clock.advance(0.05)
        await settle(100)
    for poller in pollers:
        poller.cancel()
    await settle()
    return count


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    limiter = RateLimiter(4000, 1)
    limiter.set_api_rps(10, 0)
    now_ns = 100 * SECOND_NS
    assert sum(limiter.take(now_ns) for _ in range(50)) == 10
    assert limiter.ready_ns == now_ns + SECOND_NS // 10
    assert sum(limiter.take(now_ns + n * SECOND_NS // 100) for n in range(1, 101)) == 10


def test_the_api_s_limit_counts_before_the_worker_s_and_the_system_s_before_both() -> None:
    limiter = RateLimiter(100, 1)
    assert (limiter.rps, limiter.source) == (100, queue_enums.RATE_LIMIT_SOURCE_SYSTEM)
    limiter.set_worker_rps(5, 0)
    assert (limiter.rps, limiter.source) == (5, queue_enums.RATE_LIMIT_SOURCE_WORKER)
    limiter.set_api_rps(7, 0)
    assert (limiter.rps, limiter.source) == (7, queue_enums.RATE_LIMIT_SOURCE_API)
    limiter.set_api_rps(1000, 0)
    assert (limiter.rps, limiter.source) == (100, queue_enums.RATE_LIMIT_SOURCE_SYSTEM)


def test_a_limit_of_zero_stops_the_queue_until_it_is_lifted() -> None:
    limiter = RateLimiter(100, 1)
    limiter.set_api_rps(0, 0)
    assert not limiter.take(10**18)
    limiter.set_api_rps(None, 10**18)
    assert limiter.take(10**18 + SECOND_NS)


def test_a_rate_is_the_average_of_half_a_minute() -> None:
    rate = Rate(0)
    for n in range(100):
        rate.add(n * SECOND_NS, 2)
    assert rate.per_second(100 * SECOND_NS) == pytest.approx(2, rel=0.05)
    assert rate.per_second(200 * SECOND_NS) == 0


async def test_the_limit_that_polls_bring_is_kept() -> None:
    bench = Bench()
    bench.commit(*map(str, range(100)), task_type=2)
    assert await drained(bench, 4, rps=5) == pytest.approx(25, abs=1)


async def test_a_stored_limit_reaches_a_queue_in_use_at_once() -> None:
    bench = Bench()
    bench.commit(*map(str, range(200)), task_type=2)
    await bench.ask("UpdateTaskQueueConfig", update(0))
    assert await drained(bench, 2) == 0
    await bench.ask("UpdateTaskQueueConfig", update(20))
    assert await drained(bench, 2) == pytest.approx(40, abs=1)
    await bench.ask("UpdateTaskQueueConfig", update(update_queue_rate_limit={"reason": "off"}))
    await drained(bench, 0.5)
    assert bench.rows.rows == {}


async def test_a_stored_limit_holds_for_fresh_instances_that_share_nothing() -> None:
    bench = Bench(MatchingConfig(function_wait_s=0.2))
    for n in range(100):
        bench.task(str(n), task_type=2)
    await bench.ask("UpdateTaskQueueConfig", update(10))
    count = 0
    for _ in range(40):
        bench.matching = bench.another()
        poll = bench.poll_activity(can_long_poll=False)
        await settle(50)
        await bench.clock.advance(0.1)
        await settle(50)
        count += poll.done() and bool(poll.result().activity_id)
        poll.cancel()
    assert 40 <= len(bench.history.started) <= 52
    assert count > 0


@pytest.mark.parametrize("ready_ns", [0, 1_790_000_000 * SECOND_NS])
def test_a_row_from_before_keys_had_buckets_is_read(ready_ns: int) -> None:
    config = queue_pb.TaskQueueConfig(fairness_weight_overrides={"a": 2.0})
    record = TaskQueueRecord("ns", "q", 2, 1, ready_ns.to_bytes(8, "big") + config.SerializeToString(), 0)
    assert data_of(record) == TaskQueueData(config=config, ready_ns=ready_ns)
    for data in (TaskQueueData(config=config), TaskQueueData(ready_ns=5), TaskQueueData(key_ready_ns={7: 5})):
        assert data_of(replace(record, data=data.SerializeToString())) == data


async def test_processes_over_one_store_keep_one_limit_together() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    other = bench.another()
    for n in range(200):
        bench.task(str(n), task_type=2)
    await bench.ask("UpdateTaskQueueConfig", update(10))
    first = asyncio.ensure_future(drained(bench, 4))
    await settle()
    bench.matching = other
    request = rr.PollActivityTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q"), identity="you")

    async def greedy() -> None:
        while True:
            await other.call(MatchingService.PollActivityTaskQueue, request, bench.context())

    second = asyncio.ensure_future(greedy())
    await first
    second.cancel()
    assert 40 <= len(bench.history.started) <= 51


async def test_limited_dispatch_shows_in_the_statistics() -> None:
    bench = Bench()
    bench.commit(*map(str, range(100)), task_type=2)
    await drained(bench, 1, rps=5)
    request = rr.DescribeTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q"), task_queue_type=2, report_stats=True)  # type: ignore[arg-type]
    reply = await bench.ask("DescribeTaskQueue", request)
    assert reply.stats.rate_limiting_active
    assert reply.effective_rate_limit == rr.DescribeTaskQueueResponse.EffectiveRateLimit(
        requests_per_second=5, rate_limit_source=queue_enums.RATE_LIMIT_SOURCE_WORKER
    )


async def test_settings_are_stored_with_who_and_why() -> None:
    bench = Bench()
    request = update(7, identity="me")
    request.update_queue_rate_limit.reason = "because"
    reply = await bench.ask("UpdateTaskQueueConfig", request)
    limit = reply.config.queue_rate_limit
    assert (limit.rate_limit.requests_per_second, limit.metadata.reason, limit.metadata.update_identity) == (
        7,
        "because",
        "me",
    )
    assert limit.metadata.update_time.seconds == bench.clock.now_ns() // SECOND_NS
    bench.matching = bench.another()
    reply = await bench.ask("UpdateTaskQueueConfig", update(set_fairness_weight_overrides={"a": 2.0}))
    assert (reply.config.queue_rate_limit, dict(reply.config.fairness_weight_overrides)) == (limit, {"a": 2.0})
    reply = await bench.ask("UpdateTaskQueueConfig", update(unset_fairness_weight_overrides=["a"]))
    assert dict(reply.config.fairness_weight_overrides) == {}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (update(7, kind=1), "Setting rate limit on workflow task queues is not allowed."),
        (update(-7), "RequestsPerSecond for UpdateQueueRateLimit rate limit must be non-negative."),
        (update(set_fairness_weight_overrides={"a" * 65: 1.0}), "fairness key length exceeds limit"),
        (update(set_fairness_weight_overrides={"": 1.0}), "fairness weight override key must not be empty"),
        (
            update(set_fairness_weight_overrides={"a": -1.0}),
            'invalid fairness weight weight for key "a": must be greater than zero',
        ),
        (
            update(set_fairness_weight_overrides={"a": 1.0}, unset_fairness_weight_overrides=["a"]),
            'fairness weight override key "a" present in both set and unset lists',
        ),
        (update(identity="i" * 1001), "Identity field too long (max 1000 characters)."),
    ],
)
async def test_settings_that_make_no_sense_are_refused_and_change_nothing(
    request_: rr.UpdateTaskQueueConfigRequest, message: str
) -> None:
    bench = Bench()
    with pytest.raises(ServiceError) as refusal:
        await bench.ask("UpdateTaskQueueConfig", request_)
    assert (code_of(refusal.value), refusal.value.message) == ("INVALID_ARGUMENT", message)
    assert bench.rows.queues == {}


async def test_deadlines_run_in_order_and_not_after_they_were_cancelled() -> None:
    clock = Bench().clock
    deadlines = DeadlineQueue(clock)
    rung: list[str] = []
    now_ns = clock.steady_ns()
    off = deadlines.call_at(now_ns + SECOND_NS, lambda: rung.append("off"))
    deadlines.call_at(now_ns + 3 * SECOND_NS, lambda: rung.append("third"))
    deadlines.call_at(now_ns + 2 * SECOND_NS, lambda: rung.append("second"))
    deadlines.cancel(off)
    await settle()
    await clock.advance(5)
    assert rung == ["second", "third"]
    assert len(deadlines) == 0


async def test_cancelled_deadlines_are_removed() -> None:
    clock = Bench().clock
    deadlines = DeadlineQueue(clock)
    for _ in range(10_000):
        deadlines.cancel(deadlines.call_at(clock.steady_ns() + SECOND_NS, lambda: None))
    assert len(deadlines._heap) < 1000
    deadlines.close()
