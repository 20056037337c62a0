"""Create a run: its first event, and its first workflow task or the wait for it.

Every origin (a client's start, a parent, the previous run of a chain) fills a `WorkflowExecutionStartedEventAttributes`
and calls `new_run`; this module has what they have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.versioning.deployments import named_version
from whistlestop.history.core.chain import cron
from whistlestop.history.core.payload_maps import is_null_payload
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.times import MILLISECOND_NS, duration_ns, set_duration, set_timestamp
from whistlestop.history.core.transition.run import Run
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.storage.records import CurrentWrite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.sdk.v1 import user_metadata_pb2
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.ids import Ids
    from whistlestop.history.core.limits import Limits


def new_run(
    attributes: history_pb.WorkflowExecutionStartedEventAttributes,
    *,
    namespace_id: str,
    namespace: str,
    workflow_id: str,
    run_id: str,
    request_id: str,
    now_ns: int,
    ids: Ids,
    limits: Limits,
    user_metadata: user_metadata_pb2.UserMetadata | None = None,
    links: Iterable[common_pb.Link] = (),
    expected_current_run_id: str | None = None,
    task_id_offset: int = 0,
) -> Run:
    """Return a run with its first event. The caller then calls `first_workflow_task`."""
    state = MutableState(
        namespace_id=namespace_id,
        namespace=namespace,
        workflow_id=workflow_id,
        run_id=run_id,
        create_request_id=request_id,
        next_event_id=1,
        task_id_offset=task_id_offset,
    )
    state.branches.add(branch_id=run_id, first_event_id=1)
    initial_skip_ns = duration_ns(attributes.time_skipping_state_propagation.initial_skipped_duration)
    if initial_skip_ns > 0:
        # Its first event uses the run's own clock already.
        state.time_skipping.skipped_ns = initial_skip_ns
    run = Run(state, version=0, now_ns=now_ns, ids=ids, limits=limits)
    state = run.state
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
    attributes.workflow_id = workflow_id
    attributes.first_execution_run_id = attributes.first_execution_run_id or run_id
    attributes.original_execution_run_id = attributes.original_execution_run_id or run_id
    event.workflow_execution_started_event_attributes.CopyFrom(attributes)
    if user_metadata is not None:
        event.user_metadata.CopyFrom(user_metadata)
    event.links.extend(links)
    run.append(event)
    info = state.request_ids[request_id]
    info.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    info.event_id = event.event_id
    run.visibility_changed = True
    run.pinned_to = named_version(attributes.versioning_override)
    run.current = CurrentWrite(run.current_record(), expected_run_id=expected_current_run_id)
    run.arm(state.run_expiration_ns)
    return run


def first_workflow_task(run: Run, *, dispatch: bool = True) -> None:
    """Schedule the first workflow task, or wait for its back-off (cron, retry, start delay, continue-as-new)."""
    state = run.state
    if state.execution_start_ns > state.start_ns:
        state.first_workflow_task_backoff_until_ns = state.execution_start_ns
        run.arm(state.execution_start_ns)
    else:
        workflow_task.schedule(run, dispatch=dispatch)


def started_attributes(
    request: service_pb.StartWorkflowExecutionRequest, *, now_ns: int, limits: Limits
) -> history_pb.WorkflowExecutionStartedEventAttributes:
    """Return the first event's attributes for a client's (validated) start request."""
    a = history_pb.WorkflowExecutionStartedEventAttributes(attempt=1, identity=request.identity)
    a.workflow_type.CopyFrom(request.workflow_type)
    a.task_queue.CopyFrom(request.task_queue)
    for field in (
        "header", "input", "retry_policy", "last_completion_result", "continued_failure", "priority",
        "time_skipping_config",
    ):  # fmt: skip
        if request.HasField(field):
            getattr(a, field).CopyFrom(getattr(request, field))
    copy_memo_and_search_attributes(a, request)
    a.completion_callbacks.extend(request.completion_callbacks)
    if request.HasField("versioning_override"):
        a.versioning_override.CopyFrom(request.versioning_override)
    a.eager_execution_accepted = request.request_eager_execution
    a.cron_schedule = request.cron_schedule
    execution_timeout_ns = duration_ns(request.workflow_execution_timeout)
    run_timeout_ns = run_timeout(duration_ns(request.workflow_run_timeout), execution_timeout_ns)
    if execution_timeout_ns or request.HasField("workflow_execution_timeout"):
        set_duration(a.workflow_execution_timeout, execution_timeout_ns)
    if run_timeout_ns or request.HasField("workflow_run_timeout"):
        set_duration(a.workflow_run_timeout, run_timeout_ns)
    task_timeout_ns = task_timeout(duration_ns(request.workflow_task_timeout), run_timeout_ns, limits)
    set_duration(a.workflow_task_timeout, task_timeout_ns)
    if execution_timeout_ns:
        set_timestamp(a.workflow_execution_expiration_time, round_to_millisecond(now_ns + execution_timeout_ns))
    backoff_ns = 0
    if request.cron_schedule:
        a.initiator = wf_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        backoff_ns = cron.first_backoff(request.cron_schedule, now_ns)
    if duration_ns(request.workflow_start_delay) > 0:
        backoff_ns = duration_ns(request.workflow_start_delay)
    set_duration(a.first_workflow_task_backoff, backoff_ns)
    return a


def round_to_millisecond(instant_ns: int) -> int:
    """Round a chain's deadline to milliseconds, as Temporal does. Both are in nanoseconds; 0 stays 0."""
    return (instant_ns + MILLISECOND_NS // 2) // MILLISECOND_NS * MILLISECOND_NS


def copy_memo_and_search_attributes(target: Any, source: Any) -> None:
    """Copy both without null payloads; one of which nothing is left stays unset."""
    for name, payload in source.memo.fields.items():
        if not is_null_payload(payload):
            target.memo.fields[name].CopyFrom(payload)
    for name, payload in source.search_attributes.indexed_fields.items():
        if not is_null_payload(payload):
            target.search_attributes.indexed_fields[name].CopyFrom(payload)


def run_timeout(run_timeout_ns: int, execution_timeout_ns: int) -> int:
    """Return the run timeout in nanoseconds, limited by the execution timeout; 0 means no limit."""
    if execution_timeout_ns == 0:
        return run_timeout_ns
    return min(run_timeout_ns, execution_timeout_ns) if run_timeout_ns else execution_timeout_ns


def task_timeout(task_timeout_ns: int, run_timeout_ns: int, limits: Limits) -> int:
    """Return the workflow task timeout in nanoseconds: with default and maximum, no longer than the run timeout."""
    wanted = task_timeout_ns or limits.workflow_task_timeout_ns
    wanted = min(wanted, limits.workflow_task_timeout_max_ns)
    return min(wanted, run_timeout_ns) if run_timeout_ns else wanted
