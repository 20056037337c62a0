"""Requests to cancel a run. A repeated request, or one for a closed run, succeeds and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.common.errors import not_found
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.transition.run import Run

NOT_THIS_CHAIN = "workflow execution not found"


def check_chain(run: Run, first_execution_run_id: str) -> None:
    """Raise NOT_FOUND unless the run's chain began with that run (an empty id matches any)."""
    if first_execution_run_id and run.state.first_run_id != first_execution_run_id:
        raise not_found(NOT_THIS_CHAIN)


def request(
    run: Run,
    *,
    cause: str,
    identity: str,
    request_id: str,
    first_execution_run_id: str = "",
    links: Iterable[common_pb.Link] = (),
    external: tuple[int, str, str] | None = None,
    child_workflow_only: bool = False,
) -> None:
    """Record the request and schedule a workflow task.

    `external` is the requesting run as (id of its initiated event, workflow id, run id). Raise NOT_FOUND when the run
    belongs to another chain, or is no child of the requester although `child_workflow_only` is set.
    """
    if not run.is_open:
        return
    check_chain(run, first_execution_run_id)
    sender = None if external is None else common_pb.WorkflowExecution(workflow_id=external[1], run_id=external[2])
    if child_workflow_only:
        signal.check_parent(run, sender)
    if run.state.cancel_requested:
        return
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    a = event.workflow_execution_cancel_requested_event_attributes
    a.cause = cause
    a.identity = identity
    if external is not None and sender is not None:
        a.external_initiated_event_id = external[0]
        a.external_workflow_execution.CopyFrom(sender)
    event.links.extend(links)
    run.append(event)
    run.state.cancel_request_id = request_id
    if not run.has_pending_workflow_task and not run.state.paused:
        # This also ends a wait for the first workflow task: a cancelled workflow need not wait.
        workflow_task.schedule(run)


def from_workflow(
    run: Run,
    attributes: history_pb.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    initiated_event_id: int,
    sender: Run,
) -> None:
    """Record the cancellation request of another run (`sender`). Raise ServiceError."""
    request(
        run,
        cause=attributes.reason,
        identity=signal.HISTORY_SERVICE,
        request_id=sender.state.external_cancels[initiated_event_id].request_id,
        external=(initiated_event_id, sender.state.workflow_id, sender.state.run_id),
        child_workflow_only=attributes.child_workflow_only,
    )
