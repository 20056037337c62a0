"""Fire the deadlines of a workflow task: the end of the run's back-off, and the task's timeouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def fire(run: Run) -> None:
    """Schedule the first workflow task after a back-off, or time out the pending one, if that is due."""
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
