"""PauseWorkflowExecution and UnpauseWorkflowExecution.

Rules of this file, which are Temporal's: while a workflow is paused, no workflow task is scheduled and no activity is
dispatched. Workers may finish tasks that they have. A workflow task that waits for a worker fails at once, so that
history shows that it was not executed; the pause ends with a new task. Both events are buffered while a workflow task
is started, so that they stay in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.errors import failed_precondition, not_found
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.activity import pause as activity_pause
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.history.core.transition.run import Run


def pause(run: Run, request: service_pb.PauseWorkflowExecutionRequest) -> None:
    """Pause the workflow; a repeated request changes nothing.

    Raise NOT_FOUND for a closed run, FAILED_PRECONDITION when another request has paused it.
    """
    if not run.is_open:
        raise not_found("workflow execution already completed")
    if run.state.paused:
        if request.request_id and request.request_id == run.state.pause.request_id:
            return
        raise failed_precondition("workflow is already paused.")
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED)
    event.worker_may_ignore = True
    a = event.workflow_execution_paused_event_attributes
    a.identity, a.reason, a.request_id = request.identity, request.reason, request.request_id
    run.append(event)
    for each in run.state.activities.values():
        if not each.started_ns:
            run.drop_task(each.row)
            each.stamp += 1
            each.held_by_pause = True
    if run.has_pending_workflow_task and not run.has_started_workflow_task:
        run.drop_task(run.state.workflow_task.row)
        cause = fc.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED
        workflow_task.fail(run, cause, None, "history-service")
        run.state.workflow_task.attempt = 1
    activity_pause.note_pauses(run)
    run.visibility_changed = True


def unpause(run: Run, request: service_pb.UnpauseWorkflowExecutionRequest) -> None:
    """Resume the workflow: dispatch waiting activities and schedule a workflow task.

    A repeated request changes nothing. Raise NOT_FOUND for a closed run, FAILED_PRECONDITION when it is not paused.
    """
    if not run.is_open:
        raise not_found("workflow execution already completed")
    if not run.state.paused:
        if request.request_id and request.request_id == run.state.unpause_request_id:
            return
        raise failed_precondition("workflow is not paused.")
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED)
    event.worker_may_ignore = True
    a = event.workflow_execution_unpaused_event_attributes
    a.identity, a.reason, a.request_id = request.identity, request.reason, request.request_id
    run.append(event)
    for each in run.state.activities.values():
        each.held_by_pause = False
        if not each.started_ns and not each.paused and not each.next_attempt_ns and not each.row.task_id:
            activity.dispatch(run, each)
    workflow_task.schedule_if_none(run)
    activity_pause.note_pauses(run)
    run.visibility_changed = True
