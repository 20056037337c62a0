"""Nexus operations and completion callbacks, by table and by story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from tests.core.command_builders import complete_workflow, fill, payload
from tests.core.harness import HANDLERS_NAMESPACE_ID, World
from whistlestop.common.errors import ServiceError
from whistlestop.common.retry_defaults import RetryIntervals
from whistlestop.history import tokens
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import links as nexus_links
from whistlestop.history.core.operations import options
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.transition.run import Run

TARGET = nexus_operations.Target(HANDLERS_NAMESPACE_ID, "payments")
SCHEDULED = 5


def call(**fields: Any) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)
    a = command.schedule_nexus_operation_command_attributes
    a.endpoint, a.service, a.operation = "payments", "Payments", "pay"
    fill(a, fields)
    return command


def request_cancel() -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)
    command.request_cancel_nexus_operation_command_attributes.scheduled_event_id = SCHEDULED
    return command


def deliver(world: World) -> list[str]:
    """Offer what the outbox wants offered; the kinds of rows."""
    rows, world.transfers = world.transfers, []
    for row in rows:
        event_id = TransferData.FromString(row.data).initiated_event_id

        def decide(run: Run, event_id: int = event_id, cancel: bool = row.kind == "nexus_cancel") -> None:
            operation = run.state.nexus_operations[event_id]
            nexus_operations.dispatch(run, operation, TARGET, cancel=cancel)

        world.transact(decide)
    return [row.kind for row in rows]


def answer(world: World, *, cancel: bool = False) -> Any:
    """A working copy of the run, and the operation whose request was taken and is answered now."""
    token = take(world, cancel=cancel)
    run = world.load()
    return run, nexus_operations.answered(run, token, "")


def take(world: World, *, cancel: bool = False) -> TaskToken:
    """A worker takes the request that is offered; the token that it gets."""
    [task] = world.offered(3)

    def decide(run: Run) -> TaskToken:
        operation = nexus_operations.take(run, SCHEDULED, task.stamp, cancel=cancel)
        return tokens.parse(tokens.of_nexus_task(run, operation, cancel=cancel))

    return world.transact(decide)


def called(**fields: Any) -> World:
    """A world whose workflow has called an operation, which is offered to a worker."""
    world = World()
    world.start()
    world.turn(call(**fields))
    assert deliver(world) == ["nexus_start"]
    return world


def test_a_request_stands_in_the_queue_of_its_endpoint() -> None:
    [task] = called().offered(3)
    assert (task.key.namespace_id, task.key.task_queue) == (HANDLERS_NAMESPACE_ID, "payments")


def test_an_unanswered_request_is_sent_again_after_a_back_off() -> None:
    world = called()
    world.advance(9)
    assert world.offered(3) == []
    attempt = world.state().nexus_operations[SCHEDULED].start
    assert (attempt.attempt, attempt.last_failure.message) == (1, "upstream timeout")
    assert attempt.next_attempt_ns == world.now_ns + SECOND_NS
    world.advance(1)
    assert deliver(world) == ["nexus_start"]
    assert len(world.offered(3)) == 1


@pytest.mark.parametrize(("standalone", "pauses_s"), [(False, [2, 4, 6]), (True, [3, 6, 10])])
def test_the_pauses_of_standalone_operations_are_configured_apart(standalone: bool, pauses_s: list[int]) -> None:
    retry = RetryIntervals(initial_ns=3 * SECOND_NS, maximum_ns=10 * SECOND_NS)
    limits = Limits(nexus_retry_initial_ns=2 * SECOND_NS, nexus_retry_max_ns=6 * SECOND_NS, nexus_execution_retry=retry)
    world = called()
    world.limits = limits
    run = world.load()
    if standalone:
        run.state.nexus_execution.scheduled_event_id = SCHEDULED
    operation = run.state.nexus_operations[SCHEDULED]
    found = []
    for _ in pauses_s:
        operation.start.attempt += 1
        nexus_operations.try_again(run, operation, failure_pb.Failure(), cancel=False)
        found.append((operation.start.next_attempt_ns - run.now_ns) / SECOND_NS)
    assert found == pauses_s


def test_a_late_answer_is_refused() -> None:
    world = called()
    token = take(world)
    world.advance(9)
    with pytest.raises(ServiceError, match="not found or already expired"):
        world.transact(lambda run: nexus_operations.answered(run, token, ""))


@pytest.mark.parametrize(
    ("fields", "started", "timeout_type"),
    [
        ({"schedule_to_close_timeout_s": 5}, False, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),
        ({"schedule_to_start_timeout_s": 5}, False, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START),
        ({"start_to_close_timeout_s": 5}, True, wf_enums.TIMEOUT_TYPE_START_TO_CLOSE),
    ],
)
def test_each_timeout_ends_the_operation(fields: dict[str, Any], started: bool, timeout_type: int) -> None:
    world = called(**fields)
    if started:
        run, operation = answer(world)
        nexus_operations.start(run, operation, "token")
        world.commit(run)
    world.advance(5)
    failure = world.last("NexusOperationTimedOut").failure
    assert failure.cause.timeout_failure_info.timeout_type == timeout_type
    assert not world.state().nexus_operations
    assert not world.offered(3)


def test_too_little_time_for_a_request_ends_the_operation_at_once() -> None:
    world = World()
    world.start()
    world.turn(call(schedule_to_close_timeout_s=1))
    deliver(world)
    assert world.names()[-2:] == ["NexusOperationTimedOut", "WorkflowTaskScheduled"]


def test_a_cancel_request_is_sent_once_the_operation_has_started() -> None:
    world = called()
    world.transact(workflow_task.schedule)
    world.turn(request_cancel())
    assert world.transfers == []
    run, operation = answer(world)
    nexus_operations.start(run, operation, "token")
    world.commit(run)
    assert deliver(world) == ["nexus_cancel"]
    run, operation = answer(world, cancel=True)
    nexus_operations.cancel_delivered(run, operation)
    world.commit(run)
    assert world.last("NexusOperationCancelRequestCompleted").scheduled_event_id == SCHEDULED
    assert SCHEDULED in world.state().nexus_operations


def test_an_end_before_the_answer_records_the_start_first() -> None:
    world = called()

    def decide(run: Run) -> None:
        operation = nexus_operations.of_callback(run, SCHEDULED, "")
        nexus_operations.note_started(run, operation, "token", 0, [])
        nexus_operations.complete(run, operation, payload("out"))

    world.transact(decide)
    assert world.names()[-3:] == ["NexusOperationStarted", "NexusOperationCompleted", "WorkflowTaskScheduled"]
    assert not world.offered(3)


def test_callbacks_are_scheduled_when_the_run_ends() -> None:
    world = World()
    world.start()
    callback = common_pb.Callback(nexus=common_pb.Callback.Nexus(url="temporal://system"))
    change = options.Change(attached_request_id="r", attached_callbacks=[callback])
    world.transact(lambda run: options.update(run, change))
    assert world.transfers == []
    world.turn(complete_workflow("out"))
    assert [row.kind for row in world.transfers] == ["nexus_callback"]
    world = World()
    world.start()
    world.transact(lambda run: options.update(run, change))

    def reset(run: Run) -> None:
        run.state.reset_run_id = "its continuation"
        close.terminate(run, reason="r", identity="i", by_reset=True)

    world.transact(reset)
    assert world.transfers == [], "the run that it was reset to owes them"
    world = World()
    world.start()
    world.transact(lambda run: options.update(run, change))
    world.transact(lambda run: close.terminate(run, reason="r", identity="i", by_reset=True))
    assert [row.kind for row in world.transfers] == ["nexus_callback"], "the reset went on from another run"


def test_callbacks_of_a_reapplied_update_are_scheduled_when_it_is_rejected() -> None:
    world = World()
    world.start()
    callback = common_pb.Callback(nexus=common_pb.Callback.Nexus(url="temporal://system"))
    rejection = failure_pb.Failure(message="no")

    def reapply(run: Run) -> None:
        event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
        request = event.workflow_execution_update_admitted_event_attributes.request
        request.meta.update_id, request.request_id = "u", "r"
        request.completion_callbacks.append(callback)
        run.append(event)

    def reject(run: Run) -> None:
        update.refuse(run, run.state.updates["u"], rejection)

    world.transact(reapply)
    world.transact(reject)
    (transfer,) = world.transfers
    assert transfer.kind == "nexus_callback"
    assert TransferData.FromString(transfer.data).outcome.failure == rejection


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [("BAD_REQUEST", False), ("NOT_FOUND", False), ("INTERNAL", True), ("UPSTREAM_TIMEOUT", True), ("NEW", True)],
)
def test_which_refusals_are_retryable(kind: str, retryable: bool) -> None:
    assert nexus_failures.is_retryable(nexus_failures.handler_failure(kind, "")) is retryable


def test_a_failure_that_was_temporal_s_becomes_itself_again() -> None:
    source = nexus_pb.Failure(message="m", details=b'{"applicationFailureInfo": {"type": "T"}}')
    source.metadata["type"] = "temporal.api.failure.v1.Failure"
    expected = failure_pb.Failure(message="m")
    expected.application_failure_info.type = "T"
    assert nexus_failures.to_temporal(source) == expected


def test_links_survive_the_way_through_a_url() -> None:
    link = common_pb.Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = "a b", "w/1?#ä", "r"
    event.request_id_ref.request_id = "q&1"
    event.request_id_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    assert nexus_links.from_nexus([nexus_links.to_nexus(link)]) == [link]
    workflow, activity = common_pb.Link(), common_pb.Link()
    fill(workflow.workflow, {"namespace": "a b", "workflow_id": "w/1?#ä", "run_id": "r", "reason": "a & b"})
    fill(activity.activity, {"namespace": "a b", "activity_id": "a/1?#ä", "run_id": "r"})
    assert nexus_links.from_nexus(map(nexus_links.to_nexus, (workflow, activity))) == [workflow, activity]
    assert nexus_links.from_nexus([nexus_pb.Link(url="http://x", type=nexus_links.WORKFLOW_EVENT)]) == []
