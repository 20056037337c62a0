"""The SDK's `start_time_skipping` with our test server as it is: months pass in a moment, and nothing happens early."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from temporalio import activity, exceptions, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.sdk

SERVER = Path(sys.executable).with_name("whistlestop")
EXECUTABLE = Path(sys.executable).with_name("whistlestop-test-server")
QUEUE = "night-train"
DAY = timedelta(days=1)
MONTHLY = "0 0 1 * *"


@activity.defn
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "worked"


@activity.defn
async def fail_twice() -> int:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ApplicationError("not yet")
    return attempt


@activity.defn
async def never_heard_of() -> None:
    await asyncio.Event().wait()


class Naps:
    """An activity that lets the server's time pass while it is at work."""

    def __init__(self, environment: WorkflowEnvironment) -> None:
        self._environment = environment

    @activity.defn
    async def nap(self) -> None:
        timeout = activity.info().heartbeat_timeout
        assert timeout is not None
        await self._environment.sleep(2 * timeout)


@workflow.defn(sandboxed=False)
class Sleeper:
    """Sleeps, and tells for how long it did."""

    def __init__(self) -> None:
        self.signals: list[str] = []

    @workflow.run
    async def run(self, days: float) -> float:
        began = workflow.now()
        await asyncio.sleep(timedelta(days=days).total_seconds())
        return (workflow.now() - began) / DAY

    @workflow.signal
    def note(self, text: str) -> None:
        self.signals.append(text)

    @workflow.query
    def noted(self) -> list[str]:
        return self.signals


@workflow.defn(sandboxed=False)
class WaitsForSignal:
    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: False)
        return ""


@workflow.defn(sandboxed=False)
class WorksBeside:
    """An activity that takes a real moment, beside a timer of a day."""

    @workflow.run
    async def run(self) -> str:
        timer = asyncio.create_task(asyncio.sleep(DAY.total_seconds()))
        working = workflow.start_activity(work, 0.3, start_to_close_timeout=timedelta(seconds=30))
        done, _ = await workflow.wait([timer, working], return_when=asyncio.FIRST_COMPLETED)
        return "timer" if timer in done else await working


@workflow.defn(sandboxed=False)
class Retries:
    @workflow.run
    async def run(self) -> float:
        began = workflow.now()
        await workflow.execute_activity(
            fail_twice, start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(hours=6), backoff_coefficient=2),
        )  # fmt: skip
        return (workflow.now() - began).total_seconds() / 3600


@workflow.defn(sandboxed=False)
class Heartbeats:
    @workflow.run
    async def run(self, name: str, heartbeat_s: float) -> str:
        try:
            await workflow.execute_activity(
                name, start_to_close_timeout=DAY, heartbeat_timeout=timedelta(seconds=heartbeat_s),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - what it is, is what is asked
            return type(error.__cause__).__name__
        return "done"


@workflow.defn(sandboxed=False)
class Parent:
    @workflow.run
    async def run(self) -> list[float]:
        return list(
            await asyncio.gather(
                *(workflow.execute_child_workflow(Sleeper.run, days, id=f"{workflow.info().workflow_id}-{days}")
                  for days in (40, 2, 400))
            )
        )  # fmt: skip


@workflow.defn(sandboxed=False)
class Monthly:
    @workflow.run
    async def run(self) -> str:
        return (workflow.get_last_completion_result(str) or "") + workflow.now().strftime("%d ")


WORKFLOWS = [Sleeper, WaitsForSignal, WorksBeside, Retries, Heartbeats, Parent, Monthly]


@asynccontextmanager
async def station(*extra: str) -> AsyncIterator[WorkflowEnvironment]:
    """The test server with a worker."""
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(EXECUTABLE),
        test_server_extra_args=extra,
        test_server_startup_timeout=timedelta(seconds=PATIENCE_S),
    )
    async with (
        environment,
        Worker(
            environment.client,
            task_queue=QUEUE,
            workflows=WORKFLOWS,
            activities=[work, fail_twice, never_heard_of, Naps(environment).nap],
        ),
    ):
        yield environment


def started(**options: Any) -> dict[str, Any]:
    return {"id": f"workflow-{uuid4()}", "task_queue": QUEUE, **options}


async def ahead(environment: WorkflowEnvironment) -> timedelta:
    """Return how far the server's clock is ahead of ours, to the minute: a call takes its time on a busy machine."""
    return timedelta(minutes=round((await environment.get_current_time() - datetime.now(UTC)).total_seconds() / 60))


async def test_months_pass_in_a_moment() -> None:
    """A month of sleep is over long before the test's limit; so are children, retries and a cron."""
    async with station() as environment:
        client = environment.client
        assert await client.execute_workflow(Sleeper.run, 30, **started()) == pytest.approx(30, abs=1e-3)
        assert await ahead(environment) == 30 * DAY
        assert await client.execute_workflow(Parent.run, **started()) == pytest.approx([40, 2, 400], abs=1e-3)
        assert await ahead(environment) == 430 * DAY
        assert await client.execute_workflow(Retries.run, **started()) == pytest.approx(18, abs=0.01)
        monthly = client.get_workflow_handle(
            (await client.start_workflow(Monthly.run, **started(cron_schedule=MONTHLY))).id
        )
        first = await monthly.describe()
        async with environment.time_skipping_unlocked():  # type: ignore[attr-defined]  # as `result` does it
            for _ in range(30000):
                if (await monthly.describe()).start_time - first.start_time > 70 * DAY:
                    break
                await asyncio.sleep(0.01)
        await monthly.terminate()
        history = await monthly.fetch_history()
        result = history.events[0].workflow_execution_started_event_attributes.last_completion_result
        days = (await client.data_converter.decode(result.payloads, [str]))[0]
        assert days.startswith("01 01 ")


async def test_nothing_skips_while_time_is_locked() -> None:
    """Without anybody who waits for a result, with automatic skipping disabled, and beside an activity."""
    async with station() as environment:
        client = environment.client
        with environment.auto_time_skipping_disabled():
            brief = await client.start_workflow(Sleeper.run, 0.2 / 86400, **started())
            began = time.monotonic()
            await brief.result()
            assert time.monotonic() - began > 0.15
            assert await ahead(environment) == timedelta(0)
        assert await client.execute_workflow(WorksBeside.run, **started()) == "worked"
        assert await ahead(environment) == timedelta(0)
        sleeper = await client.start_workflow(Sleeper.run, 1, **started())
        await sleeper.signal(Sleeper.note, "one")
        assert await sleeper.query(Sleeper.noted) == ["one"]
        assert await ahead(environment) == timedelta(0)
        await environment.sleep(DAY / 2)
        await sleeper.signal(Sleeper.note, "two")
        assert await sleeper.query(Sleeper.noted) == ["one", "two"]
        assert (await sleeper.describe()).close_time is None
        await environment.sleep(DAY)
        assert (await ahead(environment)) == 1.5 * DAY
        closed = (await sleeper.describe()).close_time
        assert closed is not None
        assert closed - (await sleeper.describe()).start_time == pytest.approx(DAY, abs=timedelta(seconds=5))


async def test_timeouts_come_to_pass() -> None:
    """A workflow that waits in vain ends by its timeout at once; one without a heartbeat takes its second."""
    async with station() as environment:
        client = environment.client
        for option in ("run_timeout", "execution_timeout"):
            with pytest.raises(WorkflowFailureError) as failed:
                await client.execute_workflow(WaitsForSignal.run, **started(**{option: 7 * DAY}))
            assert isinstance(failed.value.cause, exceptions.TimeoutError)
        assert await ahead(environment) == 14 * DAY
        silent = await client.execute_workflow(Heartbeats.run, args=["never_heard_of", 1], **started())
        assert silent == "TimeoutError"
        assert await ahead(environment) == 14 * DAY
        sleeper = await client.start_workflow(Sleeper.run, 365, **started())
        await environment.sleep(100 * DAY)
        await sleeper.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await sleeper.result()
        assert isinstance(failed.value.cause, CancelledError)
        assert await ahead(environment) == 114 * DAY
        delayed = await client.start_workflow(Sleeper.run, 1, **started(start_delay=10 * DAY))
        assert await delayed.result() == pytest.approx(1, abs=1e-3)
        assert await ahead(environment) == 125 * DAY


async def test_an_activity_may_let_time_pass() -> None:
    """It unlocks what it locks itself, so its own heartbeat times out."""
    async with station() as environment:
        result = await environment.client.execute_workflow(Heartbeats.run, args=["nap", 3600], **started())
        assert result == "TimeoutError"
        assert await ahead(environment) >= timedelta(hours=1)


async def test_time_may_be_unlocked_from_the_start() -> None:
    """`--enable-time-skipping`: whoever waits need not unlock, and there is no lock to take away."""
    async with station("--enable-time-skipping") as environment:
        with environment.auto_time_skipping_disabled():
            assert await environment.client.execute_workflow(Sleeper.run, 5, **started()) == pytest.approx(5, abs=1e-3)
            assert await ahead(environment) == 5 * DAY
        with pytest.raises(RPCError, match="Unbalanced lock and unlock calls"):
            await environment.sleep(1)


async def test_each_workflow_may_skip_for_itself(tmp_path: Path) -> None:
    """The SDK's newer environment: a development server, and a configuration with each start."""
    async with (
        await WorkflowEnvironment.start_time_skipping_v2(
            dev_server_existing_path=str(SERVER),
            dev_server_startup_timeout=timedelta(seconds=PATIENCE_S),
            dev_server_database_filename=str(tmp_path / "state.db"),
            dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
        ) as environment,
        Worker(environment.client, task_queue=QUEUE, workflows=WORKFLOWS, activities=[work, fail_twice]),
    ):
        client = environment.client
        days = await client.execute_workflow(Parent.run, **started())
        assert days == pytest.approx([40, 2, 400], abs=1e-3)
        assert await client.execute_workflow(Retries.run, **started()) == pytest.approx(18, abs=0.01)
        with environment.with_time_skipping_disabled():
            sleeper = await client.start_workflow(Sleeper.run, 10, **started())
        await sleeper.query(Sleeper.noted)
        assert await environment.fast_forward(sleeper, 4 * DAY)
        info = await environment.get_time_skipping_info(sleeper)
        assert info is not None
        assert not info.effective_config.enabled
        now = await environment.get_current_time(sleeper)
        assert now - datetime.now(UTC) == pytest.approx(4 * DAY, abs=timedelta(seconds=5))
        await sleeper.signal(Sleeper.note, "still here")
        assert not await environment.fast_forward(sleeper, 10 * DAY)
        assert await sleeper.result() == pytest.approx(10, abs=1e-3)
