"""Apply the events of child workflows to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _child_initiated(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.start_child_workflow_execution_initiated_event_attributes
    child = state.children[event.event_id]
    child.initiated_event_id = event.event_id
    child.initiated_event_batch_id = batch_id
    child.namespace = a.namespace
    child.namespace_id = a.namespace_id
    child.workflow_id = a.workflow_id
    child.workflow_type = a.workflow_type.name
    child.parent_close_policy = a.parent_close_policy
    # Derived, so that a rebuild gives the same id: one start per initiated event.
    child.request_id = f"{state.run_id}:{event.event_id}:0"
    if a.HasField("priority"):
        child.priority.CopyFrom(a.priority)


def _child_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.child_workflow_execution_started_event_attributes
    child = state.children[a.initiated_event_id]
    child.started_event_id = event.event_id
    child.run_id = a.workflow_execution.run_id


def _child_over(field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.children.pop(getattr(event, field).initiated_event_id, None)

    return applier


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: _child_initiated,
    et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _child_over(
        "start_child_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_started,
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_over(
        "child_workflow_execution_completed_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_over("child_workflow_execution_failed_event_attributes"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_over("child_workflow_execution_canceled_event_attributes"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_over(
        "child_workflow_execution_timed_out_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_over(
        "child_workflow_execution_terminated_event_attributes"
    ),
}
