"""The worker of the scenarios that need one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import nexusrpc.handler
from temporalio import activity, workflow
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cli.terminal import Terminal

_ONCE = RetryPolicy(maximum_attempts=1)


@workflow.defn
class Train:
    """Takes signals, queries and updates until it is told to depart."""

    def __init__(self) -> None:
        self.stops: list[str] = []
        self.departed = False

    @workflow.run
    async def run(self, name: str = "") -> str:
        workflow.set_current_details("at the platform")
        await workflow.wait_condition(lambda: self.departed)
        return f"{name}: {', '.join(self.stops)}"

    @workflow.signal(description="calls there")
    def stop(self, place: str) -> None:
        self.stops.append(place)

    @workflow.signal
    def depart(self) -> None:
        self.departed = True

    @workflow.query(description="where it calls")
    def where(self) -> list[str]:
        return self.stops

    @workflow.update
    async def add(self, place: str) -> int:
        self.stops.append(place)
        return len(self.stops)

    @add.validator
    def check(self, place: str) -> None:
        if not place:
            raise ApplicationError("a stop needs a name", type="NoName")

    @workflow.update
    async def hold(self) -> str:
        await workflow.wait_condition(lambda: self.departed)
        return "released"


@workflow.defn
class Derail:
    """Fails."""

    @workflow.run
    async def run(self, where: str) -> None:
        raise ApplicationError("off the rails", {"at": where}, type="Derailed", non_retryable=True)


@workflow.defn
class Couple:
    """Has a child, and an activity."""

    @workflow.run
    async def run(self, name: str) -> list[str]:
        queue = workflow.info().task_queue
        child = await workflow.execute_child_workflow(
            Weigh.run, name, id=f"{workflow.info().workflow_id}-child", task_queue=queue
        )
        loaded = await workflow.execute_activity(
            "load", name, start_to_close_timeout=timedelta(seconds=PATIENCE_S), activity_id="load", retry_policy=_ONCE
        )
        return [child, loaded]


@workflow.defn
class Weigh:
    """Done at once."""

    @workflow.run
    async def run(self, name: str) -> str:
        return f"{name} weighed"


@workflow.defn
class Shunt:
    """Waits for activities that nobody takes, and says how they ended."""

    @workflow.run
    async def run(self, queue: str) -> list[Any]:
        waiting = [
            workflow.execute_activity(
                "load", "coal", activity_id=name, task_queue=queue, schedule_to_close_timeout=timedelta(hours=1),
                heartbeat_timeout=timedelta(seconds=30), retry_policy=_ONCE,
            )
            for name in ("first", "second")
        ]  # fmt: skip
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        return [str(one.__cause__) if isinstance(one, BaseException) else one for one in ended]


@activity.defn
async def load(cargo: str) -> str:
    return f"{cargo} loaded"


@activity.defn
async def drop(cargo: str) -> str:
    raise ApplicationError(f"{cargo} dropped", type="Dropped", non_retryable=True)


@nexusrpc.handler.service_handler(name="yard")
class Yard:
    """Answers at once."""

    @nexusrpc.handler.sync_operation
    async def echo(self, _context: nexusrpc.handler.StartOperationContext, name: str) -> str:
        return f"{name}!"

    @nexusrpc.handler.sync_operation
    async def refuse(self, _context: nexusrpc.handler.StartOperationContext, name: str) -> str:
        raise nexusrpc.OperationError(f"no {name} here", state=nexusrpc.OperationErrorState.FAILED)


@asynccontextmanager
async def worker(t: Terminal, **options: Any) -> AsyncIterator[Worker]:
    """A worker on the scenario's queue."""
    running = Worker(
        t.client,
        task_queue=t.task_queue,
        workflows=[Train, Derail, Couple, Weigh, Shunt],
        activities=[load, drop],
        nexus_service_handlers=[Yard()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        identity="worker",
        **options,
    )
    async with running:
        yield running


async def take(t: Terminal, queue: str) -> None:
    """Take an activity from a queue that no worker polls, and leave it to be ended from outside."""
    request = PollActivityTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=queue), identity="taker")
    taken = await t.client.workflow_service.poll_activity_task_queue(request, timeout=timedelta(seconds=PATIENCE_S))
    assert taken.task_token
