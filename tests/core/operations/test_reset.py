"""Another run from a point of a base's history on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import payloads, schedule_activity, start_timer
from tests.core.harness import World, short_name
from whistlestop.common.errors import ServiceError
from whistlestop.history.core.finish import finish
from whistlestop.history.core.operations import reset
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.state_pb2 import MutableState, Update
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.records import records_of
from whistlestop.history.core.update import decide as update

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def a_world() -> World:
    """Two workflow tasks are done (events 4 and 9), a timer and an activity wait."""
    world = World()
    world.start(run_timeout_s=100)
    world.turn(schedule_activity("a"), start_timer("t", 50))
    world.transact(lambda run: signal.receive(run, name="one", input=payloads("1"), identity="client", request_id="r1"))
    world.turn()
    world.advance(10)
    return world


def begin(world: World, finish_event_id: int) -> Run:
    stored = world.stored[world.run_id]
    batches = [
        (batch.SerializeToString(), list(batch.events))
        for batch in stored.batches
        if batch.events[0].event_id < finish_event_id
    ]
    return reset.begin(
        world.state(),
        batches,
        finish_event_id,
        run_id="reset-run",
        request_id="reset-request",
        reason="because",
        now_ns=world.now_ns,
        ids=world.ids,
        limits=world.limits,
    )


def written(run: Run) -> list[str]:
    return [short_name(event) for events in run.batches for event in events]


def test_the_shared_history_ends_with_a_failed_workflow_task() -> None:
    world = a_world()
    run = begin(world, 10)
    reset.finish(run, service_pb.ResetWorkflowExecutionRequest())
    finish(run)
    write = records_of(run)
    assert written(run) == ["WorkflowTaskFailed", "WorkflowTaskScheduled"]
    failed = run.batches[0][0].workflow_task_failed_event_attributes
    assert failed.cause == fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    assert (failed.base_run_id, failed.new_run_id) == (world.run_id, "reset-run")
    assert failed.failure.message == "because"
    assert failed.failure.HasField("reset_workflow_failure_info")
    assert [(b.branch_id, b.first_event_id, b.next_event_id) for b in run.state.branches] == [
        (world.run_id, 1, 10),
        ("reset-run", 10, 0),
    ]
    assert write.history[0].first_event_id == 10
    assert [fork.next_event_id for fork in write.forked_from] == [10]


def test_the_state_is_the_one_of_that_point() -> None:
    world = a_world()
    run = begin(world, 10)
    state = run.state
    assert [activity.activity_id for activity in state.activities.values()] == ["a"]
    assert list(state.timers) == ["t"]
    assert state.signal_count == 1
    assert state.start_ns == world.now_ns
    assert state.original_start_ns == world.state().start_ns
    assert state.run_expiration_ns == world.now_ns + 100 * SECOND_NS
    assert [task.key.task_type for task in run.tasks_added] == [2], "the activity is offered anew"


def test_a_rebuilt_state_is_the_stored_one() -> None:
    world = a_world()
    stored = world.state()
    rebuilt = MutableState(
        namespace_id=stored.namespace_id, namespace=stored.namespace, workflow_id="wf", run_id=stored.run_id
    )
    reset.rebuild(rebuilt, [list(batch.events) for batch in world.stored[world.run_id].batches])
    assert rebuilt.next_event_id == stored.next_event_id
    assert rebuilt.timers == stored.timers
    assert rebuilt.last_first_event_id == stored.last_first_event_id


def test_signals_are_applied_again() -> None:
    world = a_world()
    run = begin(world, 4)
    reset.reapply(run, world.events()[3:], frozenset())
    reset.finish(run, service_pb.ResetWorkflowExecutionRequest())
    finish(run)
    assert written(run) == ["WorkflowTaskFailed", "WorkflowExecutionSignaled", "WorkflowTaskScheduled"]
    assert run.batches[0][1].workflow_execution_signaled_event_attributes.input == payloads("1")


def test_signals_may_be_left_out() -> None:
    world = a_world()
    run = begin(world, 4)
    request = service_pb.ResetWorkflowExecutionRequest(
        reset_reapply_exclude_types=[reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL]
    )
    reset.reapply(run, world.events()[3:], reset.excluded(request))
    reset.finish(run, request)
    finish(run)
    assert "WorkflowExecutionSignaled" not in written(run)


def test_a_task_that_was_not_started_starts_first() -> None:
    world = a_world()
    run = begin(world, 3)
    reset.finish(run, service_pb.ResetWorkflowExecutionRequest())
    finish(run)
    assert written(run) == ["WorkflowTaskStarted", "WorkflowTaskFailed", "WorkflowTaskScheduled"]


@pytest.mark.parametrize(
    ("finish_event_id", "message"),
    [
        (
            2,
            "StateRebuilder unable to Rebuild mutable state to event ID: 1, version: 0, this event must be at the boundary",
        ),
        (
            7,
            "Can only reset workflow to event ID in range [WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]: 7",
        ),
    ],
)
def test_points_that_can_not_be_reset_to(finish_event_id: int, message: str) -> None:
    with pytest.raises(ServiceError) as refused:
        begin(a_world(), finish_event_id)
    assert refused.value.message == message


def test_an_update_admitted_by_a_reset_and_rejected_is_taken_anew() -> None:
    """History does not tell of the rejection: what it says of the next one of that id is all that is left."""
    world = a_world()
    request = update_pb.Request(meta=update_pb.Meta(update_id="u"))

    def admit_by_event(run: Run) -> None:
        event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
        event.workflow_execution_update_admitted_event_attributes.request.CopyFrom(request)
        run.append(event)

    world.transact(admit_by_event)
    world.transact(lambda run: update.refuse(run, run.state.updates["u"], failure_pb.Failure(message="no")))
    world.transact(lambda run: update.admit(run, request))
    world.poll()
    acceptance = update_pb.Acceptance(
        accepted_request_message_id="u/request", accepted_request_sequencing_event_id=1, accepted_request=request
    )
    message = protocol_pb.Message(id="accept", protocol_instance_id="u")
    message.body.Pack(acceptance)
    world.complete(messages=[message])
    # The harness compares the stored state with the one that is rebuilt from the history.
    assert world.last("WorkflowExecutionUpdateAccepted").accepted_request == request
    assert world.state().updates["u"].stage == Update.ACCEPTED
