"""Batch jobs over whole backends on a fake clock: crashes, stops, failures, limits."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.batch.v1.message_pb2 import BatchOperationTermination
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.faults import Weather
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.batch import worker
from whistlestop.frontend.batch.worker import page_s
from whistlestop.frontend.registry import WORKFLOW_SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RUNNING = batch_enums.BATCH_OPERATION_STATE_RUNNING
COMPLETED = batch_enums.BATCH_OPERATION_STATE_COMPLETED
FAILED = batch_enums.BATCH_OPERATION_STATE_FAILED
ALL = "WorkflowType = 'T'"


class Yard:
    """One process over a store; it may crash and be replaced."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
        return await self.backend.call(method, request, getattr(rr, f"{method}Response"))

    async def workflows(self, count: int) -> list[str]:
        ids = [f"w{number:03}" for number in range(count)]
        for each in ids:
            await self.call(
                "StartWorkflowExecution", workflow_id=each, request_id=each, workflow_type={"name": "T"},
                task_queue={"name": "q"},
            )  # fmt: skip
        return ids

    async def begin(self, job_id: str = "job", **fields: Any) -> None:
        """Start a job and wait until it begins."""
        await self.start(job_id, **fields)
        await self.backend.clock.advance(worker.GRACE_S)

    async def start(self, job_id: str = "job", **fields: Any) -> None:
        await self.call("StartBatchOperation", job_id=job_id, reason="why", **{"visibility_query": ALL, **fields})

    async def job(self, job_id: str = "job") -> Any:
        return await self.call("DescribeBatchOperation", job_id=job_id)

    async def counts(self, job_id: str = "job") -> tuple[int, int, int, int]:
        """State, total, done, failed."""
        job = await self.job(job_id)
        return job.state, job.total_operation_count, job.complete_operation_count, job.failure_operation_count

    async def until_heartbeat(self) -> None:
        """The first page is done, and said to be."""
        for _ in range(10_000):
            if (await self.job()).complete_operation_count:
                return
            await asyncio.sleep(0)
        raise AssertionError("no progress")

    async def later(self, seconds: float) -> None:
        """Time passes in small steps, so that what it wakes comes to its end in between."""
        for _ in range(round(seconds * 4)):
            await self.backend.clock.advance(0.25)
            for _ in range(200):
                await asyncio.sleep(0)

    async def crash(self) -> None:
        self.backend.weather.calm = False
        self.backend.crash(self.backend.processes[0])
        self.backend.weather.calm = True
        await self.backend.fill()
        worker.resume_batches(self.backend.processes[0].frontend.ports)

    async def events(self, workflow_id: str, kind: int) -> int:
        history = await self.call("GetWorkflowExecutionHistory", execution={"workflow_id": workflow_id})
        return sum(event.event_type == kind for event in history.history.events)


@pytest_asyncio.fixture
async def yard() -> AsyncIterator[Yard]:
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=1, weather=weather, note=lambda _: None)
    await backend.open()
    yield Yard(backend)
    await backend.close()


async def test_pages_go_at_the_rate_that_is_set(yard: Yard) -> None:
    """Fifty a second, told after each page."""
    await yard.workflows(120)
    await yard.begin(termination_operation={})
    await yard.until_heartbeat()
    assert await yard.counts() == (RUNNING, 120, 50, 0)
    await yard.later(1.25)
    assert await yard.counts() == (RUNNING, 120, 100, 0)
    await yard.later(2)
    assert await yard.counts() == (COMPLETED, 120, 120, 0)
    left = await yard.call("CountWorkflowExecutions", query=f"{ALL} AND ExecutionStatus = 'Running'")
    assert left.count == 0


@pytest.mark.parametrize(
    ("wanted", "seconds"), [(0, 1), (10, 5), (1000, 1), (float("inf"), 1), (-5, 1), (float("nan"), 1)]
)
def test_a_requested_rate_is_limited_to_the_servers_rate(wanted: float, seconds: float) -> None:
    assert page_s(wanted, 50) == seconds


async def test_a_crash_in_the_middle(yard: Yard) -> None:
    """Another process goes on from the last page, and nobody gets the signal twice."""
    ids = await yard.workflows(120)
    await yard.begin(signal_operation={"signal": "s"})
    await yard.until_heartbeat()
    await yard.crash()
    await yard.later(40)
    assert await yard.counts() == (COMPLETED, 120, 120, 0)
    assert [await yard.events(each, et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED) for each in ids] == [1] * 120
    assert await yard.backend.store.read_queue(worker.OPEN_JOBS, 0, 10) == []


async def test_a_stopped_job_does_no_more(yard: Yard) -> None:
    """What is done stays done."""
    await yard.workflows(120)
    await yard.begin(termination_operation={})
    await yard.until_heartbeat()
    await yard.call("StopBatchOperation", job_id="job", reason="enough", identity="me")
    await yard.later(20)
    assert (await yard.job()).state == FAILED
    left = await yard.call("CountWorkflowExecutions", query=f"{ALL} AND ExecutionStatus = 'Running'")
    assert left.count == 70
    assert await yard.backend.store.read_queue(worker.OPEN_JOBS, 0, 10) == []


@pytest.mark.parametrize("matching", [0, 10])
async def test_a_job_that_is_stopped_at_once_does_nothing(yard: Yard, matching: int) -> None:
    """However little there is to do: it has not ended when the request to stop it arrives."""
    await yard.workflows(matching)
    await yard.start(termination_operation={})
    for _ in range(1000):
        await asyncio.sleep(0)
    await yard.call("StopBatchOperation", job_id="job", reason="a mistake", identity="me")
    await yard.later(20)
    assert (await yard.job()).state == FAILED
    left = await yard.call("CountWorkflowExecutions", query=f"{ALL} AND ExecutionStatus = 'Running'")
    assert left.count == matching


async def test_in_a_function_a_job_goes_on_in_turns(yard: Yard) -> None:
    """A turn ends after some seconds and leaves the rest, exactly, to the next one."""
    await yard.workflows(400)
    frontend = yard.backend.processes[0].frontend
    request = rr.StartBatchOperationRequest(
        namespace=NAMESPACE,
        job_id="job",
        reason="why",
        visibility_query=ALL,
        termination_operation=BatchOperationTermination(),
    )
    start = frontend.call(f"{WORKFLOW_SERVICE}/StartBatchOperation", request, CallContext(can_long_poll=False))
    starting = asyncio.ensure_future(start)
    await yard.later(8)
    await starting
    state, total, done, failed = await yard.counts()
    assert (state, total, failed) == (RUNNING, 400, 0)
    assert 0 < done < 400
    for _ in range(3):
        turn = asyncio.ensure_future(worker.work_on_batches(frontend.ports))
        await yard.later(8)
        await turn
    assert await yard.counts() == (COMPLETED, 400, 400, 0)
    assert await worker.work_on_batches(frontend.ports) == 0


async def test_failed_operations_are_counted(yard: Yard) -> None:
    """A workflow without a completed task can be reset; one whose event is wrong can't; one that is gone is no failure."""
    await yard.workflows(2)
    executions = [{"workflow_id": "w000"}, {"workflow_id": "w001"}, {"workflow_id": "nobody"}]
    await yard.begin(visibility_query="", executions=executions, reset_operation={"options": {"workflow_task_id": 77}})
    await yard.later(1)
    assert await yard.counts() == (COMPLETED, 3, 1, 2)


async def test_one_job_at_a_time_and_one_of_an_id(yard: Yard) -> None:
    """RESOURCE_EXHAUSTED while one runs, ALREADY_EXISTS for ever after."""
    await yard.workflows(60)
    await yard.begin(termination_operation={})
    with pytest.raises(ServiceError) as busy:
        await yard.begin("other", termination_operation={})
    assert busy.value.code is Code.RESOURCE_EXHAUSTED
    await yard.later(3)
    with pytest.raises(ServiceError) as taken:
        await yard.begin(termination_operation={})
    assert taken.value.code is Code.ALREADY_EXISTS
    await yard.begin("other", termination_operation={"identity": "me"})
    await yard.later(1)
    job = await yard.job("other")
    assert (job.identity, job.reason, job.query, job.state) == ("me", "why", ALL, COMPLETED)


async def test_jobs_are_listed_in_pages(yard: Yard) -> None:
    """Newest first."""
    for name in ("a", "b", "c"):
        await yard.begin(name, termination_operation={})
        await yard.later(1)
    first = await yard.call("ListBatchOperations", page_size=2)
    second = await yard.call("ListBatchOperations", page_size=2, next_page_token=first.next_page_token)
    assert [each.job_id for page in (first, second) for each in page.operation_info] == ["c", "b", "a"]
    assert {each.operation_type for each in first.operation_info} == {
        batch_enums.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW
    }


async def test_a_user_workflow_is_no_job(yard: Yard) -> None:
    """Its id can't be stopped as one."""
    await yard.workflows(1)
    with pytest.raises(ServiceError) as refused:
        await yard.call("StopBatchOperation", job_id="w000", reason="why")
    assert refused.value.code is Code.NOT_FOUND
