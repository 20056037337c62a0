"""PauseWorkflowExecution and UnpauseWorkflowExecution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.operations import pause

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.ports import HistoryPorts


@handles(HistoryService.PauseWorkflowExecution)
async def pause_workflow_execution(
    ports: HistoryPorts, request: service_pb.PauseWorkflowExecutionRequest, context: CallContext
) -> service_pb.PauseWorkflowExecutionResponse:
    """Pause a workflow. Raise NOT_FOUND, or FAILED_PRECONDITION when another request has paused it."""
    await ports.engine.change(
        context.namespace_id, request.workflow_id, request.run_id, lambda run: pause.pause(run, request)
    )
    return service_pb.PauseWorkflowExecutionResponse()


@handles(HistoryService.UnpauseWorkflowExecution)
async def unpause_workflow_execution(
    ports: HistoryPorts, request: service_pb.UnpauseWorkflowExecutionRequest, context: CallContext
) -> service_pb.UnpauseWorkflowExecutionResponse:
    """Unpause a workflow. Raise NOT_FOUND, or FAILED_PRECONDITION when it is not paused."""
    await ports.engine.change(
        context.namespace_id, request.workflow_id, request.run_id, lambda run: pause.unpause(run, request)
    )
    return service_pb.UnpauseWorkflowExecutionResponse()
