"""Workflows and activities that use what a worker can do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError

QUEUE = "orders"


@dataclass
class Outcome:
    charged: str = ""
    signals: list[str] = field(default_factory=list)
    update: str = ""
    child: str = ""


@activity.defn
async def charge(name: str) -> str:
    """Fails once, so that it is retried."""
    if activity.info().attempt == 1:
        raise ApplicationError("try again")
    return f"charged {name}"


@activity.defn
async def endless() -> str:
    """Heartbeats until it is cancelled."""
    try:
        while True:
            activity.heartbeat("alive")
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return "cancelled after heartbeats"


@workflow.defn(sandboxed=False)
class Parcel:
    @workflow.run
    async def run(self, name: str) -> str:
        return f"parcel of {name}"


@workflow.defn(sandboxed=False)
class Order:
    """Activity with a retry, timer, signal, query, update, child."""

    def __init__(self) -> None:
        self.outcome = Outcome()

    @workflow.run
    async def run(self, name: str) -> Outcome:
        self.outcome.charged = await workflow.execute_activity(
            charge, name, start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        )  # fmt: skip
        await asyncio.sleep(0.2)
        await workflow.wait_condition(lambda: bool(self.outcome.signals and self.outcome.update))
        self.outcome.child = await workflow.execute_child_workflow(Parcel.run, name)
        return self.outcome

    @workflow.signal
    def note(self, text: str) -> None:
        self.outcome.signals.append(text)

    @workflow.query
    def state(self) -> str:
        return self.outcome.charged

    @workflow.query
    def broken(self) -> str:
        raise ApplicationError("no such thing")

    @workflow.update
    async def address(self, text: str) -> str:
        self.outcome.update = text
        return f"sent to {text}"


@workflow.defn(sandboxed=False)
class Cancelled:
    """Waits for an activity that ends only by its cancellation."""

    @workflow.run
    async def run(self) -> str:
        handle = workflow.start_activity(
            endless, start_to_close_timeout=timedelta(seconds=60), heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip
        try:
            return await handle
        except (CancelledError, asyncio.CancelledError):
            return "cancelled"
