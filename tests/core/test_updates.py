"""Updates: who is admitted, what each message of a worker does in each stage, and what waiting callers hear."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import complete_workflow, made, payloads, start_timer
from tests.core.harness import World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.callback.decide import CLOSED_BEFORE_COMPLETED
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import pause
from whistlestop.history.core.state_pb2 import MutableState, Update
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow_task import decide as workflow_task

ACCEPTED, COMPLETED, ADMITTED = 2, 3, 1
REJECTION = failure_pb.Failure(message="no")
CALLBACK = made(common_pb.Callback, nexus={"url": "http://there"})


def request(update_id: str = "u", **fields: Any) -> update_pb.Request:
    return made(update_pb.Request, meta={"update_id": update_id}, input={"name": "pay"}, **fields)


def message(body: Any, update_id: str = "u", message_id: str = "m") -> protocol_pb.Message:
    packed = protocol_pb.Message(id=message_id, protocol_instance_id=update_id)
    packed.body.Pack(body)
    return packed


def acceptance(**fields: Any) -> update_pb.Acceptance:
    known = {"accepted_request_message_id": "u/request", "accepted_request_sequencing_event_id": 1}
    return made(update_pb.Acceptance, **(known | fields))


def response(update_id: str = "u", **fields: Any) -> update_pb.Response:
    return made(
        update_pb.Response, meta={"update_id": update_id}, **({"outcome": {"success": payloads("ok")}} | fields)
    )


def rejection(**fields: Any) -> update_pb.Rejection:
    return made(update_pb.Rejection, failure=REJECTION, **fields)


def started(limits: Limits | None = None) -> World:
    """A world whose workflow has completed its first task."""
    world = World(limits)
    world.start()
    world.turn()
    return world


def admit(world: World, update_id: str = "u", **fields: Any) -> update.Ticket:
    return world.transact(lambda run: update.admit(run, request(update_id, **fields)))


def take(world: World) -> list[protocol_pb.Message]:
    """A worker takes the workflow task; the messages that it gets."""
    world.poll()
    return world.transact(lambda run: update.send(run, resend=True))


def progress(world: World, ticket: update.Ticket) -> update.Progress:
    run = world.load()
    return update.progress(run.state, ticket, is_open=run.is_open)


# ---- admission -------------------------------------------------------------------------------------------------------


def test_an_update_is_admitted_and_sent() -> None:
    world = started()
    before = world.state()
    ticket = admit(world)
    state = world.state()
    assert ticket == update.Ticket("u", 1)
    assert state.updates["u"] == made(Update, update_id="u", stage=Update.ADMITTED, request=request(), instance=1)
    assert list(state.in_flight_updates) == ["u"]
    assert state.state_transition_count == before.state_transition_count
    assert state.workflow_task.speculative
    assert progress(world, ticket).stage == ADMITTED
    assert admit(world) == ticket
    [sent] = take(world)
    assert (sent.id, sent.protocol_instance_id) == ("u/request", "u")
    assert sent.event_id == world.state().workflow_task.started_event_id - 1
    assert world.state().updates["u"].stage == Update.SENT
    run = world.load()
    assert update.any_to_send(run)
    assert update.send(run, resend=False) == []
    assert len(update.send(run, resend=True)) == 1


def test_nobody_schedules_a_task_who_does_not_want_one() -> None:
    world = started()
    world.transact(lambda run: update.admit(run, request(), schedule=False))
    assert not world.load().has_pending_workflow_task
    assert update.any_to_send(world.load())


REFUSALS: dict[str, tuple[Any, Code, str]] = {
    "closed": (lambda world: world.turn(complete_workflow()), Code.NOT_FOUND, "workflow execution already completed"),
    "paused": (
        lambda world: world.transact(lambda run: pause.pause(run, service_pb.PauseWorkflowExecutionRequest())),
        Code.FAILED_PRECONDITION, "Workflow is paused. Cannot update the workflow.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSALS)
def test_updates_that_are_refused(why: str) -> None:
    prepare, code, text = REFUSALS[why]
    world = World()
    world.start()
    prepare(world)
    with pytest.raises(ServiceError) as refused:
        admit(world)
    assert (refused.value.code, refused.value.message) == (code, text)


@pytest.mark.parametrize(("attempt", "refused"), [(2, False), (3, True)])
def test_a_workflow_whose_task_keeps_failing_takes_no_updates(attempt: int, refused: bool) -> None:
    run = started().load()
    run.state.workflow_task.attempt = attempt
    if not refused:
        update.admit(run, request())
        return
    with pytest.raises(ServiceError, match="due to Workflow Task in failed state") as caught:
        update.admit(run, request())
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert type(caught.value.details[0]).__name__ == "WorkflowNotReadyFailure"


def test_a_workflow_that_tries_to_close_takes_no_updates() -> None:
    world = World()
    world.start()
    world.poll()
    run = world.load()
    run.state.workflow_close_attempted = True
    with pytest.raises(ServiceError, match="because workflow is closing") as caught:
        update.admit(run, request())
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    detail: Any = caught.value.details[0]
    assert (detail.cause, detail.scope) == (
        fc.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW, fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
    )  # fmt: skip
    waiting = started().load()
    waiting.state.workflow_close_attempted = True
    update.admit(waiting, request())


def test_an_update_may_name_the_chain() -> None:
    world = started()
    first = world.state().first_run_id
    world.transact(lambda run: update.admit(run, request(), first))
    with pytest.raises(ServiceError, match="workflow execution not found") as caught:
        update.admit(world.load(), request("v"), "other")
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("limits", "code", "text"),
    [
        ({"in_flight_updates": 1}, Code.RESOURCE_EXHAUSTED,
         "limit on number of concurrent in-flight updates has been reached (1)"),
        ({"total_updates": 1}, Code.FAILED_PRECONDITION,
         "The limit on the total number of distinct updates in this workflow has been reached (1). "),
    ],
)  # fmt: skip
def test_updates_are_counted(limits: dict[str, Any], code: Code, text: str) -> None:
    world = started(Limits(**limits))
    admit(world)
    admit(world)
    with pytest.raises(ServiceError) as refused:
        admit(world, "v")
    assert refused.value.code is code
    assert refused.value.message.startswith(text)
    if code is Code.RESOURCE_EXHAUSTED:
        detail: Any = refused.value.details[0]
        assert detail.cause == fc.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
        assert detail.scope == fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
    unlimited = started(Limits(in_flight_updates=0, total_updates=0, in_flight_updates_bytes=0))
    for number in range(20):
        admit(unlimited, str(number))


def test_the_bytes_of_updates_are_limited() -> None:
    size = request().ByteSize()
    with pytest.raises(ServiceError, match=rf"in-flight updates has been reached \({size} bytes\)"):
        admit(started(Limits(in_flight_updates_bytes=size)))
    admit(started(Limits(in_flight_updates_bytes=size + 1)))


# ---- callbacks -------------------------------------------------------------------------------------------------------


def test_callbacks_of_a_repeated_request_wait_for_the_acceptance() -> None:
    world = started(Limits(callbacks_per_update=3))
    admit(world, request_id="a", completion_callbacks=[CALLBACK])
    with pytest.raises(ServiceError, match="request_id is required when completion_callbacks are set") as refused:
        admit(world, completion_callbacks=[CALLBACK])
    assert refused.value.code is Code.INVALID_ARGUMENT
    for _ in range(2):
        admit(world, request_id="b", completion_callbacks=[CALLBACK])
    admit(world, request_id="a", completion_callbacks=[CALLBACK])
    assert [each.request_id for each in world.state().updates["u"].attachments] == ["b"]
    with pytest.raises(ServiceError, match="cannot attach more than 3 callbacks to update"):
        admit(world, request_id="c", completion_callbacks=[CALLBACK, CALLBACK])
    take(world)
    assert world.complete(messages=[message(acceptance())]).error is None
    state = world.state()
    assert not state.updates["u"].attachments
    assert [(info.update_id, info.request_id) for info in state.callback_infos] == [("u", "a"), ("u", "b")]
    for _ in range(2):
        admit(world, request_id="d", completion_callbacks=[CALLBACK])
    assert [info.request_id for info in world.state().callback_infos] == ["a", "b", "d"]
    with pytest.raises(ServiceError, match="cannot attach more than 3 callbacks to update"):
        admit(world, request_id="e", completion_callbacks=[CALLBACK])


# ---- messages --------------------------------------------------------------------------------------------------------


def test_an_update_is_accepted_and_completed() -> None:
    world = started()
    ticket = admit(world)
    take(world)
    assert world.complete(messages=[message(acceptance())]).error is None
    accepted = world.last("WorkflowExecutionUpdateAccepted")
    assert accepted.protocol_instance_id == "u"
    assert (accepted.accepted_request_message_id, accepted.accepted_request_sequencing_event_id) == ("u/request", 1)
    assert accepted.accepted_request == request()
    assert progress(world, ticket) == update.Progress(ACCEPTED)
    assert update.is_kept(world.state().updates["u"])
    accepted_id = world.events()[-1].event_id
    world.transact(workflow_task.schedule_if_none)
    world.poll()
    assert world.complete(messages=[message(response())]).error is None
    completed = world.last("WorkflowExecutionUpdateCompleted")
    assert (completed.meta.update_id, completed.accepted_event_id) == ("u", accepted_id)
    assert completed.outcome == made(update_pb.Outcome, success=payloads("ok"))
    assert list(world.state().in_flight_updates) == []
    stored = world.state().updates["u"]
    assert progress(world, ticket) == update.Progress(
        COMPLETED, completed_event=(stored.completed_event_batch_id, stored.completed_event_id)
    )
    assert admit(world) == ticket
    assert update.find(world.state(), "u") == ticket
    with pytest.raises(ServiceError, match='update "v" not found') as refused:
        update.find(world.state(), "v")
    assert refused.value.code is Code.NOT_FOUND


def test_an_update_is_rejected_without_a_trace() -> None:
    world = started()
    ticket = admit(world)
    names = world.names()
    take(world)
    outcome = world.complete(messages=[message(rejection())])
    assert (outcome.error, outcome.completed) == (None, False)
    assert world.names() == names
    assert "u" not in world.state().updates
    assert progress(world, ticket) == update.Progress(COMPLETED, update_pb.Outcome(failure=REJECTION))
    assert admit(world) == update.Ticket("u", 2)


@pytest.mark.parametrize("forced", [False, True])
def test_an_update_that_a_worker_does_not_mention_is_rejected(forced: bool) -> None:
    world = started()
    ticket = admit(world)
    take(world)
    world.complete(start_timer(), force_create_new_workflow_task=forced)
    assert (progress(world, ticket).outcome == update_pb.Outcome(failure=update.UNPROCESSED)) == (not forced)
    assert update.UNPROCESSED.application_failure_info.type == "UnprocessedUpdate"
    assert update.UNPROCESSED.application_failure_info.non_retryable
    assert update.UNPROCESSED.source == "Server"


BAD: dict[str, tuple[Any, str]] = {
    "unknown": (message(acceptance(), "v"), "update v wasn't found on the server."),
    "foreign": (message(common_pb.Payload()), "unsupported protocol type temporal.api.common.v1"),
    "request": (message(request()), "Message type *update.Request not supported"),
    "sequence": (message(acceptance(accepted_request_sequencing_event_id=0)),
                 "accepted_request_sequencing_event_id is not set"),
    "message id": (message(acceptance(accepted_request_message_id="")), "accepted_request_message_id is not set"),
    "too early": (message(response()),
                  "invalid state transition attempted for Update u: received *update.Response message while in state Sent"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_messages_that_fail_the_task(what: str) -> None:
    given, text = BAD[what]
    world = started()
    ticket = admit(world)
    take(world)
    outcome = world.complete(messages=[given])
    assert outcome.error is not None
    assert text in outcome.error.message
    assert world.last("WorkflowTaskFailed").cause == update.BAD_MESSAGE
    with pytest.raises(ServiceError, match="due to unexpected workflow task failure") as refused:
        progress(world, ticket)
    assert refused.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (message(acceptance()), "received *update.Acceptance message while in state Accepted"),
        (message(rejection()), "received *update.Rejection message while in state Accepted"),
        (message(response("")), "invalid *update.Response: meta.update_id is not set"),
        (message(response("v")), "invalid *update.Response: meta.update_id != u"),
        (message(made(update_pb.Response, meta={"update_id": "u"})), "invalid *update.Response: outcome is not set"),
    ],
)
def test_messages_of_an_accepted_update_that_fail_the_task(given: protocol_pb.Message, text: str) -> None:
    world = started()
    ticket = admit(world)
    take(world)
    world.complete(messages=[message(acceptance())])
    world.transact(workflow_task.schedule_if_none)
    world.poll()
    outcome = world.complete(messages=[given])
    assert outcome.error is not None
    assert text in outcome.error.message
    assert progress(world, ticket).stage == ACCEPTED


def test_messages_without_a_body_or_of_garbage() -> None:
    world = started()
    admit(world)
    take(world)
    with pytest.raises(ServiceError, match="nil message body"):
        world.complete(messages=[protocol_pb.Message(id="m", protocol_instance_id="u")])
    garbage = message(acceptance())
    garbage.body.value = b"\xff"
    outcome = world.complete(messages=[garbage])
    assert outcome.error is not None
    assert "unable to unmarshal request: " in outcome.error.message
    large = started(Limits(blob_size_error=10))
    admit(large)
    take(large)
    outcome = large.complete(messages=[message(acceptance())])
    assert outcome.error is not None
    assert "Message type temporal.api.update.v1.Acceptance exceeds size limit." in outcome.error.message


@pytest.mark.parametrize("kind", ["accepted", "rejected"])
def test_an_update_that_the_server_lost_is_restored_from_the_message(kind: str) -> None:
    world = started()
    admit(world, "other")
    take(world)
    body = acceptance(accepted_request=request()) if kind == "accepted" else rejection(rejected_request=request())
    outcome = world.complete(start_timer(), messages=[message(body), message(rejection(), "other", "n")])
    assert outcome.error is None
    state = world.state()
    if kind == "accepted":
        assert state.updates["u"].stage == Update.ACCEPTED
        assert state.updates["u"].instance == 2
        assert list(state.in_flight_updates) == ["u"]
        assert world.last("WorkflowExecutionUpdateAccepted").accepted_request == request()
    else:
        assert "u" not in state.updates
        assert [(each.update_id, each.instance) for each in state.refused_updates] == [("u", 2), ("other", 1)]


def _place(message_id: str = "m", *, is_set: bool = True) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_PROTOCOL_MESSAGE)
    if is_set:
        command.protocol_message_command_attributes.message_id = message_id
    return command


def test_commands_mark_the_place_of_messages() -> None:
    world = started()
    admit(world)
    take(world)
    world.complete(start_timer("a"), _place(), start_timer("b"), messages=[message(acceptance())])
    assert world.names()[-3:] == ["TimerStarted", "WorkflowExecutionUpdateAccepted", "TimerStarted"]
    for command, text in (
        (_place(is_set=False), "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand."),
        (_place(""), "MessageID is not set on ProtocolMessageCommand."),
        (_place("n"), "ProtocolMessageCommand referenced absent message ID n"),
    ):
        other = started()
        admit(other)
        take(other)
        outcome = other.complete(command, messages=[message(acceptance())])
        assert outcome.error is not None
        assert text in outcome.error.message


# ---- waiting callers -------------------------------------------------------------------------------------------------


def test_answers_to_callers_when_the_run_closes() -> None:
    for accepts in (False, True):
        world = started()
        ticket = admit(world)
        take(world)
        messages, places = ([message(acceptance())], [_place()]) if accepts else ([], [])
        world.complete(*places, complete_workflow(), messages=messages)
        if accepts:
            assert progress(world, ticket) == update.Progress(
                COMPLETED, update_pb.Outcome(failure=CLOSED_BEFORE_COMPLETED)
            )
            assert admit(world) == ticket
        else:
            with pytest.raises(ServiceError, match="aborted by closing workflow") as refused:
                progress(world, ticket)
            assert refused.value.code is Code.NOT_FOUND


def test_answers_to_callers_of_a_lost_update() -> None:
    state = MutableState()
    ticket = update.Ticket("u", 1)
    with pytest.raises(ServiceError, match="workflow update was aborted") as refused:
        update.progress(state, ticket, is_open=True)
    assert refused.value.code is Code.UNAVAILABLE
    state.new_run_id = "next"
    with pytest.raises(ServiceError, match="because workflow is closing"):
        update.progress(state, ticket, is_open=False)
    state.updates["u"].instance = 2
    state.updates["u"].stage = Update.ACCEPTED
    with pytest.raises(ServiceError, match="workflow update was aborted"):
        update.progress(state, ticket, is_open=True)
    state.refused_updates.add(update_id="u", instance=2)
    state.refused_updates.add(update_id="v", instance=1)
    with pytest.raises(ServiceError, match="workflow update was aborted"):
        update.progress(state, ticket, is_open=True)


def test_refused_updates_are_remembered_for_a_while() -> None:
    world = started()
    run = world.load()
    for number in range(60):
        run.state.updates[str(number)].update_id = str(number)
        update.refuse(run, run.state.updates[str(number)], REJECTION)
    kept = [each.update_id for each in run.state.refused_updates]
    assert kept == [str(number) for number in range(10, 60)]
    run.now_ns += 60 * SECOND_NS - 1
    run.state.updates["x"].update_id = "x"
    update.refuse(run, run.state.updates["x"], None)
    assert len(run.state.refused_updates) == 50
    assert not run.state.refused_updates[-1].HasField("rejection")
    run.now_ns += 1
    run.state.updates["y"].update_id = "y"
    update.refuse(run, run.state.updates["y"], None)
    assert [each.update_id for each in run.state.refused_updates] == ["x", "y"]
    assert run.changed
