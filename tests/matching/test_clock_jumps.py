"""Somebody sets the wall clock: limits, registers and looks of matching go by the time that passes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, Bench, got, settle
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.proto import worker_pb2 as looks_pb
from whistlestop.common.proto.deployment_pb2 import PushState
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.push import scaler as scaling
from whistlestop.matching.task_queue.settings import Settings

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])


async def handed_out(bench: Bench, seconds: int, jump_s: float, **poll: Any) -> list[float]:
    """When tasks of a queue with one token a second are handed out; the clock is set in the middle."""
    for n in range(seconds * 3):
        bench.task(f"w{n}", task_type=2)
    given: list[float] = []
    began_ns = bench.clock.steady_ns()
    polling = bench.poll_activity(rps=1, **poll)
    for turn in range(seconds * 10):
        if turn == seconds * 5:
            bench.clock.set_wall(jump_s)
        await bench.clock.advance(0.1)
        await settle()
        if polling.done():
            if polling.result().activity_id:
                given.append((bench.clock.steady_ns() - began_ns) / SECOND_NS)
            polling = bench.poll_activity(rps=1, **poll)
    polling.cancel()
    return given


@JUMPS
@pytest.mark.parametrize("kind", ["in memory", "shared by processes", "in a function"])
async def test_a_limit_lets_through_as_much_as_without_a_jump(kind: str, jump_s: float) -> None:
    """Buckets in rows are stored by the wall clock: after a jump back they lie far ahead, and are brought near."""
    usual, told = (Bench(MatchingConfig(share_pollers=kind == "shared by processes")) for _ in range(2))
    fields = {"can_long_poll": kind != "in a function"}
    expected = len(await handed_out(usual, 12, 0, **fields))
    found = len(await handed_out(told, 12, jump_s, **fields))
    assert expected >= 8
    # A bucket in a row may be filled once by a jump forward: the time seems to have passed.
    assert expected - 2 <= found <= expected + 2


async def test_a_bucket_left_by_a_slower_limit_delays_no_longer_than_the_new_limit() -> None:
    bench = Bench()
    settings = Settings(bench.store, bench.config)
    task, key = bench.task("w", task_type=2), (NAMESPACE, "q", 2)
    assert await settings.take_shared_token(key, 0.0001, task, bench.clock.now_ns()) is None
    assert await settings.take_shared_token(key, 0.0001, task, bench.clock.now_ns()) is not None
    refusal = await settings.take_shared_token(key, 10, task, bench.clock.now_ns())
    assert refusal is not None
    assert refusal.after_ns <= SECOND_NS // 10
    await bench.clock.advance(0.2)
    assert await settings.take_shared_token(key, 10, task, bench.clock.now_ns()) is None


@JUMPS
async def test_a_worker_is_listed_while_its_heartbeat_is_valid(jump_s: float) -> None:
    bench = Bench()
    beat = worker_pb.WorkerHeartbeat(worker_instance_key="k", task_queue="q", status=common_enums.WORKER_STATUS_RUNNING)

    async def known() -> int:
        return len((await bench.ask("ListWorkers", rr.ListWorkersRequest())).workers_info)

    await bench.ask("RecordWorkerHeartbeat", rr.RecordWorkerHeartbeatRequest(worker_heartbeat=[beat]))
    bench.clock.set_wall(jump_s)
    await bench.clock.advance(bench.config.heartbeat_ttl_s - 1)
    assert await known() == 1
    await bench.clock.advance(2)
    assert await known() == 0


@JUMPS
async def test_a_worker_that_left_is_answered_at_once_for_a_while(jump_s: float) -> None:
    bench = Bench()
    await bench.ask("ShutdownWorker", rr.ShutdownWorkerRequest(worker_instance_key="k"))
    bench.clock.set_wall(jump_s)
    await settle()
    polling = bench.poll(worker="k")
    await settle()
    assert got(polling) == ""
    await bench.clock.advance(bench.config.shutdown_memory_s + 1)
    polling = bench.poll(worker="k")
    await settle()
    assert not polling.done()
    polling.cancel()


@JUMPS
@pytest.mark.parametrize("shared", [False, True], ids=["in memory", "in rows"])
async def test_recent_pollers_of_a_queue_are_found(jump_s: float, *, shared: bool) -> None:
    """A row from before the clock was set back tells nothing; whoever polls writes it anew."""
    bench = Bench(MatchingConfig(share_pollers=shared))
    asked = internal.HasPollerRequest(task_queue="q", task_type=1)

    async def is_polled() -> bool:
        return bool((await bench.ask("HasPoller", asked)).has_poller)

    polling = bench.poll()
    await settle()
    bench.clock.set_wall(jump_s)
    assert await is_polled()
    polling.cancel()
    await settle()
    await bench.clock.advance(200)
    assert not await is_polled()


@JUMPS
async def test_a_description_shows_when_a_poller_was_seen_by_the_date_as_it_is_now(jump_s: float) -> None:
    bench = Bench()
    polling = bench.poll()
    await settle()
    polling.cancel()
    await settle()
    bench.clock.set_wall(jump_s)
    await bench.clock.advance(3)
    request = rr.DescribeTaskQueueRequest(task_queue={"name": "q"}, task_queue_type=1)  # type: ignore[arg-type]
    (poller,) = (await bench.ask("DescribeTaskQueue", request)).pollers
    assert poller.last_access_time.ToNanoseconds() == bench.clock.now_ns() - 3 * SECOND_NS


@JUMPS
async def test_a_probe_waits_as_long_as_without_a_jump(jump_s: float) -> None:
    bench = Bench()
    poll = rr.PollWorkflowTaskQueueRequest(task_queue={"name": "q"})  # type: ignore[arg-type]
    request = looks_pb.ProbeBacklogRequest(namespace="ns", workflow_polls=[poll])
    looking = asyncio.ensure_future(bench.matching.call(MatchingService.ProbeBacklog, request, bench.context(30)))
    await settle()
    await bench.clock.advance(1)
    bench.clock.set_wall(jump_s)
    await bench.clock.advance(25)
    await settle()
    assert not looking.done()
    await bench.clock.advance(5)
    await settle()
    assert looking.done()


@JUMPS
async def test_a_task_that_history_refused_is_tried_again_when_the_pause_is_over(jump_s: float) -> None:
    from whistlestop.common.errors import unavailable

    bench = Bench()
    tries: list[float] = []
    answer = bench.history.call

    async def refuse(*arguments: Any) -> Any:
        tries.append(bench.clock.steady_ns() / SECOND_NS)
        if len(tries) == 1:
            raise unavailable("not now")
        return await answer(*arguments)

    bench.history.call = refuse  # type: ignore[method-assign, assignment]
    polling = bench.poll()
    await settle()
    bench.commit("w")
    await settle()
    bench.clock.set_wall(jump_s)
    await settle()
    assert len(tries) == 1
    await bench.clock.advance(bench.config.retry_first_s + 0.1)
    await settle()
    assert got(polling) == "w"


def test_stored_times_of_started_workers_are_bounded_after_a_jump() -> None:
    """After a jump back: a back-off, a cool-off and workers on their way last no longer than they would have."""
    made = scaling.Scaler()
    now_ns = 10 * int(HOUR_S) * SECOND_NS
    state = PushState()
    scaling.failed(state, "e", now_ns)
    scaling.started(made, state, 1, 0, now_ns)
    earlier_ns = now_ns - int(HOUR_S) * SECOND_NS
    scaling.decide(made, state, 1, 0, earlier_ns, again=True)
    assert state.not_before_ns <= earlier_ns + SECOND_NS
    assert state.starting_until_ns <= earlier_ns + made.worker_start_timeout_ms * 1_000_000
    later_ns = earlier_ns + 31 * SECOND_NS
    scaling.decide(made, state, 1, 0, later_ns, again=True)
    assert state.starting == 0
    assert scaling.decide(made, state, 1, 0, later_ns + 10 * SECOND_NS, again=True).count == 1
