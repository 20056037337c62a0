"""A paused workflow hands out nothing, and forgets nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.activity.test_activity import application_failure, fail, refused, scheduled
from tests.core.harness import World
from whistlestop.common.errors import Code
from whistlestop.history.core.operations import pause
from whistlestop.history.core.transition.run import PAUSED, RUNNING

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def paused(run: Run, request_id: str = "request") -> None:
    request = rr.PauseWorkflowExecutionRequest(identity="me", reason="lunch", request_id=request_id)
    pause.pause(run, request)


def unpaused(run: Run) -> None:
    pause.unpause(run, rr.UnpauseWorkflowExecutionRequest(identity="me", reason="back"))


def test_a_task_that_no_worker_took_is_followed_by_another_after_the_pause() -> None:
    world = World()
    world.start()
    world.transact(paused)
    assert (world.offered(1), world.state().status) == ([], PAUSED)
    world.transact(unpaused)
    assert (len(world.offered(1)), world.state().status) == (1, RUNNING)
    assert world.names() == [
        "WorkflowExecutionStarted", "WorkflowTaskScheduled", "WorkflowTaskFailed", "WorkflowExecutionPaused",
        "WorkflowExecutionUnpaused", "WorkflowTaskScheduled",
    ]  # fmt: skip


def test_a_retry_whose_time_comes_during_a_pause_is_dispatched_after_it() -> None:
    world = scheduled()
    world.poll_activity()
    fail(world, application_failure())
    world.transact(paused)
    world.advance(20)
    assert world.offered(2) == []
    world.transact(unpaused)
    assert len(world.offered(2)) == 1


def test_pausing_twice_is_refused_unless_it_is_the_same_request() -> None:
    world = World()
    world.start()
    world.transact(paused)
    world.transact(paused)
    error = refused(world, lambda run: paused(run, "other"))
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "workflow is already paused.")
