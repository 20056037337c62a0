"""Describe a workflow execution itself, without what is pending in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.versioning.deployments import older_version_string
from whistlestop.history.core.times import SECOND_NS, set_duration, set_timestamp
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID

if TYPE_CHECKING:
    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    from whistlestop.history.core.state_pb2 import MutableState

_SIGNAL_OF_THE_START = 2
NEVER_NS = -62135596800 * SECOND_NS
"""The first instant of year 1: Temporal's way to say that a run has no deadline."""


def fill_config(config: workflow_pb.WorkflowExecutionConfig, state: MutableState) -> None:
    """Fill the configuration with which the run was started."""
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


def fill_info(info: workflow_pb.WorkflowExecutionInfo, state: MutableState) -> None:
    """Fill what lists show as well, and the sizes of the run."""
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


def fill_extended(info: workflow_pb.WorkflowExecutionExtendedInfo, state: MutableState) -> None:
    """Fill the deadlines of the run, its requests, and whether it is paused or was reset."""
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


def add_signals(info: workflow_pb.WorkflowExecutionExtendedInfo, state: MutableState) -> None:
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
