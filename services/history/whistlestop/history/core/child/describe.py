"""Describe a pending child workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Child


def pending_child(child: Child) -> workflow_pb.PendingChildExecutionInfo:
    """Return a child that is initiated or started; `run_id` is empty until it is started."""
    pending = workflow_pb.PendingChildExecutionInfo(
        workflow_id=child.workflow_id,
        run_id=child.run_id,
        workflow_type_name=child.workflow_type,
        initiated_id=child.initiated_event_id,
    )
    pending.parent_close_policy = child.parent_close_policy  # type: ignore[assignment]
    return pending
