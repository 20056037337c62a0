"""Fire a workflow's timers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def fire(run: Run) -> None:
    """Fire the timers that are due, in the order of their times."""
    state = run.state
    expired = sorted(
        (timer.fire_ns, timer.started_event_id, timer.timer_id)
        for deadline_ns, timer in short_timers.fire_times(state)
        if deadline_ns <= run.now_ns
    )
    for _, started_event_id, timer_id in expired:
        event = run.event(et.EVENT_TYPE_TIMER_FIRED)
        event.timer_fired_event_attributes.timer_id = timer_id
        event.timer_fired_event_attributes.started_event_id = started_event_id
        run.append(event)
    if expired:
        workflow_task.schedule_if_none(run)
