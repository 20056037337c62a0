"""How a run ends, seen from its history."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import cancel_workflow, complete_workflow, fail_workflow, payloads, schedule_activity
from tests.core.harness import World
from whistlestop.history.core import completion, history_limits
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.workflow import cancel, close


def a_signal(world: World, name: str = "go", request_id: str = "") -> None:
    world.transact(
        lambda run: signal.receive(
            run, name=name, input=None, identity="client", request_id=request_id or world.ids.uuid()
        )
    )


def test_a_workflow_that_completes_keeps_its_result() -> None:
    world = World()
    world.start()
    world.turn(complete_workflow("done"))
    assert world.last("WorkflowExecutionCompleted").result == payloads("done")
    assert world.state().status == wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    assert world.current["wf"].status == wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED


def test_a_failure_without_retry_policy_says_so() -> None:
    world = World()
    world.start()
    world.turn(fail_workflow("broken"))
    event = world.last("WorkflowExecutionFailed")
    assert event.failure.message == "broken"
    assert event.retry_state == wf_enums.RETRY_STATE_RETRY_POLICY_NOT_SET
    assert event.new_execution_run_id == ""


def test_a_cancelled_workflow_keeps_the_details() -> None:
    world = World()
    world.start()
    world.transact(lambda run: cancel.request(run, cause="why", identity="client", request_id="r"))
    world.turn(cancel_workflow("bye"))
    assert world.names() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowExecutionCancelRequested",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowExecutionCanceled",
    ]
    assert world.last("WorkflowExecutionCanceled").details == payloads("bye")


def test_cancelling_twice_is_recorded_once() -> None:
    world = World()
    world.start()
    for _ in range(2):
        world.transact(lambda run: cancel.request(run, cause="why", identity="client", request_id="r"))
    assert world.names().count("WorkflowExecutionCancelRequested") == 1


def test_a_workflow_may_not_end_before_it_saw_a_signal() -> None:
    world = World()
    world.start()
    world.poll()
    a_signal(world)
    outcome = world.complete(complete_workflow())
    assert outcome.error is not None
    assert outcome.error.message == "UnhandledCommand"
    assert world.last("WorkflowTaskFailed").cause == fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    assert world.names()[-2:] == ["WorkflowExecutionSignaled", "WorkflowTaskScheduled"]


def test_terminating_fails_the_task_that_a_worker_is_at() -> None:
    world = World()
    world.start()
    world.poll()
    a_signal(world)
    world.transact(lambda run: close.terminate(run, reason="enough", identity="client", details=payloads("x")))
    assert world.names()[2:] == [
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowExecutionSignaled",
        "WorkflowExecutionTerminated",
    ]
    failed = world.last("WorkflowTaskFailed")
    assert failed.cause == fc.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    assert failed.identity == "history-service"
    assert not failed.HasField("failure")


def test_terminating_takes_back_what_was_offered() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a"))
    world.transact(lambda run: close.terminate(run, reason="enough", identity="client"))
    assert world.tasks == {}
    assert world.timers == {}
    assert len(world.state().activities) == 1


def test_a_run_ends_when_its_time_is_over() -> None:
    world = World()
    world.start(run_timeout_s=5)
    world.poll()
    world.advance(5)
    assert world.names()[-2:] == ["WorkflowTaskFailed", "WorkflowExecutionTimedOut"]
    assert world.last("WorkflowExecutionTimedOut").retry_state == wf_enums.RETRY_STATE_RETRY_POLICY_NOT_SET


def test_a_chain_ends_when_its_time_is_over() -> None:
    world = World()
    world.start(execution_timeout_s=5, cron_schedule="@every 2s")
    world.advance(5)
    assert world.last("WorkflowExecutionTimedOut").retry_state == wf_enums.RETRY_STATE_TIMEOUT
    assert world.last("WorkflowExecutionTimedOut").new_execution_run_id == ""


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(history_count_error=3), history_limits.HISTORY_COUNT),
        (Limits(history_size_error=100), history_limits.HISTORY_SIZE),
    ],
)
def test_a_history_that_is_too_long_ends_the_run(limits: Limits, reason: str) -> None:
    world = World(limits)
    world.start()
    a_signal(world)
    a_signal(world)
    run = world.load()
    signal.receive(run, name="go", input=None, identity="client", request_id="r")
    assert history_limits.enforce(run, 0) == reason
    world.commit(run)
    assert world.names().count("WorkflowExecutionSignaled") == 2
    assert world.last("WorkflowExecutionTerminated").reason == reason


def test_a_state_that_becomes_too_large_ends_the_run_in_that_transition() -> None:
    """Activities that are scheduled, and events that wait for the end of a workflow task, count at once."""
    world = World(Limits(mutable_state_size_error=8000))
    world.start()
    token = world.poll()
    run = world.load()
    completion.respond_completed(
        run, token, service_pb.RespondWorkflowTaskCompletedRequest(
            commands=[schedule_activity(activity_id=f"activity-{n}") for n in range(100)]
        ),
    )  # fmt: skip
    assert history_limits.enforce(run, 500) == history_limits.MUTABLE_STATE_SIZE
    run = world.load()
    for number in range(2):
        signal.receive(run, name="go", input=payloads("x" * 4000), identity="client", request_id=f"r{number}")
    assert history_limits.enforce(run, 500) == history_limits.MUTABLE_STATE_SIZE
    run = world.load()
    signal.receive(run, name="go", input=payloads("x" * 4000), identity="client", request_id="r")
    assert history_limits.enforce(run, 500) == ""
