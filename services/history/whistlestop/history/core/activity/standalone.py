"""A standalone activity: an activity that no workflow scheduled, as a run of its own.

Rules of this file, which are Temporal's:
- It is a state machine (`machine.py`): from scheduled and started (with requests to cancel, pause or reset an attempt
  that a worker has) to one of five final states. What a status does not allow is refused and changes nothing.
- An attempt has three times: scheduled (it was created), dispatched (it is put on the task queue), started (a worker
  has it). Start delays and back-offs lie between the first two; schedule-to-start is counted from the second.
- Only its start and its end are written into history: its state is `MutableState.activity_execution`, and its next
  deadline is the run's timer row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import deployment_pb2
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.errors import failed_precondition, invalid_argument, not_found
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.history.core import nonces, retry
from whistlestop.history.core.activity.decide import TASK_TYPE_ACTIVITY
from whistlestop.history.core.activity.machine import IN_PROGRESS, TERMINAL, A, Event, after
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.state_pb2 import ActivityExecution
from whistlestop.history.core.times import duration_ns, set_duration
from whistlestop.history.core.transition.run import PAUSED as RUN_PAUSED
from whistlestop.history.core.transition.run import RUNNING
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.activity.v1 import message_pb2 as activity_pb
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run

ID_PREFIX = "temporal-sys-activity:"
"""The prefix of its id in `executions`."""
DIVISION = "3332429922"
"""Temporal's number for standalone activities, by which list filters select them (TemporalNamespaceDivision)."""
NOT_FOUND = "activity not found for ID: {}"
NOT_CANCEL_REQUESTED = "unable to mark activity as canceled without activity being request canceled first"
NO_TIME_LEFT = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"
NO_DETAILS = "activity task failed without failure details"

_SCHEDULE_TO_CLOSE = wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
_SCHEDULE_TO_START = wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
_START_TO_CLOSE = wf_enums.TIMEOUT_TYPE_START_TO_CLOSE
_HEARTBEAT = wf_enums.TIMEOUT_TYPE_HEARTBEAT


def is_standalone(state: MutableState) -> bool:
    """Return whether the run is a standalone activity, not a workflow."""
    return state.HasField("activity_execution")


def of(run: Run) -> ActivityExecution:
    """Return the activity of a run that is a standalone activity; an empty one for a workflow."""
    return run.state.activity_execution


def is_under_way(state: MutableState) -> bool:
    """Return whether an attempt is on the task queue or a worker has it."""
    activity = state.activity_execution
    return activity.status in IN_PROGRESS or (activity.status == A.SCHEDULED and not activity.to_dispatch)


def status_word(activity: ActivityExecution) -> str:
    """Return the status as messages show it: `CANCEL_REQUESTED` is `CancelRequested`."""
    return enum_name(ActivityExecution.Status, activity.status).title().replace("_", "")


# ---- times -----------------------------------------------------------------------------------------------------------


def first_dispatch_ns(state: MutableState) -> int:
    """Return when its first attempt is dispatched, after the start delay (nanoseconds since the Unix epoch)."""
    return state.start_ns + duration_ns(state.activity_execution.options.start_delay)


def close_deadline_ns(state: MutableState) -> int:
    """Return the deadline of all attempts together in nanoseconds since the Unix epoch; 0 for none."""
    span_ns = duration_ns(state.activity_execution.options.schedule_to_close_timeout)
    return first_dispatch_ns(state) + span_ns if span_ns else 0


def not_before_start_delay(state: MutableState, instant_ns: int) -> int:
    """Return the time, or the end of the start delay if that is later and no attempt was started (nanoseconds)."""
    return instant_ns if state.activity_execution.first_started_ns else max(instant_ns, first_dispatch_ns(state))


def timeouts(state: MutableState) -> list[tuple[int, int]]:
    """Return the deadlines of the timeouts that are set, as (time in nanoseconds, timeout type)."""
    activity = state.activity_execution
    options = activity.options
    found: list[tuple[int, int]] = []
    deadline_ns = close_deadline_ns(state)
    if deadline_ns:
        found.append((deadline_ns, _SCHEDULE_TO_CLOSE))
    if activity.status == A.SCHEDULED:
        span_ns = duration_ns(options.schedule_to_start_timeout)
        if span_ns:
            found.append((activity.dispatch_ns + span_ns, _SCHEDULE_TO_START))
    elif activity.status in IN_PROGRESS:
        span_ns = duration_ns(options.start_to_close_timeout)
        if span_ns:
            found.append((activity.started_ns + span_ns, _START_TO_CLOSE))
        span_ns = duration_ns(options.heartbeat_timeout)
        if span_ns:
            found.append((max(activity.started_ns, activity.last_heartbeat_ns) + span_ns, _HEARTBEAT))
    return found


def next_deadline(state: MutableState) -> int:
    """Return the next deadline or dispatch in nanoseconds; 0 for none."""
    activity = state.activity_execution
    found = [deadline_ns for deadline_ns, _ in timeouts(state)]
    if activity.to_dispatch:
        found.append(activity.dispatch_ns)
    return min(found, default=0)


def changed(run: Run) -> None:
    """Commit the change, and set the run's timer row to the next deadline."""
    run.changed = True
    if run.is_open:
        run.arm(next_deadline(run.state))


def note_repeated(run: Run) -> None:
    """Commit a repeated request that changes nothing: Temporal counts a state transition for it."""
    run.changed = True


# ---- scheduling and dispatching --------------------------------------------------------------------------------------


def begin(run: Run, activity_id: str, options: activity_pb.ActivityOptions) -> ActivityExecution:
    """Set up the first attempt of a new run, which is dispatched after the start delay."""
    activity = of(run)
    activity.activity_id = activity_id
    activity.options.CopyFrom(options)
    activity.original_options.CopyFrom(options)
    activity.attempt = 1
    schedule(run, first_dispatch_ns(run.state))
    return activity


def schedule(run: Run, dispatch_ns: int) -> None:
    """Schedule the attempt for dispatch at `dispatch_ns`; tasks dispatched for it earlier become stale."""
    activity = of(run)
    run.drop_task(activity.row)
    move(run, Event.SCHEDULE)
    activity.stamp += 1
    activity.dispatch_ns = dispatch_ns
    activity.to_dispatch = True
    if dispatch_ns <= run.now_ns:
        _dispatch(run)
    changed(run)


def _dispatch(run: Run) -> None:
    activity = of(run)
    activity.to_dispatch = False
    options = activity.options
    workflow_task.offer(
        run, activity.row, options.task_queue.name, TASK_TYPE_ACTIVITY, options.priority, 1, activity.stamp
    )  # fmt: skip


def withdraw(run: Run) -> None:
    """Take the attempt off the task queue; tasks dispatched for it become stale."""
    activity = of(run)
    run.drop_task(activity.row)
    activity.to_dispatch = False
    activity.stamp += 1


def move(run: Run, event: Event) -> None:
    """Move to the state after the event; what lists show of an open activity is whether it is paused."""
    activity = of(run)
    activity.status = after(activity.status, event)
    if activity.status in TERMINAL or not run.is_open:
        return
    run_status = RUN_PAUSED if activity.status == A.PAUSED else RUNNING
    if run.state.status != run_status:
        run.state.status = run_status
        run.visibility_changed = True


def start(
    run: Run,
    stamp: int,
    request_id: str,
    identity: str,
    sdk: tuple[str, str],
    deployment: deployment_pb.WorkerDeploymentOptions | None = None,
) -> ActivityExecution:
    """Record that a worker takes the attempt. Raise NOT_FOUND when the task is stale.

    A repeated call with the same `request_id` changes nothing.
    """
    activity = of(run)
    if activity.status in IN_PROGRESS and activity.request_id == request_id:
        return activity
    if activity.stamp != stamp or activity.status != A.SCHEDULED:
        raise not_found("activity attempt stamp mismatch")
    run.drop_task(activity.row)
    activity.to_dispatch = False
    move(run, Event.START)
    activity.started_ns = run.now_ns
    activity.started_stamp = stamp
    nonces.draw(activity, activity.started_ns, run.ids)
    activity.first_started_ns = activity.first_started_ns or run.now_ns
    activity.request_id = request_id
    activity.last_worker_identity = identity
    activity.sdk_name, activity.sdk_version = sdk
    if deployment is not None and (
        deployment.worker_versioning_mode == deployment_pb2.WORKER_VERSIONING_MODE_VERSIONED
    ):
        activity.last_deployment_version.deployment_name = deployment.deployment_name
        activity.last_deployment_version.build_id = deployment.build_id
    changed(run)
    return activity


def attach_links(run: Run, links: Sequence[common_pb.Link], request_id: str) -> None:
    """Attach the links of a start request that found the activity running; a repeated request attaches nothing.

    Raise FAILED_PRECONDITION when the activity is over or would have too many links. Links are not duplicated.
    """
    activity = of(run)
    if not links or request_id == run.state.create_request_id or request_id in activity.link_request_ids:
        return
    if not run.is_open:
        raise failed_precondition("cannot attach links to a closed activity")
    check_links(run, len(run.first_event().links) + len(activity.links), len(links))
    activity.link_request_ids.append(request_id)
    activity.links.extend(link for link in links if link not in activity.links)
    run.changed = True


def check_links(run: Run, present: int, more: int) -> None:
    """Raise FAILED_PRECONDITION when `present` and `more` links together are too many."""
    most = run.limits.links_per_execution
    if present + more > most:
        raise failed_precondition(
            f"cannot attach more than {most} links to an activity ({present} links already attached)"
        )


# ---- responses of workers --------------------------------------------------------------------------------------------


def of_token(run: Run, token: TaskToken, *, completes: bool = False) -> ActivityExecution:
    """Return the activity whose attempt `token` names, or raise NOT_FOUND.

    A token without an attempt names the activity by its id alone; with `completes`, that one need not be started.
    """
    activity = of(run)
    by_id = token.attempt == 0
    if activity.status in TERMINAL and completes and by_id:
        raise failed_precondition(f"invalid transition from {status_word(activity)}")
    if activity.status not in IN_PROGRESS and not (completes and by_id):
        raise not_found(NOT_FOUND.format(activity.activity_id))
    if not by_id and (
        token.attempt != activity.attempt
        or token.stamp != activity.started_stamp
        or token.started_time_ns != activity.started_ns
        or token.workflow_id != run.state.workflow_id
        or token.nonce != nonces.current(activity, activity.started_ns)
    ):
        raise not_found(NOT_FOUND.format(activity.activity_id))
    return activity


def complete(run: Run, token: TaskToken, result: common_pb.Payloads | None, identity: str) -> None:
    """Complete the activity: its attempt succeeded, without a result if that is None.

    Raise NOT_FOUND for a stale token.
    """
    activity = of_token(run, token, completes=True)
    if activity.status not in IN_PROGRESS:
        activity.started_ns = run.now_ns
        activity.first_started_ns = activity.first_started_ns or run.now_ns
    activity.last_attempt_complete_ns = run.now_ns
    activity.last_worker_identity = identity
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    event.workflow_execution_completed_event_attributes.SetInParent()
    activity.result.SetInParent()
    if result is not None:
        activity.result.CopyFrom(result)
        event.workflow_execution_completed_event_attributes.result.CopyFrom(result)
    _end(run, Event.COMPLETE)
    close.finish(run, event)


def fail(
    run: Run,
    token: TaskToken,
    failure: failure_pb.Failure | None,
    identity: str,
    last_heartbeat_details: common_pb.Payloads | None = None,
) -> None:
    """Record that the attempt failed: schedule a retry, or close the activity as failed.

    The failure may be absent (None). Raise NOT_FOUND for a stale token.
    """
    activity = of_token(run, token)
    if last_heartbeat_details is not None:
        _note_progress(run, last_heartbeat_details)
    state = _try_again(run, failure)
    if state == retry.IN_PROGRESS:
        return
    activity.last_worker_identity = identity
    activity.retry_state = state
    _note_failed_attempt(run, failure or failure_pb.Failure(message=NO_DETAILS))
    _close_failed(run, activity.last_failure)


def cancel(run: Run, token: TaskToken, details: common_pb.Payloads | None) -> None:
    """Close the activity as cancelled, as its worker reports.

    Raise INVALID_ARGUMENT when no cancellation was requested.
    """
    activity = of_token(run, token)
    if activity.status != A.CANCEL_REQUESTED:
        raise invalid_argument(NOT_CANCEL_REQUESTED)
    _close_canceled(run, details)


def heartbeat(run: Run, token: TaskToken, details: common_pb.Payloads | None) -> ActivityExecution:
    """Record a heartbeat; return the activity, from which the reply tells what is requested of the worker.

    The run's timer row is moved before it would fire for nothing. Raise NOT_FOUND for a stale token.
    """
    activity = of_token(run, token)
    _note_progress(run, details)
    timer_row_ns, following_ns = run.state.timer_row_ns, next_deadline(run.state)
    if timer_row_ns < following_ns and (timer_row_ns - run.now_ns) * 2 <= duration_ns(
        activity.options.heartbeat_timeout
    ):
        run.set_timer_row(following_ns)
    return activity


def _note_progress(run: Run, details: common_pb.Payloads | None) -> None:
    activity = of(run)
    activity.ClearField("heartbeat_details")
    if details is not None:
        activity.heartbeat_details.CopyFrom(details)
    activity.last_heartbeat_ns = run.now_ns
    activity.heartbeat_count += 1
    changed(run)


# ---- retries and timeouts --------------------------------------------------------------------------------------------


def _try_again(run: Run, failure: failure_pb.Failure | None) -> retry.RetryState:
    """Prepare the next attempt if there is one (return IN_PROGRESS); otherwise return why there is none."""
    activity = of(run)
    if activity.status == A.RESET_REQUESTED:
        _note_failed_attempt(run, failure)
        _reset_now(run)
        return retry.IN_PROGRESS
    if activity.status == A.CANCEL_REQUESTED:
        return wf_enums.RETRY_STATE_CANCEL_REQUESTED
    policy = activity.options.retry_policy
    if not retry.is_retryable(failure, policy.non_retryable_error_types):
        return wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE
    if 0 < policy.maximum_attempts <= activity.attempt:
        return wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    wanted_ns = retry.requested_delay_ns(failure) or 0
    interval_ns = wanted_ns if wanted_ns > 0 else interval_behind(policy, activity.attempt)
    deadline_ns = close_deadline_ns(run.state)
    if deadline_ns and run.now_ns + interval_ns >= deadline_ns:
        return wf_enums.RETRY_STATE_TIMEOUT
    _note_failed_attempt(run, failure)
    activity.attempt += 1
    activity.retry_interval_ns = interval_ns
    activity.retry_interval_is_workers = wanted_ns > 0
    if activity.status == A.PAUSE_REQUESTED:
        activity.stamp += 1
        move(run, Event.HOLD)
        changed(run)
    else:
        schedule(run, run.now_ns + interval_ns)
    return retry.IN_PROGRESS


def interval_behind(policy: common_pb.RetryPolicy, attempt: int) -> int:
    """Return the back-off between an attempt and the next, in nanoseconds."""
    interval_ns = retry.exponential_ns(duration_ns(policy.initial_interval), policy.backoff_coefficient, attempt)
    longest_ns = duration_ns(policy.maximum_interval)
    return min(interval_ns, longest_ns) if longest_ns else interval_ns


def _note_failed_attempt(run: Run, failure: failure_pb.Failure | None) -> None:
    activity = of(run)
    activity.ClearField("last_failure")
    if failure is not None:
        activity.last_failure.CopyFrom(failure if activity.retry_state else sizes.kept_failure(run, failure))
    activity.last_attempt_complete_ns = run.now_ns
    forget_interval(activity)


def forget_interval(activity: ActivityExecution) -> None:
    """Forget the back-off, since none is being waited for."""
    activity.retry_interval_ns = 0
    activity.retry_interval_is_workers = False


def _reset_now(run: Run) -> None:
    """Carry out the reset that was waiting for the end of the attempt."""
    activity = of(run)
    if activity.reset_options:
        restore_options(run)
    if activity.reset_heartbeat:
        clear_heartbeat(activity)
    keeps_paused = activity.reset_keeps_paused
    activity.reset_options = activity.reset_heartbeat = activity.reset_keeps_paused = False
    activity.attempt = 1
    if keeps_paused:
        activity.stamp += 1
        move(run, Event.HOLD)
        changed(run)
    else:
        schedule(run, not_before_start_delay(run.state, run.now_ns))


def restore_options(run: Run) -> None:
    """Restore the original options, except the start delay once an attempt has been started."""
    activity = of(run)
    delay_ns = duration_ns(activity.options.start_delay)
    activity.options.CopyFrom(activity.original_options)
    if activity.first_started_ns and delay_ns != duration_ns(activity.options.start_delay):
        set_duration(activity.options.start_delay, delay_ns)
    follow_start_delay(run)


def follow_start_delay(run: Run) -> None:
    """Set the execution time that lists show to the dispatch of the first attempt by the current options."""
    execution_ns = first_dispatch_ns(run.state)
    if run.state.execution_start_ns != execution_ns:
        run.state.execution_start_ns = execution_ns
        run.visibility_changed = True


def clear_heartbeat(activity: ActivityExecution) -> None:
    """Forget the progress that workers have reported."""
    activity.ClearField("heartbeat_details")
    activity.last_heartbeat_ns = 0


def fire_deadlines(run: Run) -> None:
    """Fire the timeouts that have expired, or dispatch the attempt if its time has come."""
    activity = of(run)
    expired = sorted(
        (deadline_ns, timeout_type) for deadline_ns, timeout_type in timeouts(run.state) if deadline_ns <= run.now_ns
    )
    if expired:
        run.bookkeeping = False
        # One timeout is enough: it ends the activity or the attempt.
        _time_out(run, expired[0][1])
    if run.is_open and activity.to_dispatch and activity.dispatch_ns <= run.now_ns:
        _dispatch(run)


def _time_out(run: Run, timeout_type: int) -> None:
    activity = of(run)
    prior: failure_pb.Failure | None = None
    if activity.HasField("last_failure"):
        prior = failure_pb.Failure()
        prior.CopyFrom(activity.last_failure)
    failure = _timeout_failure(f"activity {retry.timeout_name(timeout_type)} timeout", timeout_type)
    if timeout_type in (_SCHEDULE_TO_START, _SCHEDULE_TO_CLOSE):
        is_cancel = timeout_type == _SCHEDULE_TO_CLOSE and activity.status == A.CANCEL_REQUESTED
        activity.retry_state = wf_enums.RETRY_STATE_CANCEL_REQUESTED if is_cancel else wf_enums.RETRY_STATE_TIMEOUT
        activity.failure.CopyFrom(_with_past(activity, failure, prior))
    else:
        state = _try_again(run, failure)
        if state == retry.IN_PROGRESS:
            return
        activity.retry_state = state
        _note_failed_attempt(run, _with_past(activity, failure, prior))
        if state == wf_enums.RETRY_STATE_TIMEOUT:
            final = _timeout_failure(NO_TIME_LEFT, _SCHEDULE_TO_CLOSE)
            activity.failure.CopyFrom(_with_past(activity, final, prior))
    _end(run, Event.TIME_OUT)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT)
    event.workflow_execution_timed_out_event_attributes.retry_state = wf_enums.RETRY_STATE_TIMEOUT
    close.finish(run, event)


def _timeout_failure(message: str, timeout_type: int) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message)
    failure.timeout_failure_info.timeout_type = timeout_type  # type: ignore[assignment]
    return failure


def _with_past(
    activity: ActivityExecution, failure: failure_pb.Failure, prior: failure_pb.Failure | None
) -> failure_pb.Failure:
    """Return the failure with the last heartbeat details, and with the previous attempt's failure as its cause."""
    if activity.HasField("heartbeat_details"):
        failure.timeout_failure_info.last_heartbeat_details.CopyFrom(activity.heartbeat_details)
    if prior is not None:
        failure.cause.CopyFrom(prior)
    return failure


# ---- completion ------------------------------------------------------------------------------------------------------


def _end(run: Run, event: Event) -> None:
    activity = of(run)
    run.drop_task(activity.row)
    activity.to_dispatch = False
    move(run, event)


def _close_failed(run: Run, failure: failure_pb.Failure) -> None:
    _end(run, Event.FAIL)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
    a = event.workflow_execution_failed_event_attributes
    a.failure.CopyFrom(failure)
    a.retry_state = of(run).retry_state  # type: ignore[assignment]
    close.finish(run, event)


def _close_canceled(run: Run, details: common_pb.Payloads | None) -> None:
    activity = of(run)
    activity.failure.message = "Activity canceled"
    info = activity.failure.canceled_failure_info
    info.SetInParent()
    info.identity = activity.cancel_identity
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED)
    event.workflow_execution_canceled_event_attributes.SetInParent()
    if details is not None:
        info.details.CopyFrom(details)
        event.workflow_execution_canceled_event_attributes.details.CopyFrom(details)
    _end(run, Event.CANCEL)
    close.finish(run, event)


def terminate(run: Run, *, reason: str, identity: str, request_id: str) -> None:
    """Terminate the activity at once; the worker learns of it by its next heartbeat.

    Raise FAILED_PRECONDITION when it is over, unless by the same request.
    """
    activity = of(run)
    if activity.status == A.TERMINATED:
        if activity.terminate_request_id == request_id:
            note_repeated(run)
            return
        raise failed_precondition(f"already terminated with request ID {activity.terminate_request_id}")
    if activity.status in TERMINAL:
        raise failed_precondition(f"invalid transition from {status_word(activity)}")
    activity.terminate_request_id = request_id
    activity.failure.message = reason
    activity.failure.terminated_failure_info.identity = identity
    _end(run, Event.TERMINATE)
    close.terminate(run, reason=reason, identity=identity)


def request_cancel(run: Run, *, reason: str, identity: str, request_id: str) -> None:
    """Request cancellation: a started attempt learns of it by its heartbeat, any other is cancelled at once.

    Raise FAILED_PRECONDITION when the activity is over or another request has asked for it.
    """
    activity = of(run)
    if request_id and activity.cancel_request_id == request_id:
        note_repeated(run)
        return
    if activity.status in TERMINAL:
        raise failed_precondition(f"activity is in terminal state {status_word(activity)}")
    if activity.status == A.CANCEL_REQUESTED:
        raise failed_precondition(f"cancellation already requested with request ID {activity.cancel_request_id}")
    has_worker = activity.status in IN_PROGRESS
    activity.cancel_reason = reason
    activity.cancel_identity = identity
    activity.cancel_request_id = request_id
    activity.reset_options = activity.reset_heartbeat = False
    move(run, Event.REQUEST_CANCEL)
    changed(run)
    if not has_worker:
        text = json.dumps(reason, ensure_ascii=False).encode()
        payload = common_pb.Payload(metadata={"encoding": b"json/plain"}, data=text)
        _close_canceled(run, common_pb.Payloads(payloads=[payload]))
