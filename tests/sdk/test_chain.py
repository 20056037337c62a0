"""Runs that follow one another: continue-as-new, workflow retries, cron."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import workflow
from temporalio.client import (
    WorkflowContinuedAsNewError,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.common import RetryPolicy, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.exceptions import TimeoutError as TemporalTimeoutError

from tests.sdk.support import LONG, SHOP, SOON, cause_of, event_of, new, on_every_store, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle


@workflow.defn
class CountsDown:
    @workflow.run
    async def run(self, number: int) -> str:
        if number:
            workflow.continue_as_new(number - 1)
        return f"{workflow.memo_value('colour', 'no colour')} from {workflow.info().continued_run_id is not None}"


@workflow.defn
class Carries:
    """A signal that came before it went on is handed over."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @workflow.run
    async def run(self, texts: list[str]) -> list[str]:
        self.texts = texts + self.texts
        await workflow.wait_condition(lambda: bool(self.texts))
        if len(self.texts) < 3:
            before, self.texts = self.texts, []
            workflow.continue_as_new(before)
        return self.texts

    @workflow.signal
    def tell(self, text: str) -> None:
        self.texts.append(text)


@workflow.defn
class Becomes:
    @workflow.run
    async def run(self) -> None:
        workflow.continue_as_new(args=[0], workflow="CountsDown")


@workflow.defn
class Fails:
    @workflow.run
    async def run(self, until_attempt: int, final: bool) -> int:
        if workflow.info().attempt < until_attempt:
            raise ApplicationError(f"attempt {workflow.info().attempt}", type="NotYet", non_retryable=final)
        return workflow.info().attempt


@workflow.defn
class Ticks:
    @workflow.run
    async def run(self) -> int:
        last = workflow.get_last_completion_result(int)
        return (last or 0) + 1


@workflow.defn
class Sleeps:
    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(3600)


async def status_of_first(client: Client, handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    first = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return (await first.describe()).status


@on_every_store
async def test_a_chain_has_the_result_of_its_last_run(client: Client) -> None:
    async with worker(client, CountsDown) as queue:
        handle = await client.start_workflow(CountsDown.run, 1, id=new("counts"), task_queue=queue)
        assert await handle.result() == "no colour from True"
    assert await status_of_first(client, handle) is WorkflowExecutionStatus.CONTINUED_AS_NEW


async def test_the_next_run_keeps_the_memo(client: Client) -> None:
    async with worker(client, CountsDown) as queue:
        memo = {"colour": "blue"}
        result = await client.execute_workflow(CountsDown.run, 1, id=new("counts"), task_queue=queue, memo=memo)
    assert result == "blue from True"


async def test_the_next_run_keeps_the_search_attributes(client: Client) -> None:
    async with worker(client, CountsDown) as queue:
        shop = TypedSearchAttributes([SearchAttributePair(SHOP, "corner")])
        handle = await client.start_workflow(
            CountsDown.run, 1, id=new("counts"), task_queue=queue, search_attributes=shop
        )
        await handle.result()
    last = await client.get_workflow_handle(handle.id).describe()
    assert last.run_id != handle.first_execution_run_id
    assert last.typed_search_attributes[SHOP] == "corner"


async def test_the_end_of_one_run_of_a_chain_can_be_awaited(client: Client) -> None:
    async with worker(client, CountsDown) as queue:
        handle = await client.start_workflow(CountsDown.run, 1, id=new("counts"), task_queue=queue)
        with pytest.raises(WorkflowContinuedAsNewError) as continued:
            await handle.result(follow_runs=False)
        last = client.get_workflow_handle(handle.id, run_id=continued.value.new_execution_run_id)
        assert await last.result() == "no colour from True"


async def test_a_workflow_goes_on_as_another(client: Client) -> None:
    async with worker(client, Becomes, CountsDown) as queue:
        result = await client.execute_workflow("Becomes", id=new("becomes"), task_queue=queue)
    assert result == "no colour from True"


@on_every_store
async def test_no_signal_is_lost_between_two_runs(client: Client) -> None:
    async with worker(client, Carries) as queue:
        handle = await client.start_workflow(Carries.run, [], id=new("carries"), task_queue=queue)
        current = client.get_workflow_handle(handle.id)
        for text in ("a", "b", "c"):
            await current.signal(Carries.tell, text)
        assert await handle.result() == ["a", "b", "c"]


@on_every_store
async def test_a_workflow_with_a_retry_policy_is_run_again(client: Client) -> None:
    async with worker(client, Fails) as queue:
        handle = await client.start_workflow(
            Fails.run, args=[2, False], id=new("fails"), task_queue=queue, retry_policy=SOON
        )
        assert await handle.result() == 2
    assert await status_of_first(client, handle) is WorkflowExecutionStatus.FAILED


@pytest.mark.parametrize(
    ("final", "policy", "expected"),
    [
        (True, SOON, "attempt 1"),
        (False, RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2), "attempt 2"),
        (False, RetryPolicy(non_retryable_error_types=["NotYet"]), "attempt 1"),
        (False, None, "attempt 1"),
    ],
    ids=["non-retryable", "maximum attempts", "non-retryable type", "no policy"],
)
async def test_a_workflow_fails_with_its_last_attempt(
    client: Client, final: bool, policy: RetryPolicy | None, expected: str
) -> None:
    async with worker(client, Fails) as queue:
        run = client.execute_workflow(
            Fails.run, args=[9, final], id=new("fails"), task_queue=queue, retry_policy=policy
        )
        assert (await cause_of(run, ApplicationError)).message == expected


@on_every_store
async def test_a_cron_workflow_gets_the_result_of_its_last_run(client: Client) -> None:
    async with worker(client, Ticks) as queue:
        handle = await client.start_workflow(Ticks.run, id=new("ticks"), task_queue=queue, cron_schedule="@every 1s")
        with pytest.raises(WorkflowContinuedAsNewError) as continued:
            await handle.result(follow_runs=False)
        second = client.get_workflow_handle(handle.id, run_id=continued.value.new_execution_run_id)
        started = (await event_of(second, "WORKFLOW_EXECUTION_STARTED")).workflow_execution_started_event_attributes
        await client.get_workflow_handle(handle.id).terminate()
    assert started.last_completion_result.payloads[0].data == b"1"
    assert started.cron_schedule == "@every 1s"
    assert started.first_workflow_task_backoff.ToTimedelta() <= timedelta(seconds=1)


@pytest.mark.parametrize("limit", ["run_timeout", "execution_timeout"])
async def test_a_run_ends_when_its_time_is_over(client: Client, limit: str) -> None:
    async with worker(client, Sleeps) as queue:
        times = {limit: timedelta(seconds=1)}
        run = client.execute_workflow(
            Sleeps.run, id=new("sleeps"), task_queue=queue, run_timeout=times.get("run_timeout"),
            execution_timeout=times.get("execution_timeout"),
        )  # fmt: skip
        await cause_of(run, TemporalTimeoutError)


async def test_an_execution_timeout_ends_retries(client: Client) -> None:
    """The next attempt would begin later than the whole execution may last."""
    async with worker(client, Fails) as queue:
        with pytest.raises(WorkflowFailureError):
            await client.execute_workflow(
                Fails.run, args=[9, False], id=new("fails"), task_queue=queue, execution_timeout=timedelta(seconds=5),
                retry_policy=RetryPolicy(initial_interval=LONG),
            )  # fmt: skip


async def test_every_run_of_a_chain_is_in_the_list(client: Client) -> None:
    async with worker(client, CountsDown) as queue:
        handle = await client.start_workflow(CountsDown.run, 1, id=new("counts"), task_queue=queue)
        await handle.result()

    async def all_there() -> bool:
        runs = [run async for run in client.list_workflows(f"WorkflowId = '{handle.id}'")]
        return [run.status.name for run in runs if run.status] == ["COMPLETED", "CONTINUED_AS_NEW"]

    await eventually(all_there)
