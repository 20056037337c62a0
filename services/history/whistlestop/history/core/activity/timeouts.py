"""Fire the deadlines of a workflow's activities: their timeouts and their next attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.history.core import retry
from whistlestop.history.core.activity import deadlines as activity_deadlines
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity import rules as workflow_rules
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

NO_TIME_LEFT = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"
_AT_ONCE = (
    activity_deadlines.SCHEDULE_TO_START,
    activity_deadlines.SCHEDULE_TO_CLOSE,
    activity_deadlines.START_TO_CLOSE,
    activity_deadlines.HEARTBEAT,
)
"""The order of timeouts of one activity that are due at the same time: an activity that was never started missed its
start; a started one (an eager one starts as it is scheduled) has used up all its time."""


def fire(run: Run) -> None:
    """Fire the activities' timeouts, and dispatch the attempts that are due."""
    activities = run.state.activities
    expired = sorted(
        (deadline_ns, scheduled_event_id, _AT_ONCE.index(timeout_type), timeout_type, activity.attempt)
        for scheduled_event_id, activity in activities.items()
        for deadline_ns, timeout_type in activity_deadlines.deadlines(activity)
        if deadline_ns <= run.now_ns
    )
    is_over = False
    for _, scheduled_event_id, _, timeout_type, attempt in expired:
        # An earlier timeout of this activity may have closed it or ended the attempt.
        activity = activities.get(scheduled_event_id)
        if activity is not None and activity.attempt == attempt:
            is_over = _time_out(run, activity, timeout_type) or is_over
    for activity in list(activities.values()):
        may_start = 0 < activity.next_attempt_ns <= run.now_ns and not activity.paused
        if may_start and not (run.policy.rules and workflow_rules.apply(run, activity)):
            core_activity.dispatch(run, activity)
    if is_over:
        workflow_task.schedule_if_none(run)


def _time_out(run: Run, activity: Activity, timeout_type: int) -> bool:
    """Time out the attempt: schedule a retry, or close the activity and return True."""
    run.bookkeeping = False
    failure = _timeout_failure(f"activity {retry.timeout_name(timeout_type)} timeout", timeout_type)
    state = core_activity.try_again(run, activity, failure)
    if state == retry.IN_PROGRESS:
        return False
    if state == wf_enums.RETRY_STATE_TIMEOUT and timeout_type != activity_deadlines.SCHEDULE_TO_START:
        failure = _timeout_failure(NO_TIME_LEFT, activity_deadlines.SCHEDULE_TO_CLOSE)
    if activity.HasField("heartbeat_details"):
        failure.timeout_failure_info.last_heartbeat_details.CopyFrom(activity.heartbeat_details)
    if activity.HasField("last_failure"):
        failure.cause.CopyFrom(activity.last_failure)
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT)
    a = event.activity_task_timed_out_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.retry_state = state
    a.failure.CopyFrom(failure)
    core_activity.close(run, activity, event)
    return True


def _timeout_failure(message: str, timeout_type: int) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message, source="Server")
    failure.timeout_failure_info.timeout_type = timeout_type  # type: ignore[assignment]
    return failure
