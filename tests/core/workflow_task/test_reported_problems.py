"""Lists can find runs whose workflow tasks fail again and again (`TemporalReportedProblems`)."""

from __future__ import annotations

import dataclasses
import json

from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from tests.core.command_builders import start_timer
from tests.core.harness import World
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.workflow_task import decide as workflow_task

CAUSE = fc.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR


def _fail(world: World) -> None:
    world.poll()

    def decide(run: object) -> None:
        workflow_task.fail(run, CAUSE, None, "worker")  # type: ignore[arg-type]
        workflow_task.schedule(run)  # type: ignore[arg-type]

    world.transact(decide)
    world.advance(600)


def _shown(world: World) -> list[str] | None:
    attributes = world.state().search_attributes
    if "TemporalReportedProblems" not in attributes:
        return None
    shown: list[str] = json.loads(attributes["TemporalReportedProblems"].data)
    return shown


def test_failures_in_a_row_are_reported_until_a_task_is_completed() -> None:
    world = World(limits=dataclasses.replace(Limits(), workflow_task_problems=2))
    world.start()
    _fail(world)
    assert _shown(world) is None
    _fail(world)
    assert _shown(world) == [
        "category=WorkflowTaskFailed", "cause=WorkflowTaskFailedCauseNonDeterministicError",
    ]  # fmt: skip
    assert b"TemporalReportedProblems" in repr(world.visibility[world.run_id]).encode()
    world.turn(start_timer("t", 60))
    assert _shown(world) is None
    assert b"TemporalReportedProblems" not in repr(world.visibility[world.run_id]).encode()


def test_timeouts_in_a_row_are_reported() -> None:
    world = World(limits=dataclasses.replace(Limits(), workflow_task_problems=2))
    world.start()
    for _ in range(2):
        world.poll()
        world.advance(600)
    assert _shown(world) == ["category=WorkflowTaskTimedOut", "cause=WorkflowTaskTimedOutCauseStartToClose"]


def test_the_failure_that_has_an_event_is_reported_when_later_attempts_time_out() -> None:
    """A worker that fails one task and does not answer the transient ones after it."""
    world = World(limits=dataclasses.replace(Limits(), workflow_task_problems=2))
    world.start()
    _fail(world)
    world.poll()
    world.advance(600)
    assert _shown(world) == [
        "category=WorkflowTaskFailed", "cause=WorkflowTaskFailedCauseNonDeterministicError",
    ]  # fmt: skip


def test_problems_are_not_reported_when_that_is_disabled() -> None:
    world = World(limits=dataclasses.replace(Limits(), workflow_task_problems=0))
    world.start()
    for _ in range(3):
        _fail(world)
    assert _shown(world) is None
