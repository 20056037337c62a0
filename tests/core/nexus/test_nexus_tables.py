"""Nexus by table: what commands are refused, how failures and links are converted, and which answers are stale."""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.enums.v1 import task_queue_pb2 as tq_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import made, payload
from tests.core.harness import HANDLERS_NAMESPACE_ID, NAMESPACE, NAMESPACE_ID, START_NS, World
from tests.core.nexus.test_nexus import SCHEDULED, answer, call, called, deliver, request_cancel, take
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.nexus import deadlines, decide, failures, links, system
from whistlestop.history.core.nexus.describe import pending_operation
from whistlestop.history.core.state_pb2 import NexusOperation
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS
from whistlestop.history.core.workflow_task import decide as workflow_task

NAME = "ScheduleNexusOperationCommandAttributes"


# ---- commands --------------------------------------------------------------------------------------------------------


def _refusal(command: command_pb.Command, limits: Limits | None = None) -> tuple[int, str]:
    """Return why the command fails its workflow task; (0, "") if it does not."""
    world = World(limits or Limits())
    world.start()
    world.poll()
    outcome = world.complete(command)
    if outcome.error is None:
        return 0, ""
    return world.last("WorkflowTaskFailed").cause, outcome.error.message


@pytest.mark.parametrize(
    ("fields", "limits", "message"),
    [
        ({}, {}, ""),
        ({"endpoint": "elsewhere"}, {}, 'endpoint "elsewhere" not found'),
        ({"service": "éé"}, {"nexus_service_length": 3}, f"{NAME}.Service exceeds length limit of 3"),
        ({"operation": "éé"}, {"nexus_operation_length": 3}, f"{NAME}.Operation exceeds length limit of 3"),
        ({"schedule_to_close_timeout_s": -1}, {}, f"{NAME}.ScheduleToCloseTimeout is invalid: negative duration"),
        ({"schedule_to_start_timeout_s": -0.5}, {}, f"{NAME}.ScheduleToStartTimeout is invalid: negative duration"),
        ({"start_to_close_timeout_s": 315_576_000_000}, {}, ""),
        ({"start_to_close_timeout_s": 315_576_000_001}, {}, f"{NAME}.StartToCloseTimeout is invalid: duration out of range"),
        ({"input": payload("x" * 50)}, {"blob_size_error": 50}, f"{NAME}.Input exceeds size limit"),
        ({"nexus_header": {"A": "b"}}, {"nexus_disallowed_headers": frozenset({"a"})},
         f'{NAME}.NexusHeader contains a disallowed header key: "A"'),
        ({"nexus_header": {"ab": "cd", "e": "f"}}, {"nexus_header_size": 6}, ""),
        ({"nexus_header": {"ab": "cd", "e": "f"}}, {"nexus_header_size": 5}, f"{NAME}.NexusHeader exceeds size limit"),
        ({"endpoint": system.ENDPOINT, "nexus_header": {"a": "b"}}, {},
         f"{NAME}.NexusHeader must be empty when using {system.ENDPOINT} endpoint"),
        ({"endpoint": system.ENDPOINT, "service": "Other"}, {}, 'service "Other" not found'),
    ],
)  # fmt: skip
def test_a_command_that_calls_an_operation(fields: dict[str, Any], limits: dict[str, Any], message: str) -> None:
    header = fields.pop("nexus_header", {})
    try:
        command = call(**fields)
        command.schedule_nexus_operation_command_attributes.nexus_header.update(header)
        cause, said = _refusal(command, Limits(**limits))
    finally:
        fields.update({"nexus_header": header} if header else {})
    assert message in said
    assert bool(said) == bool(message)
    if message and "exceeds size limit" not in message:
        assert cause == fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES


def test_the_number_of_pending_operations_is_limited() -> None:
    world = World(Limits(nexus_pending_operations=1))
    world.start()
    world.turn(call())
    run = world.load()
    run.state.nexus_operations[SCHEDULED].start.attempt = 1
    world.transact(workflow_task.schedule_if_none)
    world.poll()
    outcome = world.complete(call())
    assert outcome.error is not None
    assert outcome.error.message.endswith(
        "workflow has reached the pending nexus operation limit of 1 for this namespace"
    )
    assert _refusal(call(), Limits(nexus_pending_operations=0)) == (0, "")


def test_headers_are_in_lower_case_in_the_event() -> None:
    world = World()
    world.start()
    command = call()
    command.schedule_nexus_operation_command_attributes.nexus_header["Trace-ID"] = "X"
    world.turn(command)
    scheduled = world.last("NexusOperationScheduled")
    assert scheduled.nexus_header == {"trace-id": "X"}
    assert (scheduled.endpoint_id, scheduled.workflow_task_completed_event_id) == ("endpoint-1", 4)
    assert scheduled.request_id


@pytest.mark.parametrize(
    ("run_s", "longest_s", "given", "expected"),
    [
        # schedule to close, schedule to start, start to close
        (0, 0, (0, 4, 5), (0, 4, 5)),
        (0, 0, (10, 4, 5), (10, 4, 5)),
        (0, 0, (10, 40, 50), (10, 10, 10)),
        (20, 0, (0, 40, 5), (20, 20, 5)),
        (20, 0, (20, 0, 0), (20, 0, 0)),
        (20, 0, (30, 0, 25), (20, 0, 20)),
        (20, 0, (19, 0, 0), (19, 0, 0)),
        (0, 8, (0, 0, 9), (0, 0, 9)),
        (0, 8, (9, 0, 9), (8, 0, 8)),
        (0, 8, (8, 0, 0), (8, 0, 0)),
        (20, 8, (0, 9, 0), (8, 8, 0)),
    ],
)
def test_timeouts_are_shortened(
    run_s: int, longest_s: int, given: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    names = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")
    world = World(Limits(nexus_schedule_to_close_max_ns=longest_s * SECOND_NS))
    fields: dict[str, Any] = {"run_timeout_s": run_s} if run_s else {}
    world.start(**fields)
    world.turn(call(**{f"{name}_s": value for name, value in zip(names, given, strict=True) if value}))
    scheduled = world.last("NexusOperationScheduled")
    assert tuple(getattr(scheduled, name).seconds for name in names) == expected


def test_requests_to_cancel_name_a_pending_operation_once() -> None:
    world = called()
    world.transact(workflow_task.schedule_if_none)
    world.turn(request_cancel())
    world.transact(workflow_task.schedule_if_none)
    world.poll()
    outcome = world.complete(request_cancel())
    assert outcome.error is not None
    assert f"already requested for an operation with scheduled event ID {SCHEDULED}" in outcome.error.message
    assert _refusal(request_cancel()) == (
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES,
        (
            "BadRequestCancelNexusOperationAttributes: requested cancelation for a non-existing or already completed "
            "operation with scheduled event ID of 5"
        ),
    )


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "time out"])
def test_an_operation_that_ended_during_the_task_may_be_cancelled(end: str) -> None:
    world = called(schedule_to_close_timeout_s=60)
    world.transact(workflow_task.schedule_if_none)
    world.poll()
    if end == "time out":
        world.now_ns += 60 * SECOND_NS
        world.transact(lambda run: decide.time_out(
            run, run.state.nexus_operations[SCHEDULED], wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
        ))  # fmt: skip
    else:
        run, operation = answer(world)
        if end == "complete":
            decide.complete(run, operation, payload("done"))
        elif end == "fail":
            decide.fail(run, operation, made(failure_pb.Failure, message="no"))
        else:
            decide.fail(run, operation, made(failure_pb.Failure, canceled_failure_info={}))
        world.commit(run)
    outcome = world.complete(request_cancel())
    assert outcome.error is None
    requested = world.last("NexusOperationCancelRequested")
    assert requested.scheduled_event_id == SCHEDULED
    assert requested.workflow_task_completed_event_id
    assert not [row for row in world.transfers if row.kind == "nexus_cancel"]


# ---- the system's endpoint -------------------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "workflow_id": "w", "signal_name": "s", "workflow_type": {"name": "T"}, "task_queue": {"name": "q"},
}  # fmt: skip


def _system_call(encoding: bytes = b"binary/protobuf", data: bytes | None = None, **fields: Any) -> Any:
    request = made(service_pb.SignalWithStartWorkflowExecutionRequest, **(REQUEST | fields))
    sent = made(command_pb.ScheduleNexusOperationCommandAttributes, service=system.SERVICE, operation=system.OPERATION)
    sent.input.metadata["encoding"] = encoding
    sent.input.data = request.SerializeToString() if data is None else data
    return sent


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"namespace": "other"}, 'Namespace in request "other" does not match namespace in context "default"'),
        ({"request_id": "r"}, "RequestID should not be set on the request"),
        ({"links": [{}]}, "Links should not be set on the request"),
        ({"workflow_id": ""}, "WorkflowId is not set on request."),
        ({"signal_name": ""}, "SignalName is not set on request."),
        ({"workflow_type": {}}, "WorkflowType is not set on request."),
        ({"task_queue": {}}, "TaskQueue is not set on request."),
        ({"workflow_id": "temporal-sys-activity:a"}, "WorkflowId cannot start with reserved prefix temporal-sys-activity:"),
        ({"encoding": b"json/plain"}, "input of encoding 'json/plain' is no request"),
        ({"data": b"\xff"}, "input is no SignalWithStartWorkflowExecutionRequest: "),
        ({"encoding": b"json/protobuf", "data": b"["}, "input is no SignalWithStartWorkflowExecutionRequest: "),
        ({"encoding": b"json/protobuf", "data": b"\xff"}, "input is no SignalWithStartWorkflowExecutionRequest: "),
    ],
)  # fmt: skip
def test_a_request_to_the_system_that_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ServiceError) as refused:
        system.parse(_system_call(**fields), NAMESPACE)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.message.startswith(message)


def test_a_request_to_the_system_that_is_taken() -> None:
    for sent in (
        _system_call(), _system_call(namespace=NAMESPACE),
        _system_call(b"json/protobuf", json.dumps(
            {"workflowId": "w", "signalName": "s", "workflowType": {"name": "T"}, "taskQueue": {"name": "q"}, "new": 1}
        ).encode()),
    ):  # fmt: skip
        request = system.parse(sent, NAMESPACE)
        assert (request.namespace, request.workflow_id, request.signal_name) == (NAMESPACE, "w", "s")
        assert (request.workflow_type.name, request.task_queue.name) == ("T", "q")
        assert request.task_queue.kind == tq_enums.TASK_QUEUE_KIND_NORMAL
    sticky = system.parse(_system_call(task_queue={"name": "q", "kind": tq_enums.TASK_QUEUE_KIND_STICKY}), NAMESPACE)
    assert sticky.task_queue.kind == tq_enums.TASK_QUEUE_KIND_STICKY
    for field in ("service", "operation"):
        sent = _system_call()
        setattr(sent, field, "Other")
        with pytest.raises(ServiceError, match=f'{field} "Other" not found') as refused:
            system.parse(sent, NAMESPACE)
        assert refused.value.code is Code.NOT_FOUND


def test_the_systems_result_is_a_protobuf() -> None:
    reply = made(service_pb.SignalWithStartWorkflowExecutionResponse, run_id="r")
    assert system.result(reply) == made(
        common_pb.Payload,
        metadata={
            "encoding": b"binary/protobuf",
            "messageType": b"temporal.api.workflowservice.v1.SignalWithStartWorkflowExecutionResponse",
        },
        data=reply.SerializeToString(),
    )


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BAD_REQUEST", "CONFLICT", "NOT_IMPLEMENTED", "UNAVAILABLE", "INTERNAL", ""])
@pytest.mark.parametrize("behavior", [0, 1, 2])
def test_which_errors_of_handlers_are_retried(kind: str, behavior: int) -> None:
    failure = made(
        failure_pb.Failure,
        nexus_handler_failure_info={"type": kind, "retry_behavior": behavior},
    )
    retryable = nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
    by_kind = kind not in ("BAD_REQUEST", "CONFLICT", "NOT_IMPLEMENTED")
    assert failures.is_retryable(failure) == (behavior == retryable if behavior else by_kind)


CONVERTED: dict[str, tuple[dict[str, Any], failure_pb.Failure]] = {
    "plain": ({"message": "m", "stack_trace": "s"}, made(failure_pb.Failure, message="m", stack_trace="s")),
    "temporal's": (
        {"message": "m", "metadata": {"type": "temporal.api.failure.v1.Failure"},
         "details": b'{"source": "test", "applicationFailureInfo": {"type": "T"}, "unknown": 1}'},
        made(failure_pb.Failure, message="m", source="test", application_failure_info={"type": "T"}),
    ),
    "temporal's, broken": (
        {"message": "m", "metadata": {"type": "temporal.api.failure.v1.Failure"}, "details": b'{"source": ["x"]}'},
        made(failure_pb.Failure, message="m"),
    ),
    "temporal's, no object": (
        {"message": "m", "metadata": {"type": "temporal.api.failure.v1.Failure"}, "details": b"["},
        made(failure_pb.Failure, message="m"),
    ),
    "handler's": (
        {"message": "m", "metadata": {"type": "nexus.HandlerError"}, "details": b'{"type": "INTERNAL"}'},
        made(failure_pb.Failure, message="m", nexus_handler_failure_info={"type": "INTERNAL"}),
    ),
    "handler's, to be retried": (
        {"metadata": {"type": "nexus.HandlerError"}, "details": b'{"retryableOverride": true}'},
        made(failure_pb.Failure, nexus_handler_failure_info={"retry_behavior": 1}),
    ),
    "handler's, final": (
        {"metadata": {"type": "nexus.HandlerError"}, "details": b'{"retryableOverride": false}'},
        made(failure_pb.Failure, nexus_handler_failure_info={"retry_behavior": 2}),
    ),
    "handler's, unclear": (
        {"metadata": {"type": "nexus.HandlerError"}, "details": b'{"retryableOverride": 1}'},
        made(failure_pb.Failure, nexus_handler_failure_info={}),
    ),
    "handler's, broken": (
        {"metadata": {"type": "nexus.HandlerError"}, "details": b"["},
        made(failure_pb.Failure, nexus_handler_failure_info={}),
    ),
    "handler's, no object": (
        {"metadata": {"type": "nexus.HandlerError"}, "details": b"[]"},
        made(failure_pb.Failure, nexus_handler_failure_info={}),
    ),
    "operation canceled": (
        {"metadata": {"type": "nexus.OperationError"}, "details": b'{"state": "canceled"}'},
        made(failure_pb.Failure, canceled_failure_info={}),
    ),
    "operation failed": (
        {"metadata": {"type": "nexus.OperationError"}, "details": b'{"state": "failed"}'},
        made(failure_pb.Failure, application_failure_info={"non_retryable": True, "type": "OperationError"}),
    ),
    "others'": (
        {"metadata": {"a": "b"}, "details": b'{"c": 1}'},
        made(failure_pb.Failure, application_failure_info={
            "type": "NexusFailure", "details": {"payloads": [
                {"metadata": {"encoding": b"json/plain"}, "data": b'{"metadata":{"a":"b"},"details":{"c":1}}'}
            ]},
        }),
    ),
    "others', only details, no JSON": (
        {"details": b"x\xff"},
        made(failure_pb.Failure, application_failure_info={
            "type": "NexusFailure", "details": {"payloads": [
                {"metadata": {"encoding": b"json/plain"}, "data": b'{"details":"x\\ufffd"}'}
            ]},
        }),
    ),
    "others', only metadata": (
        {"metadata": {"a": "b"}},
        made(failure_pb.Failure, application_failure_info={
            "type": "NexusFailure", "details": {"payloads": [
                {"metadata": {"encoding": b"json/plain"}, "data": b'{"metadata":{"a":"b"}}'}
            ]},
        }),
    ),
    "with a cause": (
        {"message": "m", "cause": {"message": "c", "metadata": {"type": "nexus.HandlerError"}}},
        made(failure_pb.Failure, message="m", cause={"message": "c", "nexus_handler_failure_info": {}}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_a_nexus_failure_becomes_temporals(name: str) -> None:
    given, expected = CONVERTED[name]
    assert failures.to_temporal(made(nexus_pb.Failure, **given)) == expected


@pytest.mark.parametrize(
    ("state", "given", "expected"),
    [
        ("failed", {"message": "m"},
         made(failure_pb.Failure, message="m", application_failure_info={"non_retryable": True, "type": "OperationError"})),
        ("failed", {"message": "m", "metadata": {"type": "nexus.HandlerError"}},
         made(failure_pb.Failure, message="m", nexus_handler_failure_info={})),
        ("canceled", {"message": "m", "stack_trace": "s", "cause": {"message": "c"}},
         made(failure_pb.Failure, message="m", stack_trace="s", cause={"message": "c"}, canceled_failure_info={})),
        ("canceled", {"message": "m"}, made(failure_pb.Failure, message="m", canceled_failure_info={})),
        ("canceled", {"metadata": {"type": "temporal.api.failure.v1.Failure"},
                      "details": b'{"source": "s", "canceledFailureInfo": {"identity": "i"}}'},
         made(failure_pb.Failure, source="s", canceled_failure_info={"identity": "i"})),
    ],
)  # fmt: skip
def test_an_operation_that_was_unsuccessful(state: str, given: dict[str, Any], expected: failure_pb.Failure) -> None:
    error = made(nexus_pb.UnsuccessfulOperationError, operation_state=state, failure=given)
    assert failures.of_operation_error(error) == expected


def test_an_error_of_a_handler() -> None:
    error = made(nexus_pb.HandlerError, error_type="INTERNAL", retry_behavior=2)
    info: Any = {"type": "INTERNAL", "retry_behavior": 2}
    assert failures.of_handler_error(error) == made(
        failure_pb.Failure, message="handler error", nexus_handler_failure_info=info
    )
    error.failure.SetInParent()
    assert failures.of_handler_error(error).message == "handler error"
    error.failure.message = "m"
    converted = failures.of_handler_error(error)
    assert (converted.message, converted.cause.message) == ("m", "m")


# ---- links -----------------------------------------------------------------------------------------------------------

LINKS: dict[str, tuple[common_pb.Link, str, str]] = {
    "event": (
        made(common_pb.Link, workflow_event={
            "namespace": "n s", "workflow_id": "w/1", "run_id": "r",
            "event_ref": {"event_id": 7, "event_type": et.EVENT_TYPE_TIMER_FIRED},
        }),
        "temporal:///namespaces/n%20s/workflows/w%2F1/r/history?eventID=7&eventType=TimerFired&referenceType=EventReference",
        links.WORKFLOW_EVENT,
    ),
    "event without an id": (
        made(common_pb.Link, workflow_event={
            "namespace": "n", "workflow_id": "w", "run_id": "r",
            "event_ref": {"event_type": et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED},
        }),
        "temporal:///namespaces/n/workflows/w/r/history?eventType=WorkflowExecutionStarted&referenceType=EventReference",
        links.WORKFLOW_EVENT,
    ),
    "request": (
        made(common_pb.Link, workflow_event={
            "namespace": "n", "workflow_id": "w", "run_id": "r",
            "request_id_ref": {"request_id": "q", "event_type": et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED},
        }),
        ("temporal:///namespaces/n/workflows/w/r/history"
         "?eventType=WorkflowExecutionSignaled&referenceType=RequestIdReference&requestID=q"),
        links.WORKFLOW_EVENT,
    ),
    "workflow": (
        made(common_pb.Link, workflow={"namespace": "n", "workflow_id": "w$&+=:@", "run_id": "r", "reason": "a b"}),
        "temporal:///namespaces/n/workflows/w$&+=:@/r?reason=a+b",
        links.WORKFLOW,
    ),
    "workflow without a reason": (
        made(common_pb.Link, workflow={"namespace": "n", "workflow_id": "w", "run_id": "r"}),
        "temporal:///namespaces/n/workflows/w/r",
        links.WORKFLOW,
    ),
    "activity": (
        made(common_pb.Link, activity={"namespace": "n", "activity_id": "a", "run_id": "r"}),
        "temporal:///namespaces/n/activities/a/r/details",
        links.ACTIVITY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_a_url_and_back(name: str) -> None:
    link, url, kind = LINKS[name]
    sent = links.to_nexus(link)
    assert (sent.url, sent.type) == (url, kind)
    assert links.from_nexus([sent]) == [link]
    assert links.header_value(sent) == f'<{url}>; type="{kind}"'


def test_links_that_are_not_understood_are_skipped() -> None:
    operation = links.to_nexus(
        made(common_pb.Link, nexus_operation={"namespace": "n", "operation_id": "o", "run_id": "r"})
    )
    assert operation.url == "temporal:///namespaces/n/nexus-operations/o/r/details"
    good = links.to_nexus(LINKS["event"][0])
    bad = [
        operation,
        made(nexus_pb.Link, url="https://example.org/", type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url="temporal:///namespaces/n/workflows/w/r/history", type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url=good.url.replace("EventReference", "Other"), type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url=good.url.replace("eventType", "other"), type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url=good.url.replace("TimerFired", "Nonsense"), type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url=good.url.replace("temporal:", "http:"), type=links.WORKFLOW_EVENT),
        made(nexus_pb.Link, url=good.url, type=links.WORKFLOW),
        made(nexus_pb.Link, url=good.url, type="unknown"),
    ]
    assert links.from_nexus([*bad, good]) == [LINKS["event"][0]]
    full = made(nexus_pb.Link, url=good.url.replace("TimerFired", "EVENT_TYPE_TIMER_FIRED"), type=links.WORKFLOW_EVENT)
    assert links.from_nexus([full]) == [LINKS["event"][0]]


def test_the_caller_of_an_operation_is_the_event_that_scheduled_it() -> None:
    world = called()
    [scheduled] = [event for event in world.events() if event.event_id == SCHEDULED]
    [link] = links.from_nexus([links.caller(world.state(), scheduled)])
    event = link.workflow_event
    assert (event.namespace, event.workflow_id, event.run_id) == (NAMESPACE, "wf", world.run_id)
    assert (event.event_ref.event_id, event.event_ref.event_type) == (
        SCHEDULED,
        et.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED,
    )


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["scheduled_event_id", "stamp", "nonce", "namespace_id", "nexus_cancel"])
@pytest.mark.parametrize("ends", [False, True], ids=["pending", "ended meanwhile"])
def test_each_field_of_a_token_has_to_fit_the_request(ends: bool, field: str) -> None:
    world = called()
    token = take(world)
    if ends:
        world.transact(lambda run: decide.fail(
            run, run.state.nexus_operations[SCHEDULED], made(failure_pb.Failure, message="no")
        ))  # fmt: skip
    wrong = TaskToken()
    wrong.CopyFrom(token)
    value = getattr(token, field)
    setattr(wrong, field, "other" if field == "namespace_id" else not value if field == "nexus_cancel" else value + 1)
    with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND) as refused:
        decide.answered(world.load(), wrong, "")
    assert refused.value.code is Code.NOT_FOUND
    operation = world.transact(lambda run: decide.answered(run, token, ""))
    assert (operation is None) == ends
    with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND):
        decide.answered(world.load(), token, "")


def test_a_late_answer_to_an_ended_operation_is_taken_until_the_deadline_of_its_request() -> None:
    world = called()
    token = take(world)
    deadline_ns = world.state().nexus_operations[SCHEDULED].start.deadline_ns
    failed = made(failure_pb.Failure, message="no")
    world.transact(lambda run: decide.fail(run, run.state.nexus_operations[SCHEDULED], failed))
    [kept] = world.state().ended_nexus_requests
    assert kept.deadline_ns == deadline_ns
    world.now_ns = deadline_ns
    with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND):
        decide.answered(world.load(), token, "")
    world.now_ns = deadline_ns - 1
    count = world.state().state_transition_count
    world.transact(lambda run: decide.answered(run, token, ""))
    assert not world.state().ended_nexus_requests
    assert world.state().state_transition_count == count


def test_a_request_that_no_worker_took_or_that_ran_out_is_not_kept() -> None:
    failed = made(failure_pb.Failure, message="no")
    untaken = called()
    untaken.transact(lambda run: decide.fail(run, run.state.nexus_operations[SCHEDULED], failed))
    assert not untaken.state().ended_nexus_requests
    assert untaken.offered(3) == []
    late = called()
    take(late)
    late.now_ns = late.state().nexus_operations[SCHEDULED].start.deadline_ns
    late.transact(lambda run: decide.fail(run, run.state.nexus_operations[SCHEDULED], failed))
    assert not late.state().ended_nexus_requests


def test_a_request_is_taken_once_and_in_time() -> None:
    world = called()
    [task] = world.offered(3)
    for stamp, event_id in ((task.stamp + 1, SCHEDULED), (task.stamp, SCHEDULED + 1)):
        with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND):
            decide.take(world.load(), event_id, stamp, cancel=False)
    deadline_ns = world.state().nexus_operations[SCHEDULED].start.deadline_ns
    late = world.load()
    late.now_ns = deadline_ns
    with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND):
        decide.take(late, SCHEDULED, task.stamp, cancel=False)
    take(world)
    assert world.state().nexus_operations[SCHEDULED].start.handler_namespace_id == HANDLERS_NAMESPACE_ID
    with pytest.raises(ServiceError, match=decide.TASK_NOT_FOUND):
        decide.take(world.load(), SCHEDULED, task.stamp, cancel=False)


@pytest.mark.parametrize(
    ("cancel", "timeouts", "left_s", "kind"),
    [
        # schedule to close, schedule to start, start to close; scheduled 4 s and started 3 s ago
        (False, (0, 0, 0), 10, wf.TIMEOUT_TYPE_UNSPECIFIED),
        (False, (100, 0, 0), 10, wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),
        (False, (9, 0, 0), 5, wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),
        (False, (9, 6, 0), 2, wf.TIMEOUT_TYPE_SCHEDULE_TO_START),
        (False, (0, 0, 5), 10, wf.TIMEOUT_TYPE_UNSPECIFIED),
        (True, (0, 6, 0), 10, wf.TIMEOUT_TYPE_UNSPECIFIED),
        (True, (0, 0, 5), 2, wf.TIMEOUT_TYPE_START_TO_CLOSE),
        (True, (5, 0, 5), 1, wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),
        (True, (9, 6, 5), 2, wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),
    ],
)
def test_the_time_that_a_request_may_take(cancel: bool, timeouts: tuple[int, int, int], left_s: int, kind: int) -> None:
    world = World(Limits(nexus_request_timeout_ns=10 * SECOND_NS))
    world.start()
    run = world.load()
    run.now_ns = START_NS + 4 * SECOND_NS
    operation = made(NexusOperation,
        scheduled_ns=START_NS, started_ns=START_NS + SECOND_NS if cancel else 0,
        schedule_to_close_timeout_ns=timeouts[0] * SECOND_NS, schedule_to_start_timeout_ns=timeouts[1] * SECOND_NS,
        start_to_close_timeout_ns=timeouts[2] * SECOND_NS,
    )  # fmt: skip
    assert decide.time_for(run, operation, cancel=cancel) == (left_s * SECOND_NS, kind)


@pytest.mark.parametrize(
    ("to_close_s", "start_to_close_s", "expected_ns"),
    [
        (0, 0, 0), (0, 5, 5 * SECOND_NS), (9, 0, 5 * SECOND_NS), (9, 4, 4 * SECOND_NS), (4, 4, MILLISECOND_NS),
        (3, 0, MILLISECOND_NS),
    ],
)  # fmt: skip
def test_the_time_that_an_operation_may_take(to_close_s: int, start_to_close_s: int, expected_ns: int) -> None:
    operation = made(NexusOperation,
        scheduled_ns=START_NS, schedule_to_close_timeout_ns=to_close_s * SECOND_NS,
        start_to_close_timeout_ns=start_to_close_s * SECOND_NS,
    )  # fmt: skip
    assert decide.operation_timeout(operation, START_NS + 4 * SECOND_NS) == expected_ns


def test_a_request_has_at_least_the_shortest_time() -> None:
    limits = Limits()
    for more_ns, is_sent in ((0, True), (-1, False)):
        world = World(limits)
        world.start()
        world.turn(call(schedule_to_close_timeout_s=30))
        world.now_ns = START_NS + 30 * SECOND_NS - limits.nexus_min_request_timeout_ns - more_ns
        deliver(world)
        assert bool(world.offered(3)) == is_sent
    assert world.last("NexusOperationTimedOut").failure.cause.message == "operation timed out"


@pytest.mark.parametrize(
    ("cancel", "fields", "wanted"),
    [
        (False, {}, True),
        (False, {"started_ns": 1}, False),
        (False, {"start": {"deadline_ns": 1}}, False),
        (False, {"start": {"next_attempt_ns": 1}}, False),
        (True, {"cancel_requested_ns": 1}, True),
        (True, {}, False),
        (True, {"cancel_requested_ns": 1, "cancel": {"over": True}}, False),
        (True, {"cancel_requested_ns": 1, "cancel": {"deadline_ns": 1}}, False),
        (True, {"cancel_requested_ns": 1, "cancel": {"next_attempt_ns": 1}}, False),
        (True, {"cancel_requested_ns": 1, "start": {"deadline_ns": 1}}, True),
    ],
)
def test_requests_that_are_wanted(cancel: bool, fields: dict[str, Any], wanted: bool) -> None:
    assert decide.is_wanted(made(NexusOperation, **fields), cancel=cancel) == wanted


@pytest.mark.parametrize(
    ("namespace_id", "nonce", "led_to", "may"),
    [
        (NAMESPACE_ID, 5, "x", True),
        ("handlers", 5, "x", True),
        ("other", 5, "", False),
        ("other", 0, "", True),
        ("other", 0, "other", True),
        ("other", 0, "x", False),
    ],
)
def test_who_may_report_the_end(namespace_id: str, nonce: int, led_to: str, may: bool) -> None:
    world = World()
    world.start()
    operation = made(
        NexusOperation, start={"handler_namespace_id": "handlers", "nonce": nonce, "nonce_of": 3, "stamp": 3}
    )
    assert decide.may_notify(world.load(), operation, namespace_id, led_to) == may


def test_a_callback_names_the_operation_and_its_request() -> None:
    world = called()
    run = world.load()
    request_id = run.state.nexus_operations[SCHEDULED].request_id
    for wanted in (request_id, ""):
        assert decide.of_callback(run, SCHEDULED, wanted).scheduled_event_id == SCHEDULED
    for event_id, wanted in ((SCHEDULED, "other"), (SCHEDULED + 1, "")):
        with pytest.raises(ServiceError, match="operation not found") as refused:
            decide.of_callback(run, event_id, wanted)
        assert refused.value.code is Code.NOT_FOUND


def test_the_events_of_an_operation_name_it_whole() -> None:
    info: Any = {
        "scheduled_event_id": SCHEDULED, "endpoint": "payments", "service": "Payments", "operation": "pay",
        "operation_token": "token", "operation_id": "token",
    }  # fmt: skip
    for kind in ("failed", "canceled", "timed_out", "completed"):
        world = called()
        request_id = world.state().nexus_operations[SCHEDULED].request_id
        run, operation = answer(world)
        sent = [LINKS["activity"][0]]
        decide.start(run, operation, "token", sent)
        world.commit(run)
        started = world.last("NexusOperationStarted")
        assert (started.scheduled_event_id, started.operation_token, started.operation_id, started.request_id) == (
            SCHEDULED, "token", "token", request_id,
        )  # fmt: skip
        assert list(world.events()[-2 if world.offered(1) else -1].links) == sent
        cause = made(failure_pb.Failure, message="no")
        if kind == "canceled":
            cause.canceled_failure_info.SetInParent()

        def end(run: Any, kind: str = kind, cause: failure_pb.Failure = cause) -> None:
            operation = run.state.nexus_operations[SCHEDULED]
            if kind == "completed":
                decide.complete(run, operation, payload("done"), [LINKS["activity"][0]])
            elif kind == "timed_out":
                decide.time_out(run, operation, wf.TIMEOUT_TYPE_START_TO_CLOSE)
            else:
                decide.fail(run, operation, cause)

        world.turn()
        world.transact(end)
        ended = world.last(f"NexusOperation{kind.title().replace('_', '')}")
        assert (ended.scheduled_event_id, ended.request_id) == (SCHEDULED, request_id)
        if kind == "completed":
            assert ended.result == payload("done")
            assert [
                list(each.links)
                for each in world.events()
                if each.event_type == et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED
            ] == [sent]
        else:
            if kind == "timed_out":
                cause = made(
                    failure_pb.Failure,
                    message="operation timed out",
                    timeout_failure_info={"timeout_type": wf.TIMEOUT_TYPE_START_TO_CLOSE},
                )
            assert ended.failure == made(
                failure_pb.Failure,
                message=decide.UNSUCCESSFUL,
                nexus_operation_execution_failure_info=info,
                cause=cause,
            )
        assert len(world.offered(1)) == 1


def test_an_answer_to_a_request_to_cancel_is_recorded() -> None:
    for refuses in (False, True):
        world = called()
        run, operation = answer(world)
        decide.start(run, operation, "token")
        world.commit(run)
        world.turn(request_cancel())
        requested = world.events()[-1].event_id
        assert deliver(world) == ["nexus_cancel"]
        run, operation = answer(world, cancel=True)
        no = made(failure_pb.Failure, message="no")
        if refuses:
            decide.fail_cancel(run, operation, no)
        else:
            decide.cancel_delivered(run, operation)
        world.commit(run)
        attempt = world.state().nexus_operations[SCHEDULED].cancel
        assert (attempt.over, attempt.failed) == (True, refuses)
        event = world.last(f"NexusOperationCancelRequest{'Failed' if refuses else 'Completed'}")
        assert (event.scheduled_event_id, event.requested_event_id) == (SCHEDULED, requested)
        assert world.events()[-2].worker_may_ignore
        assert not refuses or event.failure == no
        assert len(world.offered(1)) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0),
        ({"schedule_to_close_timeout_ns": 9}, 109),
        ({"schedule_to_start_timeout_ns": 7}, 107),
        ({"started_ns": 150, "schedule_to_start_timeout_ns": 7}, 0),
        ({"start_to_close_timeout_ns": 5}, 0),
        ({"started_ns": 150, "start_to_close_timeout_ns": 5}, 155),
        ({"schedule_to_close_timeout_ns": 9, "start": {"deadline_ns": 103}}, 103),
        ({"schedule_to_close_timeout_ns": 9, "start": {"next_attempt_ns": 104}}, 104),
        ({"cancel": {"deadline_ns": 103, "next_attempt_ns": 102}}, 102),
    ],
)
def test_the_next_deadline_of_an_operation(fields: dict[str, Any], expected: int) -> None:
    assert deadlines.next_deadline(made(NexusOperation, scheduled_ns=100, **fields)) == expected


def test_a_pending_operation_is_shown_whole() -> None:
    world = called(schedule_to_close_timeout_s=60, schedule_to_start_timeout_s=40, start_to_close_timeout_s=50)
    world.advance(9)
    shown = pending_operation(world.state().nexus_operations[SCHEDULED])
    assert (shown.endpoint, shown.service, shown.operation) == ("payments", "Payments", "pay")
    assert (shown.scheduled_event_id, shown.attempt) == (SCHEDULED, 1)
    assert [
        each.seconds
        for each in (shown.schedule_to_close_timeout, shown.schedule_to_start_timeout, shown.start_to_close_timeout)
    ] == [60, 40, 50]
    assert shown.last_attempt_failure.message == "upstream timeout"
    assert shown.scheduled_time.ToNanoseconds() == START_NS
    assert shown.last_attempt_complete_time.ToNanoseconds() == world.now_ns
    assert shown.next_attempt_schedule_time.ToNanoseconds() == world.now_ns + SECOND_NS
    assert not shown.HasField("cancellation_info")
    bare = called()
    bare.transact(workflow_task.schedule_if_none)
    bare.turn(request_cancel())
    shown = pending_operation(bare.state().nexus_operations[SCHEDULED])
    assert shown.HasField("cancellation_info")
    assert not shown.cancellation_info.HasField("requested_time")
    for field in ("schedule_to_close_timeout", "last_attempt_failure", "last_attempt_complete_time"):
        assert not shown.HasField(field)
    run, operation = answer(bare)
    decide.start(run, operation, "token")
    bare.commit(run)
    shown = pending_operation(bare.state().nexus_operations[SCHEDULED])
    assert (shown.operation_token, shown.operation_id) == ("token", "token")
    assert shown.cancellation_info.requested_time.ToNanoseconds() == bare.now_ns
    assert shown.cancellation_info.state == 1
