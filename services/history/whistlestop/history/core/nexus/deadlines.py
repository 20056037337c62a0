"""The deadlines of a Nexus operation. All times are nanoseconds by the run's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import NexusOperation


def timeouts(operation: NexusOperation) -> list[tuple[int, wf_enums.TimeoutType.ValueType]]:
    """Return the operation's own timeouts that apply now, as (time, timeout type).

    Times are in nanoseconds since the Unix epoch. Times are nanoseconds by the run's clock; the list is empty when none
    applies.
    """
    found = []
    if operation.schedule_to_close_timeout_ns:
        deadline_ns = operation.scheduled_ns + operation.schedule_to_close_timeout_ns
        found.append((deadline_ns, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE))
    if operation.started_ns:
        if operation.start_to_close_timeout_ns:
            deadline_ns = operation.started_ns + operation.start_to_close_timeout_ns
            found.append((deadline_ns, wf_enums.TIMEOUT_TYPE_START_TO_CLOSE))
    elif operation.schedule_to_start_timeout_ns:
        deadline_ns = operation.scheduled_ns + operation.schedule_to_start_timeout_ns
        found.append((deadline_ns, wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START))
    return found


def next_deadline(operation: NexusOperation) -> int:
    """Return the earliest deadline in nanoseconds since the Unix epoch, also of its attempts; 0 for none."""
    found = [deadline_ns for deadline_ns, _ in timeouts(operation)]
    for attempt in (operation.start, operation.cancel):
        found += [deadline_ns for deadline_ns in (attempt.deadline_ns, attempt.next_attempt_ns) if deadline_ns]
    return min(found, default=0)
