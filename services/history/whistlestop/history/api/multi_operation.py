"""ExecuteMultiOperation: update-with-start, the only combination that exists.

Either the update is admitted to the existing run, or a run is started whose first commit admits it; no other request
can come in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles, links, updates
from whistlestop.history.api import start as start_api
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.state_pb2 import Update
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.core.update import decide as update
from whistlestop.history.engine import histories
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

MESSAGE = "Update-with-Start could not be executed."
ATTEMPTS_AFTER_CLOSING = 2


def aborted() -> ServiceError:
    """Return the error of an operation that was not executed because the other one failed."""
    return ServiceError(
        Code.ABORTED,
        "Operation was aborted.",
        failure_pb.MultiOperationExecutionAborted(),
    )


def failure(*errors: ServiceError | None) -> ServiceError:
    """Return the caller's error: the status of each operation, under the code of the one that failed.

    An operation without an error (None) has an empty status.
    """
    details = details_pb.MultiOperationExecutionFailure()
    code = Code.ABORTED
    for error in errors:
        status = details.statuses.add()
        if error is None:
            continue
        status.code = error.code
        status.message = error.message
        for detail in error.details:
            status.details.add().Pack(detail)
        if code is Code.ABORTED and error.code is not Code.ABORTED:
            code = error.code
    return ServiceError(code, MESSAGE, details)


class _UpdateRefused(Exception):
    """The update could not be admitted to the run that was about to start."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(slots=True)
class _UpdateWithStart:
    ports: HistoryPorts
    start: service_pb.StartWorkflowExecutionRequest
    request: service_pb.UpdateWorkflowExecutionRequest
    context: CallContext
    ticket: update.Ticket | None = None

    async def execute(self) -> service_pb.ExecuteMultiOperationResponse:
        entry = await self._current()
        if entry is not None:
            done = await self._outcome_of(entry)
            if done is not None:
                return done
            if self._joins(entry):
                return await self._join(entry)
        return await self._start()

    async def _current(self) -> Entry | None:
        engine = self.ports.engine
        try:
            return await engine.find(self.context.namespace_id, self.start.workflow_id)
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise failure(error, aborted()) from error

    async def _outcome_of(self, entry: Entry) -> service_pb.ExecuteMultiOperationResponse | None:
        """Return the reply if the update has completed already, whatever the state of the run; otherwise None."""
        known = entry.state.updates.get(self.request.request.meta.update_id)
        if known is None or known.stage != Update.COMPLETED:
            return None
        event = await histories.read_event(
            self.ports.engine, entry, known.completed_event_batch_id, known.completed_event_id
        )
        reply = service_pb.ExecuteMultiOperationResponse()
        started = reply.responses.add().start_workflow
        started.run_id = entry.key.run_id
        started.status = entry.state.status  # type: ignore[assignment]
        updated = reply.responses.add().update_workflow
        updated.update_ref.workflow_execution.workflow_id = entry.key.workflow_id
        updated.update_ref.workflow_execution.run_id = entry.key.run_id
        updated.update_ref.update_id = known.update_id
        updated.stage = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
        updated.outcome.CopyFrom(event.workflow_execution_update_completed_event_attributes.outcome)
        return reply

    def _joins(self, entry: Entry) -> bool:
        """Return whether the run is open and was started by this request, knows the update, or may be used."""
        state = entry.state
        return state.status in (RUNNING, PAUSED) and (
            self.start.request_id in state.request_ids
            or self.request.request.meta.update_id in state.updates
            or self.start.workflow_id_conflict_policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
        )

    async def _join(self, entry: Entry) -> service_pb.ExecuteMultiOperationResponse:
        key = entry.key
        try:
            _, ticket = await self.ports.engine.change(
                key.namespace_id,
                key.workflow_id,
                key.run_id,
                lambda run: update.admit(run, self.request.request, self.request.first_execution_run_id),
            )
            updated = await self._wait(key, ticket)
        except ServiceError as error:
            raise failure(aborted(), error) from error
        reply = service_pb.ExecuteMultiOperationResponse()
        started = reply.responses.add().start_workflow
        started.run_id = key.run_id
        started.status = entry.state.status  # type: ignore[assignment]
        started.link.CopyFrom(links.to_started_event(self.context.namespace, key.workflow_id, key.run_id))
        reply.responses.add().update_workflow.CopyFrom(updated)
        return reply

    async def _wait(self, key: ExecutionKey, ticket: update.Ticket) -> service_pb.UpdateWorkflowExecutionResponse:
        patience = updates.Patience.of(self.ports, self.context)
        return await updates.respond(self.ports, key, ticket, self.request, self.context, patience)

    def _prepare(self, run: Run) -> None:
        core_start.first_workflow_task(run)
        try:
            self.ticket = update.admit(run, self.request.request, schedule=False)
        except ServiceError as error:
            raise _UpdateRefused(error) from error

    async def _start(self) -> service_pb.ExecuteMultiOperationResponse:
        starting = start_api.Start(self.ports, self.start, self.context, self._prepare)
        try:
            started, run = await start_api.start(starting)
        except _UpdateRefused as refused:
            raise failure(aborted(), refused.error) from refused
        except ServiceError as error:
            raise failure(error, aborted()) from error
        if run is None and started.started:
            return await self._repeat(started.run_id)
        if run is None or self.ticket is None:
            raise failure(
                ServiceError(Code.UNAVAILABLE, "Workflow was not started: another request came between"), aborted()
            )
        try:
            updated = await self._wait(run.key, self.ticket)
        except ServiceError as error:
            raise failure(None, error) from error
        reply = service_pb.ExecuteMultiOperationResponse()
        reply.responses.add().start_workflow.CopyFrom(started)
        reply.responses.add().update_workflow.CopyFrom(updated)
        return reply

    async def _repeat(self, run_id: str) -> service_pb.ExecuteMultiOperationResponse:
        """Answer a request that took effect before, on a run that has since closed or been continued.

        If that run knows the update, it gives the answer; otherwise the run that continues it gets the update. If there
        is none, the update was aborted, which is what the first answer said or would have said.
        """
        engine = self.ports.engine
        key = ExecutionKey(self.context.namespace_id, self.start.workflow_id, run_id)
        started = await engine.read_if_any(key)
        if started is not None:
            done = await self._outcome_of(started)
            if done is not None:
                return done
            known = started.state.updates.get(self.request.request.meta.update_id)
            if started.state.status in (RUNNING, PAUSED) or (known is not None and update.is_kept(known)):
                return await self._join(started)
            current = await self._current()
            if (
                current is not None
                and current.state.status in (RUNNING, PAUSED)
                and current.state.first_run_id == started.state.first_run_id
            ):
                return await self._outcome_of(current) or await self._join(current)
        raise failure(None, update.aborted_by_closing())


@handles(HistoryService.ExecuteMultiOperation)
async def execute_multi_operation(
    ports: HistoryPorts, request: service_pb.ExecuteMultiOperationRequest, context: CallContext
) -> service_pb.ExecuteMultiOperationResponse:
    """Start a workflow and update it, or only update the existing one.

    Raise INVALID_ARGUMENT for other operations than these two. Any other error has a MultiOperationExecutionFailure
    with the status of each operation.
    """
    if len(request.operations) != 2:
        raise invalid_argument("Operations have to be exactly [Start, Update].")
    first, second = request.operations
    if not first.HasField("start_workflow") or not second.HasField("update_workflow"):
        raise invalid_argument("Operations have to be exactly [Start, Update].")
    for attempt in range(1, ATTEMPTS_AFTER_CLOSING + 1):
        operation = _UpdateWithStart(ports, first.start_workflow, second.update_workflow, context)
        try:
            return await operation.execute()
        except ServiceError as error:
            if not _overtaken_by_closing(error):
                raise
            if attempt == ATTEMPTS_AFTER_CLOSING:
                raise failure(
                    aborted(), ServiceError(Code.ABORTED, "workflow update was aborted by closing workflow")
                ) from error
    raise AssertionError("unreachable")


def _overtaken_by_closing(error: ServiceError) -> bool:
    """Return whether the run closed before it could be updated; then another attempt finds or starts another run."""
    details = error.details[0] if error.details else None
    if not isinstance(details, details_pb.MultiOperationExecutionFailure) or len(details.statuses) != 2:
        return False
    started, updated = details.statuses
    return started.code == Code.ABORTED and "aborted by closing workflow" in updated.message
