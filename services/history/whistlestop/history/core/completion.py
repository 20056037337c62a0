"""Process a worker's answer to a workflow task: the completed event, its commands in order, and the next task.

Rules of this file: a command either writes its event or fails the whole task. Then everything that the answer did is
thrown away, the failure of the task is recorded in a commit of its own, and the worker gets INVALID_ARGUMENT with the
cause. The commands themselves are carried out by `commands/dispatch.py`.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.versioning.deployments import named_version, version_of
from whistlestop.history.core import nonces
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.command_handlers import HANDLERS
from whistlestop.history.core.commands import dispatch
from whistlestop.history.core.commands.context import Completion
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.times import duration_ns
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.core.workflow_task import version_transition

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.transition.run import Run

TASK_NOT_FOUND = "Workflow task not found."


@dataclass(slots=True)
class Outcome:
    """What the reply to the worker is built from."""

    completed: bool
    """False for a speculative task that left no trace."""
    new_task_started: bool = False
    """Whether the next workflow task was started for the caller and is part of the reply."""
    eager_activities: list[int] = field(default_factory=list)
    error: ServiceError | None = None
    """The error to raise to the worker after the commit."""


def check_token(run: Run, token: TaskToken) -> None:
    """Raise NOT_FOUND unless `token` names the workflow task that is started now."""
    task = run.state.workflow_task
    if (
        not run.is_open
        or task.scheduled_event_id == 0
        or task.scheduled_event_id != token.scheduled_event_id
        or task.started_event_id == 0
        or task.started_event_id != token.started_event_id
        or task.started_ns != token.started_time_ns
        or task.attempt != token.attempt
        or nonces.current(task, task.started_ns) != token.nonce
    ):
        raise not_found(TASK_NOT_FOUND)


def respond_completed(run: Run, token: TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest) -> Outcome:
    """Process a worker's answer; return what the reply is built from.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for an invalid sequence of commands, and FAILED_PRECONDITION for
    a forced task while the workflow is paused. Invalid commands are returned as `Outcome.error`, after the task was
    failed.
    """
    check_token(run, token)
    deployed = version_of(request.deployment_options) is not None or versioning_state.behavior_of(run.state) != 0
    build_ids.check_completion(run.state, request, deployed=deployed)
    if run.state.paused and request.force_create_new_workflow_task:
        raise failed_precondition("Workflow is paused and force create new workflow task is not allowed.")
    versioning.check_completion(request)
    task = run.state.workflow_task
    attempt, original_ns = task.attempt, task.original_scheduled_ns
    heartbeat = request.force_create_new_workflow_task and not request.commands and not request.messages
    if heartbeat and original_ns and run.now_ns > original_ns + run.limits.workflow_task_heartbeat_timeout_ns:
        return _heartbeat_timed_out(run, request)
    try:
        completion = _carry_out(run, request)
    except BadCommand as bad:
        return _fail_task(run, bad, request, attempt)
    if completion is None:
        _set_sticky(run, request)
    outcome = _next_task(run, request, completion, original_ns if heartbeat else None)
    if not run.has_pending_workflow_task:
        # Waiting queries then see that no task follows, and are dispatched directly.
        run.state.buffered_queries = 0
    return outcome


def respond_too_large(run: Run, token: TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest) -> Outcome:
    """Fail the task and terminate the run, because the pages of the worker's answer are too large together.

    Raise NOT_FOUND for a stale token.
    """
    check_token(run, token)
    message = "workflow task completion buffer size exceeds the per-workflow limit"
    bad = BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_REQUEST_TOO_LARGE, message, terminate=True)
    return _fail_task(run, bad, request, run.state.workflow_task.attempt)


def _set_sticky(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:

    state = run.state
    sticky = request.sticky_attributes
    moves = state.versioning_info.HasField("version_transition")
    if request.HasField("sticky_attributes") and sticky.worker_task_queue.name and not moves:
        state.sticky_task_queue = sticky.worker_task_queue.name
        state.sticky_schedule_to_start_timeout_ns = duration_ns(sticky.schedule_to_start_timeout)
    else:
        state.sticky_task_queue = ""


def _carry_out(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> Completion | None:
    """Write the completed event and execute all commands; return None for a speculative task without effect.

    Raise BadCommand.
    """
    before, scheduled_ns = version_transition.standing(run.state), run.state.workflow_task.scheduled_ns
    event = workflow_task.complete(run, request)
    if version_transition.standing(run.state) != before:
        # Waiting tasks may be for other workers now, and activities held during the version transition are dispatched.
        activity.offer_again(run, run.now_ns - scheduled_ns)
    _set_sticky(run, request)
    completion = Completion(
        run,
        request,
        event.event_id if event is not None else 0,
        run.has_buffered_events,
        {message.id: message for message in request.messages},
    )
    dispatch.carry_out(completion, HANDLERS)
    for message in list(completion.messages.values()):
        update.handle_message(completion, message)
    if run.state.in_flight_updates:
        update.reject_unprocessed(completion)
    return completion if event is not None else None


def _fail_task(
    run: Run, bad: BadCommand, request: service_pb.RespondWorkflowTaskCompletedRequest, attempt: int
) -> Outcome:
    """Undo what the answer did, and record that the task failed."""
    if attempt > 1 and bad.cause != fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND and not bad.terminate:
        # The failure of a transient task is not recorded: the task times out and is retried.
        raise invalid_argument(bad.message)
    run.restart()
    failure = failure_pb.Failure(message=bad.message)
    failure.server_failure_info.SetInParent()
    workflow_task.fail(run, bad.cause, failure, request.identity, binary_checksum=request.binary_checksum)
    update.abort_sent(run)
    outcome = Outcome(completed=True, error=invalid_argument(bad.message))
    if bad.terminate:
        run.flush_buffer()
        close.terminate(run, reason=bad.message, identity="history-service")
    else:
        workflow_task.schedule(run)
    return outcome


def _heartbeat_timed_out(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> Outcome:
    """End a task that the worker kept alive for too long without progress."""
    workflow_task.time_out(run)
    run.state.sticky_task_queue = ""
    workflow_task.schedule(run)
    return Outcome(completed=True, error=ServiceError(Code.NOT_FOUND, "workflow task heartbeat timeout"))


def _is_pinned_to_other_version(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> bool:
    """Return whether the run was pinned to another version while this worker had the task.

    Then the next task is for that version. A heartbeat continues the same task, and therefore stays on the same worker.
    """
    pinned = named_version(run.state.versioning_info.versioning_override)
    if pinned is None or request.force_create_new_workflow_task:
        return False
    return pinned != version_of(request.deployment_options)


def _next_task(
    run: Run,
    request: service_pb.RespondWorkflowTaskCompletedRequest,
    completion: Completion | None,
    heartbeat_ns: int | None,
) -> Outcome:
    """Schedule the next workflow task if one is needed at once, and start it for the caller if requested."""
    outcome = Outcome(completed=completion is not None)
    if completion is not None:
        outcome.eager_activities = completion.eager_activities
    if not run.is_open or run.state.paused:
        return outcome
    moves = run.state.versioning_info.HasField("version_transition")
    # During a version transition, the next task is for workers of another version than the caller's.
    stamp = request.worker_version_stamp if request.HasField("worker_version_stamp") else None
    stamp = build_ids.own_stamp(run.state, stamp)
    of_other_build = bool(build_ids.stamped(stamp)) and build_ids.stamped(stamp) != run.state.assigned_build_id
    inline = (
        request.return_new_workflow_task
        and not moves
        and not of_other_build
        and not _is_pinned_to_other_version(run, request)
    )
    normal = (
        moves
        or request.force_create_new_workflow_task
        or (completion is not None and (completion.had_buffered_events or completion.wants_new_task))
        or run.has_buffered_events
    )
    if normal:
        workflow_task.schedule(run, dispatch=not inline, original_scheduled_ns=heartbeat_ns)
    elif run.state.in_flight_updates and update.any_to_send(run):
        workflow_task.schedule(run, dispatch=not inline, speculative=inline)
    else:
        return outcome
    if inline:
        workflow_task.start(run, request_id=workflow_task.INLINE_REQUEST_ID, identity=request.identity, stamp=stamp)
        run.outgoing_messages = update.send(run, resend=not request.force_create_new_workflow_task)
        outcome.new_task_started = True
    return outcome
