"""Nexus operations as the workflow that calls them sees them: scheduled, started, over; and requests to cancel them.

Rules of this file, which are Temporal's:
- An attempt hands one request to a worker of the endpoint's queue and waits for its answer, ten seconds at most. One
  that fails for no final reason is followed by another after a back-off, until a timeout of the operation.
- A start that is answered at once is completed without having been started. Else the operation goes on somewhere, and
  its end arrives through the completion callback that went with the request; possibly before the start's own answer.
- A request to cancel is sent once the operation has started. It changes nothing by itself: how the operation ends is
  told as always.

Which queue an endpoint leads to is not the core's to know: `wanted` attempts go into the outbox, and who delivers them
calls `dispatch` with the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.errors import not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto.nexus_pb2 import NexusTaskData
from whistlestop.history.core import nexus_execution, nexus_failures, nonces, workflow_task
from whistlestop.history.core.nexus_deadlines import next_deadline
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS, set_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import NexusAttempt, NexusOperation

TASK_TYPE_NEXUS = 3
START_KIND, CANCEL_KIND = "nexus_start", "nexus_cancel"
"""Of outbox rows."""
TASK_GONE = "Nexus task not found or already expired"
ANSWER_MARGIN_NS = SECOND_NS
"""Of the time for a request, what its answer's way back is given: a handler that is out of time answers too late."""
NOTHING = common_pb.Payload(metadata={"encoding": b"binary/null"})
"""The result of what has none, as Nexus carries it."""
NOT_FOUND = "operation not found"
UNSUCCESSFUL = "nexus operation completed unsuccessfully"
_MOST_DOUBLINGS = 40


@dataclass(frozen=True, slots=True)
class Target:
    """The queue that an endpoint leads to."""

    namespace_id: str
    task_queue: str


# ---- attempts --------------------------------------------------------------------------------------------------------


def want_start(run: Run, operation: NexusOperation) -> None:
    """Have an attempt to start it made."""
    _into_outbox(run, START_KIND, operation)


def want_cancel(run: Run, operation: NexusOperation) -> None:
    """Have an attempt to cancel it made."""
    _into_outbox(run, CANCEL_KIND, operation)


def _into_outbox(run: Run, kind: str, operation: NexusOperation) -> None:
    data = TransferData(
        initiated_event_id=operation.scheduled_event_id,
        initiated_event_batch_id=operation.scheduled_event_batch_id,
    )
    run.add_transfer(kind, data)


def attempt_of(operation: NexusOperation, *, cancel: bool) -> NexusAttempt:
    """The attempts of one of the two requests."""
    return operation.cancel if cancel else operation.start


def destination_of(operation: NexusOperation, *, cancel: bool) -> tuple[str, str]:
    """Return what a circuit breaker goes by: the kind of request and the endpoint."""
    return (CANCEL_KIND if cancel else START_KIND), operation.endpoint


def is_wanted(operation: NexusOperation, *, cancel: bool) -> bool:
    """An attempt is still to be made: none is under way or put off."""
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.deadline_ns or attempt.retry_due_ns:
        return False
    if cancel:
        return bool(operation.cancel_requested_ns) and not attempt.over
    return not operation.started_ns


def dispatch(run: Run, operation: NexusOperation, target: Target, *, cancel: bool) -> None:
    """Offer the request to the workers of `target`, unless too little time is left for it."""
    if end_if_out_of_time(run, operation, cancel=cancel):
        return
    left_ns, _ = time_for(run, operation, cancel=cancel)
    attempt = attempt_of(operation, cancel=cancel)
    attempt.stamp += 1
    attempt.handler_namespace_id = target.namespace_id
    attempt.deadline_ns = run.now_ns + left_ns - ANSWER_MARGIN_NS
    data = NexusTaskData(namespace_id=run.state.namespace_id, cancel=cancel)
    run.add_task(
        attempt.row,
        target.task_queue,
        TASK_TYPE_NEXUS,
        workflow_task.priority_key(run.state.priority),
        operation.scheduled_event_id,
        attempt.stamp,
        namespace_id=target.namespace_id,
        data=data.SerializeToString(),
    )
    run.changed = True
    run.arm(next_deadline(operation))


def end_if_out_of_time(run: Run, operation: NexusOperation, *, cancel: bool) -> bool:
    """Too little time is left for a request: the operation (or the request to cancel) is over without it."""
    left_ns, timeout_type = time_for(run, operation, cancel=cancel)
    if left_ns >= run.limits.nexus_min_request_timeout_ns:
        return False
    if cancel:
        message = "not enough time to execute another request before operation timeout"
        fail_cancel(run, operation, call_error(message, retryable=False))
    else:
        time_out(run, operation, timeout_type, by_attempt=True)
    return True


def call_error(message: str, *, retryable: bool) -> failure_pb.Failure:
    """A request that did not come through."""
    failure = failure_pb.Failure(message=message)
    failure.application_failure_info.type = "CallError"
    failure.application_failure_info.non_retryable = not retryable
    return failure


TOO_LARGE = call_error("http: response body too large", retryable=False)
"""Of a result that is larger than a payload may be."""


def time_for(run: Run, operation: NexusOperation, *, cancel: bool) -> tuple[int, wf_enums.TimeoutType.ValueType]:
    """How long a request may take, and the operation's timeout that says so, if one does."""
    left_ns = run.limits.nexus_request_timeout_ns
    kind = wf_enums.TIMEOUT_TYPE_UNSPECIFIED
    to_close_ns = operation.schedule_to_close_timeout_ns
    if cancel and operation.start_to_close_timeout_ns:
        kind = wf_enums.TIMEOUT_TYPE_START_TO_CLOSE
        left_ns = min(left_ns, operation.started_ns + operation.start_to_close_timeout_ns - run.now_ns)
    if not cancel and operation.schedule_to_start_timeout_ns:
        kind = wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
        left_ns = min(left_ns, operation.scheduled_ns + operation.schedule_to_start_timeout_ns - run.now_ns)
    elif to_close_ns:
        kind = wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
        left_ns = min(left_ns, operation.scheduled_ns + to_close_ns - run.now_ns)
    return left_ns, kind


def operation_timeout(operation: NexusOperation, now_ns: int) -> int:
    """How long the operation itself may take from now on; 0: as long as it likes."""
    spans = []
    if operation.start_to_close_timeout_ns:
        spans.append(operation.start_to_close_timeout_ns)
    if operation.schedule_to_close_timeout_ns:
        spans.append(operation.scheduled_ns + operation.schedule_to_close_timeout_ns - now_ns)
    return max(min(spans), MILLISECOND_NS) if spans else 0


def requested(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """A request was made and answered outside the queues."""
    attempt = attempt_of(operation, cancel=cancel)
    attempt.handler_namespace_id = ""
    nonces.draw(attempt, attempt.stamp, run.ids)
    _end_attempt(run, operation, cancel=cancel)


def take(run: Run, scheduled_event_id: int, stamp: int, *, cancel: bool) -> NexusOperation:
    """A worker takes the request. Raises NOT_FOUND when it is not (any more) to be had."""
    operation = _under_way(run, scheduled_event_id, stamp, cancel=cancel)
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.row.task_id == 0:
        raise not_found(TASK_GONE)
    attempt.handler_namespace_id = attempt.row.namespace_id
    run.drop_task(attempt.row)
    nonces.draw(attempt, attempt.stamp, run.ids)
    run.changed = True
    return operation


def answered(run: Run, token: TaskToken, believed_namespace_id: str) -> NexusOperation | None:
    """The operation whose request the holder of the token answers in time. Raises NOT_FOUND.

    None when the operation was over before, by its completion, a timeout or the end of its workflow: the handler could
    not know, and its answer changes nothing.
    `believed_namespace_id`: where its endpoint leads, for a request that 0.1.0 sent without noting where to.
    """
    if _is_ended_request(run, token):
        return None
    operation = _under_way(run, token.scheduled_event_id, token.stamp, cancel=token.nexus_cancel, may_be_closed=True)
    attempt = attempt_of(operation, cancel=token.nexus_cancel)
    handler_namespace_id = attempt.handler_namespace_id or believed_namespace_id
    if (
        attempt.row.task_id  # nobody has taken it
        or nonces.current(attempt, attempt.stamp) != token.nonce
        or handler_namespace_id != token.namespace_id
    ):
        raise not_found(TASK_GONE)
    _end_attempt(run, operation, cancel=token.nexus_cancel)
    return operation if run.is_open else None


def _leave_request(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """Remember a request that a worker still holds while its operation ends."""
    attempt = attempt_of(operation, cancel=cancel)
    requests = run.state.ended_nexus_requests
    for at in reversed(range(len(requests))):
        if requests[at].deadline_ns <= run.now_ns:
            del requests[at]
    if attempt.deadline_ns <= run.now_ns or attempt.row.task_id:
        return
    requests.add(
        scheduled_event_id=operation.scheduled_event_id,
        cancel=cancel,
        stamp=attempt.stamp,
        nonce=nonces.current(attempt, attempt.stamp),
        handler_namespace_id=attempt.handler_namespace_id,
        deadline_ns=attempt.deadline_ns,
    )


def _is_ended_request(run: Run, token: TaskToken) -> bool:
    """Tell whether the token is of a request whose operation is over, and forget it: it is answered once."""
    for at, request in enumerate(run.state.ended_nexus_requests):
        if (
            request.scheduled_event_id == token.scheduled_event_id
            and request.cancel == token.nexus_cancel
            and request.stamp == token.stamp
            and request.nonce == token.nonce
            and request.handler_namespace_id == token.namespace_id
            and request.deadline_ns > run.now_ns
        ):
            del run.state.ended_nexus_requests[at]
            run.bookkeeping = run.changed = True
            return True
    return False


def _under_way(
    run: Run, scheduled_event_id: int, stamp: int, *, cancel: bool, may_be_closed: bool = False
) -> NexusOperation:
    operation = run.state.nexus_operations.get(scheduled_event_id) if run.is_open or may_be_closed else None
    if operation is None:
        raise not_found(TASK_GONE)
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.deadline_ns <= run.now_ns or attempt.stamp != stamp:
        raise not_found(TASK_GONE)
    return operation


def _end_attempt(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    attempt = attempt_of(operation, cancel=cancel)
    run.requests_ended[destination_of(operation, cancel=cancel)] = False
    run.drop_task(attempt.row)
    attempt.deadline_ns = attempt.retry_due_ns = 0
    attempt.attempt += 1
    attempt.last_complete_ns = run.now_ns
    attempt.ClearField("last_failure")
    run.changed = True


def attempt_timed_out(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """Nobody answered the request in its time."""
    _end_attempt(run, operation, cancel=cancel)
    try_again(run, operation, nexus_failures.handler_failure("UPSTREAM_TIMEOUT", "upstream timeout"), cancel=cancel)


def try_again(run: Run, operation: NexusOperation, failure: failure_pb.Failure, *, cancel: bool) -> None:
    """The attempt failed, and another one may do better."""
    attempt = attempt_of(operation, cancel=cancel)
    attempt.last_failure.CopyFrom(failure)
    run.requests_ended[destination_of(operation, cancel=cancel)] = True
    limits = run.limits
    doublings = min(attempt.attempt - 1, _MOST_DOUBLINGS)
    attempt.retry_due_ns = run.now_ns + min(limits.nexus_retry_initial_ns << doublings, limits.nexus_retry_max_ns)
    run.changed = True
    run.arm(next_deadline(operation))


def refused(run: Run, operation: NexusOperation, failure: failure_pb.Failure, *, cancel: bool) -> None:
    """The handler (or the server on its way there) refused the request."""
    if nexus_failures.is_retryable(failure):
        try_again(run, operation, failure, cancel=cancel)
    elif cancel:
        fail_cancel(run, operation, failure)
    else:
        fail(run, operation, failure)


# ---- events ----------------------------------------------------------------------------------------------------------


def start(
    run: Run,
    operation: NexusOperation,
    token: str,
    links: Iterable[common_pb.Link] = (),
) -> None:
    """It runs; its end will be told by callback."""
    _write_started(run, operation, token, links, 0)
    _wake(run)


def _wake(run: Run) -> None:
    """Have the workflow see what happened, if a workflow called the operation."""
    if not nexus_execution.is_one(run.state):
        workflow_task.schedule_if_none(run)


def _write_started(
    run: Run, operation: NexusOperation, token: str, links: Iterable[common_pb.Link], started_ns: int
) -> None:
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_STARTED)
    if started_ns:
        set_timestamp(event.event_time, started_ns)
    a = event.nexus_operation_started_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.operation_token = a.operation_id = token
    a.request_id = operation.request_id
    event.links.extend(links)
    if nexus_execution.is_one(run.state):
        nexus_execution.note_links(run, event.links)
    run.append(event)
    if operation.cancel_requested_ns:
        want_cancel(run, operation)
    run.arm(next_deadline(operation))


def complete(
    run: Run, operation: NexusOperation, result: common_pb.Payload | None, links: Iterable[common_pb.Link] = ()
) -> None:
    """It has a result."""
    if nexus_execution.is_one(run.state):
        nexus_execution.complete(run, NOTHING if result is None else result, links)
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED)
    a = event.nexus_operation_completed_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.result.CopyFrom(NOTHING if result is None else result)
    a.request_id = operation.request_id
    event.links.extend(links)
    _end(run, operation, event)


def fail(run: Run, operation: NexusOperation, cause: failure_pb.Failure) -> None:
    """It ended with a failure, which may say that it was canceled."""
    if nexus_execution.is_one(run.state):
        nexus_execution.fail(run, operation, cause)
        return
    if cause.HasField("canceled_failure_info"):
        event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCELED)
        canceled = event.nexus_operation_canceled_event_attributes
        canceled.scheduled_event_id = operation.scheduled_event_id
        canceled.failure.CopyFrom(_failure(operation, cause))
        canceled.request_id = operation.request_id
    else:
        event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_FAILED)
        failed = event.nexus_operation_failed_event_attributes
        failed.scheduled_event_id = operation.scheduled_event_id
        failed.failure.CopyFrom(_failure(operation, cause))
        failed.request_id = operation.request_id
    _end(run, operation, event)


def time_out(
    run: Run, operation: NexusOperation, timeout_type: wf_enums.TimeoutType.ValueType, *, by_attempt: bool = False
) -> None:
    """Its time is over. `by_attempt`: too little of it is left for another request."""
    cause = failure_pb.Failure(message="operation timed out")
    cause.timeout_failure_info.timeout_type = timeout_type
    if nexus_execution.is_one(run.state):
        nexus_execution.time_out(run, operation, cause, by_attempt=by_attempt)
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT)
    a = event.nexus_operation_timed_out_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.failure.CopyFrom(_failure(operation, cause))
    a.request_id = operation.request_id
    _end(run, operation, event)


def _failure(operation: NexusOperation, cause: failure_pb.Failure) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=UNSUCCESSFUL)
    info = failure.nexus_operation_execution_failure_info
    info.scheduled_event_id = operation.scheduled_event_id
    info.endpoint = operation.endpoint
    info.service = operation.service
    info.operation = operation.operation
    info.operation_token = info.operation_id = operation.operation_token
    failure.cause.CopyFrom(cause)
    return failure


def _end(run: Run, operation: NexusOperation, event: history_pb.HistoryEvent) -> None:
    for cancel in (False, True):
        _leave_request(run, operation, cancel=cancel)
    run.drop_task(operation.start.row)
    run.drop_task(operation.cancel.row)
    run.append(event)
    workflow_task.schedule_if_none(run)


def cancel_delivered(run: Run, operation: NexusOperation) -> None:
    """The handler knows of the request to cancel."""
    operation.cancel.over = True
    run.changed = True
    if nexus_execution.is_one(run.state):
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED)
    event.worker_may_ignore = True
    a = event.nexus_operation_cancel_request_completed_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.requested_event_id = operation.cancel_requested_event_id
    run.append(event)
    workflow_task.schedule_if_none(run)


def fail_cancel(run: Run, operation: NexusOperation, failure: failure_pb.Failure) -> None:
    """The request to cancel is refused for good."""
    operation.cancel.over = operation.cancel.failed = True
    operation.cancel.last_failure.CopyFrom(failure)
    run.changed = True
    if nexus_execution.is_one(run.state):
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED)
    event.worker_may_ignore = True
    a = event.nexus_operation_cancel_request_failed_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.requested_event_id = operation.cancel_requested_event_id
    a.failure.CopyFrom(failure)
    run.append(event)
    workflow_task.schedule_if_none(run)


# ---- told by callback ------------------------------------------------------------------------------------------------


def may_tell(run: Run, operation: NexusOperation, namespace_id: str, led_to: str) -> bool:
    """Whether a run of that namespace may tell how the operation ended: one where its request went, or its caller's.

    `led_to`: for a request of 0.1.0, which did not note where it went, where the endpoint has always led, if known.
    """
    start = operation.start
    if namespace_id in (run.state.namespace_id, start.handler_namespace_id):
        return True
    return not nonces.current(start, start.stamp) and led_to in ("", namespace_id)


def of_callback(run: Run, scheduled_event_id: int, request_id: str) -> NexusOperation:
    """The operation that waits for that callback. Raises NOT_FOUND."""
    operation = run.state.nexus_operations.get(scheduled_event_id) if run.is_open else None
    if operation is None or (request_id and operation.request_id != request_id):
        raise not_found(NOT_FOUND)
    return operation


def note_started(
    run: Run, operation: NexusOperation, token: str, started_ns: int, links: Iterable[common_pb.Link]
) -> None:
    """The end, which is recorded next, may arrive before the answer to the start: history tells the start first."""
    if not operation.started_ns:
        _leave_request(run, operation, cancel=False)
        _end_attempt(run, operation, cancel=False)
        _write_started(run, operation, token, links, started_ns)
