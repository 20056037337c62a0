from __future__ import annotations

from tests.core.command_builders import complete_workflow, schedule_activity
from tests.core.harness import World
from whistlestop.history.core.activity import decide as activity


def test_one_activity() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity())
    token = world.poll_activity()
    world.transact(lambda run: activity.complete(run, token, None, "worker"))
    world.turn(complete_workflow("done"))
    assert world.names() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "ActivityTaskScheduled",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowExecutionCompleted",
    ]
