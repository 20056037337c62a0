"""The deadlines of a Nexus operation. All times are nanoseconds by the run's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import NexusOperation


def timeouts(operation: NexusOperation) -> list[tuple[int, wf_enums.TimeoutType.ValueType]]:
    """Return the operation's own timeouts that apply now, as (time, timeout type)."""
    found = []
    if operation.schedule_to_close_timeout_ns:
        due_ns = operation.scheduled_ns + operation.schedule_to_close_timeout_ns
        found.append((due_ns, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE))
    if operation.started_ns:
        if operation.start_to_close_timeout_ns:
            due_ns = operation.started_ns + operation.start_to_close_timeout_ns
            found.append((due_ns, wf_enums.TIMEOUT_TYPE_START_TO_CLOSE))
    elif operation.schedule_to_start_timeout_ns:
        due_ns = operation.scheduled_ns + operation.schedule_to_start_timeout_ns
        found.append((due_ns, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START))
    return found


def next_deadline(operation: NexusOperation) -> int:
    """Return the earliest deadline, including those of its attempts; 0 for none."""
    dues = [due_ns for due_ns, _ in timeouts(operation)]
    for attempt in (operation.start, operation.cancel):
        dues += [due_ns for due_ns in (attempt.deadline_ns, attempt.retry_due_ns) if due_ns]
    return min(dues, default=0)
