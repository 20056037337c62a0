"""Skip time within a run: when it may, how far, and when a fast-forward ends.

Rules of this file: a run skips time at the end of a transition that leaves it idle, without pending workflow task,
activity (except those that wait for a retry), operation, child, or request to another run. It skips to the next
deadline, never past the target of a fast-forward. What is then due by the run's clock is fired by the ordinary timer
row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.times import LAST_SKIPPED_TO_NS, set_timestamp
from whistlestop.history.core.timeskip import state as time_skipping_state

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity, MutableState
    from whistlestop.history.core.transition.run import Run


def skip_if_idle(run: Run) -> bool:
    """Skip to the next deadline if the run is idle; return whether its clock or its time skipping changed.

    Called at the end of every transition.
    """
    state = run.state
    if not time_skipping_state.is_enabled(state):
        return False
    if not _is_idle(run):
        run.arm(time_skipping_state.fast_forward_deadline(state))
        return False
    target_ns = min((each for each in _targets(state) if run.now_ns <= each <= LAST_SKIPPED_TO_NS), default=0)
    fast_forward_ns = time_skipping_state.fast_forward_deadline(state)
    disables = False
    if fast_forward_ns:
        disables = not 0 < target_ns < fast_forward_ns
        if fast_forward_ns <= run.now_ns:
            target_ns, disables = 0, True
        elif disables:
            target_ns = fast_forward_ns
    if not target_ns and not disables:
        return False
    record(run, target_ns=target_ns, disables=disables)
    return True


def record(run: Run, *, target_ns: int, disables: bool) -> None:
    """Write the event that advances the clock to `target_ns` (0: leaves it), and with `disables` ends time skipping."""
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TIME_SKIPPING_TRANSITIONED)
    event.worker_may_ignore = True
    a = event.workflow_execution_time_skipping_transitioned_event_attributes
    set_timestamp(a.wall_clock_time, run.now_ns)
    if target_ns:
        set_timestamp(a.target_time, target_ns)
    a.disabled_after_fast_forward = disables
    run.append(event)
    run.update_clock()


def _is_idle(run: Run) -> bool:
    state = run.state
    if not run.is_open or state.paused or run.has_pending_workflow_task:
        return False
    if any(not _waits_for_attempt(activity, run.now_ns) for activity in state.activities.values()):
        return False
    return not (state.nexus_operations or state.children or state.external_signals or state.external_cancels)


def _waits_for_attempt(activity: Activity, now_ns: int) -> bool:
    return _is_retried(activity) and activity.next_attempt_ns > now_ns


def _is_retried(activity: Activity) -> bool:
    return not activity.started_ns and not activity.paused and activity.has_retry_policy and activity.attempt > 1


def _targets(state: MutableState) -> list[int]:
    """Return the times to which the run may skip, by its clock."""
    targets = [timer.fire_ns for timer in state.timers.values()]
    targets += [activity.next_attempt_ns for activity in state.activities.values() if _is_retried(activity)]
    if state.last_completed_started_event_id:
        targets += [each for each in (state.run_expiration_ns, state.execution_expiration_ns) if each]
    elif state.execution_start_ns > state.start_ns:
        targets.append(state.execution_start_ns)
    return targets
