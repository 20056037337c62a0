"""Activity tasks between a worker and the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.history import histories, tokens
from whistlestop.history.api import METHODS
from whistlestop.history.core import activity as core_activity
from whistlestop.history.core.times import set_duration, set_timestamp

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto import internal_pb2
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.service import History


async def record_activity_task_started(
    service: History, request: internal_pb2.RecordActivityTaskStartedRequest, context: CallContext
) -> Reply:
    """A poller gets the attempt: start it, and build the poll's reply."""
    run, activity = await service.engine.transact(
        context.namespace_id,
        request.execution.workflow_id,
        request.execution.run_id,
        lambda run: core_activity.start(
            run, request.scheduled_event_id, request.stamp, request.request_id, request.poll.identity
        ),
    )
    return await poll_reply(service, run, activity)


async def poll_reply(service: History, run: Run, activity: Activity) -> service_pb.PollActivityTaskQueueResponse:
    """The reply to the poll that started the attempt."""
    state = run.state
    entry = await service.engine.load(run.key)
    event = await histories.read_event(
        service.engine, entry, activity.scheduled_event_batch_id, activity.scheduled_event_id
    )
    scheduled = event.activity_task_scheduled_event_attributes
    reply = service_pb.PollActivityTaskQueueResponse(
        task_token=tokens.of_activity(run, activity),
        workflow_namespace=state.namespace,
        activity_id=activity.activity_id,
        attempt=activity.attempt,
    )
    reply.workflow_type.name = state.workflow_type
    reply.workflow_execution.workflow_id = state.workflow_id
    reply.workflow_execution.run_id = state.run_id
    reply.activity_type.name = activity.activity_type
    for field in ("header", "input"):
        if scheduled.HasField(field):  # type: ignore[arg-type]
            getattr(reply, field).CopyFrom(getattr(scheduled, field))
    if activity.HasField("retry_policy"):
        reply.retry_policy.CopyFrom(activity.retry_policy)
    if activity.HasField("priority"):
        reply.priority.CopyFrom(activity.priority)
    if activity.HasField("heartbeat_details"):
        reply.heartbeat_details.CopyFrom(activity.heartbeat_details)
    set_timestamp(reply.scheduled_time, activity.first_scheduled_ns)
    set_timestamp(reply.current_attempt_scheduled_time, activity.scheduled_ns)
    set_timestamp(reply.started_time, activity.started_ns)
    set_duration(reply.schedule_to_close_timeout, activity.schedule_to_close_timeout_ns)
    set_duration(reply.start_to_close_timeout, activity.start_to_close_timeout_ns)
    set_duration(reply.heartbeat_timeout, activity.heartbeat_timeout_ns)
    return reply


async def respond_activity_task_completed(
    service: History, request: service_pb.RespondActivityTaskCompletedRequest, context: CallContext
) -> Reply:
    """The attempt succeeded."""
    token = tokens.parse(request.task_token)
    await service.engine.transact(
        token.namespace_id,
        token.workflow_id,
        token.run_id,
        lambda run: core_activity.complete(
            run, token, request.result if request.HasField("result") else None, request.identity
        ),
    )
    return service_pb.RespondActivityTaskCompletedResponse()


METHODS["RecordActivityTaskStarted"] = record_activity_task_started
METHODS["RespondActivityTaskCompleted"] = respond_activity_task_completed
