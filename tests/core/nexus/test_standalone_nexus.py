"""Standalone Nexus operations: how they end, the requests of clients, and what is shown of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from tests.core.command_builders import made, payload, payloads
from tests.core.harness import HANDLERS_NAMESPACE_ID, NAMESPACE, START_NS, World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history import tokens
from whistlestop.history.core.nexus import decide, standalone, standalone_describe
from whistlestop.history.core.nexus.deadlines import next_deadline
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.state_pb2 import NexusExecution, NexusOperation
    from whistlestop.history.core.transition.run import Run

TARGET = decide.Target(HANDLERS_NAMESPACE_ID, "payments")
BROKEN = made(failure_pb.Failure, message="broken", application_failure_info={"type": "Broken"})
CANCELED = made(failure_pb.Failure, message="stopped", canceled_failure_info={"details": payloads("halfway")})
LINK = made(common_pb.Link, workflow_event={"workflow_id": "handler"})
ATTRIBUTES: dict[str, Any] = {
    "endpoint": "payments", "endpoint_id": "endpoint-1", "service": "Payments", "operation": "pay",
    "request_id": "nexus-request", "nexus_header": {"trace": "t"},
}  # fmt: skip


def span(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * SECOND_NS))
    return duration


def at(seconds: float) -> Timestamp:
    """Return the time so many seconds after the start."""
    instant = Timestamp()
    instant.FromNanoseconds(START_NS + round(seconds * SECOND_NS))
    return instant


class Single(World):
    """A world with one standalone Nexus operation in it, named "op"."""

    def begin(self, start: dict[str, Any] | None = None, **fields: Any) -> Single:
        attributes = made(history_pb.NexusOperationScheduledEventAttributes, **(ATTRIBUTES | fields))

        def prepare(run: Run) -> None:
            operation = standalone.begin(run, "op", attributes)
            decide.want_start(run, operation)
            run.arm(next_deadline(operation))

        self.start(
            first_task=False, prepare=prepare, workflow_id="temporal-sys-nexus-operation:op", identity="client",
            **(start or {}),
        )  # fmt: skip
        return self

    @property
    def execution(self) -> NexusExecution:
        return self.state().nexus_execution

    @property
    def operation(self) -> NexusOperation:
        return standalone.operation_of(self.state())

    def do(self, what: Callable[[Run, NexusOperation], Any]) -> Any:
        return self.transact(lambda run: what(run, standalone.operation_of(run.state)))

    def deliver(self) -> list[str]:
        """Dispatch the requests of the outbox; return their kinds."""
        rows, self.transfers = self.transfers, []
        for row in rows:
            assert TransferData.FromString(row.data).initiated_event_id == 2
            self.do(lambda run, operation, row=row: decide.dispatch(  # type: ignore[misc]
                run, operation, TARGET, cancel=row.kind == "nexus_cancel"
            ))  # fmt: skip
        return [row.kind for row in rows]

    def take(self, *, cancel: bool = False) -> TaskToken:
        """A handler takes the request that is offered."""
        [task] = self.offered(3)

        def work(run: Run) -> TaskToken:
            operation = decide.take(run, 2, task.stamp, cancel=cancel)
            return tokens.parse(tokens.of_nexus_task(run, operation, cancel=cancel))

        return self.transact(work)

    def answer(self, token: TaskToken, what: Callable[[Run, NexusOperation], Any]) -> None:
        def work(run: Run) -> None:
            operation = decide.answered(run, token, "")
            assert operation is not None
            what(run, operation)

        self.transact(work)

    def started(self) -> Single:
        """Let its handler say that it has started."""
        self.deliver()
        self.answer(self.take(), lambda run, operation: decide.start(run, operation, "token", [LINK]))
        return self

    def info(self) -> nexus_pb.NexusOperationExecutionInfo:
        first, scheduled, *_ = self.events()
        shown = standalone_describe.info(self.state(), first, scheduled, self.now_ns)
        assert shown.state_size_bytes == self.state().ByteSize()
        assert shown.state_transition_count == self.state().state_transition_count
        for field in ("state_size_bytes", "state_transition_count"):
            shown.ClearField(field)
        return shown


def cancel(world: Single, request_id: str = "c") -> NexusOperation | None:
    return world.transact(lambda run: standalone.request_cancel(run, reason="why", request_id=request_id))


def terminate(world: Single, request_id: str = "t") -> None:
    world.transact(lambda run: standalone.terminate(run, reason="why", identity="me", request_id=request_id))


COMMON: dict[str, Any] = {
    "operation_id": "op", "endpoint": "payments", "service": "Payments", "operation": "pay",
    "request_id": "nexus-request", "identity": "client", "nexus_header": {"trace": "t"}, "schedule_time": at(0),
    "search_attributes": {},
}  # fmt: skip
RUNNING = enums.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING


def _shown(world: Single, **fields: Any) -> nexus_pb.NexusOperationExecutionInfo:
    return made(nexus_pb.NexusOperationExecutionInfo, **(COMMON | {"run_id": world.run_id} | fields))


# ---- how it goes on and ends -----------------------------------------------------------------------------------------


def test_one_that_was_just_scheduled() -> None:
    attributes = made(common_pb.SearchAttributes,
        indexed_fields={
            "City": payload("Bern"), "TemporalNamespaceDivision": payload("1"), "TemporalNexusService": payload("s"),
            "TemporalNexusRequestId": payload("r"),
        }
    )  # fmt: skip
    world = Single().begin(
        {"search_attributes": attributes}, schedule_to_close_timeout=span(60), schedule_to_start_timeout=span(20),
        start_to_close_timeout=span(30),
    )  # fmt: skip
    world.advance(3)
    expected = _shown(
        world, status=RUNNING, state=common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED, attempt=1,
        schedule_to_close_timeout=span(60), schedule_to_start_timeout=span(20), start_to_close_timeout=span(30),
        expiration_time=at(60), execution_duration=span(3),
        search_attributes={"indexed_fields": {"City": payload("Bern")}},
    )  # fmt: skip
    assert world.info() == expected
    assert world.deliver() == ["nexus_start"]
    [task] = world.offered(3)
    assert (task.key.namespace_id, task.key.task_queue) == (HANDLERS_NAMESPACE_ID, "payments")
    assert world.info() == expected
    assert standalone.is_standalone(world.state())
    assert standalone.self_link(world.state()) == made(
        common_pb.Link, nexus_operation={"namespace": NAMESPACE, "operation_id": "op", "run_id": world.run_id}
    )


def test_one_that_backs_off_and_then_is_requested_again() -> None:
    world = Single().begin()
    world.deliver()
    world.advance(9)
    late = made(failure_pb.Failure, message="upstream timeout", nexus_handler_failure_info={"type": "UPSTREAM_TIMEOUT"})
    common: dict[str, Any] = {"status": RUNNING, "attempt": 1, "last_attempt_failure": late}
    common["last_attempt_complete_time"] = at(9)
    assert world.info() == _shown(
        world, **common, state=common_enums.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF, execution_duration=span(9),
        next_attempt_schedule_time=at(10),
    )  # fmt: skip
    world.advance(1)
    common["attempt"] = 2
    assert world.info() == _shown(
        world, **common, state=common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED, execution_duration=span(10)
    )
    assert world.deliver() == ["nexus_start"]


def test_one_that_has_started() -> None:
    world = Single().begin(start_to_close_timeout=span(30))
    world.advance(2)
    world.started()
    assert world.info() == _shown(
        world, status=RUNNING, state=common_enums.PENDING_NEXUS_OPERATION_STATE_STARTED, attempt=1,
        operation_token="token", start_to_close_timeout=span(30), execution_duration=span(2), links=[LINK],
        last_attempt_complete_time=at(2),
    )  # fmt: skip
    assert world.offered(1) == []  # no workflow has to be told
    assert world.names()[-1] == "NexusOperationStarted"
    world.advance(29.999)
    assert world.info().status == RUNNING
    world.advance(0.001)
    assert world.info().status == enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT


@pytest.mark.parametrize("result", [None, payload("done")])
@pytest.mark.parametrize("starts", [False, True])
def test_one_that_completes(starts: bool, result: common_pb.Payload | None) -> None:
    world = Single().begin()
    world.advance(1)
    if starts:
        world.started()
        world.advance(4)
        world.do(lambda run, operation: decide.complete(run, operation, result))
    else:
        world.deliver()
        world.advance(4)
        world.answer(world.take(), lambda run, operation: decide.complete(run, operation, result, [LINK]))
    kept = result or decide.NOTHING
    assert world.execution.result == kept
    assert list(world.last("WorkflowExecutionCompleted").result.payloads) == [kept]
    times: dict[str, Any] = {"close_time": at(5), "execution_duration": span(5)}
    if starts:
        times |= {"operation_token": "token", "last_attempt_complete_time": at(1)}
    assert world.info() == _shown(
        world, status=enums.NEXUS_OPERATION_EXECUTION_STATUS_COMPLETED, attempt=1, links=[LINK], **times
    )
    assert world.offered(3) == []


@pytest.mark.parametrize("cause", [BROKEN, CANCELED], ids=["failed", "canceled"])
@pytest.mark.parametrize("starts", [False, True])
def test_one_that_fails(starts: bool, cause: failure_pb.Failure) -> None:
    world = Single().begin()
    if starts:
        world.started()
        world.advance(4)
        world.do(lambda run, operation: decide.fail(run, operation, cause))
    else:
        world.deliver()
        world.advance(4)
        world.answer(world.take(), lambda run, operation: decide.fail(run, operation, cause))
    is_cancel = cause is CANCELED
    assert world.execution.failure == cause
    assert world.execution.ended_by_attempt == (not starts)
    if is_cancel:
        assert world.last("WorkflowExecutionCanceled").details == payloads("halfway")
    else:
        assert world.last("WorkflowExecutionFailed").failure == cause
    failed, canceled = enums.NEXUS_OPERATION_EXECUTION_STATUS_FAILED, enums.NEXUS_OPERATION_EXECUTION_STATUS_CANCELED
    more: dict[str, Any] = {"last_attempt_complete_time": at(0 if starts else 4)}
    more |= {"operation_token": "token", "links": [LINK]} if starts else {"last_attempt_failure": cause}
    assert world.info() == _shown(
        world, status=canceled if is_cancel else failed, attempt=1, close_time=at(4), execution_duration=span(4), **more
    )


@pytest.mark.parametrize("by_attempt", [False, True])
def test_one_that_runs_out_of_time(by_attempt: bool) -> None:
    world = Single().begin(schedule_to_close_timeout=span(20))
    if by_attempt:
        world.advance(18.6)
        world.deliver()  # less than a request needs
    else:
        world.advance(20)
    assert world.names()[-1] == "WorkflowExecutionTimedOut"
    assert world.execution.ended_by_attempt == by_attempt
    assert world.execution.failure.message == "operation timed out"
    start = world.operation.start
    assert start.HasField("last_failure") == by_attempt
    assert start.last_complete_ns == (world.now_ns if by_attempt else 0)
    assert world.info().HasField("last_attempt_failure") == by_attempt
    assert world.info().status == enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT
    assert world.info().attempt == 1


# ---- requests of clients ---------------------------------------------------------------------------------------------


def test_a_request_to_cancel_waits_for_the_start() -> None:
    world = Single().begin()
    world.deliver()
    token = world.take()
    world.advance(1)
    assert cancel(world) is None
    assert world.info().cancellation_info == made(
        nexus_pb.NexusOperationExecutionCancellationInfo, requested_time=at(1), reason="why"
    )
    requested = world.last("NexusOperationCancelRequested")
    assert requested.scheduled_event_id == 2
    assert world.transfers == []
    world.answer(token, lambda run, operation: decide.start(run, operation, "token"))
    shown = world.info().cancellation_info
    assert shown == made(nexus_pb.NexusOperationExecutionCancellationInfo,
        requested_time=at(1), reason="why", attempt=1,
        state=common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED,
    )  # fmt: skip
    assert world.deliver() == ["nexus_cancel"]


def test_a_request_to_cancel_one_that_has_started_is_sent_and_tried_again() -> None:
    world = Single().begin().started()
    operation = cancel(world)
    assert operation is not None
    world.do(decide.want_cancel)
    world.deliver()
    token = world.take(cancel=True)
    world.advance(2)
    world.answer(token, lambda run, operation: decide.refused(
        run, operation, made(failure_pb.Failure, message="busy", nexus_handler_failure_info={"type": "UNAVAILABLE"}),
        cancel=True,
    ))  # fmt: skip
    assert world.info().cancellation_info == made(nexus_pb.NexusOperationExecutionCancellationInfo,
        requested_time=at(0), reason="why", attempt=1, last_attempt_complete_time=at(2),
        state=common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF, next_attempt_schedule_time=at(3),
        last_attempt_failure={"message": "busy", "nexus_handler_failure_info": {"type": "UNAVAILABLE"}},
    )  # fmt: skip
    world.advance(1)
    world.deliver()
    assert world.info().cancellation_info.attempt == 2
    names = world.names()
    world.answer(world.take(cancel=True), decide.cancel_delivered)
    assert world.names() == names
    shown = world.info().cancellation_info
    assert shown.attempt == 2
    assert shown.state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    assert not shown.HasField("last_attempt_failure")


def test_a_request_to_cancel_may_be_refused_for_good() -> None:
    world = Single().begin().started()
    cancel(world)
    world.do(decide.want_cancel)
    world.deliver()
    final = made(failure_pb.Failure, message="no", nexus_handler_failure_info={"type": "BAD_REQUEST"})
    names = world.names()
    world.answer(world.take(cancel=True), lambda run, operation: decide.refused(run, operation, final, cancel=True))
    assert world.names() == names
    shown = world.info().cancellation_info
    assert shown.state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED
    assert shown.last_attempt_failure == final
    assert world.info().status == RUNNING


def test_a_repeated_request_to_cancel_only_counts_as_a_transition() -> None:
    for closes in (False, True):
        world = Single().begin().started()
        cancel(world)
        if closes:
            terminate(world)
        before = world.state()
        world.advance(1)
        assert cancel(world) is None
        before.state_transition_count += 1
        assert world.state() == before
    other = Single().begin()
    cancel(other)
    with pytest.raises(ServiceError) as refused:
        cancel(other, "d")
    assert (refused.value.code, refused.value.message) == (
        Code.FAILED_PRECONDITION, "cancellation already requested with request ID c",
    )  # fmt: skip


ENDS: dict[str, tuple[Callable[[Single], Any], str]] = {
    "complete": (lambda world: world.do(lambda run, operation: decide.complete(run, operation, None)), "Succeeded"),
    "fail": (lambda world: world.do(lambda run, operation: decide.fail(run, operation, BROKEN)), "Failed"),
    "cancel": (lambda world: world.do(lambda run, operation: decide.fail(run, operation, CANCELED)), "Canceled"),
    "time out": (lambda world: world.advance(30), "TimedOut"),
}


@pytest.mark.parametrize("end", ENDS)
def test_one_that_is_over_is_neither_cancelled_nor_terminated(end: str) -> None:
    world = Single().begin(schedule_to_close_timeout=span(30))
    close, word = ENDS[end]
    close(world)
    for request, message in ((cancel, "operation already completed"), (terminate, f"invalid transition from {word}")):
        with pytest.raises(ServiceError) as refused:
            request(world)
        assert (refused.value.code, refused.value.message) == (Code.FAILED_PRECONDITION, message)


@pytest.mark.parametrize("under_way", ["dispatched", "started, and its cancellation dispatched"])
def test_terminating_takes_back_the_request(under_way: str) -> None:
    world = Single().begin()
    if under_way == "dispatched":
        world.deliver()
    else:
        world.started()
        cancel(world)
        world.do(decide.want_cancel)
        world.deliver()
    assert len(world.offered(3)) == 1
    terminate(world)
    assert world.offered(3) == []
    assert world.execution.failure == made(
        failure_pb.Failure, message="why", terminated_failure_info={"identity": "me"}
    )
    event = world.last("WorkflowExecutionTerminated")
    assert (event.reason, event.identity) == ("why", "me")
    assert world.info().status == enums.NEXUS_OPERATION_EXECUTION_STATUS_TERMINATED
    before = world.state()
    terminate(world)
    before.state_transition_count += 1
    assert world.state() == before
    with pytest.raises(ServiceError, match="already terminated with request ID t"):
        terminate(world, "other")
