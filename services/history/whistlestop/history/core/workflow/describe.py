"""DescribeWorkflowExecution: build the reply from a run's state. Nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.deployments import older_version_string
from whistlestop.history.core.state_pb2 import CallbackInfo
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration, set_timestamp
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID
from whistlestop.history.core.transition.clock import skipped_ns

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity, MutableState, NexusAttempt, NexusOperation

_SIGNAL_OF_THE_START = 2
NEVER_NS = -62135596800 * SECOND_NS
"""The first instant of year 1: Temporal's way to say that a run has no deadline."""


def workflow(
    state: MutableState, *, now_ns: int, signal_backlinks: bool = False
) -> service_pb.DescribeWorkflowExecutionResponse:
    """Return the whole reply. `now_ns` is the server's clock.

    With `signal_backlinks` the requests that signalled the run are included.
    """
    reply = service_pb.DescribeWorkflowExecutionResponse()
    now_ns += skipped_ns(state)
    _fill_config(reply.execution_config, state)
    _fill_info(reply.workflow_execution_info, state)
    _fill_extended(reply.workflow_extended_info, state)
    if signal_backlinks:
        _add_signals(reply.workflow_extended_info, state)
    if state.HasField("time_skipping"):
        time_skipping_state.show(reply.workflow_extended_info.time_skipping_info, state, now_ns)
    for event_id in sorted(state.activities):
        reply.pending_activities.append(pending_activity(state.activities[event_id], now_ns=now_ns))
    for event_id in sorted(state.children):
        child = state.children[event_id]
        pending = reply.pending_children.add(
            workflow_id=child.workflow_id,
            run_id=child.run_id,
            workflow_type_name=child.workflow_type,
            initiated_id=child.initiated_event_id,
        )
        pending.parent_close_policy = child.parent_close_policy  # type: ignore[assignment]
    if state.workflow_task.scheduled_event_id:
        _fill_workflow_task(reply.pending_workflow_task, state)
    for index in range(len(state.completion_callbacks)):
        _add_callback(reply, state, index)
    for event_id in sorted(state.nexus_operations):
        reply.pending_nexus_operations.append(_pending_nexus_operation(state.nexus_operations[event_id]))
    return reply


def _fill_config(config: workflow_pb.WorkflowExecutionConfig, state: MutableState) -> None:
    config.task_queue.name = state.task_queue
    config.task_queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    if state.HasField("execution_timeout_ns"):
        set_duration(config.workflow_execution_timeout, state.execution_timeout_ns)
    if state.HasField("run_timeout_ns"):
        set_duration(config.workflow_run_timeout, state.run_timeout_ns)
    set_duration(config.default_workflow_task_timeout, state.task_timeout_ns)
    if state.HasField("user_metadata"):
        config.user_metadata.CopyFrom(state.user_metadata)


def _add_older_forms(info: workflow_pb.WorkflowExecutionVersioningInfo) -> None:
    """Fill the fields from which older clients read versions; the oldest form is not shown any more."""
    if info.HasField("deployment_version"):
        info.version = older_version_string(info.deployment_version)
    transition = info.version_transition
    if info.HasField("version_transition"):
        moves_to = transition.deployment_version if transition.HasField("deployment_version") else None
        transition.version = older_version_string(moves_to)
    override = info.versioning_override
    if override.HasField("override"):
        override.ClearField("deployment")
    if override.auto_upgrade:
        override.behavior = wf_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE
    elif override.HasField("pinned"):
        override.behavior = wf_enums.VERSIONING_BEHAVIOR_PINNED
        override.pinned_version = older_version_string(override.pinned.version)


def _fill_info(info: workflow_pb.WorkflowExecutionInfo, state: MutableState) -> None:
    info.execution.workflow_id = state.workflow_id
    info.execution.run_id = state.run_id
    info.type.name = state.workflow_type
    set_timestamp(info.start_time, state.start_ns)
    set_timestamp(info.execution_time, state.execution_start_ns)
    info.status = state.status  # type: ignore[assignment]
    info.history_length = state.next_event_id - 1
    info.history_size_bytes = state.history_size_bytes
    info.state_transition_count = state.state_transition_count
    info.task_queue = state.task_queue
    info.first_run_id = state.first_run_id
    info.root_execution.workflow_id = state.root_workflow_id
    info.root_execution.run_id = state.root_run_id
    if state.parent.run_id:
        info.parent_namespace_id = state.parent.namespace_id
        info.parent_execution.workflow_id = state.parent.workflow_id
        info.parent_execution.run_id = state.parent.run_id
    if state.close_ns:
        set_timestamp(info.close_time, state.close_ns)
        set_duration(info.execution_duration, max(state.close_ns - state.execution_start_ns, 0))
    info.memo.SetInParent()
    for key, payload in state.memo.items():
        info.memo.fields[key].CopyFrom(payload)
    info.search_attributes.SetInParent()
    for key, payload in state.search_attributes.items():
        info.search_attributes.indexed_fields[key].CopyFrom(payload)
    info.auto_reset_points.CopyFrom(state.reset_points)
    if state.HasField("most_recent_worker_version_stamp"):
        info.most_recent_worker_version_stamp.CopyFrom(state.most_recent_worker_version_stamp)
    if state.HasField("versioning_info"):
        info.versioning_info.CopyFrom(state.versioning_info)
        _add_older_forms(info.versioning_info)
        if state.initial_versioning_behavior:
            info.versioning_info.continue_as_new_initial_versioning_behavior = (
                state.initial_versioning_behavior  # type: ignore[assignment]
            )
    if state.HasField("priority"):
        info.priority.CopyFrom(state.priority)
    info.worker_deployment_name = state.worker_deployment_name
    info.assigned_build_id = state.assigned_build_id
    info.inherited_build_id = state.inherited_build_id
    info.external_payload_count = state.external_payload_count
    info.external_payload_size_bytes = state.external_payload_size_bytes


def _fill_extended(info: workflow_pb.WorkflowExecutionExtendedInfo, state: MutableState) -> None:
    if state.execution_expiration_ns:
        set_timestamp(info.execution_expiration_time, state.execution_expiration_ns)
    set_timestamp(info.run_expiration_time, state.run_expiration_ns or NEVER_NS)
    set_timestamp(info.original_start_time, state.original_start_ns or state.start_ns)
    info.cancel_requested = state.cancel_requested
    if state.paused:
        info.pause_info.identity = state.pause.identity
        info.pause_info.reason = state.pause.reason
        set_timestamp(info.pause_info.paused_time, state.pause.paused_ns)
    info.reset_run_id = state.reset_run_id
    if state.original_run_id and state.original_run_id != state.run_id:
        set_timestamp(info.last_reset_time, state.start_ns)
    for request_id, known in state.request_ids.items():
        if known.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            continue
        _fill_request(info.request_id_infos[request_id], known.event_type, known.event_id)


def _add_signals(info: workflow_pb.WorkflowExecutionExtendedInfo, state: MutableState) -> None:
    """Add the requests that signalled the run, so that a link to such a request leads to its event."""
    signaled = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    for request_id, known in state.request_ids.items():
        if known.event_type == signaled:
            _fill_request(info.request_id_infos[request_id], signaled, known.event_id)
        elif request_id in state.signal_request_ids and known.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            # Signal-with-start started the run: the signal is its second event.
            _fill_request(info.request_id_infos[request_id], signaled, _SIGNAL_OF_THE_START)


def _fill_request(about: workflow_pb.RequestIdInfo, event_type: int, event_id: int) -> None:
    about.event_type = event_type  # type: ignore[assignment]
    about.buffered = event_id == BUFFERED_EVENT_ID
    if not about.buffered:
        about.event_id = event_id


def _fill_workflow_task(pending: workflow_pb.PendingWorkflowTaskInfo, state: MutableState) -> None:
    task = state.workflow_task
    pending.state = wf_enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    set_timestamp(pending.scheduled_time, task.scheduled_ns)
    set_timestamp(pending.original_scheduled_time, task.original_scheduled_ns or task.scheduled_ns)
    pending.attempt = task.attempt
    if task.started_event_id:
        pending.state = wf_enums.PENDING_WORKFLOW_TASK_STATE_STARTED
        set_timestamp(pending.started_time, task.started_ns)


_CALLBACK_STATES = {
    CallbackInfo.STANDBY: common_enums.CALLBACK_STATE_STANDBY,
    CallbackInfo.SCHEDULED: common_enums.CALLBACK_STATE_SCHEDULED,
    CallbackInfo.BACKING_OFF: common_enums.CALLBACK_STATE_BACKING_OFF,
    CallbackInfo.FAILED: common_enums.CALLBACK_STATE_FAILED,
    CallbackInfo.SUCCEEDED: common_enums.CALLBACK_STATE_SUCCEEDED,
}


def _add_callback(reply: service_pb.DescribeWorkflowExecutionResponse, state: MutableState, index: int) -> None:
    """Add a callback and its state."""
    about = reply.callbacks.add()
    about.callback.CopyFrom(state.completion_callbacks[index])
    if index < len(state.callback_infos) and state.callback_infos[index].update_id:
        about.trigger.update_workflow_execution_completed.update_id = state.callback_infos[index].update_id
    else:
        about.trigger.workflow_closed.SetInParent()
    if index >= len(state.callback_infos):
        # It was attached by a release that did not record more.
        set_timestamp(about.registration_time, state.start_ns)
        about.state = common_enums.CALLBACK_STATE_STANDBY
        return
    info = state.callback_infos[index]
    set_timestamp(about.registration_time, info.registered_ns)
    about.state = _CALLBACK_STATES[info.state]
    about.attempt = info.attempt
    if info.last_complete_ns:
        set_timestamp(about.last_attempt_complete_time, info.last_complete_ns)
    if info.HasField("last_failure"):
        about.last_attempt_failure.CopyFrom(info.last_failure)
    if info.next_attempt_ns:
        set_timestamp(about.next_attempt_schedule_time, info.next_attempt_ns)


def _pending_nexus_operation(operation: NexusOperation) -> workflow_pb.PendingNexusOperationInfo:
    """Return one operation that is scheduled, backing off or started."""
    info = workflow_pb.PendingNexusOperationInfo(
        endpoint=operation.endpoint,
        service=operation.service,
        operation=operation.operation,
        operation_id=operation.operation_token,
        operation_token=operation.operation_token,
        scheduled_event_id=operation.scheduled_event_id,
        attempt=operation.start.attempt,
        state=common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED,
    )
    set_timestamp(info.scheduled_time, operation.scheduled_ns)
    for name in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout"):
        timeout_ns = getattr(operation, f"{name}_ns")
        if timeout_ns:
            set_duration(getattr(info, name), timeout_ns)
    if operation.started_ns:
        info.state = common_enums.PENDING_NEXUS_OPERATION_STATE_STARTED
    elif operation.start.next_attempt_ns:
        info.state = common_enums.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF
    _fill_attempt(info, operation.start)
    if operation.cancel_requested_event_id:
        _fill_cancellation(info.cancellation_info, operation)
    return info


def _fill_attempt(
    info: workflow_pb.PendingNexusOperationInfo | workflow_pb.NexusOperationCancellationInfo, attempt: NexusAttempt
) -> None:
    info.attempt = attempt.attempt
    if attempt.last_complete_ns:
        set_timestamp(info.last_attempt_complete_time, attempt.last_complete_ns)
    if attempt.HasField("last_failure"):
        info.last_attempt_failure.CopyFrom(attempt.last_failure)
    if attempt.next_attempt_ns:
        set_timestamp(info.next_attempt_schedule_time, attempt.next_attempt_ns)


def _fill_cancellation(info: workflow_pb.NexusOperationCancellationInfo, operation: NexusOperation) -> None:
    info.SetInParent()
    if not operation.cancel_requested_ns:
        return
    set_timestamp(info.requested_time, operation.cancel_requested_ns)
    attempt = operation.cancel
    info.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED
    if attempt.failed:
        info.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED
    elif attempt.over:
        info.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    elif attempt.next_attempt_ns:
        info.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF
    _fill_attempt(info, attempt)


def _activity_state(activity: Activity) -> wf_enums.PendingActivityState.ValueType:
    started = activity.started_ns != 0
    if activity.cancel_requested:
        return wf_enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.paused:
        return wf_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED if started else wf_enums.PENDING_ACTIVITY_STATE_PAUSED
    return wf_enums.PENDING_ACTIVITY_STATE_STARTED if started else wf_enums.PENDING_ACTIVITY_STATE_SCHEDULED


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
