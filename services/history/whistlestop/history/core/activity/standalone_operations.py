"""Operator commands for a standalone activity: pause, unpause, reset it, and change its options.

An attempt that a worker has stays with that worker, which is notified by its heartbeats; the request takes effect when
the attempt ends. A repeated request has no further effect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from temporalio.api.activity.v1 import message_pb2 as activity_pb

from whistlestop.common.errors import failed_precondition, invalid_argument
from whistlestop.history.core import retry
from whistlestop.history.core.activity import standalone as core
from whistlestop.history.core.activity.machine import IN_PROGRESS, TERMINAL, A, Event
from whistlestop.history.core.activity.operations import merge_options
from whistlestop.history.core.activity.standalone import status_word
from whistlestop.history.core.times import duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.duration_pb2 import Duration

    from whistlestop.history.core.transition.run import Run

NO_TIMEOUT = (
    "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. ActivityId={} ActivityType={}"
)
_UPDATABLE = frozenset({A.SCHEDULED, A.STARTED, A.PAUSED, A.PAUSE_REQUESTED})
_CAPITALS = re.compile(r"(?<!^)(?<!\.)([A-Z])")


def pause(run: Run, *, request_id: str) -> None:
    """Stop dispatching attempts until the activity is unpaused. Raise FAILED_PRECONDITION when it can't be paused."""
    activity = core.of(run)
    if request_id and activity.pause_request_id == request_id:
        core.note_repeated(run)
        return
    if activity.status == A.SCHEDULED:
        core.withdraw(run)
        core.move(run, Event.PAUSE)
    elif activity.status == A.STARTED:
        core.move(run, Event.PAUSE)
    else:
        raise failed_precondition(f"activity is in non-pausable state {status_word(activity)}")
    activity.pause_request_id = request_id
    core.changed(run)


def unpause(run: Run, *, request_id: str, jitter_ns: int) -> None:
    """Resume a paused activity after a jitter, or when its back-off ends if that is later.

    Raise FAILED_PRECONDITION when it is not paused.
    """
    activity = core.of(run)
    if request_id and activity.unpause_request_id == request_id:
        core.note_repeated(run)
        return
    if activity.status in TERMINAL:
        raise failed_precondition(f"activity is in terminal state {status_word(activity)}")
    if activity.status == A.PAUSED:
        dispatch_ns = core.not_before_start_delay(run.state, run.now_ns + jitter_ns)
        core.schedule(run, max(dispatch_ns, _retry_ns(run)))
    elif activity.status == A.PAUSE_REQUESTED:
        core.move(run, Event.UNPAUSE)
    else:
        raise failed_precondition(f"activity is in non-unpausable state {status_word(activity)}")
    activity.unpause_request_id = request_id
    core.changed(run)


def _retry_ns(run: Run) -> int:
    """Return when the current back-off ends; 0 for none."""
    activity = core.of(run)
    return activity.last_attempt_complete_ns + activity.retry_interval_ns if activity.retry_interval_ns else 0


def reset(
    run: Run, *, request_id: str, keep_paused: bool, reset_heartbeat: bool, restore_options: bool, jitter_ns: int
) -> None:
    """Restart from attempt 1; for an attempt that a worker has, when that ends.

    Raise FAILED_PRECONDITION when the activity is over, or a cancellation or reset is pending.
    """
    activity = core.of(run)
    if request_id and activity.reset_request_id == request_id:
        core.note_repeated(run)
        return
    if activity.status == A.CANCEL_REQUESTED:
        raise failed_precondition("cannot reset an activity with a pending cancellation")
    if activity.status == A.RESET_REQUESTED:
        raise failed_precondition("cannot reset an activity with a pending reset")
    if activity.status in TERMINAL:
        raise failed_precondition("activity execution is not running")
    if activity.status in IN_PROGRESS:
        activity.reset_options = restore_options
        activity.reset_heartbeat = reset_heartbeat
        activity.reset_keeps_paused = keep_paused and activity.status == A.PAUSE_REQUESTED
        core.move(run, Event.REQUEST_RESET)
    else:
        if restore_options:
            core.restore_options(run)
        if reset_heartbeat:
            core.clear_heartbeat(activity)
        activity.attempt = 1
        core.forget_interval(activity)
        if activity.status == A.PAUSED and keep_paused:
            core.withdraw(run)
            activity.dispatch_ns = 0
        else:
            core.schedule(run, core.not_before_start_delay(run.state, run.now_ns + jitter_ns))
    activity.reset_request_id = request_id
    core.changed(run)


def update_options(
    run: Run, changes: activity_pb.ActivityOptions, paths: Iterable[str], *, request_id: str, restore: bool
) -> activity_pb.ActivityOptions:
    """Change the options named by `paths` to those of `changes`, or restore the original ones; return the result.

    Raise FAILED_PRECONDITION when the status does not allow it, INVALID_ARGUMENT for invalid options.
    """
    activity = core.of(run)
    if request_id and activity.update_request_id == request_id:
        core.note_repeated(run)
        return activity.options
    if activity.status not in _UPDATABLE:
        raise failed_precondition(f"Cannot update options for activity in state {status_word(activity)}")
    wanted = {_CAPITALS.sub(r"_\1", path).lower() for path in paths}
    if "start_delay" in wanted:
        _check_start_delay(run)
    if restore:
        core.restore_options(run)
    else:
        _merge(run, changes, wanted)
    waits = activity.status in (A.SCHEDULED, A.PAUSED)
    touches_policy = restore or any(path.partition(".")[0] == "retry_policy" for path in wanted)
    if waits and touches_policy and activity.retry_interval_ns and not activity.retry_interval_is_workers:
        policy = activity.options.retry_policy
        activity.retry_interval_ns = core.interval_behind(policy, activity.attempt - 1)
    if activity.status == A.SCHEDULED:
        core.schedule(run, _retry_ns(run) or core.not_before_start_delay(run.state, run.now_ns))
    activity.update_request_id = request_id
    run.visibility_changed = True
    run.state.task_queue = activity.options.task_queue.name
    core.changed(run)
    return activity.options


def _check_start_delay(run: Run) -> None:
    activity = core.of(run)
    waits = core.first_dispatch_ns(run.state) > run.now_ns
    if not waits and not (activity.status == A.PAUSED and not activity.first_started_ns):
        raise failed_precondition("cannot update start_delay: the first activity attempt has already been dispatched")


def _merge(run: Run, changes: activity_pb.ActivityOptions, wanted: set[str]) -> None:
    activity = core.of(run)
    options = activity_pb.ActivityOptions()
    options.CopyFrom(activity.options)
    merge_options(options, changes, wanted)
    if any(path.startswith("retry_policy.") for path in wanted):
        fault = retry.fault(options.retry_policy)
        if fault:
            raise invalid_argument(fault)
    if not complete_timeouts(options):
        raise invalid_argument(NO_TIMEOUT.format(activity.activity_id, run.state.workflow_type))
    activity.options.CopyFrom(options)
    core.follow_start_delay(run)


def complete_timeouts(options: activity_pb.ActivityOptions) -> bool:
    """Derive missing timeouts and shorten each to the enclosing one; return False if too few are set."""

    def shorten(inner: Duration, outer: Duration) -> None:
        if duration_ns(outer) < duration_ns(inner):
            inner.CopyFrom(outer)

    if duration_ns(options.schedule_to_close_timeout) > 0:
        for field in ("schedule_to_start_timeout", "start_to_close_timeout"):
            inner = getattr(options, field)
            if duration_ns(inner) > 0:
                shorten(inner, options.schedule_to_close_timeout)
            else:
                inner.CopyFrom(options.schedule_to_close_timeout)
    elif duration_ns(options.start_to_close_timeout) > 0:
        options.schedule_to_close_timeout.SetInParent()
        options.schedule_to_start_timeout.SetInParent()
    else:
        return False
    shorten(options.heartbeat_timeout, options.start_to_close_timeout)
    options.heartbeat_timeout.SetInParent()
    return True
