"""Fire what is due in a run, and set its timer row to the next deadline.

A run has one timer row. When it fires, `fire_deadlines` handles all deadlines that have passed and moves the row to the
next one. The order is that of importance: the end of the run, its workflow task, its own timers, its activities.
Nothing fires early; firing late or twice finds nothing to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.history.core import retry
from whistlestop.history.core.activity import deadlines as activity_deadlines
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity import rules as workflow_rules
from whistlestop.history.core.activity import standalone as activity_execution
from whistlestop.history.core.nexus import deadlines as nexus_deadlines
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.timeskip import decide as time_skipping
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity, MutableState, NexusOperation
    from whistlestop.history.core.transition.run import Run

NO_TIME_LEFT = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"


def next_deadline(state: MutableState) -> int:
    """Return the run's next deadline, in nanoseconds by its clock; 0 for none."""
    if activity_execution.is_standalone(state):
        return activity_execution.next_deadline(state)
    deadlines: list[int] = []
    expiration_ns = run_deadline(state)
    if expiration_ns:
        deadlines.append(expiration_ns)
    if state.first_workflow_task_backoff_until_ns:
        deadlines.append(state.first_workflow_task_backoff_until_ns)
    task = state.workflow_task
    if task.scheduled_event_id:
        if task.started_event_id:
            deadlines.append(workflow_task.times_out_ns(task))
        elif task.schedule_to_start_deadline_ns:
            deadlines.append(task.schedule_to_start_deadline_ns)
    deadlines.extend(deadline_ns for deadline_ns, _ in short_timers.fire_times(state))
    for activity in state.activities.values():
        deadline_ns = activity_deadlines.next_deadline(activity)
        if deadline_ns:
            deadlines.append(deadline_ns)
    for operation in state.nexus_operations.values():
        deadline_ns = nexus_deadlines.next_deadline(operation)
        if deadline_ns:
            deadlines.append(deadline_ns)
    fast_forward_ns = time_skipping_state.fast_forward_deadline(state)
    if fast_forward_ns:
        deadlines.append(fast_forward_ns)
    return min(deadlines, default=0)


def timer_row_wall_ns(state: MutableState) -> int:
    """Return the time of the run's timer row, in nanoseconds by the server's clock; 0 if it has none."""
    return state.timer_row_ns - skipped_ns(state) if state.timer_row_ns else 0


def run_deadline(state: MutableState) -> int:
    """Return the earlier deadline of the run and of its whole chain, in nanoseconds by its clock; 0 for none."""
    run_ns, chain_ns = state.run_expiration_ns, state.execution_expiration_ns
    return min(run_ns, chain_ns) if run_ns and chain_ns else run_ns or chain_ns


def fire_deadlines(run: Run) -> None:
    """Handle everything that is due in the run, and set its timer row to the next deadline."""
    state = run.state
    if not run.is_open or state.timer_row_ns == 0 or run.now_ns < state.timer_row_ns:
        return
    # Checking, dispatching a retry and moving the timer row are no state transitions; timeouts are.
    run.bookkeeping = True
    if 0 < run_deadline(state) <= run.now_ns:
        close.time_out(run)
    elif activity_execution.is_standalone(state):
        activity_execution.fire_deadlines(run)
    else:
        _fire_workflow_task(run)
        _fire_user_timers(run)
        _fire_activities(run)
        _fire_nexus_operations(run)
        _fire_fast_forward(run)
    if run.is_open:
        rearm(run)


def postpone(run: Run) -> None:
    """Move the run's timer row to the next deadline if it would fire before that, for nothing."""
    following_ns = next_deadline(run.state)
    if following_ns > run.state.timer_row_ns:
        run.set_timer_row(following_ns)


def rearm(run: Run) -> None:
    """Move the run's timer row to the next deadline, or delete it if there is none."""
    following_ns = next_deadline(run.state)
    if following_ns:
        run.set_timer_row(following_ns)
    else:
        run.state.timer_row_ns = 0
        run.timer = None
        run.timer_removed = True
    run.changed = True


def _fire_fast_forward(run: Run) -> None:
    """Disable time skipping if the fast-forward's target has passed while the run was not idle."""
    if run.is_open and 0 < time_skipping_state.fast_forward_deadline(run.state) <= run.now_ns:
        time_skipping.record(run, target_ns=0, disables=True)


def _fire_workflow_task(run: Run) -> None:
    state = run.state
    if 0 < state.first_workflow_task_backoff_until_ns <= run.now_ns:
        state.first_workflow_task_backoff_until_ns = 0
        if not run.has_pending_workflow_task:
            workflow_task.schedule(run)
        # A speculative task could vanish, and the first task with it.
        workflow_task.make_normal(run)
    task = state.workflow_task
    if task.scheduled_event_id == 0:
        return
    if task.started_event_id:
        if workflow_task.times_out_ns(task) <= run.now_ns:
            run.bookkeeping = False
            workflow_task.time_out(run)
            workflow_task.schedule(run)
    elif 0 < task.schedule_to_start_deadline_ns <= run.now_ns:
        run.bookkeeping = False
        workflow_task.time_out_before_start(run)
        workflow_task.schedule(run)


def _fire_user_timers(run: Run) -> None:
    state = run.state
    due = sorted(
        (timer.fire_ns, timer.started_event_id, timer.timer_id)
        for deadline_ns, timer in short_timers.fire_times(state)
        if deadline_ns <= run.now_ns
    )
    for _, started_event_id, timer_id in due:
        event = run.event(et.EVENT_TYPE_TIMER_FIRED)
        event.timer_fired_event_attributes.timer_id = timer_id
        event.timer_fired_event_attributes.started_event_id = started_event_id
        run.append(event)
    if due:
        workflow_task.schedule_if_none(run)


_AT_ONCE = (
    activity_deadlines.SCHEDULE_TO_START,
    activity_deadlines.SCHEDULE_TO_CLOSE,
    activity_deadlines.START_TO_CLOSE,
    activity_deadlines.HEARTBEAT,
)
"""The order of timeouts of one activity that are due at the same time: an activity that was never started missed its
start; a started one (an eager one starts as it is scheduled) has used up all its time."""


def _fire_activities(run: Run) -> None:
    """Fire the activities' timeouts, and dispatch the attempts that are due."""
    activities = run.state.activities
    due = sorted(
        (deadline_ns, scheduled_event_id, _AT_ONCE.index(timeout_type), timeout_type, activity.attempt)
        for scheduled_event_id, activity in activities.items()
        for deadline_ns, timeout_type in activity_deadlines.deadlines(activity)
        if deadline_ns <= run.now_ns
    )
    is_over = False
    for _, scheduled_event_id, _, timeout_type, attempt in due:
        # An earlier timeout of this activity may have closed it or ended the attempt.
        activity = activities.get(scheduled_event_id)
        if activity is not None and activity.attempt == attempt:
            is_over = _time_out(run, activity, timeout_type) or is_over
    for activity in list(activities.values()):
        is_due = 0 < activity.next_attempt_ns <= run.now_ns and not activity.paused
        if is_due and not (run.rules and workflow_rules.apply(run, activity)):
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


def _fire_nexus_operations(run: Run) -> None:
    """Fire the operations' timeouts, end attempts that were not answered, and request those that are due."""
    operations = run.state.nexus_operations
    for scheduled_event_id in sorted(operations):
        operation = operations[scheduled_event_id]
        due = sorted(each for each in nexus_deadlines.timeouts(operation) if each[0] <= run.now_ns)
        if due:
            run.bookkeeping = False
            nexus_operations.time_out(run, operation, due[0][1])
        else:
            _fire_nexus_attempts(run, operation)
        if not run.is_open:
            return


def _fire_nexus_attempts(run: Run, operation: NexusOperation) -> None:
    for cancel in (False, True):
        attempt = nexus_operations.attempt_of(operation, cancel=cancel)
        if 0 < attempt.deadline_ns <= run.now_ns:
            run.bookkeeping = False
            nexus_operations.attempt_timed_out(run, operation, cancel=cancel)
        elif 0 < attempt.next_attempt_ns <= run.now_ns:
            run.bookkeeping = False
            attempt.next_attempt_ns = 0
            want = nexus_operations.want_cancel if cancel else nexus_operations.want_start
            want(run, operation)


def _timeout_failure(message: str, timeout_type: int) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message, source="Server")
    failure.timeout_failure_info.timeout_type = timeout_type  # type: ignore[assignment]
    return failure
