"""Apply the events of a workflow execution as a whole to its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.callback.state import add_callbacks, add_update_callbacks
from whistlestop.history.core.payload_maps import merge_payloads
from whistlestop.history.core.signal.state import note_request
from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition.apply import FIRST_TASK_ID
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import state as versioning_state

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_started_event_attributes
    state.task_id_offset = max(event.task_id - FIRST_TASK_ID - event.event_id, 0)
    state.workflow_type = a.workflow_type.name
    state.task_queue = a.task_queue.name
    state.first_run_id = a.first_execution_run_id
    state.original_run_id = a.original_execution_run_id
    state.continued_run_id = a.continued_execution_run_id
    if a.HasField("workflow_run_timeout"):
        state.run_timeout_ns = duration_ns(a.workflow_run_timeout)
    if a.HasField("workflow_execution_timeout"):
        state.execution_timeout_ns = duration_ns(a.workflow_execution_timeout)
    state.task_timeout_ns = duration_ns(a.workflow_task_timeout)
    state.attempt = a.attempt
    state.cron_schedule = a.cron_schedule
    state.original_start_ns = timestamp_ns(event.event_time)
    # A run created by reset shares its first event with its base but starts at the reset; the rebuilding code sets
    # that.
    state.start_ns = state.start_ns or state.original_start_ns
    backoff_ns = duration_ns(a.first_workflow_task_backoff)
    state.execution_start_ns = state.start_ns + backoff_ns
    if state.run_timeout_ns:
        state.run_expiration_ns = state.execution_start_ns + state.run_timeout_ns
    if a.HasField("workflow_execution_expiration_time"):
        state.execution_expiration_ns = timestamp_ns(a.workflow_execution_expiration_time)
        state.run_expiration_ns = min(state.run_expiration_ns, state.execution_expiration_ns)
    if a.HasField("retry_policy"):
        state.retry_policy.CopyFrom(a.retry_policy)
    if a.HasField("priority"):
        state.priority.CopyFrom(a.priority)
    if event.HasField("user_metadata"):
        state.user_metadata.CopyFrom(event.user_metadata)
    if a.HasField("parent_workflow_execution"):
        parent = state.parent
        parent.namespace = a.parent_workflow_namespace
        parent.namespace_id = a.parent_workflow_namespace_id
        parent.workflow_id = a.parent_workflow_execution.workflow_id
        parent.run_id = a.parent_workflow_execution.run_id
        parent.initiated_event_id = a.parent_initiated_event_id
    state.root_workflow_id = a.root_workflow_execution.workflow_id or state.workflow_id
    state.root_run_id = a.root_workflow_execution.run_id or state.run_id
    for key, payload in a.memo.fields.items():
        state.memo[key].CopyFrom(payload)
    for key, payload in a.search_attributes.indexed_fields.items():
        state.search_attributes[key].CopyFrom(payload)
    if a.HasField("prev_auto_reset_points"):
        state.reset_points.CopyFrom(a.prev_auto_reset_points)
    if a.completion_callbacks:
        add_callbacks(state, a.completion_callbacks, state.start_ns)
    if a.HasField("versioning_override"):
        state.versioning_info.versioning_override.CopyFrom(a.versioning_override)
    versioning_state.note_start(state, a)
    build_ids.note_start(state, a)
    time_skipping_state.note_start(state, a, event)
    state.status = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
    state.workflow_task.attempt = 1


def _closed(status: int) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.status = status
        state.close_ns = timestamp_ns(event.event_time)
        state.close_event_batch_id = batch_id
        state.sticky_task_queue = ""
        attributes = getattr(event, event.WhichOneof("attributes") or "")
        state.new_run_id = getattr(attributes, "new_execution_run_id", "")

    return applier


def _cancel_requested(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    state.cancel_requested = True


def _upserted_search_attributes(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.upsert_workflow_search_attributes_event_attributes
    merge_payloads(state.search_attributes, a.search_attributes.indexed_fields)


def _modified_properties(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    merge_payloads(state.memo, event.workflow_properties_modified_event_attributes.upserted_memo.fields)


def _options_updated(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_options_updated_event_attributes
    if a.attached_request_id:
        note_request(state, a.attached_request_id, event)
    if a.attached_completion_callbacks:
        registered_ns = timestamp_ns(event.event_time)
        add_callbacks(state, a.attached_completion_callbacks, registered_ns, a.attached_request_id)
    for attached in a.workflow_update_options:
        add_update_callbacks(
            state, event, attached.update_id, attached.attached_request_id, attached.attached_completion_callbacks
        )
    if a.unset_versioning_override:
        if state.HasField("versioning_info"):
            state.versioning_info.ClearField("versioning_override")
            versioning_state.index_override(state)
    elif a.HasField("versioning_override"):
        state.versioning_info.versioning_override.CopyFrom(a.versioning_override)
        versioning_state.index_override(state)
    if a.HasField("priority"):
        state.priority.CopyFrom(a.priority)
    time_skipping_state.note_options(state, a, event)


def _paused(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_paused_event_attributes
    state.status = wf_enums.WORKFLOW_EXECUTION_STATUS_PAUSED
    state.paused = True
    state.pause.paused_ns = event.event_time.ToNanoseconds()
    state.pause.identity = a.identity
    state.pause.reason = a.reason
    state.pause.request_id = a.request_id


def _unpaused(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    state.status = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
    state.paused = False
    state.ClearField("pause")
    state.unpause_request_id = event.workflow_execution_unpaused_event_attributes.request_id


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: _started,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_CANCELED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED: _paused,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED: _unpaused,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _options_updated,
    et.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: _upserted_search_attributes,
    et.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: _modified_properties,
}
