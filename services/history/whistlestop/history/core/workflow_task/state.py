"""Apply the events of workflow tasks to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.history.core.versioning import build_ids, reset_points
from whistlestop.history.core.versioning import state as versioning_state

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


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
    versioning_state.note_completion(state, a)
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


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED: _workflow_task_scheduled,
    et.EVENT_TYPE_WORKFLOW_TASK_STARTED: _workflow_task_started,
    et.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: _workflow_task_completed,
    et.EVENT_TYPE_WORKFLOW_TASK_FAILED: _workflow_task_failed,
    et.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: _workflow_task_timed_out,
}
