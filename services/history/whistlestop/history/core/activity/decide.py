"""Activities: scheduled by a command, started by a poll, and completed, failed, timed out or cancelled.

Rules of this file, which are Temporal's:
- The started event is written together with the closing one, so that retried attempts leave nothing in history; the
  workflow only sees the last attempt's failure.
- Every activity has a retry policy; a command without one gets the defaults.
- A completion has to come from the attempt that its token names. By activity id alone, completing works even before a
  worker took the activity; everything else needs a started attempt.
- While an activity is paused, none of its timeouts fires and no attempt is dispatched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import deployment_pb2, task_queue_pb2
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.common.task_queues import is_internal
from whistlestop.history.core import nonces, retry
from whistlestop.history.core.activity import rules as workflow_rules
from whistlestop.history.core.activity.deadlines import close_deadline, next_deadline
from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.times import set_timestamp
from whistlestop.history.core.transition import worker_commands
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

TASK_TYPE_ACTIVITY = int(task_queue_pb2.TASK_QUEUE_TYPE_ACTIVITY)
MOST_CHECKED = 100
"""The maximum number of activities for which a heartbeat recomputes the run's next deadline."""
TASK_NOT_FOUND = "invalid activityID or activity already timed out or invoking workflow is completed"
COMPLETED = "workflow execution already completed"
NOT_STARTED_DETAILS = b'"ACTIVITY_ID_NOT_STARTED"'
_TIMEOUTS = (
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
)
_FINISHED = {
    et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    et.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    et.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}


# ---- commands --------------------------------------------------------------------------------------------------------


def schedule(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command ScheduleActivityTask. Raise BadCommand."""
    run = completion.run
    attributes = command.schedule_activity_task_command_attributes
    command_attributes.schedule_activity(run, attributes)
    if attributes.activity_id in _pending_ids(run):
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            f"invalid history builder state for action: add-activitytask-scheduled-event, "
            f"ActivityID: {attributes.activity_id}",
        )
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    a = event.activity_task_scheduled_event_attributes
    a.activity_id = attributes.activity_id
    a.activity_type.CopyFrom(attributes.activity_type)
    a.task_queue.CopyFrom(attributes.task_queue)
    for field in ("header", "input", "retry_policy", "priority"):
        if attributes.HasField(field):
            getattr(a, field).CopyFrom(getattr(attributes, field))
    for field in _TIMEOUTS:
        getattr(a, field).CopyFrom(getattr(attributes, field))
    a.workflow_task_completed_event_id = completion.completed_event_id
    a.use_workflow_build_id = attributes.use_workflow_build_id
    run.append(event)
    _pending_ids(run).add(a.activity_id)
    activity = run.state.activities[event.event_id]
    if _is_eager(run, attributes):
        completion.eager_activities.append(event.event_id)
        run.arm(next_deadline(activity))
    else:
        dispatch(run, activity)
    return event


def _is_eager(run: Run, attributes: command_pb.ScheduleActivityTaskCommandAttributes) -> bool:
    """Return whether the worker gets the activity with the reply; not if a build id may route it to another worker."""
    state = run.state
    if not attributes.request_eager_execution or not run.limits.eager_activities or state.paused:
        return False
    by_set = state.most_recent_worker_version_stamp.use_versioning and not versioning_state.behavior_of(state)
    return attributes.use_workflow_build_id or not (by_set or state.assigned_build_id)


def _pending_ids(run: Run) -> set[str]:
    """Return the ids of pending activities, cached for the transition because one task may schedule thousands."""
    if run.activity_ids is None:
        run.activity_ids = {activity.activity_id for activity in run.state.activities.values()}
    return run.activity_ids


def request_cancel(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command RequestCancelActivityTask: an activity that has not started is cancelled at once.

    The worker of a started one is notified by a command on its control queue or by the reply to its next heartbeat.
    Raise BadCommand for an unknown activity, or one whose cancellation was already requested.
    """
    run = completion.run
    attributes = command.request_cancel_activity_task_command_attributes
    command_attributes.request_cancel_activity(attributes)
    scheduled_event_id = attributes.scheduled_event_id
    activity = run.state.activities.get(scheduled_event_id)
    if activity.cancel_requested if activity is not None else not _has_finished(run, scheduled_event_id):
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES,
            f"invalid history builder state for action: add-activitytask-cancel-requested-event, "
            f"ScheduledEventID: {scheduled_event_id}",
        )
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
    a = event.activity_task_cancel_requested_event_attributes
    a.scheduled_event_id = scheduled_event_id
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    if activity is not None and not activity.started_ns:
        details = common_pb.Payloads(
            payloads=[common_pb.Payload(metadata={"encoding": b"json/plain"}, data=NOT_STARTED_DETAILS)]
        )
        _write_canceled(run, activity, details, completion.request.identity)
        completion.want_new_task()
    elif activity is not None:
        worker_commands.cancel(run, activity)
    return event


def _has_finished(run: Run, scheduled_event_id: int) -> bool:
    """Return whether the activity ended during this workflow task, so that the worker could not know."""

    def ends_it(event: history_pb.HistoryEvent) -> bool:
        field = _FINISHED.get(event.event_type)
        return field is not None and bool(getattr(event, field).scheduled_event_id == scheduled_event_id)

    return run.buffered(ends_it) is not None


# ---- dispatching and starting ----------------------------------------------------------------------------------------


def priority_of(run: Run, activity: Activity) -> common_pb.Priority:
    """Return the activity's priority; fields that it leaves unset are the workflow's."""
    own, base = activity.priority, run.state.priority
    return common_pb.Priority(
        priority_key=own.priority_key or base.priority_key,
        fairness_key=own.fairness_key or base.fairness_key,
        fairness_weight=own.fairness_weight or base.fairness_weight,
    )


def dispatch(run: Run, activity: Activity) -> None:
    """Put the activity's attempt on its task queue."""
    run.drop_task(activity.row)
    activity.stamp += 1
    activity.next_attempt_ns = 0
    if run.state.paused and activity.held_by_pause:
        # It is dispatched when the workflow or the activity itself is unpaused. Its timeouts run meanwhile.
        run.changed = True
        run.arm(next_deadline(activity))
        return
    workflow_task.offer(
        run,
        activity.row,
        activity.task_queue,
        TASK_TYPE_ACTIVITY,
        priority_of(run, activity),
        activity.scheduled_event_id,
        activity.stamp,
    )
    run.arm(next_deadline(activity))


def offer_again(run: Run, waited_ns: int = 0) -> None:
    """Dispatch again all attempts that wait for a worker, after `waited_ns` that does not count as waiting."""
    for scheduled_event_id in sorted(run.state.activities):
        activity = run.state.activities[scheduled_event_id]
        if not (activity.started_ns or activity.paused or activity.next_attempt_ns):
            activity.scheduled_ns += waited_ns
            dispatch(run, activity)


def held_by_rule(run: Run, scheduled_event_id: int, stamp: int) -> bool:
    """Return whether a workflow rule pauses the first attempt, which a worker was about to take.

    The rules were applied to later attempts when the attempt before them failed.
    """
    activity = run.state.activities.get(scheduled_event_id) if run.policy.rules and run.is_open else None
    if activity is None or activity.started_ns or activity.stamp != stamp or activity.attempt > 1:
        return False
    return workflow_rules.apply(run, activity)


def start(
    run: Run,
    scheduled_event_id: int,
    stamp: int,
    request_id: str,
    identity: str,
    deployment: deployment_pb.WorkerDeploymentOptions | None = None,
    build_id: str = "",
    control_queue: str = "",
) -> Activity:
    """Record that a worker takes the attempt. `build_id` is set for a worker of rule-based versioning.

    A repeated call with the same `request_id` changes nothing. Raise NOT_FOUND when the attempt is stale.
    """
    if not run.is_open:
        raise not_found(COMPLETED)
    activity = run.state.activities.get(scheduled_event_id)
    if activity is None:
        raise not_found(TASK_NOT_FOUND)
    if activity.started_ns:
        if activity.request_id == request_id:
            return activity
        raise not_found("Activity task already started.")
    if activity.stamp != stamp or activity.paused:
        raise not_found(
            f"Activity task rejected; stamp has changed. Id: {activity.activity_id},: type: {activity.activity_type}, "
            f"current stamp: {activity.stamp}"
        )
    if deployment is not None and (
        deployment.worker_versioning_mode == deployment_pb2.WORKER_VERSIONING_MODE_VERSIONED
    ):
        activity.last_deployment_version.deployment_name = deployment.deployment_name
        activity.last_deployment_version.build_id = deployment.build_id
    build_ids.note_activity_started(run, activity, build_id)
    _set_started(run, activity, request_id, identity, control_queue)
    return activity


def start_eagerly(
    run: Run, scheduled_event_id: int, request_id: str, identity: str, control_queue: str = ""
) -> Activity | None:
    """Start the activity for the worker that scheduled it; return None when it is over already."""
    activity = run.state.activities.get(scheduled_event_id) if run.is_open else None
    if activity is None or activity.started_ns:
        return None
    build_ids.note_activity_started(run, activity, run.state.assigned_build_id)
    _set_started(run, activity, request_id, identity, control_queue)
    return activity


def _set_started(run: Run, activity: Activity, request_id: str, identity: str, control_queue: str) -> None:
    run.drop_task(activity.row)
    activity.started_ns = run.now_ns
    nonces.draw(activity, activity.started_ns, run.ids)
    activity.request_id = request_id
    activity.started_identity = identity
    activity.worker_control_task_queue = control_queue
    activity.next_attempt_ns = 0
    run.changed = True
    run.arm(next_deadline(activity))


# ---- lookup ----------------------------------------------------------------------------------------------------------


def of_token(run: Run, token: TaskToken, *, completes: bool = False) -> Activity:
    """Return the activity whose attempt `token` names, or raise NOT_FOUND.

    A token without an event id names the activity by its id alone; with `completes`, that one need not be started.
    """
    if not run.is_open:
        raise not_found(COMPLETED)
    by_id = token.scheduled_event_id == 0
    activity = _by_id(run, token.activity_id) if by_id else run.state.activities.get(token.scheduled_event_id)
    if activity is None:
        raise not_found(TASK_NOT_FOUND)
    if not activity.started_ns and not (by_id and completes):
        raise not_found(TASK_NOT_FOUND)
    if not by_id and (
        activity.attempt != token.attempt
        or activity.started_ns != token.started_time_ns
        or activity.activity_id != token.activity_id
        or nonces.current(activity, activity.started_ns) != token.nonce
    ):
        raise not_found(TASK_NOT_FOUND)
    return activity


def _by_id(run: Run, activity_id: str) -> Activity:
    if not activity_id:
        raise invalid_argument("activityID cannot be empty")
    # The server's own workflows have workers that answer by token; others must not complete their activities.
    if not is_internal(run.state.task_queue):
        for activity in run.state.activities.values():
            if activity.activity_id == activity_id:
                return activity
    raise not_found(
        f"cannot find pending activity with ActivityID {activity_id}, check workflow execution history for more details"
    )


# ---- completion ------------------------------------------------------------------------------------------------------


def _write_started(run: Run, activity: Activity, stamp: common_pb.WorkerVersionStamp | None = None) -> None:
    """Append the started event of the last attempt, late, with the time at which it began."""
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_STARTED)
    set_timestamp(event.event_time, activity.started_ns)
    a = event.activity_task_started_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.identity = activity.started_identity
    a.request_id = activity.request_id
    a.attempt = activity.attempt
    if activity.HasField("last_failure"):
        a.last_failure.CopyFrom(activity.last_failure)
    stamp = build_ids.activity_stamp(activity, stamp)
    if stamp is not None:
        a.worker_version.CopyFrom(stamp)
    a.build_id_redirect_counter = activity.last_redirect_counter
    run.append(event)


def close(
    run: Run, activity: Activity, event: history_pb.HistoryEvent, stamp: common_pb.WorkerVersionStamp | None = None
) -> None:
    """Append the started event, if the activity was started, and the closing one. `activity` is removed by that."""
    run.drop_task(activity.row)
    if run.activity_ids is not None:
        run.activity_ids.discard(activity.activity_id)
    if activity.started_ns:
        _write_started(run, activity, stamp)
    run.append(event)


def complete(
    run: Run,
    token: TaskToken,
    result: common_pb.Payloads | None,
    identity: str,
    stamp: common_pb.WorkerVersionStamp | None = None,
) -> None:
    """Complete the activity: its attempt succeeded, without a result if that is None.

    Raise NOT_FOUND for a stale token.
    """
    activity = of_token(run, token, completes=True)
    if not activity.started_ns:
        _set_started(run, activity, "", identity, "")
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    a = event.activity_task_completed_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.identity = identity
    if result is not None:
        a.result.CopyFrom(result)
    close(run, activity, event, stamp)
    workflow_task.schedule_if_none(run)


def fail(
    run: Run,
    token: TaskToken,
    failure: failure_pb.Failure | None,
    identity: str,
    last_heartbeat_details: common_pb.Payloads | None = None,
    stamp: common_pb.WorkerVersionStamp | None = None,
) -> None:
    """Record that the attempt failed: schedule a retry, or close the activity as failed.

    The failure may be absent (None). Raise NOT_FOUND for a stale token.
    """
    activity = of_token(run, token)
    if last_heartbeat_details is not None:
        _note_progress(run, activity, last_heartbeat_details, identity)
    activity.last_attempt_complete_ns = run.now_ns
    state = try_again(run, activity, failure)
    if state == retry.IN_PROGRESS:
        return
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_FAILED)
    a = event.activity_task_failed_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.identity = identity
    a.retry_state = state
    if failure is not None:
        a.failure.CopyFrom(failure)
    close(run, activity, event, stamp)
    workflow_task.schedule_if_none(run)


def cancel(run: Run, token: TaskToken, details: common_pb.Payloads | None, identity: str) -> None:
    """Close the activity as cancelled, as its worker reports.

    Raise INVALID_ARGUMENT when no cancellation was requested.
    """
    activity = of_token(run, token)
    if not activity.cancel_requested:
        raise invalid_argument("unable to mark activity as canceled without activity being request canceled first")
    _write_canceled(run, activity, details, identity)
    workflow_task.schedule_if_none(run)


def _write_canceled(run: Run, activity: Activity, details: common_pb.Payloads | None, identity: str) -> None:
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_CANCELED)
    a = event.activity_task_canceled_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.latest_cancel_requested_event_id = activity.cancel_request_event_id
    a.identity = identity
    if details is not None:
        a.details.CopyFrom(details)
    close(run, activity, event)


# ---- heartbeats ------------------------------------------------------------------------------------------------------


def heartbeat(run: Run, token: TaskToken, details: common_pb.Payloads | None, identity: str) -> Activity:
    """Record a heartbeat, without details if they are None. Raise NOT_FOUND for a stale token.

    Return the activity, from which the reply tells what is requested of the worker.
    """
    activity = of_token(run, token)
    _note_progress(run, activity, details, identity)
    run.postpones_timer = _is_timer_too_early(run, activity)
    return activity


def _is_timer_too_early(run: Run, activity: Activity) -> bool:
    """Return whether the run's timer row should be moved before it fires for nothing, which would cost a commit.

    This is not done with every heartbeat where they are frequent, nor where many activities would have to be checked.
    """
    state = run.state
    left_ns = state.timer_row_ns - run.now_ns
    return bool(
        state.timer_row_ns and left_ns * 2 <= activity.heartbeat_timeout_ns and len(state.activities) <= MOST_CHECKED
    )


def _note_progress(run: Run, activity: Activity, details: common_pb.Payloads | None, identity: str) -> None:
    if details is None:
        activity.ClearField("heartbeat_details")
    else:
        activity.heartbeat_details.CopyFrom(details)
    if identity:
        activity.last_worker_identity = identity
    activity.last_heartbeat_ns = run.now_ns
    run.changed = True


# ---- retries ---------------------------------------------------------------------------------------------------------


def try_again(run: Run, activity: Activity, failure: failure_pb.Failure | None) -> retry.RetryState:
    """Prepare the next attempt if there is one (return IN_PROGRESS); otherwise return why there is none."""
    if activity.cancel_requested:
        return wf_enums.RETRY_STATE_CANCEL_REQUESTED
    if _is_deadline(failure):
        return wf_enums.RETRY_STATE_TIMEOUT
    retryable = retry.is_retryable(failure, activity.retry_policy.non_retryable_error_types)
    if retryable and run.policy.rules:
        workflow_rules.apply(run, activity)
    if activity.paused and retryable:
        _set_last_failure(run, activity, failure)
        _clear_started(activity)
        activity.attempt += 1
        activity.stamp += 1
        short_timers.stop_waiting(run)
        run.changed = True
        return retry.IN_PROGRESS
    following = retry.next_attempt(
        activity.retry_policy,
        attempt=activity.attempt,
        now_ns=run.now_ns,
        expiration_ns=close_deadline(activity),
        failure=failure,
        delay_lifts_maximum=True,
    )
    if following.state == retry.IN_PROGRESS:
        wait_for_attempt(run, activity, run.now_ns + following.interval_ns, activity.attempt + 1, failure)
        short_timers.stop_waiting(run)
    return following.state


def _is_deadline(failure: failure_pb.Failure | None) -> bool:
    """Return whether the failure is one of the server's own deadlines, after which no attempt follows."""
    if failure is None or not failure.HasField("timeout_failure_info"):
        return False
    deadlines = (wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)
    return failure.timeout_failure_info.timeout_type in deadlines


def wait_for_attempt(
    run: Run, activity: Activity, deadline_ns: int, attempt: int, failure: failure_pb.Failure | None
) -> None:
    """Release the activity from its worker, to be dispatched as attempt number `attempt` at `deadline_ns`.

    A failure, unless it is None, becomes the last one of the activity.
    """
    run.drop_task(activity.row)
    activity.last_worker_identity = activity.started_identity
    _set_last_failure(run, activity, failure)
    _clear_started(activity)
    if activity.reset_heartbeat:
        activity.ClearField("heartbeat_details")
        activity.last_heartbeat_ns = 0
    activity.activity_reset = False
    activity.reset_heartbeat = False
    activity.attempt = attempt
    activity.stamp += 1
    activity.scheduled_ns = deadline_ns
    activity.next_attempt_ns = deadline_ns
    activity.current_retry_interval_ns = deadline_ns - (activity.last_attempt_complete_ns or run.now_ns)
    run.changed = True
    run.arm(next_deadline(activity))


def _set_last_failure(run: Run, activity: Activity, failure: failure_pb.Failure | None) -> None:
    if failure is None:
        activity.ClearField("last_failure")
    else:
        activity.last_failure.CopyFrom(sizes.kept_failure(run, failure))


def _clear_started(activity: Activity) -> None:
    activity.started_ns = 0
    activity.started_event_id = 0
    activity.request_id = ""
