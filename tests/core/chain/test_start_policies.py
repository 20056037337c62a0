"""What a start may do when the workflow id is taken."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.chain.id_policies import Verdict, decide, request_of
from whistlestop.history.core.state_pb2 import MutableState

RUNNING = wf.WORKFLOW_EXECUTION_STATUS_RUNNING
COMPLETED = wf.WORKFLOW_EXECUTION_STATUS_COMPLETED
FAILED = wf.WORKFLOW_EXECUTION_STATUS_FAILED
ALLOW = wf.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
FAILED_ONLY = wf.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
REJECT = wf.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
TERMINATE_IF_RUNNING = wf.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
FAIL = wf.WORKFLOW_ID_CONFLICT_POLICY_FAIL
USE_EXISTING = wf.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
TERMINATE_EXISTING = wf.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING


def held(status: int) -> MutableState:
    state = MutableState(workflow_id="wf", run_id="run", first_run_id="first", create_request_id="made", status=status)
    state.request_ids["made"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    state.request_ids["attached"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    state.request_ids["signalled"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    return state


@pytest.mark.parametrize(
    ("status", "reuse", "conflict", "verdict"),
    [
        (RUNNING, ALLOW, USE_EXISTING, Verdict.USE_EXISTING),
        (RUNNING, REJECT, USE_EXISTING, Verdict.USE_EXISTING),
        (RUNNING, ALLOW, TERMINATE_EXISTING, Verdict.TERMINATE),
        (RUNNING, TERMINATE_IF_RUNNING, FAIL, Verdict.TERMINATE),
        (COMPLETED, ALLOW, FAIL, Verdict.START),
        (COMPLETED, TERMINATE_IF_RUNNING, FAIL, Verdict.START),
        (FAILED, FAILED_ONLY, FAIL, Verdict.START),
        (wf.WORKFLOW_EXECUTION_STATUS_CANCELED, FAILED_ONLY, FAIL, Verdict.START),
        (wf.WORKFLOW_EXECUTION_STATUS_TERMINATED, FAILED_ONLY, FAIL, Verdict.START),
        (wf.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, FAILED_ONLY, FAIL, Verdict.START),
    ],
)
def test_starts_that_the_policies_allow(status: int, reuse: int, conflict: int, verdict: Verdict) -> None:
    assert decide(held(status), reuse, conflict) is verdict


@pytest.mark.parametrize(
    ("status", "reuse", "message"),
    [
        (RUNNING, ALLOW, "Workflow execution is already running. WorkflowId: wf, RunId: run."),
        (
            COMPLETED,
            FAILED_ONLY,
            (
                "Workflow execution already finished successfully. WorkflowId: wf, RunId: run. "
                "Workflow Id reuse policy: allow duplicate workflow Id if last run failed."
            ),
        ),
        (
            FAILED,
            REJECT,
            (
                "Workflow execution already finished. WorkflowId: wf, RunId: run. "
                "Workflow Id reuse policy: reject duplicate workflow Id."
            ),
        ),
    ],
)
def test_starts_that_the_policies_forbid(status: int, reuse: int, message: str) -> None:
    with pytest.raises(ServiceError) as refused:
        decide(held(status), reuse, FAIL)
    assert refused.value.code is Code.ALREADY_EXISTS
    assert refused.value.message == message
    assert refused.value.details == (
        details_pb.WorkflowExecutionAlreadyStartedFailure(
            start_request_id="made", run_id="run", first_execution_run_id="first"
        ),
    )


@pytest.mark.parametrize(
    ("request_id", "event_type"),
    [
        ("made", et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED),
        ("attached", et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED),
        ("signalled", None),
        ("unknown", None),
    ],
)
def test_a_request_is_recognised(request_id: str, event_type: int | None) -> None:
    assert request_of(held(RUNNING), request_id) == event_type
