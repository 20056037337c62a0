"""Activities that a server schedules: results, retries, failures, asynchronous completion."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import activity, workflow
from temporalio.client import AsyncActivityCancelledError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, RetryState
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import LONG, ONCE, cause_of, event_of, kinds, new, on_every_store, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client

TOKENS: dict[str, asyncio.Future[bytes]] = {}


@activity.defn
async def double(number: int) -> int:
    return number * 2


@activity.defn
async def fails_until(attempt: int) -> int:
    if activity.info().attempt < attempt:
        raise ApplicationError(f"attempt {activity.info().attempt}", {"at": activity.info().attempt}, type="NotYet")
    return activity.info().attempt


@activity.defn
async def fails_for_good() -> None:
    raise ApplicationError("never", type="Never", non_retryable=True)


@activity.defn
async def fails_with_a_delay() -> int:
    if activity.info().attempt == 1:
        raise ApplicationError("later", next_retry_delay=timedelta(milliseconds=20))
    return activity.info().attempt


@activity.defn
async def left_open(name: str) -> str:
    TOKENS[name].set_result(activity.info().task_token)
    activity.raise_complete_async()


@dataclass
class Policy:
    first_ms: float = 10
    attempts: int = 0
    final: list[str] = field(default_factory=list)


@workflow.defn
class One:
    """One activity, by name, with a retry policy."""

    @workflow.run
    async def run(self, name: str, argument: list[int], policy: Policy | None) -> Any:
        policy = policy or Policy()
        return await workflow.execute_activity(
            name, args=argument, start_to_close_timeout=LONG, result_type=int,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=policy.first_ms), maximum_attempts=policy.attempts,
                non_retryable_error_types=policy.final,
            ),
        )  # fmt: skip


@workflow.defn
class Open:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            left_open, name, activity_id="open", start_to_close_timeout=LONG, retry_policy=ONCE,
            heartbeat_timeout=LONG, cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip


@workflow.defn
class Many:
    @workflow.run
    async def run(self, count: int) -> list[int]:
        return await asyncio.gather(
            *(workflow.execute_activity(double, number, start_to_close_timeout=LONG) for number in range(count))
        )


ACTIVITIES: list[Callable[..., Any]] = [double, fails_until, fails_for_good, fails_with_a_delay, left_open]


@pytest.fixture
async def open_name() -> str:
    """The name of a run whose activity puts its token into TOKENS."""
    name = new("open")
    TOKENS[name] = asyncio.get_running_loop().create_future()
    return name


@on_every_store
async def test_a_result_comes_back(client: Client) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        args = ["double", [21], None]
        assert await client.execute_workflow(One.run, args=args, id=new("one"), task_queue=queue) == 42


async def test_an_activity_leaves_three_events(client: Client) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(One.run, args=["double", [1], None], id=new("one"), task_queue=queue)
        await handle.result()
    assert await kinds(handle) == [
        "WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED",
        "ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED", "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED", "WORKFLOW_EXECUTION_COMPLETED",
    ]  # fmt: skip


@on_every_store
async def test_a_failing_activity_is_tried_again(client: Client) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        args = ["fails_until", [3], None]
        assert await client.execute_workflow(One.run, args=args, id=new("one"), task_queue=queue) == 3


async def test_the_last_failure_before_success_is_in_the_started_event(client: Client) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(One.run, args=["fails_until", [2], None], id=new("one"), task_queue=queue)
        await handle.result()
    started = (await event_of(handle, "ACTIVITY_TASK_STARTED")).activity_task_started_event_attributes
    assert (started.attempt, started.last_failure.message) == (2, "attempt 1")


@on_every_store
async def test_attempts_end_at_their_maximum(client: Client) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        run = client.execute_workflow(
            One.run, args=["fails_until", [9], Policy(attempts=2)], id=new("one"), task_queue=queue
        )
        error = await cause_of(run, ActivityError)
    assert error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED
    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.message, error.cause.type, list(error.cause.details)) == ("attempt 2", "NotYet", [{"at": 2}])


@pytest.mark.parametrize(
    ("name", "args", "policy"),
    [
        ("fails_for_good", [], None),
        ("fails_until", [9], Policy(final=["NotYet"])),
    ],
    ids=["by the failure", "by the policy's types"],
)
async def test_non_retryable_failures_fail_at_once(
    client: Client, name: str, args: list[int], policy: Policy | None
) -> None:
    async with worker(client, One, activities=ACTIVITIES) as queue:
        run = client.execute_workflow(One.run, args=[name, args, policy], id=new("one"), task_queue=queue)
        error = await cause_of(run, ActivityError)
    assert error.retry_state is RetryState.NON_RETRYABLE_FAILURE


async def test_a_failure_sets_the_next_retry_delay(client: Client) -> None:
    """The policy alone would wait for a minute."""
    async with worker(client, One, activities=ACTIVITIES) as queue:
        args = ["fails_with_a_delay", [], Policy(first_ms=60_000)]
        assert await client.execute_workflow(One.run, args=args, id=new("one"), task_queue=queue) == 2


@on_every_store
async def test_an_activity_is_completed_by_its_token(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        token = await TOKENS[open_name]
        await client.get_async_activity_handle(task_token=token).complete("by token")
        assert await handle.result() == "by token"


@on_every_store
async def test_an_activity_is_completed_by_its_id(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        await TOKENS[open_name]
        by_id = client.get_async_activity_handle(workflow_id=handle.id, run_id=None, activity_id="open")
        await by_id.complete("by id")
        assert await handle.result() == "by id"


async def test_an_activity_is_failed_by_its_token(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        token = await TOKENS[open_name]
        await client.get_async_activity_handle(task_token=token).fail(ApplicationError("no", type="No"))
        assert (await cause_of(handle.result(), ApplicationError)).type == "No"


async def test_an_open_activity_learns_of_its_cancellation_by_its_heartbeat(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        by_token = client.get_async_activity_handle(task_token=await TOKENS[open_name])
        await by_token.heartbeat("alive")
        await handle.cancel()
        await event_of(handle, "ACTIVITY_TASK_CANCEL_REQUESTED")
        with pytest.raises(AsyncActivityCancelledError):
            await by_token.heartbeat("still alive")
        await by_token.report_cancellation("gone")
        await cause_of(handle.result(), CancelledError)
    assert "ACTIVITY_TASK_CANCELED" in await kinds(handle)


async def test_a_token_is_good_for_one_completion(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        by_token = client.get_async_activity_handle(task_token=await TOKENS[open_name])
        await by_token.complete("once")
        await handle.result()
        with pytest.raises(RPCError) as refused:
            await by_token.complete("twice")
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_a_pending_activity_is_described(client: Client, open_name: str) -> None:
    async with worker(client, Open, activities=ACTIVITIES) as queue:
        handle = await client.start_workflow(Open.run, open_name, id=open_name, task_queue=queue)
        by_token = client.get_async_activity_handle(task_token=await TOKENS[open_name])
        await by_token.heartbeat("half")
        (pending,) = (await handle.describe()).raw_description.pending_activities
        assert (pending.activity_id, pending.activity_type.name, pending.attempt) == ("open", "left_open", 1)
        assert pending.heartbeat_details.payloads[0].data == b'"half"'
        await by_token.complete("done")
        await handle.result()


@on_every_store
async def test_fifty_activities_run_at_once(client: Client) -> None:
    async with worker(client, Many, activities=ACTIVITIES) as queue:
        done = await client.execute_workflow(Many.run, 50, id=new("many"), task_queue=queue)
    assert done == [number * 2 for number in range(50)]


async def test_an_activity_waits_for_a_worker_of_its_own_queue(client: Client) -> None:
    """Two workers, one for workflows, one for activities, of which the second comes later."""
    queue = new("apart")
    async with worker(client, One, queue=queue, no_remote_activities=True):
        handle = await client.start_workflow(One.run, args=["double", [4], None], id=new("one"), task_queue=queue)
        await event_of(handle, "ACTIVITY_TASK_SCHEDULED")

        async def waits() -> bool:
            return len((await handle.describe()).raw_description.pending_activities) == 1

        await eventually(waits)
        async with worker(client, activities=ACTIVITIES, queue=queue):
            assert await handle.result() == 8
