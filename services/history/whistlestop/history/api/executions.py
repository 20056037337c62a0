"""Cancel, terminate, delete and describe executions, and change their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import not_found
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning.deployments import EMPTY, check_override, named_version
from whistlestop.history.api import handles
from whistlestop.history.core import describe
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal.decide import ALREADY_COMPLETED
from whistlestop.history.core.workflow import cancel, close
from whistlestop.history.engine import deletion
from whistlestop.history.nexus import circuit_breakers

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts


@handles(HistoryService.RequestCancelWorkflowExecution)
async def request_cancel_workflow_execution(
    ports: HistoryPorts, request: service_pb.RequestCancelWorkflowExecutionRequest, context: CallContext
) -> service_pb.RequestCancelWorkflowExecutionResponse:
    """Request the workflow's cancellation; for a closed run this does nothing. Raise NOT_FOUND."""
    execution = request.workflow_execution

    def decide(run: Run) -> None:
        cancel.request(
            run,
            cause=request.reason,
            identity=request.identity,
            request_id=request.request_id,
            first_execution_run_id=request.first_execution_run_id,
            links=request.links,
        )

    run_id = "" if request.first_execution_run_id else execution.run_id
    await ports.engine.change(context.namespace_id, execution.workflow_id, run_id, decide)
    return service_pb.RequestCancelWorkflowExecutionResponse()


@handles(HistoryService.TerminateWorkflowExecution)
async def terminate_workflow_execution(
    ports: HistoryPorts, request: service_pb.TerminateWorkflowExecutionRequest, context: CallContext
) -> service_pb.TerminateWorkflowExecutionResponse:
    """Terminate the run at once. Raise NOT_FOUND for a closed run."""
    execution = request.workflow_execution

    def decide(run: Run) -> None:
        if not run.is_open:
            raise not_found(ALREADY_COMPLETED)
        cancel.check_chain(run, request.first_execution_run_id)
        close.terminate(
            run,
            reason=request.reason,
            identity=request.identity,
            details=request.details if request.HasField("details") else None,
            links=request.links,
        )

    run_id = "" if request.first_execution_run_id else execution.run_id
    await ports.engine.change(context.namespace_id, execution.workflow_id, run_id, decide, repairs=True)
    return service_pb.TerminateWorkflowExecutionResponse()


@handles(HistoryService.DeleteWorkflowExecution)
async def delete_workflow_execution(
    ports: HistoryPorts, request: service_pb.DeleteWorkflowExecutionRequest, context: CallContext
) -> service_pb.DeleteWorkflowExecutionResponse:
    """Terminate the run if it is open, notifying parent and children; then delete everything stored of it.

    Raise NOT_FOUND.
    """
    execution = request.workflow_execution
    await deletion.end_and_delete(ports.engine, context.namespace_id, execution.workflow_id, execution.run_id)
    return service_pb.DeleteWorkflowExecutionResponse()


@handles(HistoryService.DescribeWorkflowExecution)
async def describe_workflow_execution(
    ports: HistoryPorts, request: service_pb.DescribeWorkflowExecutionRequest, context: CallContext
) -> service_pb.DescribeWorkflowExecutionResponse:
    """Describe a run: everything but its history. Raise NOT_FOUND."""
    engine = ports.engine
    execution = request.execution
    entry = await engine.find(context.namespace_id, execution.workflow_id, execution.run_id)
    limits = ports.limits.of(context.namespace)
    reply = describe.workflow(entry.state, now_ns=ports.clock.now_ns(), signal_backlinks=limits.signal_backlinks)
    circuit_breakers.show(engine.breakers, context.namespace_id, reply.pending_nexus_operations, reply.callbacks)
    if any(activity.pause_info.HasField("rule") for activity in reply.pending_activities):
        await _fill_rules(ports, context.namespace_id, reply)
    return reply


async def _fill_rules(
    ports: HistoryPorts, namespace_id: str, reply: service_pb.DescribeWorkflowExecutionResponse
) -> None:
    """Add who created the rules that pause activities, and why; of a deleted rule only the id is known."""
    namespace = await ports.namespaces.by_id(namespace_id)
    rules = {rule.spec.id: rule for rule in namespace.workflow_rules} if namespace is not None else {}
    for activity in reply.pending_activities:
        rule = rules.get(activity.pause_info.rule.rule_id) if activity.pause_info.HasField("rule") else None
        if rule is not None:
            activity.pause_info.rule.identity = rule.created_by_identity
            activity.pause_info.rule.reason = rule.description


@handles(HistoryService.UpdateWorkflowExecutionOptions)
async def update_workflow_execution_options(
    ports: HistoryPorts, request: service_pb.UpdateWorkflowExecutionOptionsRequest, context: CallContext
) -> service_pb.UpdateWorkflowExecutionOptionsResponse:
    """Change the options of an open run that the mask names; return all options.

    Raise NOT_FOUND, FAILED_PRECONDITION for an unknown version, or INVALID_ARGUMENT for an invalid mask.
    """
    execution = request.workflow_execution
    override = request.workflow_execution_options.versioning_override
    deployments = EMPTY
    if named_version(override) is not None:
        deployments = await ports.engine.deployments.read(context.namespace_id)

    def decide(run: Run) -> None:
        if run.is_open:
            check_override(deployments, override, run.state.task_queue)
        options.merge(run, request.workflow_execution_options, request.update_mask.paths, request.identity)

    run, _ = await ports.engine.change(context.namespace_id, execution.workflow_id, execution.run_id, decide)
    return service_pb.UpdateWorkflowExecutionOptionsResponse(workflow_execution_options=options.of_run(run))
