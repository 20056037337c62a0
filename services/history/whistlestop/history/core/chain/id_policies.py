"""What a start does when the workflow id is in use.

The conflict policy applies to an open run, the reuse policy to a closed one. The deprecated reuse policy
TERMINATE_IF_RUNNING means the conflict policy TERMINATE_EXISTING.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, already_started
from whistlestop.history.core.times import MILLISECOND_NS
from whistlestop.history.core.transition.run import PAUSED, RUNNING

if TYPE_CHECKING:
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState

FAILED_STATUSES = frozenset(
    {
        wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED,
        wf_enums.WORKFLOW_EXECUTION_STATUS_CANCELED,
        wf_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED,
        wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
    }
)
_NO_STARTS = (
    et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
)
"""Effects of requests that neither started the run nor attached anything to it."""
TERMINATE_REASON = "TerminateIfRunning WorkflowIdReusePolicy"


class Verdict(Enum):
    """What a start may do."""

    START = "start a new run"
    USE_EXISTING = "use the open run"
    TERMINATE = "terminate the open run and start a new one"


def decide(current: MutableState, reuse_policy: int, conflict_policy: int) -> Verdict:
    """Return what a start may do. Raise ALREADY_EXISTS when the policies forbid it."""
    if reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING:
        conflict_policy = wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        reuse_policy = wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    if current.status in (RUNNING, PAUSED):
        return _on_open(current, conflict_policy)
    _check_reuse(current, reuse_policy)
    return Verdict.START


def _on_open(current: MutableState, policy: int) -> Verdict:
    if policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
        return Verdict.USE_EXISTING
    if policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING:
        return Verdict.TERMINATE
    raise refusal(current, f"Workflow execution is already running. {_named(current)}.")


def _check_reuse(current: MutableState, policy: int) -> None:
    if policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        raise refusal(
            current,
            f"Workflow execution already finished. {_named(current)}. "
            "Workflow Id reuse policy: reject duplicate workflow Id.",
        )
    if (
        policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
        and current.status not in FAILED_STATUSES
    ):
        raise refusal(
            current,
            f"Workflow execution already finished successfully. {_named(current)}. "
            "Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )


def _named(current: MutableState) -> str:
    return f"WorkflowId: {current.workflow_id}, RunId: {current.run_id}"


def refusal(current: MutableState, message: str) -> ServiceError:
    """Return ALREADY_EXISTS with the details that SDKs look for."""
    starts = (
        request_id
        for request_id, info in current.request_ids.items()
        if info.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    )
    return already_started(message, next(starts, current.create_request_id), current.run_id, current.first_run_id)


def check_interval(current: MutableState, limits: Limits, now_ns: int, *, replaces: bool) -> None:
    """Raise RESOURCE_EXHAUSTED for a run that follows its predecessor too soon, where that is configured.

    `replaces` is True when the predecessor is terminated for it.
    """
    age_ns = now_ns - current.start_ns
    if not limits.reuse_start_time_validation or age_ns > limits.continue_as_new_min_interval_ns:
        return
    raise ServiceError(
        Code.RESOURCE_EXHAUSTED,
        f"Too many {'restarts' if replaces else 'starts'} for workflow {current.workflow_id}. "
        f"Time since last start: {age_ns // MILLISECOND_NS} ms",
        details_pb.ResourceExhaustedFailure(
            cause=fc.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW, scope=fc.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
        ),
    )


def request_of(current: MutableState, request_id: str) -> int | None:
    """Return the type of the event by which the request started the run or was attached to it, else None."""
    if current.create_request_id == request_id:
        return int(et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
    if request_id in current.request_ids:
        event_type = current.request_ids[request_id].event_type
        if event_type not in _NO_STARTS:
            return event_type
    return None
