"""Activity tasks: started by a poll, then completed by token or by id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning.deployments import version_of
from whistlestop.history import tokens
from whistlestop.history.api import handles
from whistlestop.history.api.activity.standalone import ACTIVITIES
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.activity import standalone as activity_execution
from whistlestop.history.core.activity.machine import A
from whistlestop.history.core.activity.standalone import ID_PREFIX
from whistlestop.history.core.commands.faults import is_uuid
from whistlestop.history.core.times import set_duration, set_timestamp
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.workflow_task import version_transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.common.clients import Encoded, Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto import internal_pb2
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts

T = TypeVar("T")


@handles(HistoryService.RecordActivityTaskStarted)
async def record_activity_task_started(
    ports: HistoryPorts, request: internal_pb2.RecordActivityTaskStartedRequest, context: CallContext
) -> service_pb.PollActivityTaskQueueResponse | Encoded:
    """Start the attempt for a poller, and return the poll's reply. Raise NOT_FOUND for a stale task."""
    if request.execution.workflow_id.startswith(ID_PREFIX):
        return await _start_execution(ports, request, context)
    poll = request.poll

    version = version_of(poll.deployment_options)

    def decide(run: Run) -> Activity | None:
        if version_transition.holds_activity(run, request.scheduled_event_id, request.stamp, version):
            return None
        if core_activity.held_by_rule(run, request.scheduled_event_id, request.stamp):
            return None
        return core_activity.start(
            run,
            request.scheduled_event_id,
            request.stamp,
            request.request_id,
            poll.identity,
            poll.deployment_options if poll.HasField("deployment_options") else None,
            build_ids.stamped(build_ids.stamp_of(poll)),
            poll.worker_control_task_queue,
        )

    run, activity = await ports.engine.change(
        context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide
    )
    if activity is None:
        raise not_found("activity is paused by a workflow rule, or waits until its workflow is on another version")
    return await poll_reply(ports, run, activity)


async def _start_execution(
    ports: HistoryPorts, request: internal_pb2.RecordActivityTaskStartedRequest, context: CallContext
) -> service_pb.PollActivityTaskQueueResponse | Encoded:
    """Start the attempt of a standalone activity for a poller."""
    poll = request.poll
    run, activity = await ports.engine.change(
        context.namespace_id,
        request.execution.workflow_id,
        request.execution.run_id,
        lambda run: activity_execution.start(
            run,
            request.stamp,
            request.request_id,
            poll.identity,
            (context.headers.get("client-name", ""), context.headers.get("client-version", "")),
            poll.deployment_options if poll.HasField("deployment_options") else None,
        ),
    )
    event = await ports.engine.event(run, 1, 1)
    started = event.workflow_execution_started_event_attributes
    reply = service_pb.PollActivityTaskQueueResponse(
        task_token=tokens.of_activity_execution(run),
        workflow_namespace=run.state.namespace,
        activity_id=activity.activity_id,
        activity_run_id=run.state.run_id,
        attempt=activity.attempt,
    )
    reply.workflow_execution.SetInParent()
    reply.activity_type.name = run.state.workflow_type
    for field in ("header", "input"):
        if started.HasField(field):
            getattr(reply, field).CopyFrom(getattr(started, field))
    for field in (
        "schedule_to_close_timeout", "start_to_close_timeout", "heartbeat_timeout", "retry_policy", "priority",
    ):  # fmt: skip
        if activity.options.HasField(field):  # type: ignore[arg-type]
            getattr(reply, field).CopyFrom(getattr(activity.options, field))
    if activity.HasField("heartbeat_details"):
        reply.heartbeat_details.CopyFrom(activity.heartbeat_details)
    set_timestamp(reply.scheduled_time, run.state.start_ns)
    set_timestamp(reply.current_attempt_scheduled_time, activity.dispatch_ns)
    set_timestamp(reply.started_time, activity.started_ns)
    return reply


async def poll_reply(ports: HistoryPorts, run: Run, activity: Activity) -> service_pb.PollActivityTaskQueueResponse:
    """Return the reply to the poll that started the attempt. Raise StorageError."""
    state = run.state
    event = await ports.engine.event(run, activity.scheduled_event_batch_id, activity.scheduled_event_id)
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
        if scheduled.HasField(field):
            getattr(reply, field).CopyFrom(getattr(scheduled, field))
    reply.retry_policy.CopyFrom(activity.retry_policy)
    if activity.HasField("priority") or state.HasField("priority"):
        reply.priority.CopyFrom(core_activity.priority_of(run, activity))
    if activity.HasField("heartbeat_details"):
        reply.heartbeat_details.CopyFrom(activity.heartbeat_details)
    set_timestamp(reply.scheduled_time, activity.first_scheduled_ns)
    set_timestamp(reply.current_attempt_scheduled_time, activity.scheduled_ns)
    set_timestamp(reply.started_time, activity.started_ns)
    set_duration(reply.schedule_to_close_timeout, activity.schedule_to_close_timeout_ns)
    set_duration(reply.start_to_close_timeout, activity.start_to_close_timeout_ns)
    set_duration(reply.heartbeat_timeout, activity.heartbeat_timeout_ns)
    return reply


def _token(request: Any, context: CallContext) -> TaskToken:
    """Return the request's task token, or one that names the activity by its id."""
    if "task_token" not in request.DESCRIPTOR.fields_by_name:
        if request.run_id and not is_uuid(request.run_id):
            raise invalid_argument("RunId is not valid UUID.")
        return TaskToken(
            namespace_id=context.namespace_id,
            workflow_id=request.workflow_id or ACTIVITIES.workflow_id(request.activity_id),
            run_id=request.run_id,
            activity_id=request.activity_id,
        )
    return tokens.received(request.task_token, tokens.Kind.ACTIVITY, context, core_activity.TASK_NOT_FOUND)


async def _change(ports: HistoryPorts, token: TaskToken, decide: Callable[[Run], T]) -> T:
    if token.workflow_id.startswith(ID_PREFIX):
        _, reply = await ACTIVITIES.change(ports, token.namespace_id, token.activity_id, token.run_id, decide)
    else:
        _, reply = await ports.engine.change(token.namespace_id, token.workflow_id, token.run_id, decide)
    return reply


def _stamp(request: Any) -> common_pb.WorkerVersionStamp | None:
    has = "worker_version" in request.DESCRIPTOR.fields_by_name and request.HasField("worker_version")
    return request.worker_version if has else None


def _details(request: Any, field: str) -> common_pb.Payloads | None:
    return getattr(request, field) if request.HasField(field) else None


@handles(HistoryService.RespondActivityTaskCompleted, HistoryService.RespondActivityTaskCompletedById)
async def respond_activity_task_completed(
    ports: HistoryPorts,
    request: service_pb.RespondActivityTaskCompletedRequest | service_pb.RespondActivityTaskCompletedByIdRequest,
    context: CallContext,
) -> Reply:
    """Complete the activity. Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for a malformed one."""
    token = _token(request, context)
    result = _details(request, "result")

    def decide(run: Run) -> None:
        if activity_execution.is_standalone(run.state):
            activity_execution.complete(run, token, result, request.identity)
        else:
            core_activity.complete(run, token, result, request.identity, _stamp(request))

    await _change(ports, token, decide)
    return _response(request)


@handles(HistoryService.RespondActivityTaskFailed, HistoryService.RespondActivityTaskFailedById)
async def respond_activity_task_failed(
    ports: HistoryPorts,
    request: service_pb.RespondActivityTaskFailedRequest | service_pb.RespondActivityTaskFailedByIdRequest,
    context: CallContext,
) -> Reply:
    """Record that the attempt failed. Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for a malformed one."""
    token = _token(request, context)
    failure: failure_pb.Failure | None = request.failure if request.HasField("failure") else None
    heartbeat = _details(request, "last_heartbeat_details")

    def decide(run: Run) -> None:
        if activity_execution.is_standalone(run.state):
            activity_execution.fail(run, token, failure, request.identity, heartbeat)
        else:
            core_activity.fail(run, token, failure, request.identity, heartbeat, _stamp(request))

    await _change(ports, token, decide)
    return _response(request)


@handles(HistoryService.RespondActivityTaskCanceled, HistoryService.RespondActivityTaskCanceledById)
async def respond_activity_task_canceled(
    ports: HistoryPorts,
    request: service_pb.RespondActivityTaskCanceledRequest | service_pb.RespondActivityTaskCanceledByIdRequest,
    context: CallContext,
) -> Reply:
    """Close the activity as cancelled.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT if that was not requested.
    """
    token = _token(request, context)
    details = _details(request, "details")

    def decide(run: Run) -> None:
        if activity_execution.is_standalone(run.state):
            activity_execution.cancel(run, token, details)
        else:
            core_activity.cancel(run, token, details, request.identity)

    await _change(ports, token, decide)
    return _response(request)


@handles(HistoryService.RecordActivityTaskHeartbeat, HistoryService.RecordActivityTaskHeartbeatById)
async def record_activity_task_heartbeat(
    ports: HistoryPorts,
    request: service_pb.RecordActivityTaskHeartbeatRequest | service_pb.RecordActivityTaskHeartbeatByIdRequest,
    context: CallContext,
) -> Reply:
    """Record a heartbeat; the reply tells whether the attempt is to be cancelled, paused or reset.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for a malformed one.
    """
    token = _token(request, context)
    details = _details(request, "details")
    response: Any = _response(request)

    def decide(run: Run) -> None:
        if activity_execution.is_standalone(run.state):
            status = activity_execution.heartbeat(run, token, details).status
            response.cancel_requested = status == A.CANCEL_REQUESTED
            response.activity_paused = status == A.PAUSE_REQUESTED
            response.activity_reset = status == A.RESET_REQUESTED
        else:
            activity = core_activity.heartbeat(run, token, details, request.identity)
            response.cancel_requested = activity.cancel_requested
            response.activity_paused = activity.paused
            response.activity_reset = activity.activity_reset

    await _change(ports, token, decide)
    return _as_reply(response)


def _response(request: Any) -> Reply:
    """Return the empty response that belongs to the request."""
    return _as_reply(HistoryService.rpcs[request.DESCRIPTOR.name.removesuffix("Request")].response_type())


def _as_reply(message: Any) -> Reply:
    reply: Reply = message
    return reply
