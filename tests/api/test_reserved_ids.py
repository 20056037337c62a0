"""The server's own runs share the ids of workflows: nobody starts a workflow in their place, or drives one as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.api.fixtures import World, new_world
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCHEDULE = "temporal-sys-scheduler:s"
RESERVED = (SCHEDULE, "temporal-sys-activity:a", "temporal-sys-nexus-operation:o")
START: dict[str, Any] = {"workflow_type": {"name": "T"}, "task_queue": {"name": "q"}}
RUN: dict[str, Any] = {"workflow_execution": {"workflow_id": SCHEDULE}}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = await new_world()
    yield made
    await made.frontend.ports.store.close()


async def _refusal(world: World, method: str, **fields: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await world.call(method, getattr(rr, f"{method}Request")(namespace="default", **fields))
    assert world.history.calls == []
    return refused.value


@pytest.mark.parametrize("workflow_id", RESERVED)
async def test_no_workflow_starts_under_an_id_of_the_servers_own(world: World, workflow_id: str) -> None:
    for method, more in (
        ("StartWorkflowExecution", {}),
        ("SignalWithStartWorkflowExecution", {"signal_name": "s"}),
    ):
        refusal = await _refusal(world, method, workflow_id=workflow_id, **START, **more)
        assert refusal.code is Code.INVALID_ARGUMENT
        assert refusal.message == f"WorkflowId cannot start with reserved prefix {workflow_id[:-1]}"


@pytest.mark.parametrize("workflow_id", RESERVED)
async def test_no_schedule_starts_one_either(world: World, workflow_id: str) -> None:
    schedule = {"action": {"start_workflow": {"workflow_id": workflow_id, **START}}}
    refusal = await _refusal(world, "CreateSchedule", schedule_id="x", request_id="r", schedule=schedule)
    assert "reserved prefix" in refusal.message


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("SignalWorkflowExecution", {**RUN, "signal_name": "s"}),
        ("RequestCancelWorkflowExecution", RUN),
        ("ResetWorkflowExecution", {**RUN, "request_id": "r", "workflow_task_finish_event_id": 4}),
        ("QueryWorkflow", {"execution": {"workflow_id": SCHEDULE}, "query": {"query_type": "q"}}),
        ("UpdateWorkflowExecution", {**RUN, "request": {"input": {"name": "u"}}}),
        ("PauseWorkflowExecution", {"workflow_id": SCHEDULE}),
    ],
)
async def test_a_schedule_is_not_driven_as_a_workflow(world: World, method: str, fields: dict[str, Any]) -> None:
    refusal = await _refusal(world, method, **fields)
    assert (refusal.code, refusal.message) == (
        Code.INVALID_ARGUMENT, f"{SCHEDULE} is a schedule: use the RPCs of schedules.",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["TerminateWorkflowExecution", "DeleteWorkflowExecution"])
async def test_a_schedule_ends_and_goes_as_a_workflow_does(world: World, method: str) -> None:
    await world.call(method, getattr(rr, f"{method}Request")(namespace="default", **RUN))
    assert [called for called, _, _ in world.history.calls] == [method]
