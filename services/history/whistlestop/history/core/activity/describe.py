"""Describe a pending activity of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from whistlestop.history.core.times import duration_ns, set_duration, set_timestamp

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity


def pending_activity(activity: Activity, *, now_ns: int) -> workflow_pb.PendingActivityInfo:
    """Return one activity that is scheduled, started, or waiting for its next attempt."""
    info = workflow_pb.PendingActivityInfo(activity_id=activity.activity_id, state=_activity_state(activity))
    info.activity_type.name = activity.activity_type
    info.attempt = max(activity.attempt, 1) if activity.has_retry_policy else 1
    info.paused = activity.paused
    if activity.follows_assigned_build_id:
        info.use_workflow_build_id.SetInParent()
    elif activity.last_build_id:
        info.last_independently_assigned_build_id = activity.last_build_id
    if activity.HasField("priority"):
        info.priority.CopyFrom(activity.priority)
    if activity.HasField("last_deployment_version"):
        info.last_deployment_version.CopyFrom(activity.last_deployment_version)
    set_timestamp(info.scheduled_time, activity.next_attempt_ns or activity.scheduled_ns)
    if activity.started_ns:
        set_timestamp(info.last_started_time, activity.started_ns)
    if activity.last_attempt_complete_ns:
        set_timestamp(info.last_attempt_complete_time, activity.last_attempt_complete_ns)
    if activity.last_heartbeat_ns:
        set_timestamp(info.last_heartbeat_time, activity.last_heartbeat_ns)
        info.heartbeat_details.CopyFrom(activity.heartbeat_details)
    info.last_worker_identity = activity.started_identity
    if activity.has_retry_policy:
        _fill_retry(info, activity, now_ns)
    if activity.paused:
        set_timestamp(info.pause_info.pause_time, activity.paused_ns)
        if activity.pause_rule:
            info.pause_info.rule.rule_id = activity.pause_rule
        else:
            info.pause_info.manual.identity = activity.pause_identity
            info.pause_info.manual.reason = activity.pause_reason
    _fill_options(info, activity)
    return info


def _activity_state(activity: Activity) -> wf_enums.PendingActivityState.ValueType:
    started = activity.started_ns != 0
    if activity.cancel_requested:
        return wf_enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.paused:
        return wf_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED if started else wf_enums.PENDING_ACTIVITY_STATE_PAUSED
    return wf_enums.PENDING_ACTIVITY_STATE_STARTED if started else wf_enums.PENDING_ACTIVITY_STATE_SCHEDULED


def _fill_retry(info: workflow_pb.PendingActivityInfo, activity: Activity, now_ns: int) -> None:
    info.maximum_attempts = activity.retry_policy.maximum_attempts
    if activity.schedule_to_close_timeout_ns:
        set_timestamp(info.expiration_time, activity.first_scheduled_ns + activity.schedule_to_close_timeout_ns)
    if activity.HasField("last_failure"):
        info.last_failure.CopyFrom(activity.last_failure)
    if not info.last_worker_identity:
        info.last_worker_identity = activity.last_worker_identity
    waiting = info.state == wf_enums.PENDING_ACTIVITY_STATE_SCHEDULED and activity.next_attempt_ns > now_ns
    if waiting:
        set_timestamp(info.next_attempt_schedule_time, activity.next_attempt_ns)
        set_duration(info.current_retry_interval, activity.next_attempt_ns - activity.last_attempt_complete_ns)


def _fill_options(info: workflow_pb.PendingActivityInfo, activity: Activity) -> None:
    options = info.activity_options
    options.task_queue.name = activity.task_queue
    options.task_queue.normal_name = activity.task_queue
    set_duration(options.schedule_to_close_timeout, activity.schedule_to_close_timeout_ns)
    set_duration(options.schedule_to_start_timeout, activity.schedule_to_start_timeout_ns)
    set_duration(options.start_to_close_timeout, activity.start_to_close_timeout_ns)
    set_duration(options.heartbeat_timeout, activity.heartbeat_timeout_ns)
    policy = activity.retry_policy
    options.retry_policy.backoff_coefficient = policy.backoff_coefficient
    options.retry_policy.maximum_attempts = policy.maximum_attempts
    set_duration(options.retry_policy.initial_interval, duration_ns(policy.initial_interval))
    set_duration(options.retry_policy.maximum_interval, duration_ns(policy.maximum_interval))
    if activity.HasField("priority"):
        options.priority.CopyFrom(activity.priority)
