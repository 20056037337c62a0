"""Histories: pages, long histories, large payloads, replay, reset, patches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryReverseRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.sdk.support import event_of, kind, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

MEBIBYTE = 1024 * 1024


@workflow.defn
class Timers:
    @workflow.run
    async def run(self, count: int) -> int:
        await asyncio.gather(*(workflow.sleep(0.001) for _ in range(count)))
        return count


@workflow.defn
class Echo:
    @workflow.run
    async def run(self, data: bytes) -> bytes:
        return data


@workflow.defn
class Collects:
    """Ends when it was told three things."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.told) >= 3)
        return self.told

    @workflow.signal
    def tell(self, text: str) -> None:
        self.told.append(text)


@workflow.defn(name="Changes")
class Before:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(0.2)
        return "before"


@workflow.defn(name="Changes")
class After:
    @workflow.run
    async def run(self) -> str:
        if workflow.patched("the-change"):
            return "after"
        await workflow.sleep(0.2)
        return "before"


@workflow.defn(name="Changes")
class Later:
    @workflow.run
    async def run(self) -> str:
        workflow.deprecate_patch("the-change")
        return "later"


@workflow.defn(name="Changes")
class Careless:
    """A change without a patch."""

    @workflow.run
    async def run(self) -> str:
        return "careless"


def replayer(*workflows: type) -> Replayer:
    return Replayer(workflows=workflows, workflow_runner=UnsandboxedWorkflowRunner())


async def reset(client: Client, workflow_id: str, event_id: int, exclude: Sequence[int] = ()) -> str:
    """The new run's id."""
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            reason="a test", request_id=new("reset"), workflow_task_finish_event_id=event_id,
            reset_reapply_exclude_types=[ResetReapplyExcludeType.ValueType(value) for value in exclude],
        )
    )  # fmt: skip
    return answer.run_id


@on_every_store
async def test_a_history_of_200_events_comes_whole_in_pages(client: Client) -> None:
    async with worker(client, Timers) as queue:
        handle = await client.start_workflow(Timers.run, 100, id=new("timers"), task_queue=queue)
        assert await handle.result() == 100
    whole = (await handle.fetch_history()).events
    paged = [event async for event in handle.fetch_history_events(page_size=7)]
    assert len(whole) > 200
    assert [event.event_id for event in whole] == list(range(1, len(whole) + 1))
    assert paged == list(whole)


async def test_a_history_can_be_read_backwards(client: Client) -> None:
    async with worker(client, Timers) as queue:
        handle = await client.start_workflow(Timers.run, 5, id=new("timers"), task_queue=queue)
        await handle.result()
    answer = await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace, execution=WorkflowExecution(workflow_id=handle.id)
        )
    )
    assert list(answer.history.events)[::-1] == list((await handle.fetch_history()).events)


async def test_new_events_come_as_they_happen(client: Client) -> None:
    handle = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    seen: list[str] = []
    async for event in handle.fetch_history_events(wait_new_event=True):
        seen.append(kind(event))
        if seen[-1] == "WORKFLOW_TASK_SCHEDULED":
            await handle.signal("hello")
        elif seen[-1] == "WORKFLOW_EXECUTION_SIGNALED":
            await handle.terminate()
    assert seen == [
        "WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_TERMINATED",
    ]  # fmt: skip


@on_every_store
async def test_a_large_payload_comes_back(client: Client) -> None:
    data = bytes(range(256)) * (MEBIBYTE * 3 // 2 // 256)
    async with worker(client, Echo) as queue:
        assert await client.execute_workflow(Echo.run, data, id=new("echo"), task_queue=queue) == data


async def test_a_payload_over_the_limit_is_refused(client: Client) -> None:
    with pytest.raises(RPCError) as refused:
        await client.start_workflow("Any", bytes(2 * MEBIBYTE + 1), id=new("any"), task_queue=new("queue"))
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


@on_every_store
async def test_a_fetched_history_replays(client: Client) -> None:
    async with worker(client, Timers) as queue:
        handle = await client.start_workflow(Timers.run, 3, id=new("timers"), task_queue=queue)
        await handle.result()
    await replayer(Timers).replay_workflow(await handle.fetch_history())


async def test_a_history_replays_from_its_json(client: Client) -> None:
    async with worker(client, Timers) as queue:
        handle = await client.start_workflow(Timers.run, 3, id=new("timers"), task_queue=queue)
        await handle.result()
    text = (await handle.fetch_history()).to_json()
    await replayer(Timers).replay_workflow(WorkflowHistory.from_json(handle.id, text))


async def test_a_history_does_not_replay_on_changed_code(client: Client) -> None:
    async with worker(client, Before) as queue:
        handle = await client.start_workflow(Before.run, id=new("changes"), task_queue=queue)
        await handle.result()
    history = await handle.fetch_history()
    await replayer(After).replay_workflow(history)
    with pytest.raises(workflow.NondeterminismError):
        await replayer(Careless).replay_workflow(history)


async def test_an_old_run_does_not_see_the_patch(client: Client) -> None:
    """It goes on with the new code, and takes the old way."""
    async with worker(client, Before) as queue:
        handle = await client.start_workflow(Before.run, id=new("changes"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
    async with worker(client, After, queue=queue):
        assert await handle.result() == "before"


@on_every_store
async def test_a_patch_leaves_its_marker_and_attribute(client: Client) -> None:
    async with worker(client, After) as queue:
        handle = await client.start_workflow(After.run, id=new("changes"), task_queue=queue)
        assert await handle.result() == "after"
    assert (await kinds(handle))[4:6] == ["MARKER_RECORDED", "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES"]
    await replayer(Later).replay_workflow(await handle.fetch_history())
    found = [run.id async for run in client.list_workflows("TemporalChangeVersion = 'the-change'")]
    assert handle.id in found


async def test_changed_code_fails_the_workflow_task_alone(client: Client) -> None:
    """The run waits for code that fits."""
    async with worker(client, Before) as queue:
        handle = await client.start_workflow(Before.run, id=new("changes"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
    async with worker(client, Careless, queue=queue):
        failed = (await event_of(handle, "WORKFLOW_TASK_FAILED")).workflow_task_failed_event_attributes
        assert "Nondeterminism" in failed.failure.message or "TMPRL1100" in failed.failure.message
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await handle.terminate()


async def told(client: Client, queue: str, *texts: str) -> str:
    """Signal a new run with each text, after its first workflow task (events 2 to 4); return its id."""
    handle = await client.start_workflow(Collects.run, id=new("collects"), task_queue=queue)
    await event_of(handle, "WORKFLOW_TASK_COMPLETED")
    for text in texts:
        await handle.signal(Collects.tell, text)
    return handle.id


@on_every_store
async def test_a_reset_run_gets_its_signals_again(client: Client) -> None:
    async with worker(client, Collects) as queue:
        workflow_id = await told(client, queue, "a", "b", "c")
        before = client.get_workflow_handle(workflow_id)
        assert await before.result() == ["a", "b", "c"]
        run_id = await reset(client, workflow_id, 4)
        after = client.get_workflow_handle(workflow_id)
        assert (await after.describe()).run_id == run_id
        assert await after.result() == ["a", "b", "c"]


async def test_a_reset_may_leave_signals_out(client: Client) -> None:
    queue = new("queue")
    async with worker(client, Collects, queue=queue):
        handle = await client.start_workflow(Collects.run, id=new("collects"), task_queue=queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        await handle.signal(Collects.tell, "a")
        run_id = await reset(client, handle.id, 4, [ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL])
        after = client.get_workflow_handle(handle.id, run_id=run_id)
        assert "WORKFLOW_EXECUTION_SIGNALED" not in await kinds(after)
        await after.terminate()


async def test_a_reset_terminates_the_run_it_begins_from(client: Client) -> None:
    async with worker(client, Collects) as queue:
        handle = await client.start_workflow(Collects.run, id=new("collects"), task_queue=queue)
        await event_of(handle, "WORKFLOW_TASK_COMPLETED")
        await reset(client, handle.id, 4)
        before = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        assert (await before.describe()).status is WorkflowExecutionStatus.TERMINATED
        await client.get_workflow_handle(handle.id).terminate()


async def test_a_result_that_is_waited_for_stays_with_its_run_on_reset(client: Client) -> None:
    """The failed workflow task stands where the new run takes another way."""
    async with worker(client, Collects) as queue:
        workflow_id = await told(client, queue, "a", "b", "c")
        await client.get_workflow_handle(workflow_id).result()
        after = client.get_workflow_handle(workflow_id, run_id=await reset(client, workflow_id, 4))
        assert (await kinds(after))[3] == "WORKFLOW_TASK_FAILED"


async def test_a_reset_to_no_workflow_task_is_refused(client: Client) -> None:
    handle = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    with pytest.raises(RPCError) as refused:
        await reset(client, handle.id, 1)
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    await handle.terminate()
