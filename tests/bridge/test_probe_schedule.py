"""A bridge with notifications: how rarely it probes, how soon after a message, and faults of the queue.

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
async def notified() -> AsyncIterator[Bench]:
    """With ten pollers or so, a registered notification queue, and nothing to do for long."""
    bench = Bench(wakes=True)
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


async def test_an_idle_worker_makes_fewer_than_one_call_a_minute(notified: Bench) -> None:
    """An hour, its heartbeats of every minute included: they ride along with the probes."""
    await heartbeat(notified)
    before = len(notified.target.calls)
    for _ in range(60):
        await notified.advance(59.9)
        await heartbeat(notified)
    assert 40 < len(notified.target.calls) - before < 60
    assert {name for _, name in notified.target.calls[before:]} == {"ProbeBacklog"}
    assert len(notified.target.heartbeats) > 40


async def test_a_message_causes_a_probe_at_once(notified: Bench) -> None:
    notified.target.add("q")
    notified.queue.message()
    await notified.advance(0.1)
    assert notified.bridge.counters.tasks == 1


async def test_a_lost_message_is_compensated_by_a_probe(notified: Bench) -> None:
    """By the probes that it makes by itself."""
    notified.target.add("q")
    await notified.advance(NOTIFIED_INTERVAL_S + 0.1)
    assert notified.bridge.counters.tasks == 1


async def test_duplicate_and_late_messages_only_cost_probes(notified: Bench) -> None:
    """Each task is handed out once."""
    before = len(notified.target.named("ProbeBacklog"))
    notified.target.add("q")
    for _ in range(5):
        notified.queue.message()
    await notified.advance(0.1)
    for _ in range(3):
        notified.queue.message()
        await notified.advance(1)
    assert notified.bridge.counters.tasks == 1
    assert len(notified.target.named("PollWorkflowTaskQueue")) == 1
    assert len(notified.target.named("ProbeBacklog")) - before <= 6


async def test_a_message_that_overtakes_its_task(notified: Bench) -> None:
    """It is looked for once more soon after."""
    notified.queue.message()
    await notified.advance(0.5)
    notified.target.add("q")
    await notified.advance(5)
    assert notified.bridge.counters.tasks == 1


async def test_a_call_without_a_message_is_followed_by_a_probe(notified: Bench) -> None:
    """Most calls make no task, so it waits for the message for a moment."""
    before = len(notified.target.named("ProbeBacklog"))
    call = asyncio.ensure_future(notified.call("RespondActivityTaskCompleted"))
    notified.target.add("q")
    await notified.advance(0.1)
    await call
    assert len(notified.target.named("ProbeBacklog")) == before
    await notified.advance(MESSAGE_DELAY_S)
    assert notified.bridge.counters.tasks == 1


async def test_a_backlog_is_worked_off_on_one_message(notified: Bench) -> None:
    """Five pollers at a time, until nothing is left."""
    for _ in range(23):
        notified.target.add("q")
    notified.queue.message()
    await notified.advance(1)
    assert notified.bridge.counters.tasks == 23


async def test_a_message_that_comes_while_polls_are_on_their_way(notified: Bench) -> None:
    """What it tells of is found when they are back."""
    notified.target.add("q")
    notified.queue.message()
    await notified.advance(0.015)  # the probe is answered, the poll on its way
    notified.target.add("q")
    notified.queue.message()
    await notified.advance(0.2)
    assert notified.bridge.counters.tasks == 2


async def test_without_its_queue_the_bridge_probes_as_without_notifications(notified: Bench) -> None:
    """And goes back to sleep when it is heard again."""
    notified.queue.rename("")
    await notified.advance(0.1)
    assert notified.target.registered == ""
    await notified.advance(120)
    before = len(notified.target.calls)
    await notified.advance(600)
    assert 15 < len(notified.target.calls) - before < 40
    notified.queue.rename("stack-bridge-2")
    await notified.advance(30)
    assert notified.target.registered == "stack-bridge-2"
    before = len(notified.target.calls)
    await notified.advance(600)
    assert len(notified.target.calls) - before < 10


async def test_a_target_that_stops_notifying_is_probed_more_often(notified: Bench) -> None:
    """As when its next release knows nothing of notification queues."""
    notified.target.wake_prefix = ""
    await notified.advance(200)
    before = len(notified.target.calls)
    await notified.advance(600)
    assert 15 < len(notified.target.calls) - before < 40


async def test_no_queue_is_created_for_a_target_without_notifications() -> None:
    clock, queue = FakeClock(), FakeQueue()
    schedule = NotifiedSchedule(clock, queue)
    schedule.record_answer("", registered=False)
    assert (queue.prefixes, schedule.notification_queue) == ([], "")


async def test_news_of_a_worker_goes_through_at_once(notified: Bench) -> None:
    """The first heartbeat, one that tells of a change, and those of a worker that sends them often."""

    def passed() -> int:
        return len(notified.target.named("RecordWorkerHeartbeat"))

    await heartbeat(notified)
    assert passed() == 1
    await notified.advance(60)
    await heartbeat(notified)
    assert passed() == 1
    await notified.advance(60)
    await heartbeat(notified, status=enums.WORKER_STATUS_SHUTTING_DOWN)
    assert passed() == 2
    for _ in range(3):
        await notified.advance(5)
        await heartbeat(notified)
    assert passed() == 5


async def test_a_heartbeat_without_probes_is_a_call() -> None:
    """A bridge whose workers have no polls waiting brings it along with nothing."""
    bench = Bench(wakes=True)
    for _ in range(3):
        await heartbeat(bench)
        await bench.advance(60)
    assert len(bench.target.named("RecordWorkerHeartbeat")) == 3
    await bench.bridge.close()


async def test_a_heartbeat_is_kept_while_probes_fail(notified: Bench) -> None:
    """It is brought along as soon as one works again."""
    await heartbeat(notified)
    await notified.advance(60)
    await heartbeat(notified)
    notified.target.heartbeats.clear()
    notified.target.error = unavailable("down")
    await notified.advance(NOTIFIED_INTERVAL_S)
    assert notified.target.named("ProbeBacklog")
    notified.target.error = None
    notified.target.heartbeats.clear()
    await notified.advance(15)
    assert notified.target.heartbeats == ["k"]
