"""Task tokens: opaque to workers, all that a completion needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.errors import invalid_argument
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import Activity, MutableState


def of_workflow_task(run: Run) -> bytes:
    """The token of the started workflow task."""
    state: MutableState = run.state
    task = state.workflow_task
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=task.scheduled_event_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
        started_time_ns=task.started_ns,
        workflow_type=state.workflow_type,
    ).SerializeToString()


def of_activity(run: Run, activity: Activity) -> bytes:
    """The token of a started activity attempt."""
    state: MutableState = run.state
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=activity.scheduled_event_id,
        attempt=activity.attempt,
        started_time_ns=activity.started_ns,
        activity_id=activity.activity_id,
        workflow_type=state.workflow_type,
        activity_type=activity.activity_type,
        stamp=activity.stamp,
    ).SerializeToString()


def of_activity_execution(run: Run) -> bytes:
    """The token of a started attempt of a standalone activity."""
    state: MutableState = run.state
    activity = state.activity_execution
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        attempt=activity.attempt,
        started_time_ns=activity.started_ns,
        activity_id=activity.activity_id,
        activity_type=state.workflow_type,
        stamp=activity.started_stamp,
    ).SerializeToString()


def parse(data: bytes) -> TaskToken:
    """The token, or INVALID_ARGUMENT."""
    token = TaskToken()
    try:
        token.ParseFromString(data)
    except DecodeError as error:
        raise invalid_argument("error deserializing task token") from error
    if not token.workflow_id and not token.query_id:
        raise invalid_argument("error deserializing task token")
    return token
