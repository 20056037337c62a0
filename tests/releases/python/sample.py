"""Run workflows with whatever release of the Python SDK is installed, against the server at the given address.

Every step prints `ok NAME`, `not ok NAME: why`, or `skip NAME: not in this release`. Only the SDK and the standard
library are used, and nothing that release 1.0.0 lacks without a look whether it is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from temporalio import activity, client, common, exceptions, service, workflow
from temporalio.worker import Replayer, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

QUEUE = f"release-{uuid4()}"
SHORT = timedelta(seconds=30)


@activity.defn
async def greet(name: str) -> str:
    if activity.info().attempt < 3:
        raise RuntimeError(f"attempt {activity.info().attempt}")
    return f"hello {name}"


@activity.defn
async def shout(name: str) -> str:
    return name.upper()


@activity.defn
async def hold() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.1)


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        retry = common.RetryPolicy(initial_interval=timedelta(milliseconds=10))
        greeted = await workflow.execute_activity(greet, name, start_to_close_timeout=SHORT, retry_policy=retry)
        return await workflow.execute_local_activity(shout, greeted, start_to_close_timeout=SHORT)


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.total = 0
        self.done = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.done)
        return self.total

    @workflow.signal
    def add(self, amount: int) -> None:
        self.total += amount

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def current(self) -> int:
        return self.total

    if hasattr(workflow, "update"):

        @workflow.update
        async def multiply(self, factor: int) -> int:
            await asyncio.sleep(0.01)
            self.total *= factor
            return self.total

        @multiply.validator
        def refuse_zero(self, factor: int) -> None:
            if factor == 0:
                raise ValueError("not by zero")


@workflow.defn
class Family:
    @workflow.run
    async def run(self) -> int:
        child = await workflow.start_child_workflow(Counter.run, id=f"{workflow.info().workflow_id}-child")
        await child.signal(Counter.add, 5)
        await workflow.get_external_workflow_handle(child.id).signal("finish")
        return await child


@workflow.defn
class Countdown:
    @workflow.run
    async def run(self, left: int) -> str:
        await asyncio.sleep(0.01)
        if left:
            workflow.continue_as_new(left - 1)
        return "lift-off"


@workflow.defn
class Failing:
    @workflow.run
    async def run(self) -> None:
        raise exceptions.ApplicationError("no luck", {"at": 7}, type="Luckless", non_retryable=True)


@workflow.defn
class Holding:
    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_activity(hold, start_to_close_timeout=SHORT, heartbeat_timeout=timedelta(seconds=5))
        except exceptions.ActivityError as error:
            if not isinstance(error.cause, exceptions.CancelledError):
                return f"the activity ended with {error.cause!r}"
            raise
        return "not reached"


WORKFLOWS = [Greeting, Counter, Family, Countdown, Failing, Holding]


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(200):
        found = await look()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen within 20 seconds")


async def failure_of(attempt: Awaitable[Any], *expected: type[Exception]) -> Any:
    try:
        await attempt
    except expected as error:
        return error
    raise AssertionError("it did not fail")


def new() -> dict[str, Any]:
    return {"id": f"release-{uuid4()}", "task_queue": QUEUE}


async def activity_and_local_activity(c: client.Client) -> None:
    assert await c.execute_workflow(Greeting.run, "you", **new()) == "HELLO YOU"


async def signal_and_query(c: client.Client) -> None:
    handle = await c.start_workflow(Counter.run, **new())
    await handle.signal(Counter.add, 2)
    await handle.signal(Counter.add, 3)
    assert await handle.query(Counter.current) == 5
    await handle.signal(Counter.finish)
    assert await handle.result() == 5
    assert await handle.query(Counter.current) == 5
    described = await handle.describe()
    assert described.status is client.WorkflowExecutionStatus.COMPLETED, described.status


async def signal_with_start(c: client.Client) -> None:
    handle = await c.start_workflow(Counter.run, start_signal="add", start_signal_args=[4], **new())
    await handle.signal(Counter.finish)
    assert await handle.result() == 4


async def update(c: client.Client) -> None:
    handle = await c.start_workflow(Counter.run, **new())
    await handle.signal(Counter.add, 2)
    assert await handle.execute_update("multiply", 3) == 6
    error = await failure_of(handle.execute_update("multiply", 0), client.WorkflowUpdateFailedError)
    assert "not by zero" in str(error.cause), error.cause
    await handle.signal(Counter.finish)
    assert await handle.result() == 6


async def child_and_external_signal(c: client.Client) -> None:
    assert await c.execute_workflow(Family.run, **new()) == 5


async def timer_and_continue_as_new(c: client.Client) -> None:
    assert await c.execute_workflow(Countdown.run, 2, **new()) == "lift-off"


async def failure(c: client.Client) -> None:
    cause = (await failure_of(c.execute_workflow(Failing.run, **new()), client.WorkflowFailureError)).cause
    assert isinstance(cause, exceptions.ApplicationError), cause
    assert (cause.message, cause.type, list(cause.details)) == ("no luck", "Luckless", [{"at": 7}]), cause


async def cancellation(c: client.Client) -> None:
    handle = await c.start_workflow(Holding.run, **new())

    async def started() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return bool(pending and pending[0].HasField("last_started_time"))

    await eventually(started)
    await handle.cancel()
    error = await failure_of(handle.result(), client.WorkflowFailureError)
    assert isinstance(error.cause, exceptions.CancelledError), error.cause


async def id_in_use_and_termination(c: client.Client) -> None:
    options = new()
    handle = await c.start_workflow(Counter.run, **options)
    # Release 1.0.0 does not translate the refusal.
    again = c.start_workflow(Counter.run, **options)
    refused = await failure_of(again, exceptions.WorkflowAlreadyStartedError, service.RPCError)
    assert getattr(refused, "status", service.RPCStatusCode.ALREADY_EXISTS) is service.RPCStatusCode.ALREADY_EXISTS
    await handle.terminate("enough")
    error = await failure_of(handle.result(), client.WorkflowFailureError)
    assert isinstance(error.cause, exceptions.TerminatedError), error.cause


async def list_and_replay(c: client.Client) -> None:
    options = new()
    handle = await c.start_workflow(Greeting.run, "you", **options)
    await handle.result()

    async def listed() -> list[str]:
        return [each.id async for each in c.list_workflows(f"WorkflowId = '{options['id']}'")]

    assert await eventually(listed) == [options["id"]]
    await Replayer(workflows=WORKFLOWS).replay_workflow(await handle.fetch_history())


async def schedule(c: client.Client) -> None:
    action = client.ScheduleActionStartWorkflow(Countdown.run, 0, **new())
    spec = client.ScheduleSpec(intervals=[client.ScheduleIntervalSpec(every=timedelta(hours=1))])
    handle = await c.create_schedule(f"release-{uuid4()}", client.Schedule(action=action, spec=spec))
    await handle.trigger()

    async def actions() -> list[Any]:
        return list((await handle.describe()).info.recent_actions)

    [ran] = await eventually(actions)
    assert await c.get_workflow_handle(ran.action.workflow_id).result() == "lift-off"
    await handle.pause(note="rest")
    described = await handle.describe()
    assert described.schedule.state.paused, described.schedule.state
    assert described.schedule.state.note == "rest", described.schedule.state
    await handle.delete()


STEPS = (
    (activity_and_local_activity, True),
    (signal_and_query, True),
    (signal_with_start, True),
    (update, hasattr(workflow, "update")),
    (child_and_external_signal, True),
    (timer_and_continue_as_new, True),
    (failure, True),
    (cancellation, True),
    (id_in_use_and_termination, True),
    (list_and_replay, True),
    (schedule, hasattr(client.Client, "create_schedule")),
)


async def main(address: str) -> int:
    c = await client.Client.connect(address)
    failed = 0
    async with Worker(c, task_queue=QUEUE, workflows=WORKFLOWS, activities=[greet, shout, hold]):
        for step, there in STEPS:
            if not there:
                print(f"skip {step.__name__}: not in this release", flush=True)
                continue
            try:
                await asyncio.wait_for(step(c), 60)
            except Exception as error:  # noqa: BLE001 (any fault of a step is reported, and the next is taken)
                failed += 1
                print(f"not ok {step.__name__}: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc()
            else:
                print(f"ok {step.__name__}", flush=True)
    return failed


if __name__ == "__main__":
    logging.disable()
    code = 1 if asyncio.run(main(sys.argv[1])) else 0
    sys.stdout.flush()
    os._exit(code)  # release 1.0.0 crashes in the shutdown of newer interpreters
