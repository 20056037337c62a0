"""A bridge that is woken: how seldom it looks by itself, how soon when told, and what faults of the queue do.

Time is fake: a minute takes no minute.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.bridge.fakes import Bench, FakeQueue
from tests.bridge.test_pollers import ended
from whistlestop.bridge.probe_schedule import MESSAGE_DELAY_S, NOTIFIED_INTERVAL_S, NotifiedSchedule
from whistlestop.common.clock import FakeClock
from whistlestop.common.errors import unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def woken() -> AsyncIterator[Bench]:
    """With ten pollers or so, a registered notification queue, and nothing to do for long."""
    bench = Bench(registered=True)
    worker = bench.worker()
    await bench.advance(600)
    assert bench.target.registered == "stack-bridge-1"
    yield bench
    await ended(*worker)
    await bench.bridge.close()


async def heartbeat(bench: Bench, key: str = "k", status: int = enums.WORKER_STATUS_RUNNING) -> None:
    beat = worker_pb.WorkerHeartbeat(worker_instance_key=key, status=status)  # type: ignore[arg-type]  # a number
    request = rr.RecordWorkerHeartbeatRequest(namespace="default", worker_heartbeat=[beat])
    call = asyncio.ensure_future(bench.call("RecordWorkerHeartbeat", request.SerializeToString()))
    await bench.advance(0.1)
    await call


async def test_an_idle_worker_makes_fewer_than_one_call_a_minute(woken: Bench) -> None:
    """An hour, its heartbeats of every minute included: they ride along with the looks."""
    await heartbeat(woken)
    before = len(woken.target.calls)
    for _ in range(60):
        await woken.advance(59.9)
        await heartbeat(woken)
    assert 40 < len(woken.target.calls) - before < 60
    assert {name for _, name in woken.target.calls[before:]} == {"ProbeBacklog"}
    assert len(woken.target.heartbeats) > 40


async def test_a_message_causes_a_probe_at_once(woken: Bench) -> None:
    woken.target.add("q")
    woken.queue.message()
    await woken.advance(0.1)
    assert woken.bridge.counters.tasks == 1


async def test_a_lost_message_is_made_up_for(woken: Bench) -> None:
    """By the looks that it makes by itself."""
    woken.target.add("q")
    await woken.advance(NOTIFIED_INTERVAL_S + 0.1)
    assert woken.bridge.counters.tasks == 1


async def test_duplicate_and_late_messages_only_cost_probes(woken: Bench) -> None:
    """Each task is handed out once."""
    before = len(woken.target.named("ProbeBacklog"))
    woken.target.add("q")
    for _ in range(5):
        woken.queue.message()
    await woken.advance(0.1)
    for _ in range(3):
        woken.queue.message()
        await woken.advance(1)
    assert woken.bridge.counters.tasks == 1
    assert len(woken.target.named("PollWorkflowTaskQueue")) == 1
    assert len(woken.target.named("ProbeBacklog")) - before <= 6


async def test_a_message_that_overtakes_its_task(woken: Bench) -> None:
    """It is looked for once more soon after."""
    woken.queue.message()
    await woken.advance(0.5)
    woken.target.add("q")
    await woken.advance(5)
    assert woken.bridge.counters.tasks == 1


async def test_a_call_without_a_message_is_followed_by_a_probe(woken: Bench) -> None:
    """Most calls make no task, so it waits for the message for a moment."""
    before = len(woken.target.named("ProbeBacklog"))
    call = asyncio.ensure_future(woken.call("RespondActivityTaskCompleted"))
    woken.target.add("q")
    await woken.advance(0.1)
    await call
    assert len(woken.target.named("ProbeBacklog")) == before
    await woken.advance(MESSAGE_DELAY_S)
    assert woken.bridge.counters.tasks == 1


async def test_a_backlog_is_worked_off_on_one_message(woken: Bench) -> None:
    """Five pollers at a time, until nothing is left."""
    for _ in range(23):
        woken.target.add("q")
    woken.queue.message()
    await woken.advance(1)
    assert woken.bridge.counters.tasks == 23


async def test_a_message_that_comes_while_polls_are_on_their_way(woken: Bench) -> None:
    """What it tells of is found when they are back."""
    woken.target.add("q")
    woken.queue.message()
    await woken.advance(0.015)  # the look is answered, the poll on its way
    woken.target.add("q")
    woken.queue.message()
    await woken.advance(0.2)
    assert woken.bridge.counters.tasks == 2


async def test_without_its_queue_the_bridge_probes_as_without_notifications(woken: Bench) -> None:
    """And goes back to sleep when it is heard again."""
    woken.queue.rename("")
    await woken.advance(0.1)
    assert woken.target.registered == ""
    await woken.advance(120)
    before = len(woken.target.calls)
    await woken.advance(600)
    assert 15 < len(woken.target.calls) - before < 40
    woken.queue.rename("stack-bridge-2")
    await woken.advance(30)
    assert woken.target.registered == "stack-bridge-2"
    before = len(woken.target.calls)
    await woken.advance(600)
    assert len(woken.target.calls) - before < 10


async def test_a_target_that_stops_notifying_is_probed_more_often(woken: Bench) -> None:
    """As when its next release knows nothing of notification queues."""
    woken.target.wake_prefix = ""
    await woken.advance(200)
    before = len(woken.target.calls)
    await woken.advance(600)
    assert 15 < len(woken.target.calls) - before < 40


async def test_no_queue_is_created_for_a_target_without_notifications() -> None:
    clock, queue = FakeClock(), FakeQueue()
    schedule = NotifiedSchedule(clock, queue)
    schedule.record_answer("", registered=False)
    assert (queue.prefixes, schedule.notification_queue) == ([], "")


async def test_news_of_a_worker_goes_through_at_once(woken: Bench) -> None:
    """The first heartbeat, one that tells of a change, and those of a worker that sends them often."""

    def passed() -> int:
        return len(woken.target.named("RecordWorkerHeartbeat"))

    await heartbeat(woken)
    assert passed() == 1
    await woken.advance(60)
    await heartbeat(woken)
    assert passed() == 1
    await woken.advance(60)
    await heartbeat(woken, status=enums.WORKER_STATUS_SHUTTING_DOWN)
    assert passed() == 2
    for _ in range(3):
        await woken.advance(5)
        await heartbeat(woken)
    assert passed() == 5


async def test_a_heartbeat_without_probes_is_a_call() -> None:
    """A bridge whose workers have no polls waiting brings it along with nothing."""
    bench = Bench(registered=True)
    for _ in range(3):
        await heartbeat(bench)
        await bench.advance(60)
    assert len(bench.target.named("RecordWorkerHeartbeat")) == 3
    await bench.bridge.close()


async def test_a_heartbeat_is_kept_while_probes_fail(woken: Bench) -> None:
    """It is brought along as soon as one works again."""
    await heartbeat(woken)
    await woken.advance(60)
    await heartbeat(woken)
    woken.target.heartbeats.clear()
    woken.target.error = unavailable("down")
    await woken.advance(NOTIFIED_INTERVAL_S)
    assert woken.target.named("ProbeBacklog")
    woken.target.error = None
    woken.target.heartbeats.clear()
    await woken.advance(15)
    assert woken.target.heartbeats == ["k"]
