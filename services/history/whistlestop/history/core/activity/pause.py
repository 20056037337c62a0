"""Pause an activity, for an operator or a rule, and show paused activities in lists."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

PAUSE_INFO = "TemporalPauseInfo"


def is_waiting(activity: Activity) -> bool:
    """Return whether the activity is waiting for a worker and not being cancelled."""
    return not activity.started_ns and not activity.cancel_requested


def set_paused(run: Run, activity: Activity) -> None:
    """Stop dispatching attempts until the activity is unpaused. An attempt that a worker has stays with it."""
    if is_waiting(activity):
        run.drop_task(activity.row)
        activity.stamp += 1
    activity.paused = True
    activity.paused_ns = run.now_ns
    run.changed = True


def note_pauses(run: Run) -> None:
    """Update the search attribute by which lists find runs that are paused or have paused activities."""
    types = sorted({activity.activity_type for activity in run.state.activities.values() if activity.paused})
    values = []
    if run.state.paused:
        values = [f"Workflow:{run.state.workflow_id}"]
        if run.state.pause.reason:
            values.append(f"Reason:{run.state.pause.reason}")
    values += [f"property:activityType={name}" for name in types]
    payload = common_pb.Payload(
        metadata={"encoding": b"json/plain", "type": b"KeywordList"},
        data=json.dumps(values, separators=(",", ":")).encode(),
    )
    attributes = run.state.search_attributes
    if not values:
        if PAUSE_INFO in attributes:
            del attributes[PAUSE_INFO]
            run.visibility_changed = run.changed = True
    elif PAUSE_INFO not in attributes or attributes[PAUSE_INFO] != payload:
        attributes[PAUSE_INFO].CopyFrom(payload)
        run.visibility_changed = run.changed = True
