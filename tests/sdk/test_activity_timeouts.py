"""The four timeouts of an activity, heartbeats, and the ways of cancelling one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, CancelledError, RetryState, TimeoutType
from temporalio.exceptions import TimeoutError as TemporalTimeoutError

from tests.sdk.support import LONG, ONCE, cause_of, event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client

OFTEN = timedelta(milliseconds=50)


@activity.defn
async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


@activity.defn
async def beats_once_and_sleeps(seconds: float) -> str:
    for before in activity.info().heartbeat_details:
        return str(before)
    activity.heartbeat("got this far")
    await asyncio.sleep(seconds)
    return "to the end"


@activity.defn
async def beats_until_cancelled(seconds: float) -> str:
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        if seconds:
            return "cleaned up"
        raise


def ms(count: float | None) -> timedelta | None:
    return None if count is None else timedelta(milliseconds=count)


@dataclass
class Limits:
    name: str
    seconds: float = 0
    start_to_close_ms: float = 20_000
    schedule_to_close_ms: float | None = None
    schedule_to_start_ms: float | None = None
    heartbeat_ms: float | None = None
    queue: str | None = None
    attempts: int = 1
    cancellation: int = int(workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)


@workflow.defn
class Limited:
    @workflow.run
    async def run(self, limits: Limits) -> str | None:
        return await workflow.execute_activity(  # type: ignore[no-any-return]
            limits.name, limits.seconds, task_queue=limits.queue, start_to_close_timeout=ms(limits.start_to_close_ms),
            schedule_to_close_timeout=ms(limits.schedule_to_close_ms),
            schedule_to_start_timeout=ms(limits.schedule_to_start_ms), heartbeat_timeout=ms(limits.heartbeat_ms),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=limits.attempts),
            cancellation_type=workflow.ActivityCancellationType(limits.cancellation),
        )  # fmt: skip


@workflow.defn
class Swallows:
    """Its activity is cancelled while it goes on itself."""

    @workflow.run
    async def run(self, cancellation: int) -> str:
        task = workflow.start_activity(
            beats_until_cancelled, 0.0, start_to_close_timeout=LONG, heartbeat_timeout=LONG, retry_policy=ONCE,
            cancellation_type=workflow.ActivityCancellationType(cancellation),
        )  # fmt: skip
        await workflow.sleep(0.05)
        task.cancel()
        try:
            await task
        except ActivityError as error:
            return type(error.cause).__name__
        return "not cancelled"


ACTIVITIES = [sleeps, beats_once_and_sleeps, beats_until_cancelled]
QUICK: dict[str, Any] = {"max_heartbeat_throttle_interval": OFTEN, "default_heartbeat_throttle_interval": OFTEN}

TIMEOUTS = [
    pytest.param(Limits("sleeps", 5, start_to_close_ms=200), TimeoutType.START_TO_CLOSE, id="start to close"),
    pytest.param(
        Limits("sleeps", 5, schedule_to_close_ms=200), TimeoutType.SCHEDULE_TO_CLOSE,
        id="schedule to close",
    ),
    pytest.param(
        Limits("sleeps", schedule_to_start_ms=200, queue="nobody-serves-this"),
        TimeoutType.SCHEDULE_TO_START, id="schedule to start",
    ),
    pytest.param(Limits("sleeps", 5, heartbeat_ms=200), TimeoutType.HEARTBEAT, id="heartbeat"),
]  # fmt: skip


@on_every_store
@pytest.mark.parametrize(("limits", "expected"), TIMEOUTS)
async def test_each_timeout_has_its_type(client: Client, limits: Limits, expected: TimeoutType) -> None:
    async with worker(client, Limited, activities=ACTIVITIES) as queue:
        run = client.execute_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
        assert (await cause_of(run, TemporalTimeoutError)).type is expected


async def test_a_missed_heartbeat_keeps_the_last_details(client: Client) -> None:
    async with worker(client, Limited, activities=ACTIVITIES, **QUICK) as queue:
        for timeout_s in (0.2, 2, 20):
            longer_s = 5 * timeout_s
            limits = Limits(
                "beats_once_and_sleeps", longer_s, start_to_close_ms=2000 * longer_s, heartbeat_ms=1000 * timeout_s
            )
            run = client.execute_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
            error = await cause_of(run, TemporalTimeoutError)
            assert error.type is TimeoutType.HEARTBEAT
            if error.last_heartbeat_details:  # a busy worker's first heartbeat may come too late
                break
    assert list(error.last_heartbeat_details) == ["got this far"]


@on_every_store
async def test_the_next_attempt_gets_the_details_of_the_last(client: Client) -> None:
    limits = Limits("beats_once_and_sleeps", 5, heartbeat_ms=200, attempts=100)
    async with worker(client, Limited, activities=ACTIVITIES, **QUICK) as queue:
        result = await client.execute_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
    assert result == "got this far"


async def test_attempts_end_when_the_time_for_all_of_them_is_over(client: Client) -> None:
    limits = Limits("sleeps", 5, start_to_close_ms=50, schedule_to_close_ms=200, attempts=0)
    async with worker(client, Limited, activities=ACTIVITIES) as queue:
        run = client.execute_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
        error = await cause_of(run, ActivityError)
    assert error.retry_state in {RetryState.TIMEOUT, RetryState.NON_RETRYABLE_FAILURE}


@on_every_store
async def test_a_heartbeat_brings_the_cancellation(client: Client) -> None:
    limits = Limits("beats_until_cancelled", heartbeat_ms=20_000)
    async with worker(client, Limited, activities=ACTIVITIES, **QUICK) as queue:
        handle = await client.start_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
        await event_of(handle, "ACTIVITY_TASK_SCHEDULED")
        await handle.cancel()
        await cause_of(handle.result(), CancelledError)
    assert (await kinds(handle)).count("ACTIVITY_TASK_CANCELED") == 1


async def test_an_activity_may_complete_all_the_same(client: Client) -> None:
    limits = Limits("beats_until_cancelled", 1, heartbeat_ms=20_000)
    async with worker(client, Limited, activities=ACTIVITIES, **QUICK) as queue:
        handle = await client.start_workflow(Limited.run, limits, id=new("limited"), task_queue=queue)
        await event_of(handle, "ACTIVITY_TASK_SCHEDULED")
        await handle.cancel()
        assert await handle.result() == "cleaned up"


CANCELLATIONS = [
    pytest.param(workflow.ActivityCancellationType.TRY_CANCEL, ["ACTIVITY_TASK_CANCEL_REQUESTED"], id="try"),
    pytest.param(
        workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        ["ACTIVITY_TASK_CANCEL_REQUESTED", "ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_CANCELED"], id="wait",
    ),
    pytest.param(workflow.ActivityCancellationType.ABANDON, [], id="abandon"),
]  # fmt: skip


@pytest.mark.parametrize(("cancellation", "expected"), CANCELLATIONS)
async def test_each_cancellation_type_leaves_its_events(
    client: Client, cancellation: workflow.ActivityCancellationType, expected: list[str]
) -> None:
    async with worker(client, Swallows, activities=ACTIVITIES, **QUICK) as queue:
        handle = await client.start_workflow(Swallows.run, int(cancellation), id=new("swallows"), task_queue=queue)
        assert await handle.result() == "CancelledError"
    told = [kind for kind in await kinds(handle) if kind.startswith("ACTIVITY_TASK_") and "SCHEDULED" not in kind]
    assert told == expected
