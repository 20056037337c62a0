"""The only place where an event changes state.

Rules: an applier reads the event and the state, and writes the state. It decides nothing, checks nothing and has no
other effect, so a mutable state can be rebuilt by applying a run's history to an empty one: *rebuilt == stored*, except
for the fields that history does not carry. `APPLIERS` has every event type that changes state.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.nexus import state as nexus_apply
from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.history.core.timeskip import state as time_skipping_apply
from whistlestop.history.core.versioning import build_ids, reset_points
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState, Update

BUFFERED_EVENT_ID: Final = -123
"""The id of a buffered event, which has none yet (Temporal's number)."""


def apply_event(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    """Change `state` as `event` says. `batch_id` is the first event id of the event's batch (0 while buffered)."""
    applier = APPLIERS.get(event.event_type)
    if applier is not None:
        applier(state, event, batch_id)


# ---- the workflow itself --------------------------------------------------------------------------------------------


FIRST_TASK_ID = 1 << 20
"""The `task_id`s of events begin here, as Temporal's do; SDKs only compare them. They continue from run to run of a
chain."""


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
        nexus_apply.add_callbacks(state, a.completion_callbacks, state.start_ns)
    if a.HasField("versioning_override"):
        state.versioning_info.versioning_override.CopyFrom(a.versioning_override)
    versioning.note_start(state, a)
    build_ids.note_start(state, a)
    time_skipping_apply.note_start(state, a, event)
    state.status = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
    state.workflow_task.attempt = 1


def _closed(status: int) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
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


def _signaled(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    state.signal_count += 1
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if not request_id:
        return
    if request_id in state.request_ids and state.request_ids[request_id].event_type != event.event_type:
        # The request also started the run or was attached to it, and its id is recorded for that.
        state.signal_request_ids.append(request_id)
    else:
        _note_request(state, request_id, event)


def _note_request(state: MutableState, request_id: str, event: history_pb.HistoryEvent) -> None:
    info = state.request_ids[request_id]
    info.event_type = event.event_type
    info.event_id = event.event_id


def _upserted_search_attributes(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.upsert_workflow_search_attributes_event_attributes
    merge_payloads(state.search_attributes, a.search_attributes.indexed_fields)


def _modified_properties(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    merge_payloads(state.memo, event.workflow_properties_modified_event_attributes.upserted_memo.fields)


def derived_uuid(run_id: str, event_id: int) -> str:
    """Return an id for what an event requests of another execution; it is derived, so that a rebuild gives the same."""
    digest = hashlib.blake2b(f"{run_id}:{event_id}".encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def is_null_payload(payload: Message) -> bool:
    """Return whether an upsert of this value deletes the key: it is empty or encodes null or an empty list."""
    data: bytes = payload.data  # type: ignore[attr-defined]
    encoding: bytes = payload.metadata.get("encoding", b"")  # type: ignore[attr-defined]
    return encoding == b"binary/null" or not data or (encoding == b"json/plain" and data in (b"null", b"[]"))


def merge_payloads(target: object, changes: object) -> None:
    """Merge a map of payloads into another; a null payload removes its key."""
    for key, payload in changes.items():  # type: ignore[attr-defined]
        if is_null_payload(payload):
            target.pop(key, None)  # type: ignore[attr-defined]
        else:
            target[key].CopyFrom(payload)  # type: ignore[index]


def _options_updated(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_options_updated_event_attributes
    if a.attached_request_id:
        _note_request(state, a.attached_request_id, event)
    if a.attached_completion_callbacks:
        registered_ns = timestamp_ns(event.event_time)
        nexus_apply.add_callbacks(state, a.attached_completion_callbacks, registered_ns, a.attached_request_id)
    for attached in a.workflow_update_options:
        nexus_apply.add_update_callbacks(
            state, event, attached.update_id, attached.attached_request_id, attached.attached_completion_callbacks
        )
    if a.unset_versioning_override:
        if state.HasField("versioning_info"):
            state.versioning_info.ClearField("versioning_override")
            versioning.index_override(state)
    elif a.HasField("versioning_override"):
        state.versioning_info.versioning_override.CopyFrom(a.versioning_override)
        versioning.index_override(state)
    if a.HasField("priority"):
        state.priority.CopyFrom(a.priority)
    time_skipping_apply.note_options(state, a, event)


# ---- workflow tasks -------------------------------------------------------------------------------------------------


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


def _workflow_task_scheduled(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_task_scheduled_event_attributes
    task = state.workflow_task
    task.scheduled_event_id = event.event_id
    task.started_event_id = 0
    task.attempt = a.attempt
    task.timeout_ns = duration_ns(a.start_to_close_timeout)
    task.scheduled_ns = timestamp_ns(event.event_time)
    task.task_queue = a.task_queue.name
    task.write_events = True
    task.started_event_written = False
    task.started_ns = 0
    state.first_workflow_task_backoff_until_ns = 0


def _workflow_task_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_task_started_event_attributes
    task = state.workflow_task
    task.started_event_id = event.event_id
    task.request_id = a.request_id
    task.started_ns = timestamp_ns(event.event_time)
    task.identity = a.identity
    task.suggest_continue_as_new = a.suggest_continue_as_new
    del task.suggest_continue_as_new_reasons[:]
    task.suggest_continue_as_new_reasons.extend(a.suggest_continue_as_new_reasons)
    task.history_size_bytes = a.history_size_bytes
    task.started_event_written = True
    build_ids.note_task_started(state, build_ids.stamped(a.worker_version), a.build_id_redirect_counter)


def clear_workflow_task(state: MutableState, *, attempt: int, attempts_since_last_success: int) -> None:
    """Clear the pending workflow task; the counters are those of the next one, and the stamp is kept."""
    task = state.workflow_task
    stamp, build_id = task.stamp, task.build_id
    original_ns = task.original_scheduled_ns
    task.Clear()
    task.stamp = stamp
    task.attempt = attempt
    task.attempts_since_last_success = attempts_since_last_success
    task.original_scheduled_ns = original_ns
    task.build_id = build_id if attempt > 1 else ""
    state.workflow_close_attempted = False


def _workflow_task_completed(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_task_completed_event_attributes
    clear_workflow_task(state, attempt=1, attempts_since_last_success=0)
    state.last_completed_started_event_id = a.started_event_id
    state.worker_deployment_name = a.worker_deployment_name
    if a.HasField("worker_version"):
        state.most_recent_worker_version_stamp.CopyFrom(a.worker_version)
    else:
        state.ClearField("most_recent_worker_version_stamp")
    state.last_workflow_task_failure = ""
    state.last_workflow_task_failure_cause = 0
    versioning.note_completion(state, a)
    reset_points.note_completion(state, event)


def fail_workflow_task(state: MutableState, *, increment_attempt: bool) -> None:
    """End the pending task as failed: leave the sticky queue and, unless the task was sticky, count an attempt."""
    if state.sticky_task_queue:
        increment_attempt = False
        state.sticky_task_queue = ""
    task = state.workflow_task
    attempt, since = 1, task.attempts_since_last_success
    if increment_attempt:
        attempt, since = task.attempt + 1, since + 1
    clear_workflow_task(state, attempt=attempt, attempts_since_last_success=since)


def _workflow_task_failed(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_task_failed_event_attributes
    fail_workflow_task(state, increment_attempt=True)
    state.last_workflow_task_failure = ""
    state.last_workflow_task_failure_cause = a.cause
    if a.cause == failed_cause_pb2.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
        state.workflow_task.attempt = 1


def _workflow_task_timed_out(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_task_timed_out_event_attributes
    started = a.timeout_type != wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
    fail_workflow_task(state, increment_attempt=started)
    if started:
        state.last_workflow_task_failure, state.last_workflow_task_failure_cause = "StartToClose", 0


# ---- activities and timers ------------------------------------------------------------------------------------------


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


def _activity_over(field: str) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.activities.pop(getattr(event, field).scheduled_event_id, None)

    return applier


def _timer_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.timer_started_event_attributes
    timer = state.timers[a.timer_id]
    timer.timer_id = a.timer_id
    timer.started_event_id = event.event_id
    started_ns = timestamp_ns(event.event_time)
    timer.fire_ns = started_ns + duration_ns(a.start_to_fire_timeout)
    short_timers.note_start(timer, started_ns, batch_id)


def _timer_over(field: str) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        a = getattr(event, field)
        # While its fired event was buffered, another timer may have been started with the same id.
        if a.timer_id in state.timers and state.timers[a.timer_id].started_event_id == a.started_event_id:
            del state.timers[a.timer_id]

    return applier


# ---- children and other executions ----------------------------------------------------------------------------------


def _child_initiated(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.start_child_workflow_execution_initiated_event_attributes
    child = state.children[event.event_id]
    child.initiated_event_id = event.event_id
    child.initiated_event_batch_id = batch_id
    child.namespace = a.namespace
    child.namespace_id = a.namespace_id
    child.workflow_id = a.workflow_id
    child.workflow_type = a.workflow_type.name
    child.parent_close_policy = a.parent_close_policy
    # Derived, so that a rebuild gives the same id: one start per initiated event.
    child.request_id = f"{state.run_id}:{event.event_id}:0"
    if a.HasField("priority"):
        child.priority.CopyFrom(a.priority)


def _child_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.child_workflow_execution_started_event_attributes
    child = state.children[a.initiated_event_id]
    child.started_event_id = event.event_id
    child.run_id = a.workflow_execution.run_id


def _child_over(field: str) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        state.children.pop(getattr(event, field).initiated_event_id, None)

    return applier


def _external_initiated(map_field: str) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        external = getattr(state, map_field)[event.event_id]
        external.initiated_event_id = event.event_id
        external.initiated_event_batch_id = batch_id
        external.request_id = derived_uuid(_writer_of(state, event.event_id), event.event_id)

    return applier


def _writer_of(state: MutableState, event_id: int) -> str:
    """Return the run that wrote the event: after a reset, requests to others are repeated under the original ids."""
    for branch in state.branches:
        if branch.first_event_id <= event_id < branch.next_event_id:
            return branch.branch_id
    return state.run_id


def _external_over(map_field: str, field: str) -> Callable[[MutableState, history_pb.HistoryEvent, int], None]:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        getattr(state, map_field).pop(getattr(event, field).initiated_event_id, None)

    return applier


# ---- updates --------------------------------------------------------------------------------------------------------


def _update_admitted(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_admitted_event_attributes
    update = state.updates[a.request.meta.update_id]
    update.update_id = a.request.meta.update_id
    update.stage = update.ADMITTED
    update.request.CopyFrom(a.request)
    update.admitted_event_id = event.event_id
    request = a.request
    _note_request_of_update(state, request.request_id, event)
    nexus_apply.add_update_callbacks(state, event, update.update_id, request.request_id, request.completion_callbacks)


def _note_request_of_update(state: MutableState, request_id: str, event: history_pb.HistoryEvent) -> None:
    """Record the request with the latest event of its update, unless it is recorded for something else."""
    known = state.request_ids[request_id].event_type if request_id in state.request_ids else None
    if request_id and known in (None, et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED):
        _note_request(state, request_id, event)


def _update_accepted(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_accepted_event_attributes
    update_id = a.protocol_instance_id or a.accepted_request.meta.update_id
    update = state.updates[update_id]
    update.update_id = update_id
    update.stage = update.ACCEPTED
    update.accepted_event_id = event.event_id
    update.request_message_id = a.accepted_request_message_id
    update.sequencing_event_id = a.accepted_request_sequencing_event_id
    request_id = a.accepted_request.request_id or update.request.request_id
    _note_request_of_update(state, request_id, event)
    update.ClearField("request")
    if a.HasField("accepted_request"):
        # A worker rejected the update that an event had admitted, which is not in history: this is a new one of the
        # same id.
        update.admitted_event_id = 0
    state.update_count += 1
    request = a.accepted_request
    nexus_apply.add_update_callbacks(state, event, update_id, request.request_id, request.completion_callbacks)


def _update_completed(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.workflow_execution_update_completed_event_attributes
    update: Update = state.updates[a.meta.update_id]
    update.update_id = a.meta.update_id
    update.stage = update.COMPLETED
    update.completed_event_id = event.event_id
    update.completed_event_batch_id = batch_id
    update.accepted_event_id = a.accepted_event_id


APPLIERS: Final[dict[int, Callable[[MutableState, history_pb.HistoryEvent, int], None]]] = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: _started,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_CANCELED),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: _closed(wf_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signaled,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED: _paused,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED: _unpaused,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _options_updated,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TIME_SKIPPING_TRANSITIONED: time_skipping_apply.transitioned,
    et.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: _upserted_search_attributes,
    et.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: _modified_properties,
    et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED: _workflow_task_scheduled,
    et.EVENT_TYPE_WORKFLOW_TASK_STARTED: _workflow_task_started,
    et.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: _workflow_task_completed,
    et.EVENT_TYPE_WORKFLOW_TASK_FAILED: _workflow_task_failed,
    et.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: _workflow_task_timed_out,
    et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: _activity_scheduled,
    et.EVENT_TYPE_ACTIVITY_TASK_STARTED: _activity_started,
    et.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: _activity_cancel_requested,
    et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _activity_over("activity_task_completed_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_FAILED: _activity_over("activity_task_failed_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _activity_over("activity_task_timed_out_event_attributes"),
    et.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _activity_over("activity_task_canceled_event_attributes"),
    et.EVENT_TYPE_TIMER_STARTED: _timer_started,
    et.EVENT_TYPE_TIMER_FIRED: _timer_over("timer_fired_event_attributes"),
    et.EVENT_TYPE_TIMER_CANCELED: _timer_over("timer_canceled_event_attributes"),
    et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: _child_initiated,
    et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _child_over(
        "start_child_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_started,
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_over(
        "child_workflow_execution_completed_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_over("child_workflow_execution_failed_event_attributes"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_over("child_workflow_execution_canceled_event_attributes"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_over(
        "child_workflow_execution_timed_out_event_attributes"
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_over(
        "child_workflow_execution_terminated_event_attributes"
    ),
    et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _external_initiated("external_signals"),
    et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_over(
        "external_signals", "signal_external_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: _external_over(
        "external_signals", "external_workflow_execution_signaled_event_attributes"
    ),
    et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _external_initiated("external_cancels"),
    et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_over(
        "external_cancels", "request_cancel_external_workflow_execution_failed_event_attributes"
    ),
    et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _external_over(
        "external_cancels", "external_workflow_execution_cancel_requested_event_attributes"
    ),
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update_admitted,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _update_accepted,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED: _update_completed,
    **nexus_apply.APPLIERS,
    # EVENT_TYPE_MARKER_RECORDED changes nothing.
}
