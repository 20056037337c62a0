"""Describe the pending workflow task of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.times import set_timestamp

if TYPE_CHECKING:
    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    from whistlestop.history.core.state_pb2 import MutableState


def fill_pending_task(pending: workflow_pb.PendingWorkflowTaskInfo, state: MutableState) -> None:
    """Fill the description of the workflow task that is scheduled or started; the caller checks that one is."""
    task = state.workflow_task
    pending.state = wf_enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    set_timestamp(pending.scheduled_time, task.scheduled_ns)
    set_timestamp(pending.original_scheduled_time, task.original_scheduled_ns or task.scheduled_ns)
    pending.attempt = task.attempt
    if task.started_event_id:
        pending.state = wf_enums.PENDING_WORKFLOW_TASK_STATE_STARTED
        set_timestamp(pending.started_time, task.started_ns)
