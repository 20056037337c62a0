"""StartWorkflowExecution: id policies, request-id deduplication, the new run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.history.api import METHODS
from whistlestop.history.core import start as core_start
from whistlestop.storage.errors import CurrentConflict

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.run import Run
    from whistlestop.history.service import History
    from whistlestop.storage.records import CurrentExecution


def new_run(
    service: History,
    request: service_pb.StartWorkflowExecutionRequest,
    context: CallContext,
    expected_current_run_id: str | None,
) -> Run:
    """A run as the request wants it, up to its first event."""
    now_ns = service.clock.now_ns()
    attributes = core_start.started_attributes(request, now_ns=now_ns, limits=service.limits)
    return core_start.new_run(
        attributes,
        namespace_id=context.namespace_id,
        namespace=context.namespace,
        workflow_id=request.workflow_id,
        run_id=service.ids.uuid(),
        request_id=request.request_id,
        now_ns=now_ns,
        ids=service.ids,
        limits=service.limits,
        user_metadata=request.user_metadata if request.HasField("user_metadata") else None,
        links=request.links,
        expected_current_run_id=expected_current_run_id,
    )


async def start_workflow_execution(
    service: History, request: service_pb.StartWorkflowExecutionRequest, context: CallContext
) -> Reply:
    """Start a run, or answer as the id policies say when the workflow id is taken."""
    run = new_run(service, request, context, None)
    core_start.first_workflow_task(run)
    try:
        await service.engine.commit(run)
    except CurrentConflict as conflict:
        return await _resolve_conflict(service, request, context, conflict.current)
    return service_pb.StartWorkflowExecutionResponse(
        run_id=run.key.run_id, started=True, status=wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
    )


async def _resolve_conflict(
    service: History,
    request: service_pb.StartWorkflowExecutionRequest,
    context: CallContext,
    current: CurrentExecution | None,
) -> Reply:
    from whistlestop.common.errors import already_started

    if current is None:
        return await start_workflow_execution(service, request, context)
    if current.create_request_id == request.request_id:
        return service_pb.StartWorkflowExecutionResponse(run_id=current.run_id, started=True)
    if current.status == wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
        raise already_started(
            f"Workflow execution is already running. WorkflowId: {request.workflow_id}, RunId: {current.run_id}.",
            current.create_request_id,
            current.run_id,
        )
    run = new_run(service, request, context, current.run_id)
    core_start.first_workflow_task(run)
    try:
        await service.engine.commit(run)
    except CurrentConflict as conflict:
        return await _resolve_conflict(service, request, context, conflict.current)
    return service_pb.StartWorkflowExecutionResponse(
        run_id=run.key.run_id, started=True, status=wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
    )


METHODS["StartWorkflowExecution"] = start_workflow_execution
