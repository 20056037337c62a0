"""Workflow tasks between a worker and the core: started by a poll, answered, failed."""

from __future__ import annotations

from typing import TYPE_CHECKING


from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded
from whistlestop.common.errors import not_found
from whistlestop.history import histories, tokens
from whistlestop.history.api import METHODS
from whistlestop.history.core import completion, workflow_task
from whistlestop.history.core.times import set_timestamp

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto import internal_pb2
    from whistlestop.history.core.run import Run
    from whistlestop.history.service import History

PollResponse = service_pb.PollWorkflowTaskQueueResponse
_HISTORY_FIELD = PollResponse.DESCRIPTOR.fields_by_name["history"].number
_TASK_FIELD = service_pb.RespondWorkflowTaskCompletedResponse.DESCRIPTOR.fields_by_name["workflow_task"].number


async def record_workflow_task_started(
    service: History, request: internal_pb2.RecordWorkflowTaskStartedRequest, context: CallContext
) -> Reply:
    """A poller gets the task: start it, and build the poll's reply."""
    poll = request.poll

    def decide(run: Run) -> None:
        state = run.state
        task = state.workflow_task
        if not run.is_open:
            raise not_found("workflow execution already completed")
        if task.scheduled_event_id == 0 or task.stamp != request.stamp:
            raise not_found("Workflow task not found.")
        if task.started_event_id:
            if task.request_id == request.request_id:
                return
            raise not_found("Workflow task already started.")
        if state.sticky_task_queue and state.sticky_task_queue != request.task_queue:
            state.sticky_task_queue = ""
        workflow_task.start(run, request_id=request.request_id, identity=poll.identity)

    run, _ = await service.engine.transact(
        context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide
    )
    return Encoded(await poll_reply(service, run, partial=bool(run.state.sticky_task_queue)))


async def poll_reply(service: History, run: Run, *, partial: bool) -> bytes:
    """The reply to the poll that started `run`'s task: stored history spliced behind everything else."""
    state = run.state
    task = state.workflow_task
    reply = PollResponse(
        task_token=tokens.of_workflow_task(run),
        previous_started_event_id=state.last_completed_started_event_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
    )
    reply.workflow_execution.workflow_id = state.workflow_id
    reply.workflow_execution.run_id = state.run_id
    reply.workflow_type.name = state.workflow_type
    reply.workflow_execution_task_queue.name = state.task_queue
    reply.workflow_execution_task_queue.kind = 1
    set_timestamp(reply.scheduled_time, task.scheduled_ns)
    set_timestamp(reply.started_time, task.started_ns)
    first = state.last_completed_started_event_id + 1 if partial else 1
    entry = await service.engine.load(run.key)
    batches = await histories.read_batches(service.engine, entry, first, state.next_event_id)
    data = b"".join(histories.trimmed(batch, first, state.next_event_id) for batch in batches)
    suffix = workflow_task.unwritten_events(run)
    if suffix:
        data += history_pb.History(events=suffix).SerializeToString()
    return reply.SerializeToString() + histories.spliced(_HISTORY_FIELD, data)


async def respond_workflow_task_completed(
    service: History, request: service_pb.RespondWorkflowTaskCompletedRequest, context: CallContext
) -> Reply:
    """A worker's commands."""
    token = tokens.parse(request.task_token)
    run, outcome = await service.engine.transact(
        token.namespace_id,
        token.workflow_id,
        token.run_id,
        lambda run: completion.respond_completed(run, token, request),
    )
    if outcome.error is not None:
        raise outcome.error
    reply = service_pb.RespondWorkflowTaskCompletedResponse()
    if not outcome.completed:
        reply.reset_history_event_id = run.state.last_completed_started_event_id
    if outcome.new_task_started:
        task = await poll_reply(service, run, partial=True)
        return Encoded(reply.SerializeToString() + histories.spliced(_TASK_FIELD, task))
    return reply


async def respond_workflow_task_failed(
    service: History, request: service_pb.RespondWorkflowTaskFailedRequest, context: CallContext
) -> Reply:
    """The worker could not work the task through."""
    token = tokens.parse(request.task_token)

    def decide(run: Run) -> None:
        if not run.is_open:
            raise not_found("workflow execution already completed")
        completion.check_token(run, token)
        workflow_task.fail(
            run,
            request.cause,
            request.failure if request.HasField("failure") else None,
            request.identity,
            binary_checksum=request.binary_checksum,
        )
        workflow_task.schedule(run)

    await service.engine.transact(token.namespace_id, token.workflow_id, token.run_id, decide)
    return service_pb.RespondWorkflowTaskFailedResponse()


METHODS["RecordWorkflowTaskStarted"] = record_workflow_task_started
METHODS["RespondWorkflowTaskCompleted"] = respond_workflow_task_completed
METHODS["RespondWorkflowTaskFailed"] = respond_workflow_task_failed

