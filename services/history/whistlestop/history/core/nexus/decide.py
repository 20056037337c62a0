"""Nexus operations from the calling workflow's side: scheduled, started, closed; and requests to cancel them.

Rules of this file, which are Temporal's:
- An attempt gives one request to a worker of the endpoint's task queue and waits for its answer, ten seconds at most. A
  retryable failure is followed by another attempt after a back-off, until a timeout of the operation.
- An operation that completes in its start request has no started event. Any other runs elsewhere, and its end arrives
  by the completion callback that was sent with the request, possibly before the start request is answered.
- A request to cancel is sent once the operation has started. It does not close the operation: how that ends is reported
  as usual.

The core does not know the task queue of an endpoint: requested attempts become transfer tasks, and their delivery calls
`dispatch` with the target.
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
from whistlestop.common.timing.backoff import backoff
from whistlestop.history.core import nonces
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import standalone as nexus_execution
from whistlestop.history.core.nexus.deadlines import next_deadline
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import MILLISECOND_NS, set_timestamp
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.state_pb2 import NexusAttempt, NexusOperation
    from whistlestop.history.core.transition.run import Run

TASK_TYPE_NEXUS = 3
START_KIND, CANCEL_KIND = "nexus_start", "nexus_cancel"
"""The kinds of their transfer tasks."""
TASK_NOT_FOUND = "Nexus task not found or already expired"
NOTHING = common_pb.Payload(metadata={"encoding": b"binary/null"})
"""The result of an operation without a result, as Nexus represents it."""
NOT_FOUND = "operation not found"
UNSUCCESSFUL = "nexus operation completed unsuccessfully"


@dataclass(frozen=True, slots=True)
class Target:
    """The task queue to which an endpoint leads."""

    namespace_id: str
    task_queue: str


# ---- attempts --------------------------------------------------------------------------------------------------------


def want_start(run: Run, operation: NexusOperation) -> None:
    """Add a transfer task for an attempt to start the operation."""
    _into_outbox(run, START_KIND, operation)


def want_cancel(run: Run, operation: NexusOperation) -> None:
    """Add a transfer task for an attempt to cancel the operation."""
    _into_outbox(run, CANCEL_KIND, operation)


def _into_outbox(run: Run, kind: str, operation: NexusOperation) -> None:
    data = TransferData(
        initiated_event_id=operation.scheduled_event_id,
        initiated_event_batch_id=operation.scheduled_event_batch_id,
    )
    run.add_transfer(kind, data)


def attempt_of(operation: NexusOperation, *, cancel: bool) -> NexusAttempt:
    """Return the attempts of the start or the cancel request."""
    return operation.cancel if cancel else operation.start


def destination_of(operation: NexusOperation, *, cancel: bool) -> tuple[str, str]:
    """Return the key of the circuit breaker: the kind of request and the endpoint."""
    return (CANCEL_KIND if cancel else START_KIND), operation.endpoint


def is_wanted(operation: NexusOperation, *, cancel: bool) -> bool:
    """Return whether an attempt has to be made, and none is in progress or waiting for its back-off."""
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.deadline_ns or attempt.next_attempt_ns:
        return False
    if cancel:
        return bool(operation.cancel_requested_ns) and not attempt.over
    return not operation.started_ns


def dispatch(run: Run, operation: NexusOperation, target: Target, *, cancel: bool) -> None:
    """Put the request on the task queue of `target`, unless too little time is left for it."""
    if end_if_out_of_time(run, operation, cancel=cancel):
        return
    left_ns, _ = time_for(run, operation, cancel=cancel)
    attempt = attempt_of(operation, cancel=cancel)
    attempt.stamp += 1
    attempt.handler_namespace_id = target.namespace_id
    attempt.deadline_ns = run.now_ns + left_ns - run.limits.nexus_answer_margin_ns
    data = NexusTaskData(namespace_id=run.state.namespace_id, cancel=cancel, task_queue=target.task_queue)
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
    """Close the operation (or fail the request to cancel) if too little time is left; return whether it was."""
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
    """Return the failure of a request that did not get through."""
    failure = failure_pb.Failure(message=message)
    failure.application_failure_info.type = "CallError"
    failure.application_failure_info.non_retryable = not retryable
    return failure


TOO_LARGE = call_error("http: response body too large", retryable=False)
"""The failure of an operation whose result exceeds the size limit of a payload."""


def time_for(run: Run, operation: NexusOperation, *, cancel: bool) -> tuple[int, wf_enums.TimeoutType.ValueType]:
    """Return how many nanoseconds a request may take, and the operation's timeout that limits it (or unspecified)."""
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
    """Return how long the operation may take from now on, in nanoseconds; 0: no limit."""
    spans = []
    if operation.start_to_close_timeout_ns:
        spans.append(operation.start_to_close_timeout_ns)
    if operation.schedule_to_close_timeout_ns:
        spans.append(operation.scheduled_ns + operation.schedule_to_close_timeout_ns - now_ns)
    return max(min(spans), MILLISECOND_NS) if spans else 0


def requested(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """Record a request that was sent and answered without a task queue."""
    attempt = attempt_of(operation, cancel=cancel)
    attempt.handler_namespace_id = ""
    nonces.draw(attempt, attempt.stamp, run.ids)
    _end_attempt(run, operation, cancel=cancel)


def take(run: Run, scheduled_event_id: int, stamp: int, *, cancel: bool) -> NexusOperation:
    """Record that a worker takes the request. Raise NOT_FOUND when the request is stale."""
    operation = _under_way(run, scheduled_event_id, stamp, cancel=cancel)
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.row.task_id == 0:
        raise not_found(TASK_NOT_FOUND)
    attempt.handler_namespace_id = attempt.row.namespace_id
    run.drop_task(attempt.row)
    nonces.draw(attempt, attempt.stamp, run.ids)
    run.changed = True
    return operation


def answered(run: Run, token: TaskToken, believed_namespace_id: str) -> NexusOperation | None:
    """Return the operation whose request the token's holder answers in time. Raise NOT_FOUND for a stale token.

    Return None when the operation was closed before, by its completion, a timeout or the end of its workflow: the
    handler could not know, and its answer changes nothing. `believed_namespace_id` is where the endpoint leads, for a
    request that release 0.1.0 sent without recording its target.
    """
    if _is_ended_request(run, token):
        return None
    operation = _under_way(run, token.scheduled_event_id, token.stamp, cancel=token.nexus_cancel, may_be_closed=True)
    attempt = attempt_of(operation, cancel=token.nexus_cancel)
    handler_namespace_id = attempt.handler_namespace_id or believed_namespace_id
    if (
        attempt.row.task_id  # no worker has taken it
        or nonces.current(attempt, attempt.stamp) != token.nonce
        or handler_namespace_id != token.namespace_id
    ):
        raise not_found(TASK_NOT_FOUND)
    _end_attempt(run, operation, cancel=token.nexus_cancel)
    return operation if run.is_open else None


def _leave_request(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """Keep a request that a worker still holds while its operation closes, so that its late answer is accepted."""
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
    """Return whether the token is of a request that `_leave_request` kept, and remove it: it is answered only once."""
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
        raise not_found(TASK_NOT_FOUND)
    attempt = attempt_of(operation, cancel=cancel)
    if attempt.deadline_ns <= run.now_ns or attempt.stamp != stamp:
        raise not_found(TASK_NOT_FOUND)
    return operation


def _end_attempt(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    attempt = attempt_of(operation, cancel=cancel)
    run.requests_ended[destination_of(operation, cancel=cancel)] = False
    run.drop_task(attempt.row)
    attempt.deadline_ns = attempt.next_attempt_ns = 0
    attempt.attempt += 1
    attempt.last_complete_ns = run.now_ns
    attempt.ClearField("last_failure")
    run.changed = True


def attempt_timed_out(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    """End an attempt that was not answered in time, and retry."""
    _end_attempt(run, operation, cancel=cancel)
    try_again(run, operation, nexus_failures.handler_failure("UPSTREAM_TIMEOUT", "upstream timeout"), cancel=cancel)


def try_again(run: Run, operation: NexusOperation, failure: failure_pb.Failure, *, cancel: bool) -> None:
    """Schedule another attempt after a retryable failure."""
    attempt = attempt_of(operation, cancel=cancel)
    attempt.last_failure.CopyFrom(failure)
    run.requests_ended[destination_of(operation, cancel=cancel)] = True
    limits = run.limits
    if nexus_execution.is_standalone(run.state):
        first_ns, longest_ns = limits.nexus_execution_retry.initial_ns, limits.nexus_execution_retry.maximum_ns
    else:
        first_ns, longest_ns = limits.nexus_retry_initial_ns, limits.nexus_retry_max_ns
    attempt.next_attempt_ns = run.now_ns + backoff(first_ns, attempt.attempt, longest_ns)
    run.changed = True
    run.arm(next_deadline(operation))


def refused(run: Run, operation: NexusOperation, failure: failure_pb.Failure, *, cancel: bool) -> None:
    """Handle a request that the handler, or the server on the way to it, refused."""
    if cancel and failure.HasField("cause") and not nexus_execution.is_standalone(run.state):
        # Of a refused cancellation with a cause, Temporal keeps the cause alone.
        failure = nexus_failures.without_message(failure)
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
    """Record that the operation has started; its end is reported by callback."""
    _write_started(run, operation, token, links, 0)
    _schedule_workflow_task(run)


def _schedule_workflow_task(run: Run) -> None:
    """Schedule a workflow task, if a workflow called the operation."""
    if not nexus_execution.is_standalone(run.state):
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
    if nexus_execution.is_standalone(run.state):
        nexus_execution.note_links(run, event.links)
    run.append(event)
    if operation.cancel_requested_ns:
        want_cancel(run, operation)
    run.arm(next_deadline(operation))


def complete(
    run: Run, operation: NexusOperation, result: common_pb.Payload | None, links: Iterable[common_pb.Link] = ()
) -> None:
    """Complete the operation with its result; None is a result without a value."""
    if nexus_execution.is_standalone(run.state):
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
    """Close the operation with a failure, or as cancelled if the failure says so."""
    if nexus_execution.is_standalone(run.state):
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
    """Close the operation as timed out. `by_attempt`: too little time is left for another request."""
    cause = failure_pb.Failure(message="operation timed out")
    cause.timeout_failure_info.timeout_type = timeout_type
    if nexus_execution.is_standalone(run.state):
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
    """Record that the handler has accepted the request to cancel."""
    operation.cancel.over = True
    run.changed = True
    if nexus_execution.is_standalone(run.state):
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED)
    event.worker_may_ignore = True
    a = event.nexus_operation_cancel_request_completed_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.requested_event_id = operation.cancel_requested_event_id
    run.append(event)
    workflow_task.schedule_if_none(run)


def fail_cancel(run: Run, operation: NexusOperation, failure: failure_pb.Failure) -> None:
    """Record that the request to cancel was refused permanently."""
    operation.cancel.over = operation.cancel.failed = True
    operation.cancel.last_failure.CopyFrom(failure)
    run.changed = True
    if nexus_execution.is_standalone(run.state):
        return
    event = run.event(et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED)
    event.worker_may_ignore = True
    a = event.nexus_operation_cancel_request_failed_event_attributes
    a.scheduled_event_id = operation.scheduled_event_id
    a.requested_event_id = operation.cancel_requested_event_id
    a.failure.CopyFrom(failure)
    run.append(event)
    workflow_task.schedule_if_none(run)


# ---- completion by callback ------------------------------------------------------------------------------------------


def may_notify(run: Run, operation: NexusOperation, namespace_id: str, led_to: str) -> bool:
    """Return whether a run of that namespace may complete the operation: the handler's namespace or the caller's.

    For a request of release 0.1.0, which did not record its target, `led_to` is where the endpoint has always led, if
    known.
    """
    start = operation.start
    if namespace_id in (run.state.namespace_id, start.handler_namespace_id):
        return True
    return not nonces.current(start, start.stamp) and led_to in ("", namespace_id)


def of_callback(run: Run, scheduled_event_id: int, request_id: str) -> NexusOperation:
    """Return the operation that waits for that callback. Raise NOT_FOUND."""
    operation = run.state.nexus_operations.get(scheduled_event_id) if run.is_open else None
    if operation is None or (request_id and operation.request_id != request_id):
        raise not_found(NOT_FOUND)
    return operation


def note_started(
    run: Run, operation: NexusOperation, token: str, started_ns: int, links: Iterable[common_pb.Link]
) -> None:
    """Record the start of an operation whose completion arrived before the start request was answered."""
    if not operation.started_ns:
        _leave_request(run, operation, cancel=False)
        _end_attempt(run, operation, cancel=False)
        _write_started(run, operation, token, links, started_ns)
