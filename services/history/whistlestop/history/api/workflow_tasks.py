"""Workflow tasks: started by a poll, completed, failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded
from whistlestop.common.errors import namespace_not_found, not_found
from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning.deployments import version_of
from whistlestop.history import tokens
from whistlestop.history.api import handles, queries
from whistlestop.history.api.activity import tasks as activity_tasks
from whistlestop.history.api.histories import first_page
from whistlestop.history.core import completion
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.times import set_timestamp
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import version_transition
from whistlestop.history.engine import completion_pages, histories
from whistlestop.storage.visibility.attributes import Limits as AttributeLimits
from whistlestop.storage.visibility.attributes import validate
from whistlestop.storage.visibility.errors import InvalidSearchAttributes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from temporalio.api.command.v1.message_pb2 import Command
    from temporalio.api.common.v1.message_pb2 import SearchAttributes

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.namespaces import Namespace

PollResponse = service_pb.PollWorkflowTaskQueueResponse
_HISTORY_FIELD = PollResponse.DESCRIPTOR.fields_by_name["history"].number
_TASK_FIELD = service_pb.RespondWorkflowTaskCompletedResponse.DESCRIPTOR.fields_by_name["workflow_task"].number

MANY_COMMANDS = 100
"""Completions with more commands are processed off the event loop."""


@handles(HistoryService.RecordWorkflowTaskStarted)
async def record_workflow_task_started(
    ports: HistoryPorts, request: internal_pb2.RecordWorkflowTaskStartedRequest, context: CallContext
) -> service_pb.PollWorkflowTaskQueueResponse | Encoded:
    """Start the task for a poller, and return the poll's reply. Raise NOT_FOUND for a stale task."""
    poll = request.poll

    def decide(run: Run) -> None:
        state = run.state
        task = state.workflow_task
        if not run.is_open:
            raise not_found("workflow execution already completed")
        if task.scheduled_event_id == 0 or task.stamp != request.stamp:
            raise not_found(completion.TASK_NOT_FOUND)
        if task.started_event_id:
            if task.request_id == request.request_id:
                run.outgoing_messages = update.send(run, resend=True)
                return
            raise not_found("Workflow task already started.")
        if state.sticky_task_queue and state.sticky_task_queue != request.task_queue:
            state.sticky_task_queue = ""
        workflow_task.start(run, request_id=request.request_id, identity=poll.identity, stamp=build_ids.stamp_of(poll))
        version_transition.begin_with_workflow_task(run, version_of(poll.deployment_options))
        run.outgoing_messages = update.send(run, resend=True)

    run, _ = await ports.engine.change(
        context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide
    )
    return Encoded(await poll_reply(ports, run, partial=bool(run.state.sticky_task_queue)))


async def poll_reply(ports: HistoryPorts, run: Run, *, partial: bool) -> bytes:
    """Return the reply to the poll that started `run`'s task; the stored history is appended without parsing.

    Raise StorageError.
    """
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
    reply.workflow_execution_task_queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    set_timestamp(reply.scheduled_time, task.scheduled_ns)
    set_timestamp(reply.started_time, task.started_ns)
    reply.messages.extend(run.outgoing_messages)
    await queries.attach(ports, run, reply)
    first = state.last_completed_started_event_id + 1 if partial else 1
    entry = await ports.engine.entry_of(run)
    unwritten = workflow_task.unwritten_events(run)
    suffix = history_pb.History(events=unwritten).SerializeToString() if unwritten else b""
    limits = ports.limits.of(state.namespace)
    data, reply.next_page_token = await first_page(
        ports.engine, entry, first, state.next_event_id, suffix, batches=limits.task_history_page
    )
    return reply.SerializeToString() + histories.spliced(_HISTORY_FIELD, data)


@handles(HistoryService.RespondWorkflowTaskCompleted)
async def respond_workflow_task_completed(
    ports: HistoryPorts, request: service_pb.RespondWorkflowTaskCompletedRequest, context: CallContext
) -> service_pb.RespondWorkflowTaskCompletedResponse | Encoded:
    """Process a worker's commands; the reply may carry the next workflow task and eager activities.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for invalid commands.
    """
    token = tokens.received(request.task_token, tokens.Kind.WORKFLOW, context, completion.TASK_NOT_FOUND)
    if (request.intermediate_page or request.page_number > 0) and await _keep_page(ports, token, request):
        return service_pb.RespondWorkflowTaskCompletedResponse()
    others = await _other_namespaces(ports, request)
    checker = await _search_attribute_checker(ports, token.namespace_id, request, others)
    endpoints = await _nexus_endpoints(ports, request)

    def decide(run: Run) -> tuple[completion.Outcome, list[int]]:
        run.check_search_attributes = checker
        run.namespace_ids = {name: namespace.namespace_id for name, namespace in others.items()}
        run.nexus_endpoints = endpoints
        outcome = completion.respond_completed(run, token, request)
        run.answers = [
            (query_id, queries.stored(result, run.limits)) for query_id, result in request.query_results.items()
        ]
        eager = [
            scheduled_event_id
            for scheduled_event_id in outcome.eager_activities
            if core_activity.start_eagerly(
                run, scheduled_event_id, ports.ids.uuid(), request.identity, request.worker_control_task_queue
            )
            is not None
        ]
        return outcome, eager

    is_long = len(request.commands) > MANY_COMMANDS
    run, (outcome, eager) = await ports.engine.change(
        token.namespace_id, token.workflow_id, token.run_id, decide, is_long=is_long
    )
    if outcome.error is not None:
        raise outcome.error
    reply = service_pb.RespondWorkflowTaskCompletedResponse()
    for scheduled_event_id in eager:
        activity = run.state.activities[scheduled_event_id]
        reply.activity_tasks.append(await activity_tasks.poll_reply(ports, run, activity))
    if not outcome.completed:
        reply.reset_history_event_id = run.state.last_completed_started_event_id
    if outcome.new_task_started:
        task = await poll_reply(ports, run, partial=True)
        return Encoded(reply.SerializeToString() + histories.spliced(_TASK_FIELD, task))
    return reply


async def _keep_page(
    ports: HistoryPorts, token: internal_pb2.TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest
) -> bool:
    """Keep a page of a completion and return True; for the last page, merge the kept pages into it and return False."""
    await ports.engine.change(
        token.namespace_id, token.workflow_id, token.run_id, lambda run: completion.check_token(run, token)
    )
    completion_pages.check_enabled(ports.limits.of(request.namespace), request.namespace)
    if not request.intermediate_page:
        ports.completion_pages.merge(token, request)
        return False
    try:
        ports.completion_pages.keep(token, request)
    except completion_pages.TooLarge:
        _, outcome = await ports.engine.change(
            token.namespace_id, token.workflow_id, token.run_id,
            lambda run: completion.respond_too_large(run, token, request),
        )  # fmt: skip
        if outcome.error is not None:
            raise outcome.error from None
    return True


_NAMING_A_NAMESPACE = {
    ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: "start_child_workflow_execution_command_attributes",
    ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION: "signal_external_workflow_execution_command_attributes",
    ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION: (
        "request_cancel_external_workflow_execution_command_attributes"
    ),
}


async def _other_namespaces(
    ports: HistoryPorts, request: service_pb.RespondWorkflowTaskCompletedRequest
) -> dict[str, Namespace]:
    """Return the other namespaces that commands name. An unknown one fails the call, not the workflow task."""
    found = {}
    for command in request.commands:
        field = _NAMING_A_NAMESPACE.get(command.command_type)
        name: str = getattr(command, field).namespace if field is not None else ""
        if name and name != request.namespace and name not in found:
            namespace = await ports.namespaces.by_name(name)
            if namespace is None:
                raise namespace_not_found(name)
            found[name] = namespace
    return found


async def _nexus_endpoints(
    ports: HistoryPorts, request: service_pb.RespondWorkflowTaskCompletedRequest
) -> dict[str, str]:
    """Return the ids, by name, of the existing endpoints that commands name."""
    names = {
        command.schedule_nexus_operation_command_attributes.endpoint
        for command in request.commands
        if command.command_type == ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION
    }
    found = {}
    for name in sorted(names):
        record = await ports.store.get_nexus_endpoint(name=name)
        if record is not None:
            found[name] = record.endpoint_id
    return found


async def _search_attribute_checker(
    ports: HistoryPorts,
    namespace_id: str,
    request: service_pb.RespondWorkflowTaskCompletedRequest,
    others: Mapping[str, Namespace],
) -> Callable[[SearchAttributes, str], str] | None:
    """Return a function that checks names and types of search attributes; None when no command sets any."""
    if not any(_sets_search_attributes(command) for command in request.commands):
        return None
    namespace = await ports.namespaces.by_id(namespace_id)
    if namespace is None:
        return None

    # Sizes are checked by the core: they terminate the workflow, while names, types and number fail the task.
    most = ports.limits.of(namespace.name).search_attribute_count
    any_size = AttributeLimits(most, size_of_value=2**31, total_size=2**31)

    def check(attributes: SearchAttributes, name: str) -> str:
        known = others.get(name, namespace)
        try:
            validate(attributes, known.custom_search_attributes, known.name, any_size)
        except InvalidSearchAttributes as error:
            return str(error)
        return ""

    return check


def _sets_search_attributes(command: Command) -> bool:
    kind = command.WhichOneof("attributes")
    return kind is not None and (
        kind == "upsert_workflow_search_attributes_command_attributes"
        or (
            kind
            in (
                "continue_as_new_workflow_execution_command_attributes",
                "start_child_workflow_execution_command_attributes",
            )
            and bool(getattr(command, kind).search_attributes.indexed_fields)
        )
    )


@handles(HistoryService.RespondWorkflowTaskFailed)
async def respond_workflow_task_failed(
    ports: HistoryPorts, request: service_pb.RespondWorkflowTaskFailedRequest, context: CallContext
) -> service_pb.RespondWorkflowTaskFailedResponse:
    """Record that the worker failed to process the task. Raise NOT_FOUND for a stale token."""
    token = tokens.received(request.task_token, tokens.Kind.WORKFLOW, context, completion.TASK_NOT_FOUND)

    def decide(run: Run) -> None:
        if not run.is_open:
            raise not_found("workflow execution already completed")
        completion.check_token(run, token)
        if run.limits.drop_repeated_task_failures and run.state.workflow_task.attempt > 1:
            return
        if request.cause == fc.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE:
            # Its history or its completion does not fit into a message, so another attempt would end in the same way.
            close.terminate(run, reason="GrpcMessageTooLarge", identity=close.HISTORY_SERVICE)
            return
        workflow_task.fail(
            run,
            request.cause,
            request.failure if request.HasField("failure") else None,
            request.identity,
            binary_checksum=request.binary_checksum,
            stamp=request.worker_version if request.HasField("worker_version") else None,
        )
        workflow_task.schedule(run)

    await ports.engine.change(token.namespace_id, token.workflow_id, token.run_id, decide)
    return service_pb.RespondWorkflowTaskFailedResponse()


@handles(HistoryService.ResetStickyTask)
async def reset_sticky_task(
    ports: HistoryPorts, request: internal_pb2.ResetStickyTaskRequest, context: CallContext
) -> internal_pb2.Empty:
    """Move a task from a sticky queue without pollers to the run's own queue. Raise NOT_FOUND for a stale task."""

    def decide(run: Run) -> None:
        task = run.state.workflow_task
        waits = task.scheduled_event_id == request.scheduled_event_id and not task.started_event_id
        if not run.is_open or not waits or task.stamp != request.stamp:
            raise not_found(completion.TASK_NOT_FOUND)
        workflow_task.move_to_normal_queue(run, keep_timeout=True)

    await ports.engine.change(context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide)
    return internal_pb2.Empty()


@handles(HistoryService.ResetStickyTaskQueue)
async def reset_sticky_task_queue(
    ports: HistoryPorts, request: service_pb.ResetStickyTaskQueueRequest, context: CallContext
) -> service_pb.ResetStickyTaskQueueResponse:
    """Leave the sticky queue, because the worker dropped the run from its cache. Raise NOT_FOUND for a closed run."""

    def decide(run: Run) -> None:
        if not run.is_open:
            raise not_found("workflow execution already completed")
        if run.state.sticky_task_queue:
            run.state.sticky_task_queue = ""
            run.changed = True

    await ports.engine.change(context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide)
    return service_pb.ResetStickyTaskQueueResponse()
