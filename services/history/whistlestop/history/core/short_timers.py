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
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import MutableState, Timer

MOST_WAIT_NS = 900_000_000
"""Measured from the timer's start. A little less than Temporal's second, so that no timer fires later here than
there."""


def note_start(timer: Timer, started_ns: int, batch_id: int) -> None:
    """Record for a short timer which batch it may wait for, and until when."""
    if batch_id and timer.fire_ns < started_ns + MOST_WAIT_NS:
        timer.started_event_batch_id = batch_id
        timer.waits_until_ns = started_ns + MOST_WAIT_NS


def due_ns(state: MutableState, timer: Timer) -> int:
    """Return when the timer is to fire in the current state."""
    if timer.waits_until_ns and not state.workflow_task.scheduled_event_id and _is_accompanied(state, timer):
        return timer.waits_until_ns
    return timer.fire_ns


def stop_waiting(run: Run) -> None:
    """Set the timer row for the original time of short timers, because what they wait for is over or about to be."""
    for timer in run.state.timers.values():
        if timer.waits_until_ns:
            run.arm(timer.fire_ns)


def _is_accompanied(state: MutableState, timer: Timer) -> bool:
    """Return whether something that the same workflow task started is pending."""
    batch_id = timer.started_event_batch_id
    return (
        any(each.scheduled_event_batch_id == batch_id and each.attempt == 1 for each in state.activities.values())
        or any(child.initiated_event_batch_id == batch_id for child in state.children.values())
        or any(operation.scheduled_event_batch_id == batch_id for operation in state.nexus_operations.values())
    )
