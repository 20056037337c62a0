"""Starting workflows: id policies, delays, metadata, priorities, and what a start refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio import activity, workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import LONG, event_of, kinds, new, on_every_store, worker

if TYPE_CHECKING:
    from temporalio.client import Client

ORDER: list[int] = []


@activity.defn
async def priority() -> int | None:
    return activity.info().priority.priority_key


@workflow.defn
class Echo:
    @workflow.run
    async def run(self, text: str) -> str:
        return text


@workflow.defn
class Prioritised:
    @workflow.run
    async def run(self, own: bool) -> list[int | None]:
        of_activity = await workflow.execute_activity(
            priority, start_to_close_timeout=LONG, priority=Priority(priority_key=1) if own else Priority()
        )
        return [workflow.info().priority.priority_key, of_activity]


@workflow.defn
class Notes:
    @workflow.run
    async def run(self, number: int) -> None:
        ORDER.append(number)


@workflow.defn
class Speaks:
    @workflow.run
    async def run(self) -> None:
        workflow.set_current_details("in the middle")
        await workflow.sleep(3600)


@on_every_store
async def test_a_workflow_returns(client: Client) -> None:
    async with worker(client, Echo) as queue:
        assert await client.execute_workflow(Echo.run, "hello", id=new("echo"), task_queue=queue) == "hello"


@on_every_store
async def test_an_id_in_use_is_taken(client: Client) -> None:
    handle = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    with pytest.raises(WorkflowAlreadyStartedError) as refused:
        await client.start_workflow("Any", id=handle.id, task_queue=new("queue"))
    assert (refused.value.workflow_id, refused.value.run_id) == (handle.id, handle.first_execution_run_id)
    await handle.terminate()


@on_every_store
async def test_a_start_may_use_the_run_that_is_there(client: Client) -> None:
    first = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    second = await client.start_workflow(
        "Any", id=first.id, task_queue=new("queue"), id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )
    assert second.first_execution_run_id == first.first_execution_run_id
    await first.terminate()


@on_every_store
async def test_a_start_may_terminate_the_run_that_is_there(client: Client) -> None:
    first = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    second = await client.start_workflow(
        "Any", id=first.id, task_queue=new("queue"), id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING
    )
    before = client.get_workflow_handle(first.id, run_id=first.first_execution_run_id)
    assert (await before.describe()).status is WorkflowExecutionStatus.TERMINATED
    assert second.first_execution_run_id != first.first_execution_run_id
    await second.terminate()


REUSE = [
    (WorkflowIDReusePolicy.ALLOW_DUPLICATE, "completed", True),
    (WorkflowIDReusePolicy.ALLOW_DUPLICATE, "terminated", True),
    (WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, "completed", False),
    (WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, "terminated", True),
    (WorkflowIDReusePolicy.REJECT_DUPLICATE, "completed", False),
    (WorkflowIDReusePolicy.REJECT_DUPLICATE, "terminated", False),
]


@pytest.mark.parametrize(
    ("policy", "ended", "may"), REUSE, ids=[f"{policy.name}-{ended}" for policy, ended, _ in REUSE]
)
async def test_a_reuse_policy_considers_the_last_end(
    client: Client, policy: WorkflowIDReusePolicy, ended: str, may: bool
) -> None:
    async with worker(client, Echo) as queue:
        first = await client.start_workflow(
            Echo.run, "x", id=new("echo"), task_queue=queue if ended == "completed" else new("queue")
        )
        await (first.result() if ended == "completed" else first.terminate())
        again = client.execute_workflow(Echo.run, "y", id=first.id, task_queue=queue, id_reuse_policy=policy)
        if may:
            assert await again == "y"
        else:
            with pytest.raises(WorkflowAlreadyStartedError):
                await again


@on_every_store
async def test_a_start_delay_holds_the_first_workflow_task_back(client: Client) -> None:
    async with worker(client, Echo) as queue:
        handle = await client.start_workflow(
            Echo.run, "late", id=new("echo"), task_queue=queue, start_delay=timedelta(milliseconds=400)
        )
        assert await kinds(handle) == ["WORKFLOW_EXECUTION_STARTED"]
        assert await handle.result() == "late"
    events = (await handle.fetch_history()).events
    waited = events[1].event_time.ToDatetime() - events[0].event_time.ToDatetime()
    assert waited >= timedelta(milliseconds=400)


async def test_a_signal_does_not_shorten_a_start_delay(client: Client) -> None:
    handle = await client.start_workflow("Any", id=new("any"), task_queue=new("queue"), start_delay=LONG)
    await handle.signal("hello")
    assert await kinds(handle) == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED"]
    await handle.terminate()


@on_every_store
async def test_a_description_shows_the_static_metadata(client: Client) -> None:
    handle = await client.start_workflow(
        "Any", id=new("any"), task_queue=new("queue"), static_summary="in short", static_details="at **length**"
    )
    described = await handle.describe()
    assert (await described.static_summary(), await described.static_details()) == ("in short", "at **length**")
    await handle.terminate()


async def test_current_details_are_queried(client: Client) -> None:
    async with worker(client, Speaks) as queue:
        handle = await client.start_workflow(Speaks.run, id=new("speaks"), task_queue=queue)
        await event_of(handle, "TIMER_STARTED")
        metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        await handle.terminate()
    assert metadata.current_details == "in the middle"


@pytest.mark.parametrize(("own", "expected"), [(False, [4, 4]), (True, [4, 1])], ids=["of its workflow", "of its own"])
async def test_an_activity_has_a_priority(client: Client, own: bool, expected: list[int]) -> None:
    async with worker(client, Prioritised, activities=[priority], disable_eager_activity_execution=True) as queue:
        result = await client.execute_workflow(
            Prioritised.run, own, id=new("prioritised"), task_queue=queue, priority=Priority(priority_key=4)
        )
    assert result == expected


@on_every_store
async def test_a_backlog_is_worked_off_by_priority(client: Client) -> None:
    ORDER.clear()
    queue = new("queue")
    handles = [
        await client.start_workflow(
            Notes.run, key, id=new("notes"), task_queue=queue, priority=Priority(priority_key=key)
        )
        for key in (5, 3, 1, 4, 2)
    ]
    async with worker(client, Notes, queue=queue, max_cached_workflows=0, max_concurrent_workflow_tasks=1):
        for handle in handles:
            await handle.result()
    assert ORDER == [1, 2, 3, 4, 5]


async def test_a_start_is_described(client: Client) -> None:
    queue = new("queue")
    handle = await client.start_workflow(
        "Any", id=new("any"), task_queue=queue, run_timeout=timedelta(minutes=1), execution_timeout=timedelta(hours=1)
    )
    described = await handle.describe()
    assert (described.id, described.run_id) == (handle.id, handle.first_execution_run_id)
    assert (described.workflow_type, described.task_queue, described.status, described.close_time) == (
        "Any", queue, WorkflowExecutionStatus.RUNNING, None,
    )  # fmt: skip
    config = described.raw_description.execution_config
    assert config.workflow_run_timeout.ToTimedelta() == timedelta(minutes=1)
    assert config.workflow_execution_timeout.ToTimedelta() == timedelta(hours=1)
    await handle.terminate()


@pytest.mark.parametrize("workflow_id", ["", "x" * 1001], ids=["empty", "too long"])
async def test_a_bad_id_is_refused(client: Client, workflow_id: str) -> None:
    with pytest.raises(RPCError) as refused:
        await client.start_workflow("Any", id=workflow_id, task_queue=new("queue"))
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_a_namespace_that_is_not_there_is_not_found(client: Client) -> None:
    elsewhere = type(client)(client.service_client, namespace="nowhere")
    with pytest.raises(RPCError) as refused:
        await elsewhere.start_workflow("Any", id=new("any"), task_queue=new("queue"))
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_an_unknown_workflow_is_not_found(client: Client) -> None:
    with pytest.raises(RPCError) as refused:
        await client.get_workflow_handle(new("nobody")).describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND
