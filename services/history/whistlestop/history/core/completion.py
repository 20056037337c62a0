"""Process a worker's answer to a workflow task: the completed event, its commands in order, and the next task.

Rules of this file: a command either writes its event or fails the whole task. Then everything that the answer did is
thrown away, the failure of the task is recorded in a commit of its own, and the worker gets INVALID_ARGUMENT with the
cause. `HANDLERS` has the handlers by command type; each is a small function in its family's module.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.deployments import named_version, version_of
from whistlestop.common.enum_names import enum_name
from whistlestop.common.error_size import MOST_MESSAGE_BYTES, cut
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.storable import nul_field
from whistlestop.history.core import nonces
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.transition.run import Run

Cause: TypeAlias = fc.WorkflowTaskFailedCause.ValueType
TASK_GONE = "Workflow task not found."


class BadCommand(Exception):
    """A command or message is invalid: the workflow task fails with `cause`."""

    def __init__(self, cause: Cause, reason: str = "", *, terminate: bool = False) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason
        self.terminate = terminate
        """Whether the workflow is terminated, because a later attempt would fail as well (sizes over their limits)."""

    @property
    def message(self) -> str:
        """Temporal's message, the cause's short name and the reason. It is also written into history."""
        name = cause_name(self.cause)
        return cut(f"{name}: {self.reason}", MOST_MESSAGE_BYTES) if self.reason else name


def cause_name(cause: int) -> str:
    """Return the cause's short name: `WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND` is `UnhandledCommand`."""
    name = enum_name(fc.WorkflowTaskFailedCause, cause)
    return "".join(part.capitalize() for part in name.removeprefix("WORKFLOW_TASK_FAILED_CAUSE_").split("_"))


@dataclass(slots=True)
class Completion:
    """The state of processing one answer."""

    run: Run
    request: service_pb.RespondWorkflowTaskCompletedRequest
    completed_event_id: int
    had_buffered_events: bool
    """Whether events arrived during the task: the workflow may not close before it has seen them."""
    messages: dict[str, protocol_pb.Message]
    """The messages that no command has referred to yet, by message id."""
    wants_new_task: bool = False
    """Whether a command requires a new workflow task at once (an activity cancelled before it was started)."""
    eager_activities: list[int] = field(default_factory=list)
    """Scheduled event ids of the activities that are started with the reply."""


Handler = "Callable[[Completion, command_pb.Command], history_pb.HistoryEvent | None]"
HANDLERS: dict[int, Callable[[Completion, command_pb.Command], history_pb.HistoryEvent | None]] = {}
CLOSING = frozenset(
    {
        ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    }
)


_BAD_ATTRIBUTES = {
    ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES,
    ct.COMMAND_TYPE_START_TIMER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES,
    ct.COMMAND_TYPE_CANCEL_TIMER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES,
    ct.COMMAND_TYPE_RECORD_MARKER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES,
    ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES,
    ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES,
    ct.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES,
    ct.COMMAND_TYPE_PROTOCOL_MESSAGE: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE,
    ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES,
}  # fmt: skip


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
        raise not_found(TASK_GONE)


def respond_completed(run: Run, token: TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest) -> Outcome:
    """Process a worker's answer; return what the reply is built from.

    Raise NOT_FOUND for a stale token, INVALID_ARGUMENT for an invalid sequence of commands, and FAILED_PRECONDITION for
    a forced task while the workflow is paused. Invalid commands are returned as `Outcome.error`, after the task was
    failed.
    """
    check_token(run, token)
    deployed = version_of(request.deployment_options) is not None or versioning.behavior_of(run.state) != 0
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
    """Fail the task and terminate the run, because the pages of the worker's answer are too large together."""
    check_token(run, token)
    message = "workflow task completion buffer size exceeds the per-workflow limit"
    bad = BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_REQUEST_TOO_LARGE, message, terminate=True)
    return _fail_task(run, bad, request, run.state.workflow_task.attempt)


def _set_sticky(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
    from whistlestop.history.core.times import duration_ns

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
    from whistlestop.history.core.activity import decide as activity
    from whistlestop.history.core.update import decide as update
    from whistlestop.history.core.workflow_task import version_transition

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
    _check_sequence(request)
    for command in request.commands:
        _check_names(command)
        written = HANDLERS[command.command_type](completion, command)
        if written is not None and command.HasField("user_metadata"):
            written.user_metadata.CopyFrom(command.user_metadata)
    for message in list(completion.messages.values()):
        update.handle_message(completion, message)
    update.reject_unprocessed(completion)
    return completion if event is not None else None


def _check_names(command: command_pb.Command) -> None:
    """Raise BadCommand for a name or id with U+0000, which no store holds."""
    chosen = command.WhichOneof("attributes")
    field = nul_field(getattr(command, chosen)) if chosen else ""
    if field:
        cause = _BAD_ATTRIBUTES.get(command.command_type, fc.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED)
        raise BadCommand(cause, f"{field} must not contain U+0000: no store holds a name or an id with it")


def command_name(command_type: int) -> str:
    """Return the command's name: `COMMAND_TYPE_START_TIMER` is `StartTimer`; an unknown number stays a number."""
    name = enum_name(ct.CommandType, command_type)
    return "".join(part.capitalize() for part in name.removeprefix("COMMAND_TYPE_").split("_"))


def _check_sequence(request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
    """Raise INVALID_ARGUMENT for an unknown command, or one that follows a command which closes the workflow."""
    closing = ""
    for command in request.commands:
        if closing:
            raise invalid_argument(
                f"invalid command sequence: [{', '.join(command_name(c.command_type) for c in request.commands)}], "
                f"command {closing} must be the last command."
            )
        if command.command_type not in HANDLERS:
            raise invalid_argument(f"unknown command type: {command_name(command.command_type)}")
        if command.command_type in CLOSING:
            closing = command_name(command.command_type)


def _fail_task(
    run: Run, bad: BadCommand, request: service_pb.RespondWorkflowTaskCompletedRequest, attempt: int
) -> Outcome:
    """Undo what the answer did, and record that the task failed."""
    from whistlestop.history.core.update import decide as update
    from whistlestop.history.core.workflow import close

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


def _is_pinned_elsewhere(run: Run, request: service_pb.RespondWorkflowTaskCompletedRequest) -> bool:
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
    from whistlestop.history.core.update import decide as update

    outcome = Outcome(completed=completion is not None)
    if completion is not None:
        outcome.eager_activities = completion.eager_activities
    if not run.is_open or run.state.paused:
        return outcome
    moves = run.state.versioning_info.HasField("version_transition")
    # During a version transition, the next task is for workers of another version than the caller's.
    stamp = request.worker_version_stamp if request.HasField("worker_version_stamp") else None
    stamp = build_ids.own_stamp(run.state, stamp)
    elsewhere = bool(build_ids.stamped(stamp)) and build_ids.stamped(stamp) != run.state.assigned_build_id
    inline = request.return_new_workflow_task and not moves and not elsewhere and not _is_pinned_elsewhere(run, request)
    normal = (
        moves
        or request.force_create_new_workflow_task
        or (completion is not None and (completion.had_buffered_events or completion.wants_new_task))
        or run.has_buffered_events
    )
    if normal:
        workflow_task.schedule(run, dispatch=not inline, original_scheduled_ns=heartbeat_ns)
    elif update.any_to_send(run):
        workflow_task.schedule(run, dispatch=not inline, speculative=inline)
    else:
        return outcome
    if inline:
        workflow_task.start(run, request_id=workflow_task.INLINE_REQUEST_ID, identity=request.identity, stamp=stamp)
        run.outgoing_messages = update.send(run, resend=not request.force_create_new_workflow_task)
        outcome.new_task_started = True
    return outcome
