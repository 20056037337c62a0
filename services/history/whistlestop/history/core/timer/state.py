"""Apply the events of timers to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.apply import Applier


def _timer_started(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    a = event.timer_started_event_attributes
    timer = state.timers[a.timer_id]
    timer.timer_id = a.timer_id
    timer.started_event_id = event.event_id
    started_ns = timestamp_ns(event.event_time)
    timer.fire_ns = started_ns + duration_ns(a.start_to_fire_timeout)
    short_timers.note_start(timer, started_ns, batch_id)


def _timer_over(field: str) -> Applier:
    def applier(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
        a = getattr(event, field)
        # While its fired event was buffered, another timer may have been started with the same id.
        if a.timer_id in state.timers and state.timers[a.timer_id].started_event_id == a.started_event_id:
            del state.timers[a.timer_id]

    return applier


APPLIERS: Final[dict[int, Applier]] = {
    et.EVENT_TYPE_TIMER_STARTED: _timer_started,
    et.EVENT_TYPE_TIMER_FIRED: _timer_over("timer_fired_event_attributes"),
    et.EVENT_TYPE_TIMER_CANCELED: _timer_over("timer_canceled_event_attributes"),
}
