"""Timers that a workflow starts and cancels. They fire in timeouts.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.commands.errors import BadCommand

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion


def start(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command StartTimer. Raise BadCommand."""
    run = completion.run
    attributes = command.start_timer_command_attributes
    command_attributes.start_timer(run, attributes)
    timer_id = attributes.timer_id
    if timer_id in run.state.timers:
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID,
            f"invalid history builder state for action: add-timer-started-event, TimerID: {timer_id}",
        )
    event = run.event(et.EVENT_TYPE_TIMER_STARTED)
    a = event.timer_started_event_attributes
    a.timer_id = timer_id
    if attributes.HasField("start_to_fire_timeout"):
        a.start_to_fire_timeout.CopyFrom(attributes.start_to_fire_timeout)
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    run.arm(run.state.timers[timer_id].fire_ns)
    return event


def cancel(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command CancelTimer; the event of a timer that fired during this workflow task is dropped.

    Raise BadCommand for an unknown timer.
    """
    run = completion.run
    attributes = command.cancel_timer_command_attributes
    command_attributes.cancel_timer(run, attributes)
    timer_id = attributes.timer_id
    if timer_id in run.state.timers:
        started_event_id = run.state.timers[timer_id].started_event_id
    else:
        started_event_id = _take_fired(completion, timer_id)
    event = run.event(et.EVENT_TYPE_TIMER_CANCELED)
    a = event.timer_canceled_event_attributes
    a.timer_id = timer_id
    a.started_event_id = started_event_id
    a.identity = completion.request.identity
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    completion.note_buffer_taken()
    return event


def _take_fired(completion: Completion, timer_id: str) -> int:
    """Drop the buffered fired event of the timer; return the timer's started event id. Raise BadCommand without one."""

    def fired(event: history_pb.HistoryEvent) -> bool:
        return event.event_type == et.EVENT_TYPE_TIMER_FIRED and event.timer_fired_event_attributes.timer_id == timer_id

    event = completion.run.buffered(fired)
    if event is None:
        raise BadCommand(
            fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES,
            f"invalid history builder state for action: add-timer-canceled-event, TimerID: {timer_id}",
        )
    started_event_id = event.timer_fired_event_attributes.started_event_id
    completion.run.take_buffered(fired)
    return started_event_id
