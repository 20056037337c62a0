"""The RPCs of standalone activities, except the responses of workers.

The frontend serves lists and counts from visibility; workers respond through `activity_tasks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.api.activity.operations import (
    jitter_ns,
    pause_activity,
    reset_activity,
    unpause_activity,
    update_activity_options,
)
from whistlestop.history.api.activity.standalone import ACTIVITIES
from whistlestop.history.api.standalone import already_started, long_poll_token
from whistlestop.history.api.start import Start, start
from whistlestop.history.core.activity import standalone as core
from whistlestop.history.core.activity import standalone_describe as describe
from whistlestop.history.core.activity import standalone_operations as operations
from whistlestop.history.core.activity.machine import TERMINAL
from whistlestop.history.engine import histories
from whistlestop.history.nexus import callback_order

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts

OPTION_FIELDS = (
    "task_queue", "schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout",
    "heartbeat_timeout", "retry_policy", "priority", "start_delay",
)  # fmt: skip


# ---- start -----------------------------------------------------------------------------------------------------------


@handles(HistoryService.StartActivityExecution)
async def start_activity_execution(
    ports: HistoryPorts, request: service_pb.StartActivityExecutionRequest, context: CallContext
) -> service_pb.StartActivityExecutionResponse:
    """Start a standalone activity, or answer as the id policies say when its id is in use.

    Raise ALREADY_EXISTS when they forbid the start, FAILED_PRECONDITION when too many links or callbacks are attached.
    """
    options = activity_pb.ActivityOptions()
    for field in OPTION_FIELDS:
        if request.HasField(field):  # type: ignore[arg-type]
            getattr(options, field).CopyFrom(getattr(request, field))

    def prepare(run: Run) -> None:
        core.check_links(run, 0, len(request.links))
        core.begin(run, request.activity_id, options)

    try:
        reply, run = await start(Start(ports, _start_request(request), context, prepare))
    except ServiceError as error:
        text, kind = "activity execution already started", details_pb.ActivityExecutionAlreadyStartedFailure
        raise already_started(error, text, kind) from None
    if run is None and request.on_conflict_options.attach_links:

        def attach(run: Run) -> None:
            core.attach_links(run, request.links, request.request_id)

        await ACTIVITIES.change(ports, context.namespace_id, request.activity_id, reply.run_id, attach)
    answer = service_pb.StartActivityExecutionResponse(run_id=reply.run_id, started=run is not None)
    link = answer.link.activity
    link.namespace, link.activity_id, link.run_id = context.namespace, request.activity_id, reply.run_id
    return answer


def _start_request(request: service_pb.StartActivityExecutionRequest) -> service_pb.StartWorkflowExecutionRequest:
    """Return the start request of the activity's run."""
    begin = ACTIVITIES.start_request(request)
    begin.completion_callbacks.extend(request.completion_callbacks)
    begin.links.extend(request.links)
    begin.workflow_type.name = request.activity_type.name
    begin.task_queue.CopyFrom(request.task_queue)
    begin.workflow_start_delay.CopyFrom(request.start_delay)
    for field in ("input", "header", "priority"):
        if request.HasField(field):
            getattr(begin, field).CopyFrom(getattr(request, field))
    if request.HasField("on_conflict_options"):
        wanted = request.on_conflict_options
        begin.on_conflict_options.attach_request_id = wanted.attach_request_id
        begin.on_conflict_options.attach_completion_callbacks = wanted.attach_completion_callbacks
        begin.on_conflict_options.attach_links = wanted.attach_links
    return begin


# ---- reading ---------------------------------------------------------------------------------------------------------


@handles(HistoryService.DescribeActivityExecution)
async def describe_activity_execution(
    ports: HistoryPorts, request: service_pb.DescribeActivityExecutionRequest, context: CallContext
) -> service_pb.DescribeActivityExecutionResponse:
    """Describe the activity; with the token of an earlier answer, wait until something has changed.

    Without a change the reply is empty at the deadline. Raise NOT_FOUND, or INVALID_ARGUMENT for a wrong token.
    """
    key = await ACTIVITIES.key(ports, request, context)
    entry = await ACTIVITIES.read_or_wait(ports, context, key, request.long_poll_token)
    if entry is None:
        return service_pb.DescribeActivityExecutionResponse()
    first = await histories.read_event(ports.engine, entry, 1, 1)
    state = entry.state
    reply = service_pb.DescribeActivityExecutionResponse(
        run_id=state.run_id,
        info=describe.info(
            state, first, ports.clock.now_ns(),
            with_heartbeat_details=request.include_heartbeat_details, with_last_failure=request.include_last_failure,
        ),
        long_poll_token=long_poll_token(entry),
        callbacks=describe.callbacks(state),
    )  # fmt: skip
    started = first.workflow_execution_started_event_attributes
    if request.include_input and started.HasField("input"):
        reply.input.CopyFrom(started.input)
    outcome = describe.outcome(state.activity_execution) if request.include_outcome else None
    if outcome is not None:
        reply.outcome.CopyFrom(outcome)
    return reply


@handles(HistoryService.PollActivityExecution)
async def poll_activity_execution(
    ports: HistoryPorts, request: service_pb.PollActivityExecutionRequest, context: CallContext
) -> service_pb.PollActivityExecutionResponse:
    """Return the activity's outcome as soon as it has one; an empty reply at the deadline. Raise NOT_FOUND."""
    key = await ACTIVITIES.key(ports, request, context)
    entry = await ACTIVITIES.wait(ports, context, key, lambda entry: entry.state.activity_execution.status in TERMINAL)
    if entry is None:
        return service_pb.PollActivityExecutionResponse()
    await callback_order.called(ports, entry, ACTIVITIES.deadline(ports, context))
    outcome = describe.outcome(entry.state.activity_execution)
    return service_pb.PollActivityExecutionResponse(run_id=entry.state.run_id, outcome=outcome)


# ---- changing --------------------------------------------------------------------------------------------------------


@handles(HistoryService.RequestCancelActivityExecution)
async def request_cancel_activity_execution(
    ports: HistoryPorts, request: service_pb.RequestCancelActivityExecutionRequest, context: CallContext
) -> service_pb.RequestCancelActivityExecutionResponse:
    """Request the activity's cancellation. Raise NOT_FOUND, or FAILED_PRECONDITION if it is over or being cancelled."""

    def decide(run: Run) -> None:
        core.request_cancel(run, reason=request.reason, identity=request.identity, request_id=request.request_id)

    await ACTIVITIES.change_named(ports, request, context, decide)
    return service_pb.RequestCancelActivityExecutionResponse()


@handles(HistoryService.TerminateActivityExecution)
async def terminate_activity_execution(
    ports: HistoryPorts, request: service_pb.TerminateActivityExecutionRequest, context: CallContext
) -> service_pb.TerminateActivityExecutionResponse:
    """Terminate the activity at once. Raise NOT_FOUND, or FAILED_PRECONDITION if it is over."""
    await ACTIVITIES.terminate(ports, request, context)
    return service_pb.TerminateActivityExecutionResponse()


@handles(HistoryService.DeleteActivityExecution)
async def delete_activity_execution(
    ports: HistoryPorts, request: service_pb.DeleteActivityExecutionRequest, context: CallContext
) -> service_pb.DeleteActivityExecutionResponse:
    """Terminate the activity if it is open, and delete everything stored of it. Raise NOT_FOUND."""
    await ACTIVITIES.delete(ports, request, context)
    return service_pb.DeleteActivityExecutionResponse()


# ---- operator commands -----------------------------------------------------------------------------------------------


def _of_workflow(request: Any, kind: type[Any], *fields: str) -> Any:
    """Return the older request, for an activity of a workflow."""
    older = kind(
        namespace=request.namespace,
        execution=common_pb.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id),
        id=request.activity_id,
        identity=request.identity,
    )
    for name in fields:
        value = getattr(request, name)
        if hasattr(value, "CopyFrom"):
            if request.HasField(name):
                getattr(older, name).CopyFrom(value)
        else:
            setattr(older, name, value)
    return older


@handles(HistoryService.PauseActivityExecution)
async def pause_activity_execution(
    ports: HistoryPorts, request: service_pb.PauseActivityExecutionRequest, context: CallContext
) -> service_pb.PauseActivityExecutionResponse:
    """Pause the activity, which may be a workflow's. Raise NOT_FOUND or FAILED_PRECONDITION."""
    if request.workflow_id:
        older = _of_workflow(request, service_pb.PauseActivityRequest, "reason", "request_id")
        await pause_activity(ports, older, context)
    else:

        def decide(run: Run) -> None:
            operations.pause(run, request_id=request.request_id)

        await ACTIVITIES.change_named(ports, request, context, decide)
    return service_pb.PauseActivityExecutionResponse()


@handles(HistoryService.UnpauseActivityExecution)
async def unpause_activity_execution(
    ports: HistoryPorts, request: service_pb.UnpauseActivityExecutionRequest, context: CallContext
) -> service_pb.UnpauseActivityExecutionResponse:
    """Unpause the activity, which may be a workflow's. Raise NOT_FOUND or FAILED_PRECONDITION."""
    if request.workflow_id:
        await unpause_activity(ports, _of_workflow(request, service_pb.UnpauseActivityRequest, "jitter"), context)
    else:
        drawn_ns = jitter_ns(ports, request)

        def decide(run: Run) -> None:
            operations.unpause(run, request_id=request.request_id, jitter_ns=drawn_ns)

        await ACTIVITIES.change_named(ports, request, context, decide)
    return service_pb.UnpauseActivityExecutionResponse()


@handles(HistoryService.ResetActivityExecution)
async def reset_activity_execution(
    ports: HistoryPorts, request: service_pb.ResetActivityExecutionRequest, context: CallContext
) -> service_pb.ResetActivityExecutionResponse:
    """Reset the activity, which may be a workflow's, to its first attempt. Raise NOT_FOUND or FAILED_PRECONDITION."""
    if request.workflow_id:
        fields = ("reset_heartbeat", "keep_paused", "restore_original_options", "jitter")
        await reset_activity(ports, _of_workflow(request, service_pb.ResetActivityRequest, *fields), context)
    else:
        drawn_ns = jitter_ns(ports, request)

        def decide(run: Run) -> None:
            operations.reset(
                run,
                request_id=request.request_id,
                keep_paused=request.keep_paused,
                reset_heartbeat=request.reset_heartbeat,
                restore_options=request.restore_original_options,
                jitter_ns=drawn_ns,
            )

        await ACTIVITIES.change_named(ports, request, context, decide)
    return service_pb.ResetActivityExecutionResponse()


@handles(HistoryService.UpdateActivityExecutionOptions)
async def update_activity_execution_options(
    ports: HistoryPorts, request: service_pb.UpdateActivityExecutionOptionsRequest, context: CallContext
) -> service_pb.UpdateActivityExecutionOptionsResponse:
    """Change the activity's options, or restore the original ones; return the result.

    The activity may be a workflow's. Raise NOT_FOUND, FAILED_PRECONDITION, or INVALID_ARGUMENT for invalid options.
    """
    if request.workflow_id:
        fields = ("activity_options", "update_mask", "restore_original")
        older = _of_workflow(request, service_pb.UpdateActivityOptionsRequest, *fields)
        reply: Any = await update_activity_options(ports, older, context)
        return service_pb.UpdateActivityExecutionOptionsResponse(activity_options=reply.activity_options)

    def decide(run: Run) -> activity_pb.ActivityOptions:
        return operations.update_options(
            run,
            request.activity_options,
            request.update_mask.paths,
            request_id=request.request_id,
            restore=request.restore_original,
        )

    options = await ACTIVITIES.change_named(ports, request, context, decide)
    return service_pb.UpdateActivityExecutionOptionsResponse(activity_options=options)
