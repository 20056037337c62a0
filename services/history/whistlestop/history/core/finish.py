"""End a transition: the decisions that follow from all others, taken once for each run before its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.history.core import deadlines
from whistlestop.history.core.timeskip import decide as time_skipping
from whistlestop.history.core.transition import worker_commands
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.storage.records import CurrentWrite

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def finish(run: Run) -> None:
    """Take the decisions that end every transition. The run can't be used for decisions afterwards, only for records.

    The buffer of events is limited, and flushed if no worker has a workflow task; time is skipped if the run is idle;
    the timer row is moved; workers are sent commands; a closed run drops what was pending, and its workflow id.
    """
    state = run.state
    if run.mem_buffer and state.workflow_task.speculative and run.is_open:
        workflow_task.make_normal(run)
    _limit_buffer(run)
    if run.postpones_timer and run.is_open:
        deadlines.postpone(run)
    if state.HasField("time_skipping") and time_skipping.skip_if_idle(run):
        deadlines.rearm(run)
    if run.activities_to_cancel:
        worker_commands.write_requests(run)
    happened = bool(run.batch or run.batches or run.mem_buffer)
    if not run.has_started_workflow_task:
        run.flush_buffer()
    elif run.mem_buffer:
        state.buffered_events.extend(run.mem_buffer)
        run.mem_buffer.clear()
    run.new_batch()
    if happened or not run.bookkeeping:
        state.state_transition_count += run.transitions
    if not run.is_open:
        _drop_everything_pending(run)
        if state.timer_row_ns:
            run.timer_removed = run.version > 0
            state.timer_row_ns = 0
        run.timer = None
        if run.current is None and run.finished and not run.superseded and run.next_run is None:
            # Otherwise another run, the next one for example, takes over the current row.
            run.current = CurrentWrite(run.current_record(), expected_run_id=run.key.run_id)


def _limit_buffer(run: Run) -> None:
    """Fail the started workflow task if too many events were buffered during it, so that the next one shows them."""
    if not (run.mem_buffer and run.is_open and run.has_started_workflow_task):
        return
    limits = run.limits
    events = [*run.state.buffered_events, *run.mem_buffer]
    if len(events) > limits.buffered_events or sum(event.ByteSize() for event in events) > limits.buffered_bytes:
        workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, "history-service")
        run.flush_buffer()
        workflow_task.schedule(run)


def _drop_everything_pending(run: Run) -> None:
    """Delete the matching tasks of a closed run."""
    state = run.state
    run.drop_task(state.workflow_task.row)
    for activity in state.activities.values():
        run.drop_task(activity.row)
    for operation in state.nexus_operations.values():
        run.drop_task(operation.start.row)
        run.drop_task(operation.cancel.row)
    if state.HasField("activity_execution"):
        run.drop_task(state.activity_execution.row)
