"""A run that was reset goes on: it hears of what it waits for, however that ended, and asks nobody twice.

What the real server does alike stands in tests/parity/scenarios/resets.py; here is what it leaves waiting for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.parity import commands, servers
from tests.patience import PATIENCE_S
from tests.postgres import available

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parity.puppet import Puppet

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)

STORES = [
    "sqlite",
    pytest.param(
        "postgres", marks=[pytest.mark.postgres, pytest.mark.skipif(not available(), reason="no Postgres here")]
    ),
]
NOTHING_AGAIN = [f"RESET_REAPPLY_EXCLUDE_TYPE_{kind}" for kind in ("SIGNAL", "UPDATE", "NEXUS", "CANCEL_REQUEST")]
ENDINGS = {
    "completed": commands.complete_workflow("child"),
    "failed": commands.fail_workflow(),
    "canceled": commands.cancel_workflow(),
}


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server(request.param)) as address:
        yield address


async def _with_child(p: Puppet) -> tuple[str, int]:
    """A run whose abandoned child is under way, and the event at which it had seen that."""
    run_id = await p.start()
    child = commands.child(p.id("child"), p.id("children"), parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await p.step(child)
    await p.has_event("child_workflow_execution_started")
    task = await p.step()
    return run_id, int(task.started_event_id) + 1


async def _reset(p: Puppet, point: int, run_id: str = "", name: str = "reset", **fields: Any) -> str:
    answer = await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="why", request_id=p.id(name),
        workflow_task_finish_event_id=point, **fields,
    )  # fmt: skip
    return str(answer.run_id)


async def _child_ends(p: Puppet, ending: str = "completed") -> None:
    await p.complete(await p.workflow_task(p.id("children")), ENDINGS[ending])
    await p.closed(p.id("child"))


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_child_that_ended_after_its_parent(p: Puppet, ending: str) -> None:
    """No run of the parent was open to hear of it: the new one is told by the reset."""
    _, point = await _with_child(p)
    await p.signal("go")
    await p.step(commands.complete_workflow())
    await _child_ends(p, ending)
    await _reset(p, point)
    await p.has_event(f"child_workflow_execution_{ending}")
    await p.step(commands.complete_workflow())
    await p.closed()


async def test_a_child_that_was_terminated_after_its_parent(p: Puppet) -> None:
    _, point = await _with_child(p)
    await p.signal("go")
    await p.step(commands.complete_workflow())
    await p.terminate(p.id("child"))
    await _reset(p, point)
    await p.has_event("child_workflow_execution_terminated")


async def test_a_child_whose_chain_ended_after_its_parent(p: Puppet) -> None:
    """The last run of the child's chain is not the one that the parent started."""
    _, point = await _with_child(p)
    await p.signal("go")
    await p.step(commands.complete_workflow())
    await p.complete(await p.workflow_task(p.id("children")), commands.continue_as_new(p.id("children")))
    await _child_ends(p)
    await _reset(p, point)
    await p.has_event("child_workflow_execution_completed")


async def test_the_end_of_a_child_is_reported_after_a_reset_without_reapplied_events(p: Puppet) -> None:
    _, point = await _with_child(p)
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await _reset(p, point, reset_reapply_exclude_types=NOTHING_AGAIN)
    await p.has_event("child_workflow_execution_completed")


async def test_a_child_ends_after_a_run_that_is_not_the_newest_was_reset(p: Puppet) -> None:
    """The run that the child knows as its parent names another reset."""
    first, point = await _with_child(p)
    second = await _reset(p, point, first)
    await _reset(p, point, first, "another")
    await _reset(p, point, second, "third")
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")


async def test_the_end_of_a_child_that_was_replaced_is_not_taken_for_the_new_one_s(p: Puppet) -> None:
    """After a reset to before its start, a child of the same id is another chain."""
    await _with_child(p)
    await p.terminate(p.id("child"))
    await p.has_event("child_workflow_execution_terminated")
    await _reset(p, 4)
    child = commands.child(p.id("child"), p.id("children"), parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await p.step(child)
    await p.has_event("child_workflow_execution_started")
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    answer = await p.call("GetWorkflowExecutionHistory", execution=p.execution())
    kinds = [event.WhichOneof("attributes") for event in answer.history.events]
    assert "child_workflow_execution_terminated_event_attributes" not in kinds


async def test_external_requests_are_sent_once(p: Puppet) -> None:
    """A signal that was on its way at that point is sent again under its request id: the target takes it once."""
    await p.start(p.id("target"), task_queue={"name": p.id("elsewhere")})
    await p.start()
    answer = await p.complete(
        await p.workflow_task(), commands.signal_external(p.id("target")), force_create_new_workflow_task=True,
        return_new_workflow_task=True,
    )  # fmt: skip
    await p.has_event("workflow_execution_signaled", p.id("target"))
    await p.complete(answer.workflow_task)
    await p.has_event("external_workflow_execution_signaled")
    await _reset(p, 8)
    await p.has_event("external_workflow_execution_signaled")
    answer = await p.call("GetWorkflowExecutionHistory", execution=p.execution(p.id("target")))
    kinds = [event.WhichOneof("attributes") for event in answer.history.events]
    assert kinds.count("workflow_execution_signaled_event_attributes") == 1
