"""Fire what is due in a run, and set its timer row to the next deadline.

A run has one timer row. When it fires, `fire_deadlines` handles all deadlines that have passed and moves the row to the
next one. The order is that of importance: the end of the run, its workflow task, its own timers, its activities.
Nothing fires early; firing late or twice finds nothing to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.activity import deadlines as activity_deadlines
from whistlestop.history.core.activity import standalone as activity_execution
from whistlestop.history.core.activity import timeouts as activity_timeouts
from whistlestop.history.core.nexus import deadlines as nexus_deadlines
from whistlestop.history.core.nexus import timeouts as nexus_timeouts
from whistlestop.history.core.timer import timeouts as timer_timeouts
from whistlestop.history.core.timeskip import decide as time_skipping
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import short_timers
from whistlestop.history.core.workflow_task import timeouts as workflow_task_timeouts

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run


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
        workflow_task_timeouts.fire(run)
        timer_timeouts.fire(run)
        activity_timeouts.fire(run)
        nexus_timeouts.fire(run)
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
