"""Timers of less than a second give precedence to what was started together with them.

Temporal fires no timer sooner than about a second after its start, however short the timer is (its timers have a
precision of `history.timerProcessorMaxTimeShift`, one second). So an activity that a workflow task schedules together
with a timer of 100 ms has most of a second to be dispatched, to run and to complete before the timer causes a workflow
task, and test suites and workflows rely on that order. Here a timer fires on time, except that one shorter than
`MOST_WAIT_NS` waits, at most until that long after its start, while an activity (in its first attempt), a child
workflow or a Nexus operation of the same workflow task is pending. It stops waiting when any other workflow task is
scheduled, since the timer does not cause one then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.history.core.state_pb2 import MutableState, Timer
    from whistlestop.history.core.transition.run import Run

MOST_WAIT_NS = 900_000_000
"""Measured from the timer's start. A little less than Temporal's second, so that no timer fires later here than
there."""


def note_start(timer: Timer, started_ns: int, batch_id: int) -> None:
    """Record for a short timer which batch it may wait for, and until when."""
    if batch_id and timer.fire_ns < started_ns + MOST_WAIT_NS:
        timer.started_event_batch_id = batch_id
        timer.waits_until_ns = started_ns + MOST_WAIT_NS


def fire_times(state: MutableState) -> Iterator[tuple[int, Timer]]:
    """Yield when each timer is to fire in the current state, and the timer."""
    is_causing_tasks = not state.workflow_task.scheduled_event_id
    pending: set[int] | None = None
    for timer in state.timers.values():
        fire_ns = timer.fire_ns
        if timer.waits_until_ns and is_causing_tasks:
            if pending is None:
                pending = _batches_with_something_pending(state)
            if timer.started_event_batch_id in pending:
                fire_ns = timer.waits_until_ns
        yield fire_ns, timer


def stop_waiting(run: Run) -> None:
    """Set the timer row for the original time of short timers, because what they wait for is over or about to be."""
    for timer in run.state.timers.values():
        if timer.waits_until_ns:
            run.arm(timer.fire_ns)


def _batches_with_something_pending(state: MutableState) -> set[int]:
    """Return the batches of which an activity in its first attempt, a child or a Nexus operation is pending.

    Once for all timers: a run may have thousands of either.
    """
    batches = {each.scheduled_event_batch_id for each in state.activities.values() if each.attempt == 1}
    batches.update(child.initiated_event_batch_id for child in state.children.values())
    batches.update(operation.scheduled_event_batch_id for operation in state.nexus_operations.values())
    return batches
