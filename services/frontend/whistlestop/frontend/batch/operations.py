"""The operation that a batch job applies to one execution: a request to this server's own API.

Where the API has request ids, they are derived from the job and the run, so that a repetition after a crash has no
effect.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import decoded
from whistlestop.common.errors import Code, ServiceError, failed_precondition
from whistlestop.common.rpcs.workflow_service import WorkflowService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import RequestT, ResponseT, Rpc
    from whistlestop.frontend.ports import FrontendPorts

_ROOT = uuid.UUID(int=0)
log = logging.getLogger(__name__)

_HISTORY_PAGE = 256
_MAX_HISTORY_PAGES = 1000
_AGAIN = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.ABORTED})
_ATTEMPTS = 4
_FIRST_WAIT_S = 0.2


class Operations:
    """The operation of one job."""

    def __init__(
        self, frontend: FrontendPorts, job: service_pb.StartBatchOperationRequest, context: CallContext
    ) -> None:
        self._frontend = frontend
        self._job = job
        self._context = context
        kind = job.WhichOneof("operation")
        self._operation: Any = getattr(job, kind or "")
        self._apply: Callable[[common_pb.WorkflowExecution], Awaitable[None]] = _BY_KIND[kind or ""].__get__(self)

    async def perform(self, execution: common_pb.WorkflowExecution) -> bool:
        """Apply the operation, retrying transient errors. Return whether it succeeded.

        An execution that does not exist counts as success.
        """
        wait_s = _FIRST_WAIT_S
        for attempt in range(_ATTEMPTS):
            try:
                await self._apply(execution)
            except ServiceError as error:
                if error.code is Code.NOT_FOUND:
                    return True
                if error.code not in _AGAIN or attempt == _ATTEMPTS - 1:
                    return False
            except Exception:  # count this execution as failed and go on with the others
                log.exception("a batch operation on %s/%s failed", execution.workflow_id, execution.run_id)
                return False
            else:
                return True
            await self._frontend.clock.sleep(wait_s)
            wait_s *= 2
        return False

    async def call(self, rpc: Rpc[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Send a request to this server's own API, and return the response. Raise ServiceError."""
        reply: Any = await self._frontend.call_as_server(rpc, request, self._context)
        response: ResponseT = decoded(reply, rpc.response_type)
        return response

    def _request_id(self, *parts: str) -> str:
        return str(uuid.uuid5(_ROOT, ":".join((self._job.job_id, *parts))))

    async def terminate(self, execution: common_pb.WorkflowExecution) -> None:
        """Terminate the execution. Raise ServiceError."""
        await self.call(
            WorkflowService.TerminateWorkflowExecution,
            service_pb.TerminateWorkflowExecutionRequest(
                namespace=self._context.namespace,
                workflow_execution=execution,
                reason=self._job.reason,
                identity=self._operation.identity,
                details=self._operation.details if self._operation.HasField("details") else None,
            ),
        )

    async def cancel(self, execution: common_pb.WorkflowExecution) -> None:
        """Request cancellation of the execution, without the job's reason, as in Temporal. Raise ServiceError."""
        await self.call(
            WorkflowService.RequestCancelWorkflowExecution,
            service_pb.RequestCancelWorkflowExecutionRequest(
                namespace=self._context.namespace,
                workflow_execution=execution,
                identity=self._operation.identity,
                request_id=self._request_id("cancel", execution.workflow_id, execution.run_id),
            ),
        )

    async def signal(self, execution: common_pb.WorkflowExecution) -> None:
        """Signal the execution. Raise ServiceError."""
        name = self._operation.signal
        await self.call(
            WorkflowService.SignalWorkflowExecution,
            service_pb.SignalWorkflowExecutionRequest(
                namespace=self._context.namespace,
                workflow_execution=execution,
                signal_name=name,
                input=self._operation.input,
                header=self._operation.header if self._operation.HasField("header") else None,
                identity=self._operation.identity,
                request_id=self._request_id("signal", execution.workflow_id, execution.run_id, name),
            ),
        )

    async def delete(self, execution: common_pb.WorkflowExecution) -> None:
        """Delete the execution. Raise ServiceError."""
        await self.call(
            WorkflowService.DeleteWorkflowExecution,
            service_pb.DeleteWorkflowExecutionRequest(namespace=self._context.namespace, workflow_execution=execution),
        )

    async def update_options(self, execution: common_pb.WorkflowExecution) -> None:
        """Change the options of the execution. Raise ServiceError."""
        await self.call(
            WorkflowService.UpdateWorkflowExecutionOptions,
            service_pb.UpdateWorkflowExecutionOptionsRequest(
                namespace=self._context.namespace,
                workflow_execution=execution,
                workflow_execution_options=self._operation.workflow_execution_options,
                update_mask=self._operation.update_mask,
                identity=self._operation.identity,
            ),
        )

    async def unpause_activities(self, execution: common_pb.WorkflowExecution) -> None:
        """Unpause the execution's activities of the job's type, or all of them. Raise ServiceError."""
        operation = self._operation
        which = {"type": operation.type} if operation.WhichOneof("activity") == "type" else {"unpause_all": True}
        await self.call(
            WorkflowService.UnpauseActivity,
            service_pb.UnpauseActivityRequest(
                namespace=self._context.namespace,
                execution=execution,
                identity=operation.identity,
                reset_attempts=operation.reset_attempts,
                reset_heartbeat=operation.reset_heartbeat,
                jitter=operation.jitter if operation.HasField("jitter") else None,
                **which,
            ),
        )

    async def reset_activities(self, execution: common_pb.WorkflowExecution) -> None:
        """Reset the activities of the execution that the job selects. Raise ServiceError."""
        operation = self._operation
        await self.call(
            WorkflowService.ResetActivity,
            service_pb.ResetActivityRequest(
                namespace=self._context.namespace,
                execution=execution,
                identity=operation.identity,
                reset_heartbeat=operation.reset_heartbeat,
                keep_paused=operation.keep_paused,
                jitter=operation.jitter if operation.HasField("jitter") else None,
                restore_original_options=operation.restore_original_options,
                **_which(operation),
            ),
        )

    async def update_activity_options(self, execution: common_pb.WorkflowExecution) -> None:
        """Change the options of the activities that the job selects. Raise ServiceError."""
        operation = self._operation
        await self.call(
            WorkflowService.UpdateActivityOptions,
            service_pb.UpdateActivityOptionsRequest(
                namespace=self._context.namespace,
                execution=execution,
                identity=operation.identity,
                activity_options=operation.activity_options if operation.HasField("activity_options") else None,
                update_mask=operation.update_mask,
                restore_original=operation.restore_original,
                **_which(operation),
            ),
        )

    # ---- standalone activities, whose id is in `workflow_id`

    async def terminate_activity(self, execution: common_pb.WorkflowExecution) -> None:
        """Terminate the standalone activity. Raise ServiceError."""
        request = service_pb.TerminateActivityExecutionRequest()
        self._fill_in(request, "terminate-activity", execution)
        await self.call(WorkflowService.TerminateActivityExecution, request)

    async def cancel_activity(self, execution: common_pb.WorkflowExecution) -> None:
        """Request cancellation of the standalone activity. Raise ServiceError."""
        request = service_pb.RequestCancelActivityExecutionRequest()
        self._fill_in(request, "cancel-activity", execution)
        await self.call(WorkflowService.RequestCancelActivityExecution, request)

    def _fill_in(
        self,
        request: service_pb.TerminateActivityExecutionRequest | service_pb.RequestCancelActivityExecutionRequest,
        word: str,
        execution: common_pb.WorkflowExecution,
    ) -> None:
        request.namespace, request.reason = self._context.namespace, self._operation.reason
        request.activity_id, request.run_id = execution.workflow_id, execution.run_id
        request.identity = self._operation.identity
        request.request_id = self._request_id(word, execution.workflow_id, execution.run_id)

    async def delete_activity(self, execution: common_pb.WorkflowExecution) -> None:
        """Delete the standalone activity. Raise ServiceError."""
        await self.call(
            WorkflowService.DeleteActivityExecution,
            service_pb.DeleteActivityExecutionRequest(
                namespace=self._context.namespace, activity_id=execution.workflow_id, run_id=execution.run_id
            ),
        )

    # ---- reset

    async def reset(self, execution: common_pb.WorkflowExecution) -> None:
        """Reset the execution to the event that the job's options select. Raise ServiceError."""
        operation = self._operation
        base = common_pb.WorkflowExecution()
        base.CopyFrom(execution)
        if operation.HasField("options"):
            event_id = await self._point(base, operation.options)
            reapply = operation.options.reset_reapply_type
            excluded = operation.options.reset_reapply_exclude_types
        else:
            first = operation.reset_type == reset_enums.RESET_TYPE_FIRST_WORKFLOW_TASK
            event_id = await (self._first_task(base) if first else self._last_task(base))
            reapply, excluded = operation.reset_reapply_type, ()
        await self.call(
            WorkflowService.ResetWorkflowExecution,
            service_pb.ResetWorkflowExecutionRequest(
                namespace=self._context.namespace,
                workflow_execution=base,
                reason=self._job.reason,
                request_id=self._request_id("reset", execution.workflow_id, execution.run_id),
                workflow_task_finish_event_id=event_id,
                reset_reapply_type=reapply,
                reset_reapply_exclude_types=excluded,
                post_reset_operations=operation.post_reset_operations,
                identity=operation.identity,
            ),
        )

    async def _point(self, base: common_pb.WorkflowExecution, options: common_pb.ResetOptions) -> int:
        """Return the event to reset to. May change `base` to an earlier run."""
        target = options.WhichOneof("target")
        if target == "first_workflow_task":
            return await self._first_task(base)
        if target == "last_workflow_task":
            return await self._last_task(base)
        if target == "workflow_task_id":
            return int(options.workflow_task_id)
        described = await self.call(
            WorkflowService.DescribeWorkflowExecution,
            service_pb.DescribeWorkflowExecutionRequest(namespace=self._context.namespace, execution=base),
        )
        for point in described.workflow_execution_info.auto_reset_points.points:
            if point.build_id != options.build_id:
                continue
            expired = point.HasField("expire_time") and (
                point.expire_time.ToNanoseconds() < self._frontend.clock.now_ns()
            )
            in_other_run = point.run_id != base.run_id and options.current_run_only
            if not point.resettable or expired or in_other_run:
                break
            base.run_id = point.run_id
            return int(point.first_workflow_task_completed_id)
        raise failed_precondition(f"Can't find reset point for {options.build_id}")

    async def _first_task(self, base: common_pb.WorkflowExecution) -> int:
        """Return the id of the first completed workflow task, or where the first scheduled one would end."""
        return await self._find_task(base, latest=False)

    async def _last_task(self, base: common_pb.WorkflowExecution) -> int:
        """Return the id of the last completed workflow task, or where the first scheduled one would end."""
        return await self._find_task(base, latest=True)

    async def _find_task(self, base: common_pb.WorkflowExecution, *, latest: bool) -> int:
        token = b""
        scheduled: int = 0
        for _ in range(_MAX_HISTORY_PAGES):
            history, token = await self._page(base, token, latest=latest)
            for event in history.events:
                if event.event_type == et.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                    return int(event.event_id)
                if event.event_type == et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED and (latest or not scheduled):
                    scheduled = int(event.event_id) + 1
            if not token:
                break
        if not scheduled:
            raise failed_precondition("unable to find any scheduled or completed task")
        return scheduled

    async def _page(
        self, base: common_pb.WorkflowExecution, token: bytes, *, latest: bool
    ) -> tuple[history_pb.History, bytes]:
        """Return a page of the history, the latest events first if `latest`, and the token of the next page."""
        fields: dict[str, Any] = {
            "namespace": self._context.namespace, "execution": base, "maximum_page_size": _HISTORY_PAGE,
            "next_page_token": token,
        }  # fmt: skip
        if latest:
            back = service_pb.GetWorkflowExecutionHistoryReverseRequest(**fields)
            earlier = await self.call(WorkflowService.GetWorkflowExecutionHistoryReverse, back)
            return earlier.history, earlier.next_page_token
        page = await self.call(
            WorkflowService.GetWorkflowExecutionHistory, service_pb.GetWorkflowExecutionHistoryRequest(**fields)
        )
        return page.history, page.next_page_token


def _which(operation: Any) -> dict[str, Any]:
    return {"type": operation.type} if operation.WhichOneof("activity") == "type" else {"match_all": True}


_BY_KIND: dict[str, Any] = {
    "termination_operation": Operations.terminate,
    "cancellation_operation": Operations.cancel,
    "signal_operation": Operations.signal,
    "deletion_operation": Operations.delete,
    "reset_operation": Operations.reset,
    "update_workflow_options_operation": Operations.update_options,
    "unpause_activities_operation": Operations.unpause_activities,
    "reset_activities_operation": Operations.reset_activities,
    "update_activity_options_operation": Operations.update_activity_options,
    "terminate_activities_operation": Operations.terminate_activity,
    "cancel_activities_operation": Operations.cancel_activity,
    "delete_activities_operation": Operations.delete_activity,
}
