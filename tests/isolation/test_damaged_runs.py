"""A run whose state or history can't be read stops no other, says so, and is repaired by ending or deleting it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import workflow_pb2 as wf

from tests.isolation.backend import Backend, at, chain, field, varint
from tests.isolation.damage import JUNK, events, is_clean, problems, refusal, spoil, timer
from tests.support.waiting import eventually
from whistlestop.common.errors import Code
from whistlestop.history.core.state_pb2 import Activity, MutableState
from whistlestop.storage.records import (
    ExecutionKey,
    ExecutionWrite,
    Transition,
)


async def test_a_run_whose_state_cannot_be_read_says_so_and_can_be_terminated(backend: Backend) -> None:
    run_id = await backend.start("bad")
    await backend.complete("bad")
    key = await spoil(backend, "bad", run_id)
    await backend.restart()
    execution = {"workflow_id": "bad"}
    assert await refusal(backend, "DescribeWorkflowExecution", execution=execution) is Code.DATA_LOSS
    assert (
        await refusal(backend, "SignalWorkflowExecution", workflow_execution=execution, signal_name="s")
        is Code.DATA_LOSS
    )
    assert "executions" in await problems(backend.store)
    await backend.call(
        "TerminateWorkflowExecution", namespace="default", workflow_execution=execution, reason="damaged"
    )
    described = await backend.call("DescribeWorkflowExecution", namespace="default", execution=execution)
    info = described.workflow_execution_info
    assert (info.status, info.type.name, info.execution.run_id) == (
        wf.WORKFLOW_EXECUTION_STATUS_TERMINATED,
        "W",
        run_id,
    )
    assert await events(backend, "bad") == [
        "workflow_execution_started", "workflow_task_scheduled", "workflow_task_started", "workflow_task_completed",
        "workflow_execution_terminated",
    ]  # fmt: skip
    await eventually(lambda: is_clean(backend))
    again = await backend.start("bad")
    assert again != run_id
    assert key.run_id == run_id


@pytest.mark.parametrize("history", ["whole", "damaged"])
async def test_a_run_whose_state_cannot_be_read_can_be_deleted(backend: Backend, history: str) -> None:
    run_id = await backend.start("bad")
    key = await spoil(backend, "bad", run_id)
    if history == "damaged":
        await spoil_history(backend, key)
    await backend.restart()
    await backend.call("DeleteWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "bad"})
    assert await backend.store.get_execution(key) is None
    assert await backend.store.check(100) == []


async def spoil_history(backend: Backend, key: ExecutionKey) -> None:
    store: Any = backend.store
    if hasattr(store, "path"):
        await store._write(lambda cursor: cursor.execute("UPDATE history_node SET data = ?", (JUNK,)))
    else:
        await store._run("UPDATE history_node SET data = $1", (JUNK,))


async def test_a_run_can_be_terminated_when_not_even_its_history_can_be_read(backend: Backend) -> None:
    run_id = await backend.start("bad")
    await spoil_history(backend, await spoil(backend, "bad", run_id))
    await backend.restart()
    await backend.call("TerminateWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "bad"})
    listed = await backend.call("ListWorkflowExecutions", namespace="default")
    assert [(each.status, each.type.name) for each in listed.executions] == [
        (wf.WORKFLOW_EXECUTION_STATUS_TERMINATED, "W")
    ]


async def test_the_parent_is_notified_of_the_end_of_a_child_whose_state_was_lost(backend: Backend) -> None:
    await backend.start("parent")
    await backend.complete(
        "parent",
        {
            "command_type": 11,
            "start_child_workflow_execution_command_attributes": {
                "workflow_id": "child", "workflow_type": {"name": "W"}, "task_queue": {"name": "child"},
            },
        },
    )  # fmt: skip
    await backend.history.transfers.drain()
    described = await backend.call("DescribeWorkflowExecution", namespace="default", execution={"workflow_id": "child"})
    await spoil(backend, "child", described.workflow_execution_info.execution.run_id)
    await backend.restart()
    await backend.call("TerminateWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "child"})
    await backend.history.transfers.drain()
    assert "child_workflow_execution_terminated" in await events(backend, "parent")


async def test_a_run_made_by_reset_is_rebuilt_over_the_history_that_it_shares(backend: Backend) -> None:
    run_id = await backend.start("bad")
    await backend.complete("bad")
    reply = await backend.call(
        "ResetWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "bad", "run_id": run_id},
        workflow_task_finish_event_id=4, request_id="r",
    )  # fmt: skip
    before = await events(backend, "bad")
    await spoil(backend, "bad", reply.run_id)
    await backend.restart()
    await backend.call("TerminateWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "bad"})
    assert await events(backend, "bad") == [*before, "workflow_execution_terminated"]
    await eventually(lambda: is_clean(backend))


async def test_deeply_nested_states_of_release_0_1_0_are_readable(backend: Backend) -> None:
    """As shared/security/deep_failure_restart.py shows it, over the rows that that release left behind."""
    run_id = await backend.start("poisoned")
    attributes = {
        "activity_id": "a", "activity_type": {"name": "A"}, "task_queue": {"name": "poisoned"},
        "schedule_to_close_timeout": {"seconds": 600},
    }  # fmt: skip
    await backend.complete("poisoned", {"command_type": 1, "schedule_activity_task_command_attributes": attributes})
    await backend.start("healthy")
    await timer(backend, "healthy", 15)
    key = ExecutionKey(backend.namespace_id, "poisoned", run_id)
    stored = await backend.store.get_execution(key)
    assert stored is not None
    entry = await backend.history.engine.read(key)
    (scheduled,) = entry.state.activities
    deep = at(
        MutableState, "activities", b"\x08" + varint(scheduled) + field(2, at(Activity, "last_failure", chain(99)))
    )
    poisoned = stored.state + deep
    with pytest.raises(DecodeError):
        MutableState.FromString(poisoned)
    await backend.store.commit(
        Transition((
            ExecutionWrite(
                key, stored.slot, stored.db_record_version, poisoned, stored.next_event_id, stored.status, branch_id=run_id
            ),
        ))
    )  # fmt: skip
    await backend.restart()
    execution = {"workflow_id": "poisoned"}
    await backend.call("DescribeWorkflowExecution", namespace="default", execution=execution)
    await backend.call("SignalWorkflowExecution", namespace="default", workflow_execution=execution, signal_name="s")
    await backend.clock.advance(20)
    await backend.history.timers.fire_page(50)
    assert "timer_fired" in await events(backend, "healthy")
    await backend.call("TerminateWorkflowExecution", namespace="default", workflow_execution=execution)
    assert await backend.store.check(10) == []
