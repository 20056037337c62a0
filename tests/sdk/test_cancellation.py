"""Cancellation of workflows, and scopes within them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import LONG, cause_of, event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client


@activity.defn
async def tidy(what: str) -> str:
    return f"tidied {what}"


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        await asyncio.Event().wait()


@workflow.defn
class Tidies:
    """Cleans up with an activity once it is cancelled, and then completes or not."""

    @workflow.run
    async def run(self, completes: bool) -> str:
        try:
            await workflow.sleep(3600)
        except asyncio.CancelledError:
            done = await workflow.execute_activity(tidy, "all", start_to_close_timeout=LONG)
            if completes:
                return done
            raise
        return "not cancelled"


@workflow.defn
class Shields:
    """What is shielded goes on to its end."""

    @workflow.run
    async def run(self) -> str:
        inner = asyncio.create_task(self.inner())
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            return f"{await inner} in spite of it"

    async def inner(self) -> str:
        await workflow.sleep(0.3)
        return "done"


@workflow.defn
class Races:
    """The first of two timers cancels the other."""

    @workflow.run
    async def run(self) -> int:
        timers = [asyncio.create_task(workflow.sleep(seconds)) for seconds in (3600, 0.05)]
        done, waiting = await workflow.wait(timers, return_when=asyncio.FIRST_COMPLETED)
        for timer in waiting:
            timer.cancel()
        await workflow.wait(waiting)
        return len(done)


@on_every_store
async def test_a_cancelled_workflow_is_cancelled(client: Client) -> None:
    async with worker(client, Waits) as queue:
        handle = await client.start_workflow(Waits.run, id=new("waits"), task_queue=queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        await handle.cancel()
        await cause_of(handle.result(), CancelledError)
    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert (await kinds(handle))[-5:] == [
        "WORKFLOW_EXECUTION_CANCEL_REQUESTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED", "WORKFLOW_EXECUTION_CANCELED",
    ]  # fmt: skip


async def test_a_workflow_cancelled_before_its_first_task_is_cancelled(client: Client) -> None:
    queue = new("queue")
    handle = await client.start_workflow(Waits.run, id=new("waits"), task_queue=queue)
    await handle.cancel()
    async with worker(client, Waits, queue=queue):
        await cause_of(handle.result(), CancelledError)


@on_every_store
async def test_a_cancelled_workflow_may_complete(client: Client) -> None:
    async with worker(client, Tidies, activities=[tidy]) as queue:
        handle = await client.start_workflow(Tidies.run, True, id=new("tidies"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
        await handle.cancel()
        assert await handle.result() == "tidied all"


async def test_a_workflow_tidies_up_before_it_is_cancelled(client: Client) -> None:
    async with worker(client, Tidies, activities=[tidy]) as queue:
        handle = await client.start_workflow(Tidies.run, False, id=new("tidies"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
        await handle.cancel()
        await cause_of(handle.result(), CancelledError)
    assert "ACTIVITY_TASK_COMPLETED" in await kinds(handle)


async def test_shielded_work_goes_on(client: Client) -> None:
    async with worker(client, Shields) as queue:
        handle = await client.start_workflow(Shields.run, id=new("shields"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
        await handle.cancel()
        assert await handle.result() == "done in spite of it"


async def test_the_loser_of_a_race_is_cancelled(client: Client) -> None:
    async with worker(client, Races) as queue:
        handle = await client.start_workflow(Races.run, id=new("races"), task_queue=queue)
        assert await handle.result() == 1
    assert [kind for kind in await kinds(handle) if kind.startswith("TIMER_")][2:] == ["TIMER_FIRED", "TIMER_CANCELED"]


async def test_a_second_cancellation_changes_nothing(client: Client) -> None:
    queue = new("queue")
    handle = await client.start_workflow(Waits.run, id=new("waits"), task_queue=queue)
    await handle.cancel()
    await handle.cancel()
    assert (await kinds(handle)).count("WORKFLOW_EXECUTION_CANCEL_REQUESTED") == 1
    await handle.terminate()


@on_every_store
async def test_a_terminated_workflow_keeps_the_reason_and_details(client: Client) -> None:
    handle = await client.start_workflow(Waits.run, id=new("waits"), task_queue=new("queue"))
    await handle.terminate("a detail", 7, reason="enough")
    error = await cause_of(handle.result(), TerminatedError)
    assert (error.message, list(error.details)) == ("enough", ["a detail", 7])


async def test_a_closed_run_is_not_terminated_again(client: Client) -> None:
    handle = await client.start_workflow(Waits.run, id=new("waits"), task_queue=new("queue"))
    await handle.terminate()
    with pytest.raises(RPCError) as refused:
        await handle.terminate()
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_a_handle_of_another_chain_terminates_nothing(client: Client) -> None:
    """A handle carries the id of the first run it was made for."""
    queue = new("queue")
    first = await client.start_workflow(Waits.run, id=new("waits"), task_queue=queue)
    await first.terminate()
    second = await client.start_workflow(Waits.run, id=first.id, task_queue=queue)
    with pytest.raises(RPCError) as refused:
        await first.terminate()
    assert refused.value.status is RPCStatusCode.NOT_FOUND
    assert (await second.describe()).status is WorkflowExecutionStatus.RUNNING
    await second.terminate()
