"""What a workflow may ask of the system's endpoint."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.nexus import system as system_nexus

REUSE, CONFLICT = wf_enums.WorkflowIdReusePolicy, wf_enums.WorkflowIdConflictPolicy


def _call(reuse: int, conflict: int) -> command_pb.ScheduleNexusOperationCommandAttributes:
    request = service_pb.SignalWithStartWorkflowExecutionRequest(
        workflow_id="w", signal_name="s",
        workflow_id_reuse_policy=reuse, workflow_id_conflict_policy=conflict,  # type: ignore[arg-type]
    )  # fmt: skip
    request.workflow_type.name, request.task_queue.name = "T", "q"
    call = command_pb.ScheduleNexusOperationCommandAttributes(
        service=system_nexus.SERVICE, operation=system_nexus.OPERATION
    )
    call.input.metadata["encoding"] = b"binary/protobuf"
    call.input.data = request.SerializeToString()
    return call


@pytest.mark.parametrize(
    ("reuse", "conflict", "message"),
    [
        (0, CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL, "is not supported for this operation"),
        (
            REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING,
            CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
            "cannot be used together with a WorkflowIDConflictPolicy",
        ),
        (
            REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
            CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
            "cannot be used together with WorkflowIdConflictPolicy",
        ),
    ],
)
def test_policies_that_make_no_sense_are_refused(reuse: int, conflict: int, message: str) -> None:
    with pytest.raises(ServiceError, match=message) as refused:
        system_nexus.parse(_call(reuse, conflict), "default")
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_other_policies_are_taken() -> None:
    call = _call(
        REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    )
    assert system_nexus.parse(call, "default").workflow_id == "w"
