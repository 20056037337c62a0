"""ResetWorkflowExecution: a new run that shares the beginning of a base run's history.

Rules of this file, which are Temporal's: the shared part ends before the event that closed a workflow task; that task
fails in the new run (cause RESET_WORKFLOW) and another one follows. External events after that point (signals, updates,
options, the fate of children) are applied again, along the chain of runs that continued the base as new. The current
run of the workflow id is terminated if it is open. All of this is one commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.versioning.deployments import check_override
from whistlestop.history.core import deadlines
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.state_pb2 import MutableState, TransferData
from whistlestop.history.core.transition import external_payloads
from whistlestop.history.core.transition.apply import apply_event
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.core.transition.run import Run
from whistlestop.history.core.workflow.close import HISTORY_SERVICE
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.storage.records import BranchRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.ids import Ids
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.limits import Limits

RESETTER = "history-resetter"
REMEMBERED_REQUESTS = 10
EXCLUDE_SIGNAL = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
EXCLUDE_NEXUS = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS
EXCLUDE_UPDATE = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE


def rebuild(state: MutableState, batches: Iterable[Sequence[history_pb.HistoryEvent]]) -> None:
    """Apply a history to a state that has only the identity of its run."""
    for events in batches:
        for event in events:
            apply_event(state, event, events[0].event_id)
        state.last_first_event_id = events[0].event_id
        state.next_event_id = events[-1].event_id + 1


def check_point(base: MutableState, finish_event_id: int) -> None:
    """Raise INVALID_ARGUMENT when the base has no such event."""
    if not 1 < finish_event_id < base.next_event_id:
        raise invalid_argument("Workflow task finish ID must be > 1 && <= workflow last event ID.")


def check_operations(
    base: MutableState, request: service_pb.ResetWorkflowExecutionRequest, deployments: NamespaceDeployments
) -> None:
    """Check the post-reset operations: only options may be changed, and only to versions that the run's queue knows.

    Raise INVALID_ARGUMENT or FAILED_PRECONDITION.
    """
    for operation in request.post_reset_operations:
        kind = operation.WhichOneof("variant")
        if kind != "update_workflow_options":
            name = "*workflow.PostResetOperation_SignalWorkflow_" if kind else "<nil>"
            raise invalid_argument(f"unsupported post reset operation: {name}")
        override = operation.update_workflow_options.workflow_execution_options.versioning_override
        check_override(deployments, override, base.task_queue)


def excluded(request: service_pb.ResetWorkflowExecutionRequest) -> frozenset[int]:
    """Return the kinds of events that are not applied again, by the newer field and the deprecated one.

    Empty when neither is set.
    """
    kinds = {int(kind) for kind in request.reset_reapply_exclude_types}
    if request.reset_reapply_type == reset_enums.RESET_REAPPLY_TYPE_SIGNAL:
        kinds.add(EXCLUDE_UPDATE)
    elif request.reset_reapply_type == reset_enums.RESET_REAPPLY_TYPE_NONE:
        kinds |= {EXCLUDE_SIGNAL, EXCLUDE_UPDATE}
    return frozenset(kinds)


def _excludes_everything(kinds: frozenset[int]) -> bool:
    """Return whether only the events of children are applied again, without which the run would wait for ever."""
    every = {int(kind) for kind in reset_enums.ResetReapplyExcludeType.values()} - {0}
    return every <= kinds


def begin(
    base: MutableState,
    batches: Sequence[tuple[bytes, Sequence[history_pb.HistoryEvent]]],
    finish_event_id: int,
    *,
    run_id: str,
    request_id: str,
    reason: str,
    now_ns: int,
    ids: Ids,
    limits: Limits,
) -> Run:
    """Return the new run up to the failure of its workflow task.

    `batches` are the base's, stored and parsed, up to there.

    Raise INVALID_ARGUMENT when no workflow task was pending at that point, or when it lies within a batch.
    """
    state = MutableState(
        namespace_id=base.namespace_id,
        namespace=base.namespace,
        workflow_id=base.workflow_id,
        run_id=run_id,
        create_request_id=request_id,
        start_ns=now_ns,
        state_transition_count=1,
        scheduled_by=base.scheduled_by,
    )
    if batches[-1][1][-1].event_id != finish_event_id - 1:
        raise invalid_argument(
            f"StateRebuilder unable to Rebuild mutable state to event ID: {finish_event_id - 1}, version: 0, "
            "this event must be at the boundary"
        )
    start_request_id = next(
        (key for key, info in base.request_ids.items() if info.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED),
        base.create_request_id,
    )
    # Set before the rebuild, because a signal that came with the start has the same request id.
    state.request_ids[start_request_id].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    state.request_ids[start_request_id].event_id = 1
    _share_branches(state, base, finish_event_id)
    rebuild(state, [events for _, events in batches])
    state.history_size_bytes = sum(len(data) for data, _ in batches)
    for data, events in batches:
        external_payloads.add(state, events, data)
    _renew_deadlines(state, now_ns + skipped_ns(state))
    run = Run(state, version=0, now_ns=now_ns, ids=ids, limits=limits)
    if state.children and not run.limits.reset_with_pending_children:
        raise invalid_argument("WorkflowResetter encountered pending child workflows.")
    run.forked_from = tuple(
        BranchRange(b.branch_id, b.first_event_id, b.next_event_id) for b in state.branches if b.next_event_id
    )
    _fail_workflow_task(run, base.run_id, finish_event_id, reason)
    _fail_started_activities(run, reason)
    _resume(run, [event for _, events in batches for event in events])
    run.visibility_changed = True
    return run


def _share_branches(state: MutableState, base: MutableState, fork_event_id: int) -> None:
    """Set the run's branches: the base's ranges up to the fork, then a branch of its own."""
    for branch in base.branches:
        if branch.first_event_id >= fork_event_id:
            break
        end = min(branch.next_event_id or fork_event_id, fork_event_id)
        state.branches.add(branch_id=branch.branch_id, first_event_id=branch.first_event_id, next_event_id=end)
    state.branches.add(branch_id=state.run_id, first_event_id=fork_event_id)


def _renew_deadlines(state: MutableState, now_ns: int) -> None:
    """Restart the timeouts of the run and of its chain."""
    if state.execution_timeout_ns:
        state.execution_expiration_ns = now_ns + state.execution_timeout_ns
    if state.run_timeout_ns:
        state.run_expiration_ns = now_ns + state.run_timeout_ns
        if state.execution_expiration_ns:
            state.run_expiration_ns = min(state.run_expiration_ns, state.execution_expiration_ns)


def _failure(reason: str, details: common_pb.Payloads | None = None) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=reason)
    failure.reset_workflow_failure_info.SetInParent()
    if details is not None:
        failure.reset_workflow_failure_info.last_heartbeat_details.CopyFrom(details)
    return failure


def _fail_workflow_task(run: Run, base_run_id: str, finish_event_id: int, reason: str) -> None:
    if not run.has_pending_workflow_task:
        raise invalid_argument(
            "Can only reset workflow to event ID in range [WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]: "
            f"{finish_event_id}"
        )
    # Its events are in history, so its failure has to be, whichever attempt it was.
    run.state.workflow_task.attempt = 1
    if not run.has_started_workflow_task:
        workflow_task.start(run, request_id="emptyUuid", identity=HISTORY_SERVICE)
    workflow_task.fail(
        run,
        fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        _failure(reason),
        HISTORY_SERVICE,
        base_run_id=base_run_id,
        new_run_id=run.key.run_id,
    )


def _fail_started_activities(run: Run, reason: str) -> None:
    """Fail attempts that were started; dispatch those that were not."""
    for scheduled_event_id in sorted(run.state.activities):
        pending = run.state.activities[scheduled_event_id]
        if not pending.started_event_id:
            pending.scheduled_ns = pending.first_scheduled_ns = run.now_ns
            activity.dispatch(run, pending)
            continue
        event = run.event(et.EVENT_TYPE_ACTIVITY_TASK_FAILED)
        a = event.activity_task_failed_event_attributes
        a.scheduled_event_id = scheduled_event_id
        a.started_event_id = pending.started_event_id
        a.identity = pending.started_identity
        a.failure.CopyFrom(_failure(reason))
        a.retry_state = wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE
        run.append(event)


def _resume(run: Run, events: Sequence[history_pb.HistoryEvent]) -> None:
    """Send again the requests to other executions that were pending at the reset point."""
    state = run.state
    for event in events:
        kind, event_id = event.event_type, event.event_id
        if kind == et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
            child = event.start_child_workflow_execution_initiated_event_attributes
            if event_id in state.children and not state.children[event_id].started_event_id:
                _send(
                    run,
                    "start_child",
                    event_id,
                    state.children[event_id].initiated_event_batch_id,
                    child.namespace_id,
                    child.workflow_id,
                    "",
                )
        elif kind == et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
            target = event.signal_external_workflow_execution_initiated_event_attributes
            if event_id in state.external_signals:
                _send(
                    run,
                    "signal_external",
                    event_id,
                    state.external_signals[event_id].initiated_event_batch_id,
                    target.namespace_id,
                    target.workflow_execution.workflow_id,
                    target.workflow_execution.run_id,
                )
        elif kind == et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
            other = event.request_cancel_external_workflow_execution_initiated_event_attributes
            if event_id in state.external_cancels:
                _send(
                    run,
                    "cancel_external",
                    event_id,
                    state.external_cancels[event_id].initiated_event_batch_id,
                    other.namespace_id,
                    other.workflow_execution.workflow_id,
                    other.workflow_execution.run_id,
                )
    for event_id in sorted(state.nexus_operations):
        operation = state.nexus_operations[event_id]
        if not operation.started_ns:
            nexus_operations.want_start(run, operation)
        elif operation.cancel_requested_ns:
            nexus_operations.want_cancel(run, operation)


def _send(run: Run, kind: str, event_id: int, batch_id: int, namespace_id: str, workflow_id: str, run_id: str) -> None:
    run.add_transfer(
        kind,
        TransferData(
            initiated_event_id=event_id,
            initiated_event_batch_id=batch_id,
            target_namespace_id=namespace_id,
            target_workflow_id=workflow_id,
            target_run_id=run_id,
        ),
    )


# ---- later events ----------------------------------------------------------------------------------------------------

_CHILD_EVENTS = {
    et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: "start_child_workflow_execution_failed_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: "child_workflow_execution_started_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: "child_workflow_execution_completed_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: "child_workflow_execution_failed_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: "child_workflow_execution_canceled_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: "child_workflow_execution_timed_out_event_attributes",
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: "child_workflow_execution_terminated_event_attributes",
}


_NEXUS_EVENTS = {
    et.EVENT_TYPE_NEXUS_OPERATION_STARTED: "nexus_operation_started_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: "nexus_operation_completed_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_FAILED: "nexus_operation_failed_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_CANCELED: "nexus_operation_canceled_event_attributes",
    et.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: "nexus_operation_timed_out_event_attributes",
}


def reapply(run: Run, events: Iterable[history_pb.HistoryEvent], kinds: frozenset[int]) -> str:
    """Apply external events again, except the excluded `kinds`.

    Return the id of the run that continued this one as new; empty if none did.
    """
    continued = ""
    everything = _excludes_everything(kinds)
    for event in events:
        kind = event.event_type
        if kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED and EXCLUDE_SIGNAL not in kinds:
            _signal_again(run, event)
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED and EXCLUDE_UPDATE not in kinds:
            admitted = event.workflow_execution_update_admitted_event_attributes
            _admit_again(run, admitted.request, admitted.origin)
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED and EXCLUDE_UPDATE not in kinds:
            accepted = event.workflow_execution_update_accepted_event_attributes
            # An update without its request was admitted by an earlier event.
            if accepted.HasField("accepted_request"):
                _admit_again(run, accepted.accepted_request, update_enums.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY)
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED and not everything:
            _change_options_again(run, event)
        elif kind in _CHILD_EVENTS:
            _notify_of_child_again(run, event)
        elif kind in _NEXUS_EVENTS and EXCLUDE_NEXUS not in kinds:
            _notify_of_operation_again(run, event)
        continued = ""
        if kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            continued = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return continued


def _signal_again(run: Run, event: history_pb.HistoryEvent) -> None:
    a = event.workflow_execution_signaled_event_attributes
    if a.request_id and signal.is_known(run.state, a.request_id):
        # Two runs of the chain received the same repeated request; this run takes it once.
        return
    signal.record(
        run,
        name=a.signal_name,
        input=a.input if a.HasField("input") else None,
        identity=a.identity,
        request_id=a.request_id,
        header=a.header if a.HasField("header") else None,
        links=event.links,
    )


def _admit_again(run: Run, request: object, origin: update_enums.UpdateAdmittedEventOrigin.ValueType) -> None:
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
    a = event.workflow_execution_update_admitted_event_attributes
    a.request.CopyFrom(request)  # type: ignore[arg-type]
    a.origin = origin
    update_id = a.request.meta.update_id
    if update_id in run.state.updates:
        return
    run.append(event)
    run.state.update_admissions += 1
    run.state.updates[update_id].instance = run.state.update_admissions
    run.state.in_flight_updates.append(update_id)


def _change_options_again(run: Run, event: history_pb.HistoryEvent) -> None:
    a = event.workflow_execution_options_updated_event_attributes
    known = a.attached_request_id and a.attached_request_id in run.state.request_ids
    if known and a.attached_completion_callbacks:
        return
    options.update(
        run,
        options.Change(
            versioning_override=a.versioning_override if a.HasField("versioning_override") else None,
            unset_versioning_override=a.unset_versioning_override,
            priority=a.priority if a.HasField("priority") else None,
            time_skipping_config=a.time_skipping_config if a.HasField("time_skipping_config") else None,
            time_skipping_updated=a.time_skipping_config_updated,
            attached_request_id=a.attached_request_id,
            attached_callbacks=a.attached_completion_callbacks,
            update_options=a.workflow_update_options,
            links=event.links,
            identity=a.identity,
        ),
    )


def _notify_of_child_again(run: Run, event: history_pb.HistoryEvent) -> None:
    """Record an event of a child that the shared history initiated, as it is this run's child, too."""
    attributes = getattr(event, _CHILD_EVENTS[event.event_type])
    child = run.state.children.get(attributes.initiated_event_id)
    if child is None:
        return
    if event.event_type == et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED and child.started_event_id:
        return
    again = run.event(event.event_type)
    getattr(again, _CHILD_EVENTS[event.event_type]).CopyFrom(attributes)
    if hasattr(attributes, "started_event_id"):
        getattr(again, _CHILD_EVENTS[event.event_type]).started_event_id = child.started_event_id
    run.append(again)


def _notify_of_operation_again(run: Run, event: history_pb.HistoryEvent) -> None:
    """Record an event of an operation that the shared history scheduled, as it is this run's, too."""
    attributes = getattr(event, _NEXUS_EVENTS[event.event_type])
    operation = run.state.nexus_operations.get(attributes.scheduled_event_id)
    if operation is None or (attributes.request_id and attributes.request_id != operation.request_id):
        return
    if event.event_type == et.EVENT_TYPE_NEXUS_OPERATION_STARTED and operation.started_ns:
        return
    again = run.event(event.event_type)
    again.links.extend(event.links)
    getattr(again, _NEXUS_EVENTS[event.event_type]).CopyFrom(attributes)
    run.append(again)


def made_by(state: MutableState, request_id: str) -> str:
    """Return the run that the reset with that request id created, if this run knows; otherwise an empty text."""
    if state.create_request_id == request_id and state.original_run_id != state.run_id:
        return state.run_id
    return next((each.run_id for each in state.reset_requests if each.request_id == request_id), "")


def remember(run: Run, request_id: str, previous: MutableState) -> None:
    """Remember the request, and those of previous resets, to recognise repeated ones."""
    run.state.reset_requests.extend(previous.reset_requests[-REMEMBERED_REQUESTS + 1 :])
    run.state.reset_requests.add(request_id=request_id, run_id=run.key.run_id)


def finish(run: Run, request: service_pb.ResetWorkflowExecutionRequest) -> None:
    """Apply the requested changes of options, and schedule a workflow task. Raise INVALID_ARGUMENT."""
    for operation in request.post_reset_operations:
        wanted = operation.update_workflow_options
        options.merge(run, wanted.workflow_execution_options, wanted.update_mask.paths, "")
    if not run.has_pending_workflow_task:
        workflow_task.schedule(run)
    run.arm(deadlines.next_deadline(run.state))
