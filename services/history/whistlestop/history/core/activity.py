"""Activities: scheduled by a command, started by a poll, and completed, failed, timed out or cancelled.

Rules of this file, which are Temporal's: the started event is written together with the closing one, so that attempts
that were retried leave nothing in history; only the last attempt's failure is seen by the workflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import task_queue_pb2

from whistlestop.common.errors import not_found
from whistlestop.history.core import workflow_task
from whistlestop.history.core.completion import HANDLERS, Completion

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import Activity

TASK_TYPE_ACTIVITY = int(task_queue_pb2.TASK_QUEUE_TYPE_ACTIVITY)


def schedule(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """ScheduleActivityTask."""
    run = completion.run
    attributes = command.schedule_activity_task_command_attributes
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    a = event.activity_task_scheduled_event_attributes
    a.activity_id = attributes.activity_id
    a.activity_type.CopyFrom(attributes.activity_type)
    a.task_queue.CopyFrom(attributes.task_queue)
    for field in ("header", "input", "retry_policy", "priority"):
        if attributes.HasField(field):  # type: ignore[arg-type]
            getattr(a, field).CopyFrom(getattr(attributes, field))
    for field in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout"):
        getattr(a, field).CopyFrom(getattr(attributes, field))
    a.workflow_task_completed_event_id = completion.completed_event_id
    a.use_workflow_build_id = attributes.use_workflow_build_id
    run.append(event)
    dispatch(run, run.state.activities[event.event_id])
    return event


def dispatch(run: Run, activity: Activity) -> None:
    """Offer the activity's attempt on its queue."""
    activity.stamp += 1
    run.add_task(
        activity.row,
        activity.task_queue,
        TASK_TYPE_ACTIVITY,
        workflow_task.priority_key(activity.priority),
        activity.scheduled_event_id,
        activity.stamp,
    )


def start(run: Run, scheduled_event_id: int, stamp: int, request_id: str, identity: str) -> Activity:
    """A worker takes the attempt."""
    if not run.is_open or scheduled_event_id not in run.state.activities:
        raise not_found("activity task not found")
    activity = run.state.activities[scheduled_event_id]
    if activity.started_ns:
        if activity.request_id == request_id:
            return activity
        raise not_found("activity task already started")
    if activity.stamp != stamp:
        raise not_found("activity task is stale")
    run.drop_task(activity.row)
    activity.started_ns = run.now_ns
    activity.request_id = request_id
    activity.started_identity = identity
    run.changed = True
    return activity


def of_token(run: Run, token: TaskToken) -> Activity:
    """The started attempt that `token` is of, or NOT_FOUND."""
    if not run.is_open:
        raise not_found("workflow execution already completed")
    activity = run.state.activities.get(token.scheduled_event_id)
    if activity is None or not activity.started_ns or activity.attempt != token.attempt:
        raise not_found("invalid activityID or activity already timed out or invoking workflow is completed")
    return activity


def write_started(run: Run, activity: Activity) -> None:
    """The started event, late."""
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_STARTED)
    a = event.activity_task_started_event_attributes
    a.scheduled_event_id = activity.scheduled_event_id
    a.identity = activity.started_identity
    a.request_id = activity.request_id
    a.attempt = activity.attempt
    if activity.HasField("last_failure"):
        a.last_failure.CopyFrom(activity.last_failure)
    from whistlestop.history.core.times import set_timestamp

    set_timestamp(event.event_time, activity.started_ns)
    run.append(event)


def complete(run: Run, token: TaskToken, result: common_pb.Payloads | None, identity: str) -> None:
    """The attempt succeeded."""
    activity = of_token(run, token)
    scheduled_event_id = activity.scheduled_event_id
    write_started(run, activity)
    event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    a = event.activity_task_completed_event_attributes
    a.scheduled_event_id = scheduled_event_id
    a.started_event_id = activity.started_event_id
    a.identity = identity
    if result is not None:
        a.result.CopyFrom(result)
    run.append(event)
    workflow_task.schedule_if_none(run)


HANDLERS[ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK] = schedule
