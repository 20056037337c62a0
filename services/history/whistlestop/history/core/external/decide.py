"""Signals to other executions and requests to cancel them, from the sender's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2

from whistlestop.history.core.commands import external_attributes, sizes
from whistlestop.history.core.commands.faults import namespace_id_of
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.transition.run import Run

    _Initiated: TypeAlias = (
        history_pb.SignalExternalWorkflowExecutionInitiatedEventAttributes
        | history_pb.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes
    )
    _Outcome: TypeAlias = (
        history_pb.ExternalWorkflowExecutionSignaledEventAttributes
        | history_pb.SignalExternalWorkflowExecutionFailedEventAttributes
        | history_pb.ExternalWorkflowExecutionCancelRequestedEventAttributes
        | history_pb.RequestCancelExternalWorkflowExecutionFailedEventAttributes
    )


def initiate_signal(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command SignalExternalWorkflowExecution. Raise BadCommand."""
    run = completion.run
    attributes = command.signal_external_workflow_execution_command_attributes
    external_attributes.signal_external_workflow(run, attributes)
    sizes.check_pending_signals(run)
    event = run.event(et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
    a = event.signal_external_workflow_execution_initiated_event_attributes
    a.namespace = attributes.namespace
    a.namespace_id = namespace_id_of(run, attributes.namespace)
    a.workflow_execution.CopyFrom(attributes.execution)
    a.signal_name = attributes.signal_name
    for field in ("input", "header"):
        if attributes.HasField(field):
            getattr(a, field).CopyFrom(getattr(attributes, field))
    a.control = attributes.control
    a.child_workflow_only = attributes.child_workflow_only
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    _add_transfer(run, "signal_external", event, a.namespace_id, a.workflow_execution)
    return event


def initiate_cancel(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command RequestCancelExternalWorkflowExecution. Raise BadCommand."""
    run = completion.run
    attributes = command.request_cancel_external_workflow_execution_command_attributes
    external_attributes.request_cancel_external_workflow(run, attributes)
    sizes.check_pending_cancels(run)
    event = run.event(et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
    a = event.request_cancel_external_workflow_execution_initiated_event_attributes
    a.namespace = attributes.namespace
    a.namespace_id = namespace_id_of(run, attributes.namespace)
    a.workflow_execution.workflow_id = attributes.workflow_id
    a.workflow_execution.run_id = attributes.run_id
    a.control = attributes.control
    a.child_workflow_only = attributes.child_workflow_only
    a.reason = attributes.reason
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.append(event)
    _add_transfer(run, "cancel_external", event, a.namespace_id, a.workflow_execution)
    return event


def _add_transfer(run: Run, kind: str, event: history_pb.HistoryEvent, namespace_id: str, execution: object) -> None:
    run.add_transfer(
        kind,
        TransferData(
            initiated_event_id=event.event_id,
            initiated_event_batch_id=run.batch[0].event_id,
            target_namespace_id=namespace_id,
            target_workflow_id=execution.workflow_id,  # type: ignore[attr-defined]
            target_run_id=execution.run_id,  # type: ignore[attr-defined]
        ),
    )


def _copy_target(run: Run, initiated_event_id: int, initiated: _Initiated, outcome: _Outcome) -> None:
    """Copy into an outcome the id of the event that it answers, and the execution that was addressed."""
    outcome.initiated_event_id = initiated_event_id
    outcome.namespace = initiated.namespace or run.state.namespace
    outcome.namespace_id = initiated.namespace_id
    outcome.workflow_execution.CopyFrom(initiated.workflow_execution)


def record_signaled(run: Run, initiated: history_pb.HistoryEvent) -> None:
    """Record that the signal is in the target's history."""
    attributes = initiated.signal_external_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
    a = event.external_workflow_execution_signaled_event_attributes
    _copy_target(run, initiated.event_id, attributes, a)
    a.control = attributes.control
    run.append(event)
    workflow_task.schedule_if_none(run)


def record_signal_failed(
    run: Run,
    initiated: history_pb.HistoryEvent,
    cause: failed_cause_pb2.SignalExternalWorkflowExecutionFailedCause.ValueType,
) -> None:
    """Record that the signal could not be delivered."""
    attributes = initiated.signal_external_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
    a = event.signal_external_workflow_execution_failed_event_attributes
    _copy_target(run, initiated.event_id, attributes, a)
    a.control = attributes.control
    a.cause = cause
    run.append(event)
    workflow_task.schedule_if_none(run)


def record_cancel_requested(run: Run, initiated: history_pb.HistoryEvent) -> None:
    """Record that the request is in the target's history."""
    attributes = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    a = event.external_workflow_execution_cancel_requested_event_attributes
    _copy_target(run, initiated.event_id, attributes, a)
    run.append(event)
    workflow_task.schedule_if_none(run)


def record_cancel_failed(
    run: Run,
    initiated: history_pb.HistoryEvent,
    cause: failed_cause_pb2.CancelExternalWorkflowExecutionFailedCause.ValueType,
) -> None:
    """Record that the request could not be delivered."""
    attributes = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
    event = run.event(et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
    a = event.request_cancel_external_workflow_execution_failed_event_attributes
    _copy_target(run, initiated.event_id, attributes, a)
    a.control = attributes.control
    a.cause = cause
    run.append(event)
    workflow_task.schedule_if_none(run)
