"""Signals that a run receives.

Rules of this file, which are Temporal's: a request id makes a signal idempotent, even after the run has closed; a run
that waits for its first workflow task keeps waiting, unless the signal came with a start.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run

ALREADY_COMPLETED = "workflow execution already completed"
HISTORY_SERVICE = "history-service"
HANDED_ON = 64
"""The number of signal request ids passed to the next run of a chain: clients repeat a request within seconds."""
PARENT_MISMATCH = "workflow parent does not match"


def receive(
    run: Run,
    *,
    name: str,
    input: common_pb.Payloads | None,  # noqa: A002 - the field's own name
    identity: str,
    request_id: str,
    header: common_pb.Header | None = None,
    links: Iterable[common_pb.Link] = (),
    sender: common_pb.WorkflowExecution | None = None,
    child_workflow_only: bool = False,
    with_start: bool = False,
) -> None:
    """Record the signal and schedule a workflow task; a request received before changes nothing.

    Raise NOT_FOUND for a closed run, INVALID_ARGUMENT over a limit, RESOURCE_EXHAUSTED while the workflow tries to
    close.
    """
    if request_id and is_known(run.state, request_id):
        return
    if not run.is_open:
        raise not_found(ALREADY_COMPLETED)
    check(run, input)
    if child_workflow_only:
        check_parent(run, sender)
    record(
        run, name=name, input=input, identity=identity, request_id=request_id, header=header, links=links, sender=sender
    )
    if with_start:
        if not run.has_pending_workflow_task and not run.state.paused:
            workflow_task.schedule(run)
    elif not run.state.paused:
        workflow_task.schedule_if_none(run)


def from_workflow(
    run: Run,
    attributes: history_pb.SignalExternalWorkflowExecutionInitiatedEventAttributes,
    initiated_event_id: int,
    sender: Run,
) -> None:
    """Receive the signal of another run (`sender`), named by its initiated event. Raise ServiceError."""
    receive(
        run,
        name=attributes.signal_name,
        input=attributes.input if attributes.HasField("input") else None,
        header=attributes.header if attributes.HasField("header") else None,
        identity=HISTORY_SERVICE,
        request_id=sender.state.external_signals[initiated_event_id].request_id,
        sender=common_pb.WorkflowExecution(workflow_id=sender.state.workflow_id, run_id=sender.state.run_id),
        child_workflow_only=attributes.child_workflow_only,
    )


def is_known(state: MutableState, request_id: str) -> bool:
    """Return whether the request was received before, by this run or by one that it continues."""
    if request_id in state.signal_request_ids:
        return True
    return (
        request_id in state.request_ids
        and state.request_ids[request_id].event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    )


def is_same_request(state: MutableState, request_id: str, digest: int) -> bool:
    """Return whether this signal-with-start was received before, as opposed to another one with the same id.

    A run written by release 0.1.0 has no digests, so there the id alone decides.
    """
    digests = state.signal_with_start_digests
    return is_known(state, request_id) and (not digests or digest in digests)


def note_request(state: MutableState, digest: int) -> None:
    """Record the digest of a signal-with-start that was received; only the last `HANDED_ON` are kept."""
    if digest in state.signal_with_start_digests:
        return
    state.signal_with_start_digests.append(digest)
    del state.signal_with_start_digests[:-HANDED_ON]


def hand_on_requests(state: MutableState, following: MutableState) -> None:
    """Pass the last signal request ids to the next run of the chain, which then ignores repeated requests."""
    taken = [
        (info.event_id, request_id)
        for request_id, info in state.request_ids.items()
        if info.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
    newest = [request_id for _, request_id in heapq.nlargest(HANDED_ON, taken)]
    known = [*state.signal_request_ids, *reversed(newest)]
    following.signal_request_ids.extend(known[-HANDED_ON:])
    following.signal_with_start_digests.extend(state.signal_with_start_digests)


def check(run: Run, input: common_pb.Payloads | None) -> None:  # noqa: A002 - the field's own name
    """Enforce the limits on the number of signals and the size of the input (None: no input).

    Raise INVALID_ARGUMENT, or RESOURCE_EXHAUSTED while the workflow tries to close.
    """
    limits, state = run.limits, run.state
    size = 0 if input is None else input.ByteSize()
    if size > limits.blob_size_error:
        raise invalid_argument("Blob data size exceeds limit.")
    if size > limits.blob_size_warn:
        run.warn(f"a signal of {size} bytes is over the warning limit")
    if 0 < limits.signals_per_execution <= state.signal_count:
        raise invalid_argument("exceeded workflow execution limit for signal events")
    if state.workflow_close_attempted and run.has_started_workflow_task:
        raise ServiceError(
            Code.RESOURCE_EXHAUSTED,
            "workflow operation can not be applied because workflow is closing",
            details_pb.ResourceExhaustedFailure(
                cause=fc.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW, scope=fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
            ),
        )


def check_parent(run: Run, sender: common_pb.WorkflowExecution | None) -> None:
    """Raise NOT_FOUND unless the sender, who claims to address its own child, is the run's parent."""
    parent = run.state.parent
    if sender is None or (sender.workflow_id, sender.run_id) != (parent.workflow_id, parent.run_id):
        raise not_found(PARENT_MISMATCH)


def record(
    run: Run,
    *,
    name: str,
    input: common_pb.Payloads | None,  # noqa: A002 - the field's own name
    identity: str,
    request_id: str,
    header: common_pb.Header | None = None,
    links: Iterable[common_pb.Link] = (),
    sender: common_pb.WorkflowExecution | None = None,
) -> None:
    """Write the event of a received signal; input and header are absent when None."""
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
    a = event.workflow_execution_signaled_event_attributes
    a.signal_name = name
    a.identity = identity
    a.request_id = request_id
    if input is not None:
        a.input.CopyFrom(input)
    if header is not None:
        a.header.CopyFrom(header)
    if sender is not None:
        a.external_workflow_execution.CopyFrom(sender)
    event.links.extend(links)
    run.append(event)
