"""How a run ends: completed, failed, cancelled, timed out, terminated, or continued as another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.history.core.completion import HANDLERS, BadCommand, Completion

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.run import Run


def check_all_seen(completion: Completion) -> None:
    """A workflow may not end before it has seen what happened during its last task."""
    if completion.had_buffered_events:
        raise BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND)


def complete(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """CompleteWorkflowExecution."""
    check_all_seen(completion)
    run = completion.run
    attributes = command.complete_workflow_execution_command_attributes
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    a = event.workflow_execution_completed_event_attributes
    if attributes.HasField("result"):
        a.result.CopyFrom(attributes.result)
    a.workflow_task_completed_event_id = completion.completed_event_id
    return finish(run, event)


def finish(run: Run, event: history_pb.HistoryEvent) -> history_pb.HistoryEvent:
    """Append the closing event and do what every end does."""
    run.append(event)
    run.finished = True
    run.visibility_changed = True
    return event


def terminate(run: Run, *, reason: str, identity: str, details: common_pb.Payloads | None = None) -> None:
    """TerminateWorkflowExecution."""
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED)
    a = event.workflow_execution_terminated_event_attributes
    a.reason = reason
    a.identity = identity
    if details is not None:
        a.details.CopyFrom(details)
    finish(run, event)


HANDLERS[ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION] = complete
