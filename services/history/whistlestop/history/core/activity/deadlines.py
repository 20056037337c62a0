"""The deadlines of an activity: its four timeouts and its next attempt.

All times are nanoseconds by the run's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity

SCHEDULE_TO_CLOSE = int(wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)
SCHEDULE_TO_START = int(wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START)
START_TO_CLOSE = int(wf_enums.TIMEOUT_TYPE_START_TO_CLOSE)
HEARTBEAT = int(wf_enums.TIMEOUT_TYPE_HEARTBEAT)


def close_deadline(activity: Activity) -> int:
    """Return the deadline of all attempts together, in nanoseconds since the Unix epoch; 0 for none."""
    span_ns = activity.schedule_to_close_timeout_ns
    return activity.first_scheduled_ns + span_ns if span_ns else 0


def deadlines(activity: Activity) -> list[tuple[int, int]]:
    """Return the deadlines of the activity's timeouts, as (time, timeout type). A paused activity has none.

    Times are in nanoseconds since the Unix epoch.
    """
    if activity.paused:
        return []
    found = []
    close_ns = close_deadline(activity)
    if close_ns:
        found.append((close_ns, SCHEDULE_TO_CLOSE))
    started_ns = activity.started_ns
    if not started_ns:
        if activity.schedule_to_start_timeout_ns:
            # While the next attempt is waiting for its back-off, `scheduled_ns` is in the future.
            found.append((activity.scheduled_ns + activity.schedule_to_start_timeout_ns, SCHEDULE_TO_START))
        return found
    if activity.start_to_close_timeout_ns:
        found.append((started_ns + activity.start_to_close_timeout_ns, START_TO_CLOSE))
    if activity.heartbeat_timeout_ns:
        found.append((max(started_ns, activity.last_heartbeat_ns) + activity.heartbeat_timeout_ns, HEARTBEAT))
    return found


def next_deadline(activity: Activity) -> int:
    """Return the time of the first timeout or the next attempt, whichever is earlier; 0 for neither.

    It is in nanoseconds since the Unix epoch.
    """
    deadline_ns = min((each_ns for each_ns, _ in deadlines(activity)), default=0)
    if activity.next_attempt_ns and not activity.paused:
        return min(deadline_ns, activity.next_attempt_ns) if deadline_ns else activity.next_attempt_ns
    return deadline_ns
