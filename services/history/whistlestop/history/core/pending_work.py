"""What of a run is under way, for whoever skips time only while nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.activity import standalone as activity_execution
from whistlestop.history.core.transition.run import RUNNING

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState


def activities_under_way(state: MutableState) -> int:
    """Return the number of activities that are dispatched or started."""
    if state.status != RUNNING:
        return 0
    if state.HasField("activity_execution"):
        return int(activity_execution.is_under_way(state))
    return sum(not activity.paused and not activity.next_attempt_ns for activity in state.activities.values())


def other_work(state: MutableState) -> bool:
    """Return whether a workflow task, a request to another run, or a Nexus request is pending."""
    if state.status != RUNNING:
        return False
    if state.workflow_task.scheduled_event_id or state.external_signals or state.external_cancels:
        return True
    return any(
        operation.start.deadline_ns or operation.cancel.deadline_ns for operation in state.nexus_operations.values()
    )
