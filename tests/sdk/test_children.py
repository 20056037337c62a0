"""Child workflows, and signals and cancellations that a workflow sends to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    RetryState,
    TerminatedError,
    WorkflowAlreadyStartedError,
)

from tests.sdk.support import cause_of, event_of, kinds, new, on_every_store, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from temporalio.client import Client


@workflow.defn
class Child:
    """Does as its word says; `wait` until it is told the result."""

    def __init__(self) -> None:
        self.told = ""

    @workflow.run
    async def run(self, word: str) -> str:
        if word == "fail":
            raise ApplicationError("the child failed", type="ChildsFault", non_retryable=True)
        if word == "wait":
            await workflow.wait_condition(lambda: bool(self.told))
            return self.told
        parent = workflow.info().parent
        return f"{word} of {parent.workflow_id if parent else 'nobody'}"

    @workflow.signal
    def tell(self, word: str) -> None:
        self.told = word


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, child_id: str, word: str) -> str:
        return await workflow.execute_child_workflow(Child.run, word, id=child_id)


@workflow.defn
class Leaves:
    """Starts a child that waits, and ends."""

    @workflow.run
    async def run(self, child_id: str, policy: int) -> None:
        await workflow.start_child_workflow(
            Child.run, "wait", id=child_id, parent_close_policy=workflow.ParentClosePolicy(policy)
        )


@workflow.defn
class Cancels:
    """Cancels its child and tells how that went."""

    @workflow.run
    async def run(self, child_id: str, cancellation: int) -> str:
        child = await workflow.start_child_workflow(
            Child.run, "wait", id=child_id, cancellation_type=workflow.ChildWorkflowCancellationType(cancellation),
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )  # fmt: skip
        child.cancel()
        try:
            told = await child
        except ChildWorkflowError as error:
            told = type(error.cause).__name__
        await workflow.sleep(0.1)  # what a closed run asked for and did not get is not asked for any more
        return told


@workflow.defn
class Finds:
    """Its child's id is taken."""

    @workflow.run
    async def run(self, child_id: str, reuse: int) -> str:
        try:
            return await workflow.execute_child_workflow(
                Child.run, "again", id=child_id, id_reuse_policy=WorkflowIDReusePolicy(reuse)
            )
        except WorkflowAlreadyStartedError as error:
            return f"{error.workflow_id} is taken"


@workflow.defn
class Sends:
    """Signals and cancels by id, as told."""

    @workflow.run
    async def run(self, other_id: str, what: str) -> str:
        other = workflow.get_external_workflow_handle(other_id)
        try:
            if what == "cancel":
                await other.cancel()
            else:
                await other.signal(Child.tell, what)
        except ApplicationError as error:
            return f"{error.type}: {error.message}"
        return "sent"


@workflow.defn
class Nests:
    @workflow.run
    async def run(self, depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + await workflow.execute_child_workflow(Nests.run, depth - 1)


@on_every_store
async def test_a_child_returns_to_its_parent(client: Client) -> None:
    async with worker(client, Parent, Child) as queue:
        parent = new("parent")
        result = await client.execute_workflow(Parent.run, args=[new("child"), "hello"], id=parent, task_queue=queue)
    assert result == f"hello of {parent}"


async def test_a_child_leaves_three_events_in_its_parent(client: Client) -> None:
    async with worker(client, Parent, Child) as queue:
        handle = await client.start_workflow(Parent.run, args=[new("child"), "x"], id=new("parent"), task_queue=queue)
        await handle.result()
    assert [kind for kind in await kinds(handle) if "CHILD" in kind] == [
        "START_CHILD_WORKFLOW_EXECUTION_INITIATED", "CHILD_WORKFLOW_EXECUTION_STARTED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
    ]  # fmt: skip


@on_every_store
async def test_a_childs_failure_is_its_parents(client: Client) -> None:
    async with worker(client, Parent, Child) as queue:
        child = new("child")
        run = client.execute_workflow(Parent.run, args=[child, "fail"], id=new("parent"), task_queue=queue)
        error = await cause_of(run, ChildWorkflowError)
    assert (error.workflow_id, error.workflow_type, error.retry_state) == (
        child, "Child", RetryState.RETRY_POLICY_NOT_SET,
    )  # fmt: skip
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.type == "ChildsFault"


async def test_the_parent_is_notified_of_a_terminated_child(client: Client) -> None:
    async with worker(client, Parent, Child) as queue:
        child = new("child")
        handle = await client.start_workflow(Parent.run, args=[child, "wait"], id=new("parent"), task_queue=queue)
        await event_of(handle, "CHILD_WORKFLOW_EXECUTION_STARTED")
        await client.get_workflow_handle(child).terminate("enough")
        await cause_of(handle.result(), TerminatedError)


async def test_children_of_children_return(client: Client) -> None:
    async with worker(client, Nests) as queue:
        assert await client.execute_workflow(Nests.run, 4, id=new("nests"), task_queue=queue) == 4


POLICIES = [
    pytest.param(workflow.ParentClosePolicy.TERMINATE, WorkflowExecutionStatus.TERMINATED, id="terminate"),
    pytest.param(workflow.ParentClosePolicy.REQUEST_CANCEL, WorkflowExecutionStatus.CANCELED, id="request cancel"),
]


@on_every_store
@pytest.mark.parametrize(("policy", "expected"), POLICIES)
async def test_a_child_ends_with_its_parent(
    client: Client, policy: workflow.ParentClosePolicy, expected: WorkflowExecutionStatus
) -> None:
    async with worker(client, Leaves, Child) as queue:
        child = client.get_workflow_handle(new("child"))
        await client.execute_workflow(Leaves.run, args=[child.id, int(policy)], id=new("leaves"), task_queue=queue)

        async def ended() -> bool:
            return (await child.describe()).status is expected

        await eventually(ended)


async def test_an_abandoned_child_goes_on(client: Client) -> None:
    async with worker(client, Leaves, Child) as queue:
        child = client.get_workflow_handle(new("child"))
        args = [child.id, int(workflow.ParentClosePolicy.ABANDON)]
        await client.execute_workflow(Leaves.run, args=args, id=new("leaves"), task_queue=queue)
        await child.signal(Child.tell, "alone")
        assert await child.result() == "alone"


CANCELLATIONS = [
    pytest.param(
        workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED, WorkflowExecutionStatus.CANCELED, id="wait"
    ),
    pytest.param(
        workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED, WorkflowExecutionStatus.CANCELED,
        id="wait for the request",
    ),
    pytest.param(workflow.ChildWorkflowCancellationType.TRY_CANCEL, WorkflowExecutionStatus.CANCELED, id="try"),
    pytest.param(workflow.ChildWorkflowCancellationType.ABANDON, WorkflowExecutionStatus.RUNNING, id="abandon"),
]  # fmt: skip


@pytest.mark.parametrize(("cancellation", "expected"), CANCELLATIONS)
async def test_a_child_is_cancelled_by_its_cancellation_type(
    client: Client, cancellation: workflow.ChildWorkflowCancellationType, expected: WorkflowExecutionStatus
) -> None:
    async with worker(client, Cancels, Child) as queue:
        child = client.get_workflow_handle(new("child"))
        args = [child.id, int(cancellation)]
        result = await client.execute_workflow(Cancels.run, args=args, id=new("cancels"), task_queue=queue)
        assert result == "CancelledError"

        async def as_expected() -> bool:
            return (await child.describe()).status is expected

        await eventually(as_expected)


async def test_a_cancelled_parent_cancels_its_child(client: Client) -> None:
    async with worker(client, Parent, Child) as queue:
        child = new("child")
        handle = await client.start_workflow(Parent.run, args=[child, "wait"], id=new("parent"), task_queue=queue)
        await event_of(handle, "CHILD_WORKFLOW_EXECUTION_STARTED")
        await handle.cancel()
        await cause_of(handle.result(), CancelledError)
        assert (await client.get_workflow_handle(child).describe()).status is WorkflowExecutionStatus.CANCELED


async def test_a_child_whose_id_is_in_use_does_not_start(client: Client) -> None:
    async with worker(client, Finds, Child) as queue:
        taken = await client.start_workflow(Child.run, "wait", id=new("child"), task_queue=queue)
        args = [taken.id, int(WorkflowIDReusePolicy.ALLOW_DUPLICATE)]
        result = await client.execute_workflow(Finds.run, args=args, id=new("finds"), task_queue=queue)
        assert result == f"{taken.id} is taken"
        await taken.terminate()


async def test_a_childs_reuse_policy_considers_closed_runs(client: Client) -> None:
    async with worker(client, Finds, Child) as queue:
        child = new("child")
        await client.execute_workflow(Child.run, "first", id=child, task_queue=queue)
        args = [child, int(WorkflowIDReusePolicy.REJECT_DUPLICATE)]
        result = await client.execute_workflow(Finds.run, args=args, id=new("finds"), task_queue=queue)
    assert result == f"{child} is taken"


@on_every_store
async def test_a_workflow_signals_another(client: Client) -> None:
    async with worker(client, Sends, Child) as queue:
        other = await client.start_workflow(Child.run, "wait", id=new("other"), task_queue=queue)
        args = [other.id, "hello"]
        assert await client.execute_workflow(Sends.run, args=args, id=new("sends"), task_queue=queue) == "sent"
        assert await other.result() == "hello"


async def test_a_workflow_cancels_another(client: Client) -> None:
    async with worker(client, Sends, Child) as queue:
        other = await client.start_workflow(Child.run, "wait", id=new("other"), task_queue=queue)
        args = [other.id, "cancel"]
        assert await client.execute_workflow(Sends.run, args=args, id=new("sends"), task_queue=queue) == "sent"
        await cause_of(other.result(), CancelledError)


@pytest.mark.parametrize("what", ["hello", "cancel"])
async def test_signals_and_cancels_of_unknown_workflows_fail(client: Client, what: str) -> None:
    async with worker(client, Sends) as queue:
        args = [new("nobody"), what]
        result = await client.execute_workflow(Sends.run, args=args, id=new("sends"), task_queue=queue)
    assert "NotFound" in result or "not found" in result
