"""Operator commands for pending activities: pause, unpause, reset them, and change their options.

None of these is written into history. An attempt that a worker has stays with that worker, which is notified of a pause
or a reset by its heartbeats. An attempt without a worker is dispatched again, at once or after a jitter that the caller
has drawn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.command.v1 import message_pb2 as command_pb

from whistlestop.common.errors import failed_precondition, invalid_argument, not_found
from whistlestop.history.core import retry
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity.deadlines import next_deadline
from whistlestop.history.core.activity.pause import is_waiting, note_pauses, set_paused
from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.times import duration_ns, set_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

NOT_PENDING = "Can't find pending activity with such ID. Invalid activityID or activity already completed"
_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")


def selected(run: Run, *, activity_id: str = "", activity_type: str = "", every: bool = False) -> list[Activity]:
    """Return the pending activities that are selected. Raise NOT_FOUND when there are none."""
    if not run.is_open:
        raise not_found(core_activity.COMPLETED)
    found = [
        activity
        for activity in run.state.activities.values()
        if every or activity.activity_id == activity_id or (activity_type and activity.activity_type == activity_type)
    ]
    if not found:
        raise not_found(NOT_PENDING)
    return found


def _offer(run: Run, activity: Activity, deadline_ns: int) -> None:
    """Dispatch the attempt now or at `deadline_ns`; the last attempt's failure is forgotten."""
    activity.held_by_pause = False
    core_activity.wait_for_attempt(run, activity, deadline_ns, activity.attempt, None)
    if deadline_ns <= run.now_ns:
        core_activity.dispatch(run, activity)


# ---- pause and unpause -----------------------------------------------------------------------------------------------


def pause(run: Run, activities: Iterable[Activity], *, identity: str, reason: str, request_id: str) -> None:
    """Stop dispatching attempts of these activities until they are unpaused.

    Raise FAILED_PRECONDITION for one that another request has paused.
    """
    for activity in activities:
        if activity.paused:
            if activity.pause_request_id == request_id:
                continue
            raise failed_precondition("activity is already paused")
        set_paused(run, activity)
        activity.pause_identity = identity
        activity.pause_reason = reason
        activity.pause_request_id = request_id
    note_pauses(run)


def unpause(
    run: Run, activities: Iterable[Activity], *, reset_attempts: bool, reset_heartbeat: bool, jitter_ns: int
) -> None:
    """Resume the activities that are paused, each after the jitter; the others stay as they are."""
    for activity in activities:
        if not activity.paused:
            continue
        _clear_pause(run, activity)
        if reset_attempts:
            activity.attempt = 1
        if reset_heartbeat:
            _clear_heartbeat(activity)
        if is_waiting(activity):
            _offer(run, activity, run.now_ns + jitter_ns)
        run.arm(next_deadline(activity))
    note_pauses(run)


def _clear_pause(run: Run, activity: Activity) -> None:
    activity.paused = False
    activity.paused_ns = 0
    activity.pause_identity = ""
    activity.pause_reason = ""
    activity.pause_request_id = ""
    activity.pause_rule = ""
    activity.stamp += 1
    run.changed = True


def _clear_heartbeat(activity: Activity) -> None:
    activity.ClearField("heartbeat_details")
    activity.last_heartbeat_ns = 0


# ---- reset -----------------------------------------------------------------------------------------------------------


def reset(
    run: Run,
    activities: Iterable[Activity],
    *,
    reset_heartbeat: bool,
    keep_paused: bool,
    jitter_ns: int,
    originals: Mapping[int, history_pb.ActivityTaskScheduledEventAttributes] | None = None,
) -> None:
    """Restart the activities from attempt 1; with `originals`, also restore the options of the scheduled events.

    Raise NOT_FOUND for an activity without such an event.
    """
    for activity in activities:
        was_paused = activity.paused
        activity.attempt = 1
        activity.activity_reset = True
        activity.reset_heartbeat = activity.reset_heartbeat or reset_heartbeat
        run.changed = True
        if originals is not None:
            _set_options(activity, _original_options(activity, originals))
            activity.stamp += 1
        if was_paused and not keep_paused:
            _clear_pause(run, activity)
        if not activity.paused and is_waiting(activity):
            if reset_heartbeat:
                _clear_heartbeat(activity)
            _offer(run, activity, run.now_ns + jitter_ns)
        run.arm(next_deadline(activity))
    note_pauses(run)


# ---- options ---------------------------------------------------------------------------------------------------------


def update_options(
    run: Run, activities: Iterable[Activity], changes: activity_pb.ActivityOptions, paths: Iterable[str]
) -> activity_pb.ActivityOptions:
    """Change the options named by `paths` to those of `changes`; return the resulting options.

    Raise INVALID_ARGUMENT for invalid options.
    """
    wanted = {re.sub(r"(?<!^)(?<!\.)([A-Z])", r"_\1", path).lower() for path in paths}
    result = activity_pb.ActivityOptions()
    for activity in activities:
        options = options_of(activity)
        merge_options(options, changes, wanted)
        if any(path.startswith("retry_policy.") for path in wanted):
            fault = retry.fault(options.retry_policy)
            if fault:
                raise invalid_argument(fault)
        _complete(run, activity, options)
        _apply_options(run, activity, options)
        result = options
    return result


def restore_options(
    run: Run,
    activities: Iterable[Activity],
    originals: Mapping[int, history_pb.ActivityTaskScheduledEventAttributes],
) -> activity_pb.ActivityOptions:
    """Restore the options of the scheduled events; return them. Raise NOT_FOUND for an activity without an event."""
    result = activity_pb.ActivityOptions()
    for activity in activities:
        result = _original_options(activity, originals)
        _apply_options(run, activity, result)
    return result


def options_of(activity: Activity) -> activity_pb.ActivityOptions:
    """Return the activity's current options; an unset timeout is absent."""
    options = activity_pb.ActivityOptions()
    options.task_queue.name = activity.task_queue
    for field in _TIMEOUTS:
        set_duration(getattr(options, field), getattr(activity, f"{field}_ns"))
    options.retry_policy.CopyFrom(activity.retry_policy)
    if activity.HasField("priority"):
        options.priority.CopyFrom(activity.priority)
    return options


def _original_options(
    activity: Activity, originals: Mapping[int, history_pb.ActivityTaskScheduledEventAttributes]
) -> activity_pb.ActivityOptions:
    scheduled = originals.get(activity.scheduled_event_id)
    if scheduled is None:
        raise not_found(NOT_PENDING)
    options = activity_pb.ActivityOptions()
    options.task_queue.name = scheduled.task_queue.name
    for field in (*_TIMEOUTS, "retry_policy", "priority"):
        if scheduled.HasField(field):  # type: ignore[arg-type]
            getattr(options, field).CopyFrom(getattr(scheduled, field))
    return options


def merge_options(options: activity_pb.ActivityOptions, changes: activity_pb.ActivityOptions, wanted: set[str]) -> None:
    """Copy the wanted fields; one that `changes` does not set is cleared. Raise INVALID_ARGUMENT."""
    for path in wanted:
        field, _, inner = path.partition(".")
        if field not in options.DESCRIPTOR.fields_by_name or (field == "task_queue" and inner != "name"):
            continue
        given = changes.HasField(field)  # type: ignore[arg-type]
        if inner:
            if not given:
                raise invalid_argument(f"{field.title().replace('_', '')} is not provided")
            source, target = getattr(changes, field), getattr(options, field)
            if inner not in target.DESCRIPTOR.fields_by_name:
                continue
            if hasattr(getattr(source, inner), "CopyFrom"):
                getattr(target, inner).CopyFrom(getattr(source, inner))
            else:
                setattr(target, inner, getattr(source, inner))
        elif given:
            getattr(options, field).CopyFrom(getattr(changes, field))
        elif field == "retry_policy":
            raise invalid_argument("RetryPolicy is not provided")
        else:
            options.ClearField(field)  # type: ignore[arg-type]


def _complete(run: Run, activity: Activity, options: activity_pb.ActivityOptions) -> None:
    """Validate and complete the options like those of a command. Raise INVALID_ARGUMENT."""
    a = command_pb.ScheduleActivityTaskCommandAttributes(activity_id=activity.activity_id)
    a.activity_type.name = activity.activity_type
    a.task_queue.CopyFrom(options.task_queue)
    for field in (*_TIMEOUTS, "retry_policy", "priority"):
        if options.HasField(field):  # type: ignore[arg-type]
            getattr(a, field).CopyFrom(getattr(options, field))
    fault = command_attributes.activity_fault(run, a, 0)
    if fault:
        raise invalid_argument(fault)
    for field in (*_TIMEOUTS, "retry_policy"):
        getattr(options, field).CopyFrom(getattr(a, field))


def _set_options(activity: Activity, options: activity_pb.ActivityOptions) -> None:
    activity.task_queue = options.task_queue.name
    for field in _TIMEOUTS:
        setattr(activity, f"{field}_ns", duration_ns(getattr(options, field)))
    not_retried = list(activity.retry_policy.non_retryable_error_types)
    activity.retry_policy.CopyFrom(options.retry_policy)
    del activity.retry_policy.non_retryable_error_types[:]
    activity.retry_policy.non_retryable_error_types.extend(not_retried)
    if options.HasField("priority"):
        activity.priority.CopyFrom(options.priority)
    else:
        activity.ClearField("priority")


def _apply_options(run: Run, activity: Activity, options: activity_pb.ActivityOptions) -> None:
    _set_options(activity, options)
    activity.stamp += 1
    run.changed = True
    if activity.paused:
        run.drop_task(activity.row)
    elif is_waiting(activity):
        deadline_ns = activity.scheduled_ns
        if activity.attempt > 1:
            policy = activity.retry_policy
            interval_ns = retry.exponential_ns(
                duration_ns(policy.initial_interval), policy.backoff_coefficient, activity.attempt
            )
            longest_ns = duration_ns(policy.maximum_interval)
            deadline_ns = activity.last_attempt_complete_ns + (
                min(interval_ns, longest_ns) if longest_ns else interval_ns
            )
        _offer(run, activity, deadline_ns)
    run.arm(next_deadline(activity))
