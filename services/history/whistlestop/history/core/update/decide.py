"""Updates: admitted by a request, sent to the worker with a workflow task, accepted and completed.

Rules of this file: an admitted update is in the state but not in history; nor is its rejection. Events are written when
the worker accepts it and when it completes it. Everything is in the mutable state, never in one process only: a caller
waiting for an outcome finds it there on any instance (`progress`).

    admitted --sent with a started task--> sent --accepted--> accepted --response--> completed
        ^          |  task failed or timed out    |
        '----------'                              '--rejection, or task done without a word--> refused (no trace)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages import nesting
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.callback.decide import CLOSED_BEFORE_COMPLETED
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.operations import options
from whistlestop.history.core.state_pb2 import RefusedUpdate, Update
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb

    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run

BAD_MESSAGE = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
FAILING_TASK_ATTEMPTS = 3
"""From this attempt of the workflow task on, new updates are refused: they could not repair the workflow."""
KEEP_REFUSED_NS = 60 * SECOND_NS
KEEP_REFUSED = 50
_ACCEPTED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
_ADMITTED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
_COMPLETED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED


def _server_failure(message: str, kind: str) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message, source="Server")
    failure.application_failure_info.type = kind
    failure.application_failure_info.non_retryable = True
    return failure


UNPROCESSED = _server_failure(
    "Workflow Update is rejected because it wasn't processed by worker. Probably, Workflow Update is not supported by"
    " the worker.",
    "UnprocessedUpdate",
)


def workflow_closing() -> ServiceError:
    """Return the error for a closing workflow; a retry reaches the next run, or learns that there is none."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "workflow operation can not be applied because workflow is closing",
        details_pb.ResourceExhaustedFailure(
            cause=fc.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
            scope=fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
        ),
    )


def aborted_by_closing() -> ServiceError:
    """Return the error for an update that was not accepted before its workflow closed for good."""
    return not_found("workflow update was aborted by closing workflow")


def workflow_not_ready(message: str) -> ServiceError:
    """Return the error for a workflow whose workflow task keeps failing."""
    return ServiceError(Code.FAILED_PRECONDITION, message, details_pb.WorkflowNotReadyFailure())


# ---- admission ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """Identifies the update that a caller waits for."""

    update_id: str
    instance: int


def admit(run: Run, request: update_pb.Request, first_execution_run_id: str = "", *, schedule: bool = True) -> Ticket:
    """Admit the update, or find the one of that id; return its ticket. Raise ServiceError when it can't be admitted."""
    state = run.state
    update_id = request.meta.update_id
    if first_execution_run_id and state.first_run_id != first_execution_run_id:
        raise not_found("workflow execution not found")
    existing = state.updates.get(update_id)
    if not run.is_open:
        if existing is not None:
            return Ticket(update_id, existing.instance)
        raise not_found("workflow execution already completed")
    if state.paused:
        raise failed_precondition("Workflow is paused. Cannot update the workflow.")
    if state.workflow_task.attempt >= FAILING_TASK_ATTEMPTS:
        raise workflow_not_ready("Unable to perform workflow execution update due to Workflow Task in failed state.")
    if state.workflow_close_attempted and run.has_started_workflow_task:
        raise workflow_closing()
    if existing is not None:
        _attach(run, existing, request)
        return Ticket(update_id, existing.instance)
    _check_limits(run, request)
    callbacks.check_number_of_update(run, update_id, 0, len(request.completion_callbacks))
    state.update_admissions += 1
    update = state.updates[update_id]
    update.update_id = update_id
    update.stage = Update.ADMITTED
    update.request.CopyFrom(request)
    update.instance = state.update_admissions
    state.in_flight_updates.append(update_id)
    run.changed = run.bookkeeping = True
    if schedule and not run.has_pending_workflow_task:
        workflow_task.schedule(run, speculative=True)
    return Ticket(update_id, update.instance)


def _attach(run: Run, update: Update, request: update_pb.Request) -> None:
    """Attach the callbacks of a repeated request; for a completed update that is not needed.

    Raise INVALID_ARGUMENT for callbacks without a request id.
    """
    if not request.completion_callbacks:
        return
    if not request.request_id:
        raise invalid_argument("invalid *update.Request: request_id is required when completion_callbacks are set")
    if update.stage == Update.ACCEPTED:
        _write_attachment(run, update.update_id, request)
    elif update.stage != Update.COMPLETED:
        known = {update.request.request_id, *(each.request_id for each in update.attachments)}
        if request.request_id not in known:
            waiting = sum(len(each.completion_callbacks) for each in (update.request, *update.attachments))
            more = len(request.completion_callbacks)
            callbacks.check_number_of_update(run, update.update_id, waiting, more)
            update.attachments.add().CopyFrom(request)
            run.changed = run.bookkeeping = True


def _write_attachment(run: Run, update_id: str, request: update_pb.Request) -> None:
    if callbacks.is_attached(run.state, update_id, request.request_id):
        return
    present = sum(info.update_id == update_id for info in run.state.callback_infos)
    callbacks.check_number_of_update(run, update_id, present, len(request.completion_callbacks))
    attached = history_pb.WorkflowExecutionOptionsUpdatedEventAttributes.WorkflowUpdateOptionsUpdate(
        update_id=update_id,
        attached_request_id=request.request_id,
        attached_completion_callbacks=request.completion_callbacks,
    )
    options.update(run, options.Change(update_options=(attached,)))


def _check_limits(run: Run, request: update_pb.Request) -> None:
    state, limits = run.state, run.limits
    if limits.in_flight_updates and len(state.in_flight_updates) >= limits.in_flight_updates:
        raise _too_much(
            f"limit on number of concurrent in-flight updates has been reached ({limits.in_flight_updates})"
        )
    if limits.total_updates and len(state.updates) >= limits.total_updates:
        raise failed_precondition(
            f"The limit on the total number of distinct updates in this workflow has been reached "
            f"({limits.total_updates}). Make sure any duplicate updates share an Update ID so the server can "
            "deduplicate them, and consider rejecting updates that you aren't going to process. You can also "
            "Continue-as-New to avoid this; we recommend you check Continue-as-New Suggested in your Workflow."
        )
    if limits.in_flight_updates_bytes:
        size = request.ByteSize() + sum(state.updates[i].ByteSize() for i in state.in_flight_updates)
        if size >= limits.in_flight_updates_bytes:
            raise _too_much(
                "limit on total payload size of in-flight updates has been reached "
                f"({limits.in_flight_updates_bytes} bytes)"
            )


def _too_much(message: str) -> ServiceError:
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        message,
        details_pb.ResourceExhaustedFailure(
            cause=fc.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT, scope=fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
        ),
    )


# ---- sending to the worker -------------------------------------------------------------------------------------------


def any_to_send(run: Run) -> bool:
    """Return whether an update waits for a workflow task."""
    state = run.state
    return any(state.updates[i].stage in (Update.ADMITTED, Update.SENT) for i in state.in_flight_updates)


def send(run: Run, *, resend: bool) -> list[protocol_pb.Message]:
    """Return the requests to send with the task that was just started, in order of admission.

    With `resend`, include those sent with an earlier task that was lost (a heartbeating task delivers only new ones).
    Empty when no update is waiting.
    """
    state = run.state
    messages = []
    for update_id in state.in_flight_updates:
        update = state.updates[update_id]
        if update.stage != Update.ADMITTED and not (resend and update.stage == Update.SENT):
            continue
        update.stage = Update.SENT
        if not update.HasField("request") or update.admitted_event_id:
            # The worker creates the request from the admitted event; a message would be a second request.
            continue
        message = protocol_pb.Message(id=f"{update_id}/request", protocol_instance_id=update_id)
        message.event_id = state.workflow_task.started_event_id - 1
        message.body.Pack(update.request)
        messages.append(message)
        run.changed = True
    return messages


# ---- messages of the worker ------------------------------------------------------------------------------------------


def handle_message(completion: Completion, message: protocol_pb.Message) -> None:
    """Handle one protocol message of a worker's answer. Raise BadCommand, or INVALID_ARGUMENT without a body."""
    run = completion.run
    update_id = message.protocol_instance_id
    body = message.body
    if not message.HasField("body"):
        raise invalid_argument("nil message body")
    name = body.TypeName()
    sizes.check_blob(run, BAD_MESSAGE, body.ByteSize(), f"Message type {name} exceeds size limit.")
    if not name.startswith("temporal.api.update.v1."):
        raise BadCommand(BAD_MESSAGE, f"unsupported protocol type {name.rpartition('.')[0] or 'unknown'}")
    kinds: dict[str, type[update_pb.Acceptance | update_pb.Rejection | update_pb.Response]] = {
        "temporal.api.update.v1.Acceptance": update_pb.Acceptance,
        "temporal.api.update.v1.Rejection": update_pb.Rejection,
        "temporal.api.update.v1.Response": update_pb.Response,
    }
    kind = kinds.get(name)
    if kind is None:
        raise BadCommand(BAD_MESSAGE, f"Message type *update.{name.rpartition('.')[2]} not supported")
    try:
        parsed = nesting.parse(kind, body.value, most_fields=nesting.MAX_REQUEST_FIELDS)
    except DecodeError as error:
        raise BadCommand(BAD_MESSAGE, f"unable to unmarshal request: {error}") from error
    bound = nesting.bound_of(kind)
    if bound is not None:
        bound(parsed)
    update = run.state.updates.get(update_id) or _resurrected(run, update_id, parsed)
    if update is None:
        raise BadCommand(
            BAD_MESSAGE,
            f"update {update_id} wasn't found on the server. This is most likely a transient error which will be "
            "resolved automatically by retries",
        )
    if not run.is_open and not isinstance(parsed, update_pb.Rejection):
        return
    if isinstance(parsed, update_pb.Acceptance):
        _accept(run, update, parsed)
    elif isinstance(parsed, update_pb.Rejection):
        _check_stage(update, parsed, Update.ADMITTED, Update.SENT)
        refuse(run, update, parsed.failure)
    else:
        _complete(run, update, parsed)


def _resurrected(
    run: Run, update_id: str, message: update_pb.Acceptance | update_pb.Rejection | update_pb.Response
) -> Update | None:
    """Restore an update that the server lost and the worker still knows, from the request in its message; else None."""
    request: update_pb.Request | None = None
    if isinstance(message, update_pb.Acceptance) and message.HasField("accepted_request"):
        request = message.accepted_request
    elif isinstance(message, update_pb.Rejection) and message.HasField("rejected_request"):
        request = message.rejected_request
    if request is None:
        return None
    state = run.state
    state.update_admissions += 1
    update = state.updates[update_id]
    update.update_id = update_id
    update.stage = Update.SENT
    update.request.CopyFrom(request)
    update.instance = state.update_admissions
    state.in_flight_updates.append(update_id)
    return update


_STAGES = {
    Update.ADMITTED: "Admitted",
    Update.SENT: "Sent",
    Update.ACCEPTED: "Accepted",
    Update.COMPLETED: "Completed",
}


def _check_stage(update: Update, message: object, *allowed: int) -> None:
    if update.stage not in allowed:
        raise BadCommand(
            BAD_MESSAGE,
            f"invalid state transition attempted for Update {update.update_id}: received "
            f"*update.{type(message).__name__} message while in state {_STAGES.get(update.stage, 'Created')}",
        )


def _accept(run: Run, update: Update, message: update_pb.Acceptance) -> None:
    _check_stage(update, message, Update.ADMITTED, Update.SENT)
    if not message.accepted_request_sequencing_event_id:
        raise BadCommand(BAD_MESSAGE, "invalid *update.Acceptance: accepted_request_sequencing_event_id is not set")
    if not message.accepted_request_message_id:
        raise BadCommand(BAD_MESSAGE, "invalid *update.Acceptance: accepted_request_message_id is not set")
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
    a = event.workflow_execution_update_accepted_event_attributes
    a.protocol_instance_id = update.update_id
    a.accepted_request_message_id = f"{update.update_id}/request"
    a.accepted_request_sequencing_event_id = message.accepted_request_sequencing_event_id
    if update.HasField("request") and not update.admitted_event_id:
        a.accepted_request.CopyFrom(update.request)
        event.links.extend(link for callback in update.request.completion_callbacks for link in callback.links)
    run.append(event)
    attachments = [update_pb.Request.FromString(each.SerializeToString()) for each in update.attachments]
    del update.attachments[:]
    for request in attachments:
        _write_attachment(run, update.update_id, request)


def _complete(run: Run, update: Update, message: update_pb.Response) -> None:
    _check_stage(update, message, Update.ACCEPTED)
    if message.meta.update_id != update.update_id:
        what = "meta.update_id is not set" if not message.meta.update_id else f"meta.update_id != {update.update_id}"
        raise BadCommand(BAD_MESSAGE, f"invalid *update.Response: {what}")
    if not message.HasField("outcome"):
        raise BadCommand(BAD_MESSAGE, "invalid *update.Response: outcome is not set")
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
    a = event.workflow_execution_update_completed_event_attributes
    a.meta.CopyFrom(message.meta)
    a.accepted_event_id = update.accepted_event_id
    a.outcome.CopyFrom(message.outcome)
    _over(run.state, update.update_id)
    run.append(event)
    callbacks.on_update_completed(run, message.meta.update_id, message.outcome)


def _over(state: MutableState, update_id: str) -> None:
    if update_id in state.in_flight_updates:
        state.in_flight_updates.remove(update_id)


def refuse(run: Run, update: Update, rejection: failure_pb.Failure | None) -> None:
    """End the update without a trace in history; waiting callers find the reason for a while.

    Without a rejection (None), the reason is that its workflow task failed.
    """
    state = run.state
    kept = [r for r in state.refused_updates if r.refused_ns > run.now_ns - KEEP_REFUSED_NS][-KEEP_REFUSED + 1 :]
    if len(kept) < len(state.refused_updates):
        copies = [RefusedUpdate.FromString(r.SerializeToString()) for r in kept]
        del state.refused_updates[:]
        state.refused_updates.extend(copies)
    refused = state.refused_updates.add(update_id=update.update_id, instance=update.instance, refused_ns=run.now_ns)
    update_id = update.update_id
    if rejection is not None:
        refused.rejection.CopyFrom(rejection)
        # The callbacks of an update that a reset reapplied were attached when it was admitted.
        callbacks.on_update_completed(run, update_id, update_pb.Outcome(failure=rejection))
    _over(state, update_id)
    del state.updates[update_id]
    run.changed = True


def reject_unprocessed(completion: Completion) -> None:
    """Reject updates that a worker was sent and did not mention, unless it only asked for more time."""
    run = completion.run
    if completion.request.force_create_new_workflow_task or not run.is_open:
        return
    for update_id in list(run.state.in_flight_updates):
        update = run.state.updates[update_id]
        if update.stage == Update.SENT:
            refuse(run, update, UNPROCESSED)


def abort_sent(run: Run) -> None:
    """Abort the updates that the worker has seen, because its answer was invalid; the others keep waiting."""
    for update_id in list(run.state.in_flight_updates):
        update = run.state.updates[update_id]
        if update.stage == Update.SENT:
            refuse(run, update, None)


def protocol_message(completion: Completion, command: command_pb.Command) -> None:
    """Handle the command ProtocolMessage, which marks a message's place among the commands. Raise BadCommand."""
    message_id = command.protocol_message_command_attributes.message_id
    if not message_id:
        raise BadCommand(BAD_MESSAGE, "MessageID is not set on ProtocolMessageCommand.")
    message = completion.messages.pop(message_id, None)
    if message is None:
        raise BadCommand(BAD_MESSAGE, f"ProtocolMessageCommand referenced absent message ID {message_id}")
    handle_message(completion, message)


# ---- waiting callers
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """The stage of an update, and its outcome or where to find it."""

    stage: int
    outcome: update_pb.Outcome | None = None
    completed_event: tuple[int, int] | None = None
    """(batch id, event id) of the event with the outcome."""


def is_kept(update: Update) -> bool:
    """Return whether the update has an outcome even if its run closes now: one that was not accepted has none."""
    return update.stage in (Update.ACCEPTED, Update.COMPLETED)


def find(state: MutableState, update_id: str) -> Ticket:
    """Return the ticket of the update of that id. Raise NOT_FOUND."""
    update = state.updates.get(update_id)
    if update is None:
        raise not_found(f'update "{update_id}" not found')
    return Ticket(update_id, update.instance)


def progress(state: MutableState, ticket: Ticket, *, is_open: bool) -> Progress:
    """Return the progress of the ticket's update. Raise the caller's error when the update was aborted."""
    update = state.updates.get(ticket.update_id)
    if update is not None and update.instance == ticket.instance:
        if update.stage == Update.COMPLETED:
            return Progress(_COMPLETED, completed_event=(update.completed_event_batch_id, update.completed_event_id))
        if update.stage == Update.ACCEPTED:
            if not is_open:
                return Progress(_COMPLETED, update_pb.Outcome(failure=CLOSED_BEFORE_COMPLETED))
            return Progress(_ACCEPTED)
        if is_open:
            return Progress(_ADMITTED)
    for refused in state.refused_updates:
        if refused.update_id == ticket.update_id and refused.instance == ticket.instance:
            if refused.HasField("rejection"):
                return Progress(_COMPLETED, update_pb.Outcome(failure=refused.rejection))
            raise workflow_not_ready(
                "Unable to perform workflow execution update due to unexpected workflow task failure."
            )
    if not is_open:
        if state.new_run_id:
            raise workflow_closing()
        raise aborted_by_closing()
    raise ServiceError(Code.UNAVAILABLE, "workflow update was aborted")
