"""The next run of a chain: after a retry, by a cron schedule, or by continue-as-new.

The next run is created together with the closing of its predecessor, in one commit (`Run.next_run`). A retry or a cron
run starts from its predecessor's first event; later changes of memo and search attributes are not passed on. A chain
has at most one run per `continue_as_new_min_interval_ns`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.versioning.deployments import named_version
from whistlestop.history.core import retry
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.chain import cron
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.times import duration_ns, set_duration, set_timestamp, timestamp_ns
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.history.core.transition.run import Run


@dataclass(frozen=True, slots=True)
class Following:
    """The run that is to follow."""

    run_id: str
    initiator: wf_enums.ContinueAsNewInitiator.ValueType
    backoff_ns: int

    @property
    def is_cron(self) -> bool:
        return self.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE


def cron_only(run: Run) -> Following | None:
    """Return the run that follows a completed run: the next one of its cron schedule, or None."""
    state = run.state
    if not state.cron_schedule:
        return None
    backoff_ns = cron.next_backoff(state.cron_schedule, state.execution_start_ns, run.now_ns)
    return Following(run.ids.uuid(), wf_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE, backoff_ns)


def retry_or_cron(run: Run, failure: failure_pb.Failure) -> tuple[wf_enums.RetryState.ValueType, Following | None]:
    """Return the run that follows a failed run, a retry or the next cron run (or None), and the retry state."""
    state = run.state
    if not state.HasField("retry_policy"):
        return wf_enums.RETRY_STATE_RETRY_POLICY_NOT_SET, cron_only(run)
    following = retry.next_attempt(
        state.retry_policy,
        attempt=state.attempt,
        now_ns=run.now_ns,
        expiration_ns=state.execution_expiration_ns,
        failure=failure,
        delay_lifts_maximum=False,
    )
    if following.state != retry.IN_PROGRESS:
        return following.state, cron_only(run)
    return following.state, Following(run.ids.uuid(), wf_enums.CONTINUE_AS_NEW_INITIATOR_RETRY, following.interval_ns)


def last_completion_result(run: Run) -> common_pb.Payloads | None:
    """Return the result of the last run of the schedule that completed, as this run received it; None without one."""
    a = run.first_event().workflow_execution_started_event_attributes
    return a.last_completion_result if a.HasField("last_completion_result") else None


def begin(
    run: Run,
    following: Following,
    *,
    last_completion_result: common_pb.Payloads | None,
    failure: failure_pb.Failure | None,
) -> None:
    """Create the next run of a retry or a schedule; it gets the last result and failure, unless they are None."""
    first = run.first_event()
    previous = first.workflow_execution_started_event_attributes
    a = inherited(run)
    a.workflow_type.CopyFrom(previous.workflow_type)
    a.task_queue.name = previous.task_queue.name
    a.task_queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    for field in ("header", "input", "retry_policy", "memo", "search_attributes", "priority"):
        if previous.HasField(field):
            getattr(a, field).CopyFrom(getattr(previous, field))
    a.cron_schedule = previous.cron_schedule
    a.inherited_build_id = previous.inherited_build_id
    if previous.HasField("workflow_run_timeout"):
        a.workflow_run_timeout.CopyFrom(previous.workflow_run_timeout)
    a.workflow_task_timeout.CopyFrom(previous.workflow_task_timeout)
    if duration_ns(previous.workflow_task_timeout) == 0:
        set_duration(a.workflow_task_timeout, run.state.task_timeout_ns)
    a.initiator = following.initiator
    a.attempt = 1 if following.is_cron else run.state.attempt + 1
    if not following.is_cron:
        a.completion_callbacks.extend(callbacks.handed_on(run.state))
        versioning.hand_on_to_retry(run.state, previous, a, run.policy.deployments)
        if not versioning_state.behavior_of(run.state):
            build_ids.hand_on_stamp(run.state, a)
    if last_completion_result is not None:
        a.last_completion_result.CopyFrom(last_completion_result)
    if failure is not None:
        a.continued_failure.CopyFrom(failure)
    set_duration(a.first_workflow_task_backoff, throttled(run, following.backoff_ns))
    attach(run, following.run_id, a, first.links)


def inherited(run: Run) -> history_pb.WorkflowExecutionStartedEventAttributes:
    """Return what every next run inherits from its predecessor."""
    state = run.state
    a = history_pb.WorkflowExecutionStartedEventAttributes(
        continued_execution_run_id=state.run_id, first_execution_run_id=state.first_run_id
    )
    if state.parent.workflow_id:
        a.parent_workflow_namespace = state.parent.namespace
        a.parent_workflow_namespace_id = state.parent.namespace_id
        a.parent_workflow_execution.workflow_id = state.parent.workflow_id
        a.parent_workflow_execution.run_id = state.parent.run_id
        a.parent_initiated_event_id = state.parent.initiated_event_id
        a.root_workflow_execution.workflow_id = state.root_workflow_id
        a.root_workflow_execution.run_id = state.root_run_id
    _hand_on_reset_points(run, a)
    if state.HasField("execution_timeout_ns"):
        set_duration(a.workflow_execution_timeout, state.execution_timeout_ns)
    if state.execution_expiration_ns:
        set_timestamp(a.workflow_execution_expiration_time, state.execution_expiration_ns)
    override = state.versioning_info.versioning_override
    if named_version(override) is not None and not override.HasField("one_time"):
        a.versioning_override.CopyFrom(override)
    time_skipping_state.hand_on_to_next_run(state, a)
    return a


def _hand_on_reset_points(run: Run, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Pass on the reset points; those of this run are valid as long as it is retained."""
    a.prev_auto_reset_points.SetInParent()
    for point in run.state.reset_points.points:
        expire_ns = timestamp_ns(point.expire_time)
        if expire_ns and expire_ns < run.wall_ns:
            continue
        if point.run_id == run.state.run_id and run.policy.retention_ns:
            set_timestamp(point.expire_time, run.wall_ns + run.policy.retention_ns)
        a.prev_auto_reset_points.points.add().CopyFrom(point)


def throttled(run: Run, backoff_ns: int) -> int:
    """Return the back-off in nanoseconds, lengthened where the chain would run too fast."""
    lifetime_ns = run.now_ns - run.state.execution_start_ns
    least_ns = run.limits.continue_as_new_min_interval_ns
    return least_ns - lifetime_ns if lifetime_ns + backoff_ns < least_ns else backoff_ns


TASK_IDS_LEFT = 1 << 12
"""The gap between the task ids of a run's events and the next run's: the commit may add a few events to this run."""


def attach(
    run: Run,
    run_id: str,
    attributes: history_pb.WorkflowExecutionStartedEventAttributes,
    links: Iterable[common_pb.Link],
) -> None:
    """Create the next run, to be committed with this one."""
    state = run.state
    following = core_start.new_run(
        attributes,
        namespace_id=state.namespace_id,
        namespace=state.namespace,
        workflow_id=state.workflow_id,
        run_id=run_id,
        request_id=run.ids.uuid(),
        now_ns=run.wall_ns,
        ids=run.ids,
        limits=run.limits,
        links=links,
        expected_current_run_id=state.run_id,
        task_id_offset=state.task_id_offset + state.next_event_id + TASK_IDS_LEFT,
    )
    following.state.scheduled_by = state.scheduled_by
    signal.hand_on_requests(state, following.state)
    core_start.first_workflow_task(following)
    run.next_run = following
