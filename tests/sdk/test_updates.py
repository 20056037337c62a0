"""Updates: validators, wait stages, dedup, and updates that start their workflow."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import activity, workflow
from temporalio.client import (
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import LONG, event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client


@activity.defn
async def price(of: str) -> int:
    return len(of)


@workflow.defn
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.open = False
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.done)
        return self.items

    @workflow.update
    def add(self, item: str) -> int:
        if item == "broken":
            raise ApplicationError("it is broken", type="Broken")
        self.items.append(item)
        return len(self.items)

    @add.validator
    def check(self, item: str) -> None:
        if not item:
            raise ValueError("nothing to add")

    @workflow.update
    async def add_when_open(self, item: str) -> int:
        await workflow.wait_condition(lambda: self.open)
        self.items.append(item)
        return len(self.items)

    @workflow.update
    async def priced(self, item: str) -> int:
        return await workflow.execute_activity(price, item, start_to_close_timeout=LONG)

    @workflow.update
    async def slowly(self) -> str:
        await workflow.sleep(timedelta(milliseconds=50))
        return "after a timer"

    @workflow.signal
    def unlock(self) -> None:
        self.open = True

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def content(self) -> list[str]:
        return self.items


async def cart(client: Client, queue: str) -> WorkflowHandle[Cart, list[str]]:
    return await client.start_workflow(Cart.run, id=new("cart"), task_queue=queue)


def operation(queue: str, workflow_id: str, policy: WorkflowIDConflictPolicy) -> WithStartWorkflowOperation[Any, Any]:
    return WithStartWorkflowOperation(Cart.run, id=workflow_id, id_conflict_policy=policy, task_queue=queue)


@on_every_store
async def test_an_update_returns_what_its_handler_returns(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        assert [await handle.execute_update(Cart.add, item) for item in ("tea", "milk")] == [1, 2]
        await handle.terminate()


@on_every_store
async def test_a_rejected_update_leaves_no_event(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        before = await kinds(handle)
        with pytest.raises(WorkflowUpdateFailedError) as rejected:
            await handle.execute_update(Cart.add, "")
        assert isinstance(rejected.value.cause, ApplicationError)
        assert rejected.value.cause.message == "nothing to add"
        assert await kinds(handle) == before
        await handle.terminate()


async def test_an_accepted_update_leaves_two_events(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        await handle.execute_update(Cart.add, "tea")
        assert (await kinds(handle))[4:] == [
            "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED",
            "WORKFLOW_EXECUTION_UPDATE_ACCEPTED", "WORKFLOW_EXECUTION_UPDATE_COMPLETED",
        ]  # fmt: skip
        await handle.terminate()


async def test_a_failed_update_returns_its_failure_and_the_run_goes_on(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await handle.execute_update(Cart.add, "broken")
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "Broken"
        assert await handle.execute_update(Cart.add, "tea") == 1
        await handle.terminate()


async def test_an_update_without_a_handler_is_rejected(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await handle.execute_update("unheard-of")
        assert "unheard-of" in str(failed.value.cause)
        await handle.terminate()


@on_every_store
async def test_an_accepted_update_is_answered_before_it_completes(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        update = await handle.start_update(Cart.add_when_open, "tea", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        assert "WORKFLOW_EXECUTION_UPDATE_COMPLETED" not in await kinds(handle)
        await handle.signal(Cart.unlock)
        assert await update.result() == 1
        await handle.terminate()


async def test_an_update_is_done_once_whatever_its_id_is_sent(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        assert [await handle.execute_update(Cart.add, "tea", id="the-same") for _ in range(3)] == [1, 1, 1]
        assert await handle.query(Cart.content) == ["tea"]
        await handle.terminate()


async def test_a_repeat_waits_for_the_first(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        accepted = WorkflowUpdateStage.ACCEPTED
        await handle.start_update(Cart.add_when_open, "tea", id="same", wait_for_stage=accepted)
        second = asyncio.create_task(handle.execute_update(Cart.add_when_open, "tea", id="same"))
        await handle.signal(Cart.unlock)
        assert await second == 1
        await handle.terminate()


@on_every_store
async def test_an_outcome_is_there_for_a_handle_made_later(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        await handle.execute_update(Cart.add, "tea", id="known")
        await handle.signal(Cart.finish)
        await handle.result()
        later = client.get_workflow_handle(handle.id).get_update_handle("known", result_type=int)
        assert await later.result() == 1


async def test_an_unknown_update_is_not_found(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        with pytest.raises(RPCError) as refused:
            await handle.get_update_handle("unknown").result()
        assert refused.value.status is RPCStatusCode.NOT_FOUND
        await handle.terminate()


@pytest.mark.parametrize(("name", "args", "expected"), [("priced", ["tea"], 3), ("slowly", [], "after a timer")])
async def test_a_handler_may_wait(client: Client, name: str, args: list[str], expected: object) -> None:
    async with worker(client, Cart, activities=[price]) as queue:
        handle = await cart(client, queue)
        assert await handle.execute_update(name, args=args) == expected
        await handle.terminate()


async def test_twenty_updates_at_once_are_all_done(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        sizes = await asyncio.gather(*(handle.execute_update(Cart.add, str(item)) for item in range(10)))
        assert sorted(sizes) == list(range(1, 11))
        await handle.terminate()


async def test_an_update_waits_for_a_worker(client: Client) -> None:
    queue = new("queue")
    handle = await cart(client, queue)
    update = asyncio.create_task(handle.execute_update(Cart.add, "tea"))
    async with worker(client, Cart, queue=queue):
        assert await update == 1
        await handle.terminate()


async def test_a_closed_run_takes_no_update(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        await handle.signal(Cart.finish)
        await handle.result()
        with pytest.raises(RPCError) as refused:
            await handle.execute_update(Cart.add, "tea")
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_an_accepted_update_fails_when_its_run_ends(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        update = await handle.start_update(Cart.add_when_open, "tea", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        await handle.terminate()
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await update.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "AcceptedUpdateCompletedWorkflow"


@on_every_store
async def test_update_with_start_starts_and_updates(client: Client) -> None:
    async with worker(client, Cart) as queue:
        start = operation(queue, new("cart"), WorkflowIDConflictPolicy.FAIL)
        assert await client.execute_update_with_start_workflow(Cart.add, "tea", start_workflow_operation=start) == 1
        handle = await start.workflow_handle()
        await handle.signal(Cart.finish)
        assert await handle.result() == ["tea"]


async def test_update_with_start_updates_a_run_that_is_there(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        await handle.execute_update(Cart.add, "tea")
        start = operation(queue, handle.id, WorkflowIDConflictPolicy.USE_EXISTING)
        assert await client.execute_update_with_start_workflow(Cart.add, "milk", start_workflow_operation=start) == 2
        assert (await start.workflow_handle()).first_execution_run_id == handle.first_execution_run_id
        await handle.terminate()


async def test_update_with_start_may_refuse_a_run_that_is_there(client: Client) -> None:
    async with worker(client, Cart) as queue:
        handle = await cart(client, queue)
        start = operation(queue, handle.id, WorkflowIDConflictPolicy.FAIL)
        with pytest.raises(WorkflowAlreadyStartedError):
            await client.execute_update_with_start_workflow(Cart.add, "milk", start_workflow_operation=start)
        with pytest.raises(WorkflowAlreadyStartedError):
            await start.workflow_handle()
        assert await handle.query(Cart.content) == []
        await handle.terminate()
