"""Validate commands about other executions: children, signals and cancellations.

The rules of `command_attributes` apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.timing import cron
from whistlestop.history.core import retry
from whistlestop.history.core.chain.start import run_timeout, task_timeout
from whistlestop.history.core.commands import sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.commands.faults import (
    RESERVED_ID_PREFIXES,
    check_namespace,
    check_search_attributes,
    is_uuid,
    priority_fault,
    queue_text,
    task_queue_fault,
    too_long,
    workflow_retry_fault,
)
from whistlestop.history.core.times import duration_ns, set_duration

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb

    from whistlestop.history.core.transition.run import Run


def start_child_workflow(run: Run, a: command_pb.StartChildWorkflowExecutionCommandAttributes) -> None:
    """Check and complete StartChildWorkflowExecution. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
    command = "StartChildWorkflowExecutionCommand"
    check_namespace(run, cause, a.namespace)
    a.namespace = a.namespace or run.state.namespace
    fault = _child_fault(run, a, command)
    if fault:
        raise BadCommand(cause, fault)
    what = f"WorkflowId={a.workflow_id} WorkflowType={a.workflow_type.name} Namespace={a.namespace}"
    check_search_attributes(
        run,
        a.search_attributes,
        "invalid SearchAttributes on StartChildWorkflowCommand: ",
        f". {what}",
        namespace=a.namespace,
    )
    fault = priority_fault(a.priority)
    if fault:
        raise BadCommand(cause, fault)
    state = run.state
    fault = task_queue_fault(a.task_queue, state.task_queue, state.task_queue, run.limits.id_length)
    if fault:
        raise BadCommand(cause, f"invalid TaskQueue on {command}: {fault}. {what} TaskQueue={queue_text(a.task_queue)}")
    run_timeout_ns = run_timeout(duration_ns(a.workflow_run_timeout), duration_ns(a.workflow_execution_timeout))
    set_duration(a.workflow_run_timeout, run_timeout_ns)
    set_duration(
        a.workflow_task_timeout, task_timeout(duration_ns(a.workflow_task_timeout), run_timeout_ns, run.limits)
    )
    if a.inherit_build_id and a.task_queue.name != state.task_queue and not state.assigned_build_id:
        raise BadCommand(
            cause, "StartChildWorkflowExecution with UseCompatibleVersion cannot run on different task queue."
        )
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes. Input exceeds size limit.")
    sizes.check_memo(run, cause, a.memo, f"{command}Attributes.Memo exceeds size limit.")
    sizes.check_search_attributes(run, cause, a.search_attributes)
    if a.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_UNSPECIFIED:
        a.parent_close_policy = wf_enums.PARENT_CLOSE_POLICY_TERMINATE
    if a.workflow_id_reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED:
        a.workflow_id_reuse_policy = wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


def _child_fault(run: Run, a: command_pb.StartChildWorkflowExecutionCommandAttributes, command: str) -> str:
    workflow_id, name, namespace, limit = a.workflow_id, a.workflow_type.name, a.namespace, run.limits.id_length
    what = f"WorkflowId={workflow_id} WorkflowType={name} Namespace={namespace}"
    if not workflow_id:
        return f"Required field WorkflowId is not set on {command}. WorkflowType={name} Namespace={namespace}"
    if not name:
        return f"Required field WorkflowType is not set on {command}. WorkflowId={workflow_id} Namespace={namespace}"
    if too_long(namespace, run):
        return f"Namespace on {command} exceeds length limit. {what} Length={len(namespace.encode())} Limit={limit}"
    if workflow_id.startswith(RESERVED_ID_PREFIXES):
        return f"WorkflowId on {command} cannot start with reserved prefix {workflow_id.partition(':')[0]}:. {what}"
    if too_long(workflow_id, run):
        return (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={workflow_id} "
            f"Length={len(workflow_id.encode())} Limit={limit} WorkflowType={name} Namespace={namespace}"
        )
    if too_long(name, run):
        return (
            f"WorkflowType on {command} exceeds length limit. WorkflowId={workflow_id} WorkflowType={name} "
            f"Length={len(name.encode())} Limit={limit} Namespace={namespace}"
        )
    for field, span in (
        ("WorkflowExecutionTimeout", a.workflow_execution_timeout),
        ("WorkflowRunTimeout", a.workflow_run_timeout),
        ("WorkflowTaskTimeout", a.workflow_task_timeout),
    ):
        fault = retry.duration_fault(span)
        if fault:
            return f"Invalid {field} on {command}: {fault}. {what}"
    if a.HasField("retry_policy"):
        fault = workflow_retry_fault(a.retry_policy, run)
        if fault:
            return f"invalid WorkflowRetryPolicy on {command}: {fault}. {what}"
    if a.cron_schedule:
        try:
            cron.parse(a.cron_schedule)
        except ValueError:
            return f"invalid CronSchedule on {command}: invalid CronSchedule.. {what}"
    return ""


def signal_external_workflow(run: Run, a: command_pb.SignalExternalWorkflowExecutionCommandAttributes) -> None:
    """Check SignalExternalWorkflowExecution. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
    command = "SignalExternalWorkflowExecutionCommand"
    if not a.HasField("execution"):
        raise BadCommand(cause, f"Execution is not set on {command}.")
    check_namespace(run, cause, a.namespace)
    workflow_id, run_id, namespace, name = a.execution.workflow_id, a.execution.run_id, a.namespace, a.signal_name
    limit = run.limits.id_length
    fault = ""
    if not workflow_id:
        fault = f"WorkflowId is not set on {command}. Namespace={namespace} RunId={run_id} SignalName={name}"
    elif too_long(workflow_id, run):
        fault = (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={workflow_id} "
            f"Length={len(workflow_id.encode())} Limit={limit} Namespace={namespace} RunId={run_id} SignalName={name}"
        )
    elif run_id and not is_uuid(run_id):
        fault = (
            f"Invalid RunId set on {command}. "
            f"WorkflowId={workflow_id} Namespace={namespace} RunId={run_id} SignalName={name}"
        )
    elif not name:
        fault = f"SignalName is not set on {command}. WorkflowId={workflow_id} Namespace={namespace} RunId={run_id}"
    if fault:
        raise BadCommand(cause, fault)
    sizes.check_blob(run, cause, a.input.ByteSize(), f"{command}Attributes.Input exceeds size limit.")


def request_cancel_external_workflow(
    run: Run, a: command_pb.RequestCancelExternalWorkflowExecutionCommandAttributes
) -> None:
    """Check RequestCancelExternalWorkflowExecution. Raise BadCommand."""
    cause = fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES
    command = "RequestCancelExternalWorkflowExecutionCommand"
    check_namespace(run, cause, a.namespace)
    what = f"WorkflowId={a.workflow_id} RunId={a.run_id} Namespace={a.namespace}"
    fault = ""
    if not a.workflow_id:
        fault = f"WorkflowId is not set on {command}. Namespace={a.namespace} RunId={a.run_id}"
    elif too_long(a.workflow_id, run):
        fault = (
            f"WorkflowId on {command} exceeds length limit. WorkflowId={a.workflow_id} "
            f"Length={len(a.workflow_id.encode())} Limit={run.limits.id_length} "
            f"RunId={a.run_id} Namespace={a.namespace}"
        )
    elif a.run_id and not is_uuid(a.run_id):
        fault = f"Invalid RunId set on {command}. {what}"
    elif _starts_child_in_this_task(run, a.workflow_id):
        fault = f"Start and RequestCancel for child workflow is not allowed in same workflow task. {what}"
    if fault:
        raise BadCommand(cause, fault)


def _starts_child_in_this_task(run: Run, workflow_id: str) -> bool:
    return any(
        event.HasField("start_child_workflow_execution_initiated_event_attributes")
        and event.start_child_workflow_execution_initiated_event_attributes.workflow_id == workflow_id
        for event in run.batch
    )
