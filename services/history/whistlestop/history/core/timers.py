"""What is due in a run, and what comes next.

A run has one timer row. When it fires, `fire_due` does all that is due by then, in Temporal's order of importance, and
moves the row to what is due next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core import workflow_task

if TYPE_CHECKING:
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import MutableState


def earliest_due(state: MutableState) -> int:
    """When the run has to be looked at next; 0 for never."""
    dues: list[int] = []
    if state.run_expiration_ns:
        dues.append(state.run_expiration_ns)
    if state.first_workflow_task_backoff_until_ns:
        dues.append(state.first_workflow_task_backoff_until_ns)
    task = state.workflow_task
    if task.scheduled_event_id:
        if task.started_event_id:
            dues.append(task.started_ns + task.timeout_ns)
        elif task.schedule_to_start_due_ns:
            dues.append(task.schedule_to_start_due_ns)
    dues.extend(timer.fire_ns for timer in state.timers.values())
    return min(dues, default=0)


def fire_due(run: Run) -> None:
    """Do everything that is due in the run, and arm it for what comes next."""
    state = run.state
    if not run.is_open or state.alarm_ns == 0 or run.now_ns < state.alarm_ns:
        return
    _fire_workflow_task(run)
    _fire_user_timers(run)
    if run.is_open:
        following = earliest_due(state)
        if following:
            run.set_alarm(following)
        else:
            state.alarm_ns = 0
            run.timer_removed = True
        run.changed = True


def _fire_workflow_task(run: Run) -> None:
    state = run.state
    if 0 < state.first_workflow_task_backoff_until_ns <= run.now_ns:
        state.first_workflow_task_backoff_until_ns = 0
        if not run.has_pending_workflow_task:
            workflow_task.schedule(run)
    task = state.workflow_task
    if task.scheduled_event_id == 0:
        return
    if task.started_event_id:
        if task.started_ns + task.timeout_ns <= run.now_ns:
            workflow_task.time_out(run)
            workflow_task.schedule(run)
    elif 0 < task.schedule_to_start_due_ns <= run.now_ns:
        workflow_task.time_out_before_start(run)
        workflow_task.schedule(run)


def _fire_user_timers(run: Run) -> None:
    state = run.state
    due = sorted(
        (timer.fire_ns, timer.started_event_id, timer.timer_id)
        for timer in state.timers.values()
        if timer.fire_ns <= run.now_ns
    )
    for _, started_event_id, timer_id in due:
        event = run.event(et.EVENT_TYPE_TIMER_FIRED)
        event.timer_fired_event_attributes.timer_id = timer_id
        event.timer_fired_event_attributes.started_event_id = started_event_id
        run.append(event)
    if due:
        workflow_task.schedule_if_none(run)
