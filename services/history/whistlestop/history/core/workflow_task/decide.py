"""The lifecycle of a workflow task: scheduled, started, and completed, failed or timed out.

Rules of this file, which are Temporal's:
- At most one task is pending. What happens meanwhile is buffered and causes another one when it ends.
- A first attempt writes its events as they happen. A *transient* task (attempt above 1) writes nothing until it
  completes: a task that keeps failing leaves one failure in history, not thousands. A *speculative* task (created only
  for an update) writes nothing unless it turns out to have an effect.
- Tasks without events have the ids that their events would get; the poll reply carries those events as a suffix.
- Before any other event is written while a speculative task is pending, the task becomes a normal one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2, task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

from whistlestop.common import fairness
from whistlestop.common.timing.backoff import backoff
from whistlestop.history.core import nonces
from whistlestop.history.core.times import SECOND_NS, set_duration, set_timestamp
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.workflow_task import reported_problems, short_timers
from whistlestop.history.core.workflow_task.state import clear_workflow_task, fail_workflow_task

if TYPE_CHECKING:
    from temporalio.api.failure.v1 import message_pb2 as failure_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.history.core.state_pb2 import MutableState, TaskRow, WorkflowTask
    from whistlestop.history.core.transition.run import Run

TASK_TYPE_WORKFLOW = int(task_queue_pb2.TASK_QUEUE_TYPE_WORKFLOW)
SPECULATIVE_SCHEDULE_TO_START_NS = 5 * SECOND_NS
INLINE_REQUEST_ID = "request-from-RespondWorkflowTaskCompleted"
DEFAULT_PRIORITY = 3


def priority_key(priority: common_pb.Priority) -> int:
    """Return the priority within a queue: 1 first, 3 by default."""
    return priority.priority_key or DEFAULT_PRIORITY


def offer(
    run: Run,
    row: TaskRow,
    task_queue: str,
    task_type: int,
    priority: common_pb.Priority,
    scheduled_event_id: int,
    stamp: int,
    *,
    sticky: bool = False,
) -> None:
    """Write a matching task, ordered by its priority and its fairness key."""
    data = b""
    if priority.fairness_key or priority.fairness_weight:
        data = common_pb.Priority(
            fairness_key=priority.fairness_key, fairness_weight=priority.fairness_weight
        ).SerializeToString()
    level = fairness.level(priority_key(priority), priority.fairness_key)
    run.add_task(row, task_queue, task_type, level, scheduled_event_id, stamp, data=data, sticky=sticky)


def current_task_queue(run: Run) -> taskqueue_pb.TaskQueue:
    """Return the sticky queue of the worker that has the run cached, or the run's own queue."""
    state = run.state
    if state.sticky_task_queue:
        return taskqueue_pb.TaskQueue(
            name=state.sticky_task_queue, kind=task_queue_pb2.TASK_QUEUE_KIND_STICKY, normal_name=state.task_queue
        )
    return taskqueue_pb.TaskQueue(name=state.task_queue, kind=task_queue_pb2.TASK_QUEUE_KIND_NORMAL)


def _start_to_close_ns(run: Run, attempt: int) -> int:
    """Return the task's timeout: longer from the fourth attempt on, so that a broken workflow is retried less often."""
    limits = run.limits
    beyond = attempt - limits.workflow_task_backoff_from_attempt
    if beyond <= 0:
        return run.state.task_timeout_ns
    longer_ns = backoff(limits.workflow_task_retry_initial_ns, beyond, limits.workflow_task_retry_max_ns)
    return run.state.task_timeout_ns + longer_ns


def times_out_ns(task: WorkflowTask) -> int:
    """Return when the started task times out: after its timeout, but no sooner than a timer of Temporal's fires.

    In nanoseconds by the run's clock.
    """
    return task.started_ns + max(task.timeout_ns, short_timers.MOST_WAIT_NS)


def schedule(
    run: Run, *, dispatch: bool = True, speculative: bool = False, original_scheduled_ns: int | None = None
) -> None:
    """Schedule a workflow task, unless the workflow is paused. `dispatch` False: the caller starts it at once."""
    if run.state.timers:
        short_timers.stop_waiting(run)
    if run.state.paused:
        return
    task = run.state.workflow_task
    attempt = max(task.attempt, 1)
    write_event = attempt == 1 and not speculative
    if run.has_buffered_events:
        attempt, speculative, write_event = 1, False, True
        run.flush_buffer()
    timeout_ns = _start_to_close_ns(run, attempt)
    queue = current_task_queue(run)
    if write_event:
        event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
        a = event.workflow_task_scheduled_event_attributes
        a.task_queue.CopyFrom(queue)
        set_duration(a.start_to_close_timeout, timeout_ns)
        a.attempt = attempt
        run.append(event)
    else:
        task.scheduled_event_id = run.state.next_event_id
        task.started_event_id = 0
        task.attempt = attempt
        task.timeout_ns = timeout_ns
        task.scheduled_ns = run.now_ns
        task.task_queue = queue.name
        task.write_events = False
        run.changed = True
    task = run.state.workflow_task
    task.speculative = speculative
    task.original_scheduled_ns = run.now_ns if original_scheduled_ns is None else original_scheduled_ns
    task.sticky = queue.kind == task_queue_pb2.TASK_QUEUE_KIND_STICKY
    if not speculative:
        # A speculative task may leave no trace: then the run still waits for its first task.
        run.state.first_workflow_task_backoff_until_ns = 0
    if dispatch:
        dispatch_task(run)


def dispatch_task(run: Run) -> None:
    """Put the pending task on its queue; a sticky or speculative task gets a schedule-to-start timeout."""
    state = run.state
    task = state.workflow_task
    task.stamp += 1
    queue = state.sticky_task_queue or state.task_queue
    task.sticky = bool(state.sticky_task_queue)
    offer(
        run, task.row, queue, TASK_TYPE_WORKFLOW, state.priority, task.scheduled_event_id, task.stamp,
        sticky=task.sticky,
    )  # fmt: skip
    if task.sticky:
        task.schedule_to_start_deadline_ns = run.now_ns + (
            state.sticky_schedule_to_start_timeout_ns or run.limits.sticky_timeout_default_ns
        )
    elif task.speculative:
        task.schedule_to_start_deadline_ns = run.now_ns + SPECULATIVE_SCHEDULE_TO_START_NS
    else:
        task.schedule_to_start_deadline_ns = 0
    run.arm(task.schedule_to_start_deadline_ns)


def move_to_normal_queue(run: Run, *, keep_timeout: bool = False) -> None:
    """Move the pending task from a sticky queue without pollers to the run's own queue.

    With `keep_timeout` its schedule-to-start timeout stays, as in Temporal when the worker is found to be gone.
    """
    task = run.state.workflow_task
    run.drop_task(task.row)
    task.stamp += 1
    task.sticky = False
    if not keep_timeout:
        task.schedule_to_start_deadline_ns = run.now_ns + SPECULATIVE_SCHEDULE_TO_START_NS if task.speculative else 0
    offer(
        run,
        task.row,
        run.state.task_queue,
        TASK_TYPE_WORKFLOW,
        run.state.priority,
        task.scheduled_event_id,
        task.stamp,
    )
    run.changed = True


def schedule_if_none(run: Run) -> None:
    """Schedule a workflow task, unless one is pending or the run waits for its first one."""
    if run.is_open and not run.has_pending_workflow_task and not run.state.first_workflow_task_backoff_until_ns:
        schedule(run)


def _history_size_info(run: Run) -> list[int]:
    limits, state = run.limits, run.state
    reasons = []
    if state.history_size_bytes >= limits.history_size_suggest_continue_as_new:
        reasons.append(int(wf_enums.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE))
    if state.next_event_id >= limits.history_count_suggest_continue_as_new:
        reasons.append(int(wf_enums.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS))
    enough_updates = limits.total_updates * limits.total_updates_suggest_continue_as_new_percent
    if 0 < enough_updates <= len(state.updates) * 100:
        reasons.append(int(wf_enums.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES))
    return reasons


def start(run: Run, *, request_id: str, identity: str, stamp: common_pb.WorkerVersionStamp | None = None) -> None:
    """Record that a worker takes the pending task, which must exist."""
    state = run.state
    task = state.workflow_task
    if request_id != INLINE_REQUEST_ID:
        # A task that is returned with an answer was not routed through a queue.
        versioning.note_target(run)
    run.drop_task(task.row)
    reasons = _history_size_info(run)
    size = state.history_size_bytes
    if not task.write_events and task.scheduled_event_id != state.next_event_id:
        # Events were written since the transient or speculative task was scheduled: it becomes a first attempt.
        _write_scheduled(run, attempt=1, scheduled_ns=run.now_ns)
    build_id, assigned = build_ids.stamped(stamp), state.assigned_build_id
    counter = build_ids.next_redirect_counter(state, build_id) if build_id else 0
    if build_id and task.attempt > 1 and task.build_id != build_id:
        # Another build takes the task: that is a first attempt, which history shows.
        _write_scheduled(run, attempt=task.attempt, scheduled_ns=task.scheduled_ns)
        task.attempt = 1
    if task.write_events:
        _write_started(run, request_id, identity, run.now_ns, reasons, size, stamp, counter)
    else:
        build_ids.note_task_started(state, build_id, counter)
        task.started_event_id = task.scheduled_event_id + 1
        task.request_id = request_id
        task.started_ns = run.now_ns
        task.identity = identity
        task.suggest_continue_as_new = bool(reasons)
        del task.suggest_continue_as_new_reasons[:]
        task.suggest_continue_as_new_reasons.extend(reasons)
        task.history_size_bytes = size
        run.changed = True
        run.bookkeeping = task.speculative
    nonces.draw(task, task.started_ns, run.ids)
    run.visibility_changed |= state.assigned_build_id != assigned
    task.schedule_to_start_deadline_ns = 0
    run.arm(times_out_ns(task))


def _write_scheduled(run: Run, *, attempt: int, scheduled_ns: int) -> None:
    """Write the scheduled event of a task that had none; from then on it is a normal task."""
    task = run.state.workflow_task
    kept = (task.original_scheduled_ns, task.sticky, task.timeout_ns)
    event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
    set_timestamp(event.event_time, scheduled_ns)
    a = event.workflow_task_scheduled_event_attributes
    a.task_queue.CopyFrom(current_task_queue(run))
    set_duration(a.start_to_close_timeout, task.timeout_ns)
    a.attempt = attempt
    run.append(event)
    task.original_scheduled_ns, task.sticky, task.timeout_ns = kept
    task.speculative = False


def _write_started(
    run: Run,
    request_id: str,
    identity: str,
    started_ns: int,
    reasons: list[int],
    history_size_bytes: int,
    stamp: common_pb.WorkerVersionStamp | None,
    redirect_counter: int,
) -> None:
    event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    set_timestamp(event.event_time, started_ns)
    a = event.workflow_task_started_event_attributes
    a.scheduled_event_id = run.state.workflow_task.scheduled_event_id
    a.identity = identity
    a.request_id = request_id
    a.suggest_continue_as_new = bool(reasons)
    a.suggest_continue_as_new_reasons.extend(reasons)  # type: ignore[arg-type]
    a.history_size_bytes = history_size_bytes
    a.target_worker_deployment_version_changed = versioning.is_informed_of_target(run.state)
    if stamp is not None:
        a.worker_version.CopyFrom(stamp)
    a.build_id_redirect_counter = redirect_counter
    run.append(event)
    run.new_batch()


def _write_both(run: Run, *, attempt: int, identity: str, stamp: common_pb.WorkerVersionStamp | None = None) -> None:
    """Write the scheduled and the started event of a started task that had none.

    `identity` and `stamp` are those of the worker that ends the task, as in Temporal, which does not keep who started a
    task without events.
    """
    task = run.state.workflow_task
    request_id, started_ns = task.request_id, task.started_ns
    reasons, size = list(task.suggest_continue_as_new_reasons), task.history_size_bytes
    counter = task.build_id_redirect_counter
    _write_scheduled(run, attempt=attempt, scheduled_ns=task.scheduled_ns)
    _write_started(run, request_id, identity, started_ns, reasons, size, stamp, counter)


def make_normal(run: Run) -> None:
    """Turn a speculative task into a normal one, because another event is about to be written."""
    task = run.state.workflow_task
    if not (task.speculative and run.has_pending_workflow_task):
        return
    if task.started_event_id:
        _write_both(run, attempt=task.attempt, identity="")
    else:
        _write_scheduled(run, attempt=task.attempt, scheduled_ns=task.scheduled_ns)


def _is_without_effect(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> bool:
    """Return whether a speculative task only rejected updates, and few events were written since the last task."""
    state = run.state
    if not state.workflow_task.speculative or len(request.commands) or request.force_create_new_workflow_task:
        return False
    discards = request.capabilities.discard_speculative_workflow_task_with_events
    between = run.limits.speculative_events_discarded if discards else 0
    if state.next_event_id > state.last_completed_started_event_id + 2 + between:
        return False
    return all(message.body.TypeName() == "temporal.api.update.v1.Rejection" for message in request.messages)


def complete(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> history_pb.HistoryEvent | None:
    """Complete the started task; return its completed event, or None for a speculative one that leaves no trace."""
    state = run.state
    task = state.workflow_task
    if _is_without_effect(run, request):
        clear_workflow_task(state, attempt=1, attempts_since_last_success=0)
        run.changed = run.bookkeeping = True
        return None
    if not task.write_events:
        stamp = request.worker_version_stamp if request.HasField("worker_version_stamp") else None
        stamp = build_ids.own_stamp(state, stamp)
        _write_both(run, attempt=task.attempt, identity=request.identity, stamp=stamp)
    event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    a = event.workflow_task_completed_event_attributes
    a.scheduled_event_id = task.scheduled_event_id
    a.started_event_id = task.started_event_id
    a.identity = request.identity
    a.binary_checksum = request.binary_checksum
    if request.HasField("worker_version_stamp"):
        a.worker_version.CopyFrom(request.worker_version_stamp)
    if request.HasField("sdk_metadata"):
        a.sdk_metadata.CopyFrom(request.sdk_metadata)
    if request.HasField("metering_metadata"):
        a.metering_metadata.CopyFrom(request.metering_metadata)
    versioning.describe_completion(a, request)
    before = _listed_builds(state)
    run.append(event)
    reported_problems.clear(run)
    if _listed_builds(state) != before:
        run.visibility_changed = True
    return event


def _listed_builds(state: MutableState) -> tuple[bytes, ...]:
    """Return the search attributes that another build's work changes, by which lists find the run."""
    indexed = state.search_attributes
    return (
        state.versioning_info.SerializeToString(),
        *(
            indexed[name].data if name in indexed else b""
            for name in ("BuildIds", "TemporalUsedWorkerDeploymentVersions")
        ),
    )


def fail(
    run: Run,
    cause: failed_cause_pb2.WorkflowTaskFailedCause.ValueType,
    failure: failure_pb.Failure | None,
    identity: str,
    *,
    binary_checksum: str = "",
    base_run_id: str = "",
    new_run_id: str = "",
    stamp: common_pb.WorkerVersionStamp | None = None,
) -> None:
    """Fail the started task. The failure of a transient one has no event; without a failure, the event has none."""
    state = run.state
    task = state.workflow_task
    close_attempted = cause == failed_cause_pb2.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    if task.speculative:
        _write_both(run, attempt=task.attempt, identity=identity, stamp=build_ids.own_stamp(state, stamp))
    if task.attempt > 1:
        fail_workflow_task(state, increment_attempt=True)
        run.changed = True
    else:
        event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_FAILED)
        a = event.workflow_task_failed_event_attributes
        a.scheduled_event_id = task.scheduled_event_id
        a.started_event_id = task.started_event_id
        a.cause = cause
        if failure is not None:
            a.failure.CopyFrom(failure)
        a.identity = identity
        a.base_run_id = base_run_id
        a.new_run_id = new_run_id
        a.binary_checksum = binary_checksum
        run.append(event)
    if cause in (
        failed_cause_pb2.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        failed_cause_pb2.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND,
    ):
        state.workflow_task.attempt = 1
    state.workflow_close_attempted = close_attempted
    reported_problems.report(run)


def time_out(run: Run) -> None:
    """Time out the started task, whose worker did not answer in time."""
    task = run.state.workflow_task
    if task.speculative:
        _write_both(run, attempt=task.attempt, identity="")
    if task.attempt > 1:
        fail_workflow_task(run.state, increment_attempt=True)
        run.changed = True
        reported_problems.report(run)
        return
    event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    a = event.workflow_task_timed_out_event_attributes
    a.scheduled_event_id = task.scheduled_event_id
    a.started_event_id = task.started_event_id
    a.timeout_type = wf_enums.TIMEOUT_TYPE_START_TO_CLOSE
    run.append(event)
    reported_problems.report(run)


def time_out_before_start(run: Run) -> None:
    """Time out a task that no worker took off the sticky queue in time; the next one goes to the run's own queue."""
    task = run.state.workflow_task
    run.drop_task(task.row)
    if task.speculative:
        _write_scheduled(run, attempt=task.attempt, scheduled_ns=task.scheduled_ns)
    if task.write_events:
        event = run.event(et.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
        a = event.workflow_task_timed_out_event_attributes
        a.scheduled_event_id = run.state.workflow_task.scheduled_event_id
        a.timeout_type = wf_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
        run.append(event)
    else:
        fail_workflow_task(run.state, increment_attempt=False)
        run.changed = True


def unwritten_events(run: Run) -> list[history_pb.HistoryEvent]:
    """Return the pending task's scheduled and started events that are not in history, as a worker has to see them.

    Empty when history has them.
    """
    task = run.state.workflow_task
    if task.write_events or not run.has_pending_workflow_task:
        return []
    scheduled = history_pb.HistoryEvent(
        event_id=task.scheduled_event_id, event_type=et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
    )
    set_timestamp(scheduled.event_time, task.scheduled_ns)
    a = scheduled.workflow_task_scheduled_event_attributes
    a.task_queue.CopyFrom(current_task_queue(run))
    set_duration(a.start_to_close_timeout, task.timeout_ns)
    a.attempt = task.attempt
    if not task.started_event_id:
        return [scheduled]
    started = history_pb.HistoryEvent(event_id=task.started_event_id, event_type=et.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    set_timestamp(started.event_time, task.started_ns)
    b = started.workflow_task_started_event_attributes
    b.scheduled_event_id = task.scheduled_event_id
    b.identity = task.identity
    b.request_id = task.request_id
    b.suggest_continue_as_new = task.suggest_continue_as_new
    b.suggest_continue_as_new_reasons.extend(task.suggest_continue_as_new_reasons)  # type: ignore[arg-type]
    b.target_worker_deployment_version_changed = versioning.is_informed_of_target(run.state)
    b.history_size_bytes = task.history_size_bytes
    if task.build_id:
        b.worker_version.build_id, b.worker_version.use_versioning = task.build_id, True
    return [scheduled, started]
