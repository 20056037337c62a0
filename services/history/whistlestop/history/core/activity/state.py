"""Apply the events of activities to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.history.core.versioning import build_ids

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _activity_scheduled(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.activity_task_scheduled_event_attributes
    activity = state.activities[event.event_id]
    activity.scheduled_event_id = event.event_id
    activity.scheduled_event_batch_id = batch_id
    activity.activity_id = a.activity_id
    activity.activity_type = a.activity_type.name
    activity.task_queue = a.task_queue.name
    activity.schedule_to_close_timeout_ns = duration_ns(a.schedule_to_close_timeout)
    activity.schedule_to_start_timeout_ns = duration_ns(a.schedule_to_start_timeout)
    activity.start_to_close_timeout_ns = duration_ns(a.start_to_close_timeout)
    activity.heartbeat_timeout_ns = duration_ns(a.heartbeat_timeout)
    if a.HasField("retry_policy"):
        activity.retry_policy.CopyFrom(a.retry_policy)
        activity.has_retry_policy = True
    if a.HasField("priority"):
        activity.priority.CopyFrom(a.priority)
    activity.use_workflow_build_id = a.use_workflow_build_id
    activity.follows_assigned_build_id = a.use_workflow_build_id and bool(state.assigned_build_id)
    activity.first_scheduled_ns = timestamp_ns(event.event_time)
    activity.scheduled_ns = activity.first_scheduled_ns
    activity.attempt = 1


def _activity_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.activity_task_started_event_attributes
    activity = state.activities[a.scheduled_event_id]
    activity.started_event_id = event.event_id
    activity.started_ns = activity.started_ns or timestamp_ns(event.event_time)
    activity.attempt = a.attempt
    build_id = build_ids.stamped(a.worker_version)
    if build_id and activity.follows_assigned_build_id:
        build_ids.redirect(state, build_id, a.build_id_redirect_counter)


def _activity_cancel_requested(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.activity_task_cancel_requested_event_attributes
    if a.scheduled_event_id not in state.activities:
        # The activity ended while the worker was requesting this; the event of its end follows.
        return
    activity = state.activities[a.scheduled_event_id]
    activity.cancel_requested = True
    activity.cancel_request_event_id = event.event_id


def _activity_over(field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.activities.pop(getattr(event, field).scheduled_event_id, None)

    return applier


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: _activity_scheduled,
    et.EVENT_TYPE_ACTIVITY_TASK_STARTED: _activity_started,
    et.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: _activity_cancel_requested,
    et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _activity_over("activity_task_completed_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_FAILED: _activity_over("activity_task_failed_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _activity_over("activity_task_timed_out_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _activity_over("activity_task_canceled_event_attributes"),
}
