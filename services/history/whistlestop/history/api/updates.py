"""UpdateWorkflowExecution and PollWorkflowExecutionUpdate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import deadline_exceeded
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import execution_topic
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.core.update import decide as update
from whistlestop.history.engine import histories
from whistlestop.history.nexus import callback_order

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.update.v1 import message_pb2 as update_pb

    from whistlestop.common.context import CallContext
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import ExecutionKey


@handles(HistoryService.UpdateWorkflowExecution)
async def update_workflow_execution(
    ports: HistoryPorts, request: service_pb.UpdateWorkflowExecutionRequest, context: CallContext
) -> service_pb.UpdateWorkflowExecutionResponse:
    """Admit the update, and wait until it reaches the requested stage; without it the reply has the current stage.

    Raise what `update.admit` and `wait` raise.
    """
    execution = request.workflow_execution
    patience = Patience.of(ports, context)
    run, ticket = await ports.engine.change(
        context.namespace_id,
        execution.workflow_id,
        execution.run_id,
        lambda run: update.admit(run, request.request, request.first_execution_run_id),
    )
    return await respond(ports, run.key, ticket, request, context, patience)


async def respond(
    ports: HistoryPorts,
    key: ExecutionKey,
    ticket: update.Ticket,
    request: service_pb.UpdateWorkflowExecutionRequest,
    context: CallContext,
    patience: Patience,
) -> service_pb.UpdateWorkflowExecutionResponse:
    """Wait for an admitted update until the patience ends, and return the reply. Raise ServiceError."""
    reached, outcome = await wait(ports, key, ticket, request.wait_policy.lifecycle_stage, patience)
    reply = service_pb.UpdateWorkflowExecutionResponse(stage=reached.stage)  # type: ignore[arg-type]
    reply.update_ref.workflow_execution.workflow_id = key.workflow_id
    reply.update_ref.workflow_execution.run_id = key.run_id
    reply.update_ref.update_id = ticket.update_id
    if outcome is not None:
        reply.outcome.CopyFrom(outcome)
    _link(reply.link, reached, outcome, key, context.namespace, request.request.request_id)
    return reply


def _link(
    link: common_pb.Link,
    reached: update.Progress,
    outcome: update_pb.Outcome | None,
    key: ExecutionKey,
    namespace: str,
    request_id: str,
) -> None:
    """Fill the link to the update's event; a failed update may have none and links to the workflow."""
    completed = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
    if reached.stage == completed and outcome is not None and outcome.HasField("failure"):
        link.workflow.namespace = namespace
        link.workflow.workflow_id = key.workflow_id
        link.workflow.run_id = key.run_id
        link.workflow.reason = "Update rejected"
    elif reached.stage >= update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED:
        event = link.workflow_event
        event.namespace = namespace
        event.workflow_id = key.workflow_id
        event.run_id = key.run_id
        event.request_id_ref.request_id = request_id
        event.request_id_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED


def deadline(ports: HistoryPorts, context: CallContext) -> int:
    """Return until when a caller waits, shortly before its own deadline and at most for a long poll.

    The time is by the steady clock, in nanoseconds.
    """
    long_poll_ns, now_ns = ports.limits.of(context.namespace).long_poll_ns, ports.clock.steady_ns()
    if context.deadline_ns is None:
        return now_ns + long_poll_ns
    left_ns = context.deadline_ns - now_ns
    return now_ns + min(long_poll_ns, left_ns - min(SECOND_NS, left_ns // 5))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for an update, and what it gets at the end."""

    until_ns: int
    refuses: bool
    """True: the deadline is the caller's own, which then gets an error. False: it gets the update's current stage."""

    @classmethod
    def of(cls, ports: HistoryPorts, context: CallContext) -> Patience:
        """Return the caller's deadline if it is earlier than a long poll's.

        In a function it may be the function's own.
        """
        latest_ns = context.deadline_ns
        long_poll_ns = ports.clock.steady_ns() + ports.limits.of(context.namespace).long_poll_ns
        if context.can_long_poll and latest_ns is not None and latest_ns < long_poll_ns:
            return cls(latest_ns, refuses=True)
        return cls(deadline(ports, context), refuses=False)


async def wait(
    ports: HistoryPorts, key: ExecutionKey, ticket: update.Ticket, stage: int, patience: Patience
) -> tuple[update.Progress, update_pb.Outcome | None]:
    """Wait until the update reaches `stage` or until the deadline; return its progress, and its outcome or None.

    Raise DEADLINE_EXCEEDED at the caller's own deadline, and what `update.progress` raises for an aborted update.
    """
    with ports.notifier.subscribe(execution_topic(key.namespace_id, key.workflow_id, key.run_id)) as audience:
        while True:
            entry = await ports.engine.read(key, audience)
            is_open = entry.state.status in (RUNNING, PAUSED)
            reached = update.progress(entry.state, ticket, is_open=is_open)
            if reached.completed_event is not None or reached.outcome is not None:
                await callback_order.called(ports, entry, patience.until_ns, ticket.update_id)
            if reached.completed_event is not None:
                batch_id, event_id = reached.completed_event
                event = await histories.read_event(ports.engine, entry, batch_id, event_id)
                return reached, event.workflow_execution_update_completed_event_attributes.outcome
            if reached.outcome is not None:
                return reached, reached.outcome
            if reached.stage >= stage or ports.is_closing():
                return reached, None
            if not await audience.wait(patience.until_ns):
                if patience.refuses:
                    raise deadline_exceeded()
                return reached, None


@handles(HistoryService.PollWorkflowExecutionUpdate)
async def poll_workflow_execution_update(
    ports: HistoryPorts, request: service_pb.PollWorkflowExecutionUpdateRequest, context: CallContext
) -> service_pb.PollWorkflowExecutionUpdateResponse:
    """Wait for the outcome of an update that was admitted before. Raise NOT_FOUND, or DEADLINE_EXCEEDED."""
    ref = request.update_ref
    entry = await ports.engine.find(
        context.namespace_id, ref.workflow_execution.workflow_id, ref.workflow_execution.run_id
    )
    key = entry.key
    ticket = update.find(entry.state, ref.update_id)
    patience = Patience.of(ports, context)
    if context.deadline_ns is not None and context.deadline_ns <= ports.clock.steady_ns():
        raise deadline_exceeded()
    reached, outcome = await wait(ports, key, ticket, request.wait_policy.lifecycle_stage, patience)
    reply = service_pb.PollWorkflowExecutionUpdateResponse(stage=reached.stage)  # type: ignore[arg-type]
    reply.update_ref.CopyFrom(ref)
    reply.update_ref.workflow_execution.run_id = key.run_id
    if outcome is not None:
        reply.outcome.CopyFrom(outcome)
    return reply
