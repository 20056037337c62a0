"""Somebody sets the wall clock of a worker's machine: the bridge calls as often as before, and no poll ends early."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.bridge.fakes import SERVICE, Bench
from tests.bridge.test_idle import Life
from whistlestop.bridge.counters import Counters
from whistlestop.bridge.sqs import TOUCH_S, SqsNotificationQueue
from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now(bench: Bench) -> float:
    return bench.clock.steady_ns() / SECOND_NS


async def calls_of(jump_s: float, act: Callable[[Bench], Any], *, holds: bool, seconds: int = 240) -> list[float]:
    """When each call reaches the target, by the time that has passed; the clock is set after a minute."""
    bench = Bench(holds=holds)
    times: list[float] = []
    began_s, passed_on = _now(bench), bench.target.call

    async def call(*arguments: Any, **fields: Any) -> bytes:
        times.append(_now(bench) - began_s)
        return await passed_on(*arguments, **fields)

    bench.bridge._target.call = call  # type: ignore[method-assign]
    acting = act(bench)
    for second in range(seconds):
        if second == 60:
            bench.clock.set_wall(jump_s)
        await bench.advance(1)
    await ended(*acting)
    await bench.bridge.close()
    return times


@JUMPS
@pytest.mark.parametrize("holds", [False, True], ids=["function", "server"])
async def test_an_idle_worker_probes_as_often_as_without_a_jump(jump_s: float, *, holds: bool) -> None:
    usual = await calls_of(0, Bench.worker, holds=holds)
    assert len(usual) > 3
    assert await calls_of(jump_s, Bench.worker, holds=holds) == pytest.approx(usual)


@JUMPS
async def test_a_poll_waits_for_as_long_as_without_a_jump(jump_s: float) -> None:
    bench = Bench()
    polling = bench.poll(seconds=60)
    await bench.advance(5)
    bench.clock.set_wall(jump_s)
    await bench.advance(50)
    assert not polling.done()
    await bench.advance(5)
    assert await polling == b""
    await bench.bridge.close()


@JUMPS
async def test_a_long_poll_of_a_client_repeats_requests_until_its_deadline(jump_s: float) -> None:
    bench = Bench()
    bench.target.answers[SERVICE + "GetWorkflowExecutionHistory"] = rr.GetWorkflowExecutionHistoryResponse(
        next_page_token=b"more"
    ).SerializeToString()
    request = rr.GetWorkflowExecutionHistoryRequest(
        namespace="default",
        wait_new_event=True,
        execution={"workflow_id": "w"},  # type: ignore[arg-type]
    )
    deadline_ns = bench.clock.steady_ns() + 15 * SECOND_NS
    path = SERVICE + "GetWorkflowExecutionHistory"
    asking = asyncio.ensure_future(bench.bridge.call(path, request.SerializeToString(), {}, deadline_ns))
    await bench.advance(2)
    bench.clock.set_wall(jump_s)
    for _ in range(10):
        await bench.advance(1)
    assert not asking.done()
    for _ in range(4):
        await bench.advance(1)
    assert asking.done()
    await bench.bridge.close()


@JUMPS
async def test_a_worker_without_work_ends_when_its_time_is_over(jump_s: float) -> None:
    life = Life(10)
    assert not await life.pass_s(4)
    life.clock.set_wall(jump_s)
    assert not await life.pass_s(5)
    assert await life.pass_s(2)


@pytest.mark.parametrize("jump_s", [3 * TOUCH_S, -3 * TOUCH_S], ids=["forward", "back"])
def test_a_notification_queue_is_touched_after_half_a_day(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    wall, passed = [1e9], [500.0]
    clocks = SimpleNamespace(time=lambda: wall[0], monotonic=lambda: passed[0])
    monkeypatch.setattr("whistlestop.bridge.sqs.time", clocks)
    told: list[str] = []

    class Client:
        def create_queue(self, **_: Any) -> dict[str, str]:
            return {"QueueUrl": "https://sqs/q"}

        def list_queues(self, **_: Any) -> dict[str, list[str]]:
            return {}

        def receive_message(self, **_: Any) -> dict[str, list[Any]]:
            steps.pop(0)() if steps else queue._stopping.set()
            return {}

        def set_queue_attributes(self, Attributes: dict[str, str], **_: Any) -> None:  # noqa: N803 - boto3's name
            told.append(Attributes["MessageRetentionPeriod"])

    queue = SqsNotificationQueue("auto", counters=Counters(), make_client=Client)

    def jump() -> None:
        wall[0] += jump_s

    def half_a_day() -> None:
        passed[0] += TOUCH_S + 1

    steps = [jump, lambda: None, half_a_day, half_a_day]
    queue._receive_for_ever()
    assert len(told) == 2, "after half a day each, and not for a jump"
    assert len(set(told)) == 2, "only a change is noted by SQS"
