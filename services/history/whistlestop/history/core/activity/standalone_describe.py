"""A standalone activity as DescribeActivityExecution and PollActivityExecution return it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import activity_pb2 as enums
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.activity import standalone as core
from whistlestop.history.core.activity.machine import TERMINAL, A
from whistlestop.history.core.state_pb2 import CallbackInfo
from whistlestop.history.core.times import set_duration, set_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import ActivityExecution, MutableState

OWN_ATTRIBUTES = frozenset({"TemporalNamespaceDivision", "BuildIds", "BinaryChecksums"})
_ENDS = {
    A.COMPLETED: enums.ACTIVITY_EXECUTION_STATUS_COMPLETED,
    A.FAILED: enums.ACTIVITY_EXECUTION_STATUS_FAILED,
    A.CANCELED: enums.ACTIVITY_EXECUTION_STATUS_CANCELED,
    A.TERMINATED: enums.ACTIVITY_EXECUTION_STATUS_TERMINATED,
    A.TIMED_OUT: enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT,
    A.PAUSED: enums.ACTIVITY_EXECUTION_STATUS_PAUSED,
}
_RUN_STATES = {
    A.SCHEDULED: wf_enums.PENDING_ACTIVITY_STATE_SCHEDULED,
    A.STARTED: wf_enums.PENDING_ACTIVITY_STATE_STARTED,
    A.CANCEL_REQUESTED: wf_enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED,
    A.PAUSED: wf_enums.PENDING_ACTIVITY_STATE_PAUSED,
    A.PAUSE_REQUESTED: wf_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED,
    A.RESET_REQUESTED: wf_enums.PENDING_ACTIVITY_STATE_STARTED,
}
_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")


def info(
    state: MutableState,
    first: history_pb.HistoryEvent,
    now_ns: int,
    *,
    with_heartbeat_details: bool = False,
    with_last_failure: bool = False,
) -> activity_pb.ActivityExecutionInfo:
    """Return everything about the activity; `first` is the run's first event."""
    activity = state.activity_execution
    started = first.workflow_execution_started_event_attributes
    description = activity_pb.ActivityExecutionInfo(
        activity_id=activity.activity_id,
        run_id=state.run_id,
        activity_type=common_pb.ActivityType(name=state.workflow_type),
        status=_ENDS.get(activity.status, enums.ACTIVITY_EXECUTION_STATUS_RUNNING),
        run_state=_run_state(activity),
        task_queue=activity.options.task_queue.name,
        attempt=activity.attempt,
        last_worker_identity=activity.last_worker_identity,
        canceled_reason=activity.cancel_reason,
        total_heartbeat_count=activity.heartbeat_count,
        sdk_name=activity.sdk_name,
        sdk_version=activity.sdk_version,
        state_transition_count=state.state_transition_count,
        state_size_bytes=state.ByteSize(),
        links=[*first.links, *activity.links],
    )
    for field in (*_TIMEOUTS, "retry_policy", "priority", "start_delay"):
        if activity.options.HasField(field):  # type: ignore[arg-type]
            getattr(description, field).CopyFrom(getattr(activity.options, field))
    if started.HasField("header"):
        description.header.CopyFrom(started.header)
    if first.HasField("user_metadata"):
        description.user_metadata.CopyFrom(first.user_metadata)
    if activity.HasField("last_deployment_version"):
        description.last_deployment_version.CopyFrom(activity.last_deployment_version)
    description.search_attributes.SetInParent()
    for name, payload in state.search_attributes.items():
        if name not in OWN_ATTRIBUTES:
            description.search_attributes.indexed_fields[name].CopyFrom(payload)
    if with_heartbeat_details and activity.HasField("heartbeat_details"):
        description.heartbeat_details.CopyFrom(activity.heartbeat_details)
    if with_last_failure and activity.HasField("last_failure"):
        description.last_failure.CopyFrom(activity.last_failure)
    _add_times(description, state, now_ns)
    return description


def _run_state(activity: ActivityExecution) -> wf_enums.PendingActivityState.ValueType:
    if activity.status == A.RESET_REQUESTED and activity.reset_keeps_paused:
        return wf_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
    return _RUN_STATES.get(activity.status, wf_enums.PENDING_ACTIVITY_STATE_UNSPECIFIED)


def _add_times(description: activity_pb.ActivityExecutionInfo, state: MutableState, now_ns: int) -> None:
    activity = state.activity_execution
    set_timestamp(description.schedule_time, state.start_ns)
    set_timestamp(description.execution_time, core.first_dispatch_ns(state))
    for target, instant_ns in (
        (description.expiration_time, core.close_deadline_ns(state)),
        (description.last_started_time, activity.started_ns),
        (description.last_attempt_complete_time, activity.last_attempt_complete_ns),
        (description.last_heartbeat_time, activity.last_heartbeat_ns),
    ):
        if instant_ns:
            set_timestamp(target, instant_ns)
    if activity.status in TERMINAL:
        set_timestamp(description.close_time, state.close_ns)
        set_duration(description.execution_duration, state.close_ns - state.start_ns)
    elif activity.status == A.SCHEDULED and activity.dispatch_ns > now_ns:
        set_timestamp(description.next_attempt_schedule_time, activity.dispatch_ns)
        if activity.retry_interval_ns:
            set_duration(description.current_retry_interval, activity.retry_interval_ns)


def callbacks(state: MutableState) -> Iterator[activity_pb.CallbackInfo]:
    """Yield the callbacks that are called when the activity ends, and the state of each."""
    for callback, info in zip(state.completion_callbacks, state.callback_infos, strict=False):
        described = activity_pb.CallbackInfo()
        described.trigger.activity_closed.SetInParent()
        described.info.callback.CopyFrom(callback)
        set_timestamp(described.info.registration_time, info.registered_ns)
        described.info.state = common_enums.CallbackState.Value(f"CALLBACK_STATE_{CallbackInfo.State.Name(info.state)}")
        described.info.attempt = info.attempt
        if info.last_complete_ns:
            set_timestamp(described.info.last_attempt_complete_time, info.last_complete_ns)
        if info.HasField("last_failure"):
            described.info.last_attempt_failure.CopyFrom(info.last_failure)
        if info.next_attempt_ns:
            set_timestamp(described.info.next_attempt_schedule_time, info.next_attempt_ns)
        yield described


def outcome(activity: ActivityExecution) -> activity_pb.ActivityExecutionOutcome | None:
    """Return how the activity ended; None while it is running."""
    if activity.status not in TERMINAL:
        return None
    described = activity_pb.ActivityExecutionOutcome()
    if activity.status == A.COMPLETED:
        described.result.CopyFrom(activity.result)
        return described
    described.failure.CopyFrom(activity.failure if activity.HasField("failure") else activity.last_failure)
    described.retry_state = activity.retry_state  # type: ignore[assignment]
    return described
