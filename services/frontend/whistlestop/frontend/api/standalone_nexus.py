"""Standalone Nexus operations: checks for the RPCs that history serves; lists and counts over visibility.

One is stored in visibility as a run in the namespace division of Nexus operations. In a list filter its id is
`OperationId`; `Endpoint`, `Service`, `Operation` and `RequestId` can be named too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks, standalone
from whistlestop.frontend.api.listing import Division, show_attributes
from whistlestop.frontend.api.rules import handles, validates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace
    from whistlestop.storage.records import VisibilityRow
    from whistlestop.storage.visibility import AttributeType

ID_PREFIX = checks.OPERATION_PREFIX
_SERVICE = "TemporalNexusService"
DIVISION = Division(
    base="TemporalNamespaceDivision = '131748067'",
    id_prefix=ID_PREFIX,
    id_alias="OperationId",
    columns={
        "OperationId": "WorkflowId", "Operation": "WorkflowType", "Endpoint": "TaskQueue", "Service": _SERVICE,
        "RequestId": "TemporalNexusRequestId",
    },
)  # fmt: skip
NAMES = standalone.Names(
    id_field="operation_id", id="operation_id", request_id="request_id", bad_run_id="run_id is not a valid UUID",
    no_run_id="run_id is required when long_poll_token is provided",
)  # fmt: skip
_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")


# ---- checks ---------------------------------------------------------------------------------------------------------


@validates(WorkflowService.StartNexusOperationExecution)
def check_start(
    request: service_pb.StartNexusOperationExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check a start. Timeouts are cut to the overall one, and header names lowered, in place.

    Raise INVALID_ARGUMENT.
    """
    assert namespace is not None
    NAMES.check_request_id(request, rules)
    NAMES.check_id(request, rules)
    standalone.check_length("identity", request.identity, rules.config.max_id_length)
    if not request.endpoint:
        raise invalid_argument("endpoint is required")
    config = rules.config
    for field, longest in (
        ("service", config.nexus_service_max_length), ("operation", config.nexus_operation_max_length),
    ):  # fmt: skip
        name = getattr(request, field)
        if not name:
            raise invalid_argument(f"{field} is required")
        standalone.check_length(field, name, longest)
    _check_timeouts(request, config.nexus_schedule_to_close_max_s)
    if request.input.ByteSize() > rules.config.blob_size_limit_error:
        raise invalid_argument(
            f"input exceeds size limit. Length={request.input.ByteSize()} Limit={rules.config.blob_size_limit_error}"
        )
    checks.check_user_metadata(request.user_metadata, rules)
    _check_headers(request, config)
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    request.id_reuse_policy = request.id_reuse_policy or enums.NEXUS_OPERATION_ID_REUSE_POLICY_ALLOW_DUPLICATE
    request.id_conflict_policy = request.id_conflict_policy or enums.NEXUS_OPERATION_ID_CONFLICT_POLICY_FAIL


def _check_timeouts(request: service_pb.StartNexusOperationExecutionRequest, longest_s: float) -> None:
    for field in _TIMEOUTS:
        problem = checks.duration_problem(getattr(request, field))
        if problem:
            raise invalid_argument(f"{field} is invalid: {problem}")
    whole = request.schedule_to_close_timeout
    longest_ns = round(longest_s * SECOND_NS)
    if longest_ns and not 0 < whole.ToNanoseconds() <= longest_ns:
        whole.FromNanoseconds(longest_ns)
    if (whole.seconds, whole.nanos) > (0, 0):
        for inner in (request.schedule_to_start_timeout, request.start_to_close_timeout):
            if (inner.seconds, inner.nanos) > (whole.seconds, whole.nanos):
                inner.CopyFrom(whole)


def _check_headers(request: service_pb.StartNexusOperationExecutionRequest, config: FrontendConfig) -> None:
    size = 0
    lowered = {}
    for name, value in request.nexus_header.items():
        lower = name.lower()
        if lower in config.nexus_disallowed_headers:
            raise invalid_argument(f"nexus_header contains a disallowed key: {json.dumps(name)}")
        size += checks.length(lower) + checks.length(value)
        lowered[lower] = value
    if size > config.nexus_header_max_size:
        raise invalid_argument("nexus_header exceeds size limit")
    request.nexus_header.clear()
    request.nexus_header.update(lowered)


@validates(WorkflowService.PollNexusOperationExecution)
def check_poll(
    request: service_pb.PollNexusOperationExecutionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the operation's name and the stage to wait for. Raise INVALID_ARGUMENT."""
    request.wait_stage = request.wait_stage or enums.NEXUS_OPERATION_WAIT_STAGE_CLOSED
    if request.wait_stage not in enums.NexusOperationWaitStage.values():
        raise invalid_argument(f"unsupported wait_stage: {request.wait_stage}")
    NAMES.check_reference(request, namespace, rules)


@validates(WorkflowService.RequestCancelNexusOperationExecution, WorkflowService.TerminateNexusOperationExecution)
def check_change(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the operation's name, the request id, the identity and the reason. Raise INVALID_ARGUMENT."""
    NAMES.check_request_id(request, rules)
    NAMES.check_id(request, rules)
    NAMES.check_run_id(request)
    standalone.check_length("identity", request.identity, rules.config.max_id_length)
    standalone.check_length("reason", request.reason, rules.config.nexus_reason_max_length)


# ---- lists ----------------------------------------------------------------------------------------------------------


@handles(WorkflowService.ListNexusOperationExecutions)
async def list_nexus_operation_executions(
    frontend: FrontendPorts, request: service_pb.ListNexusOperationExecutionsRequest, context: CallContext
) -> service_pb.ListNexusOperationExecutionsResponse:
    """Return a page of operations, newest first. Raise INVALID_ARGUMENT for a bad filter or page token."""
    listed, token = await standalone.list_page(frontend, request, context, DIVISION, _entry)
    return service_pb.ListNexusOperationExecutionsResponse(operations=listed, next_page_token=token)


@handles(WorkflowService.CountNexusOperationExecutions)
async def count_nexus_operation_executions(
    frontend: FrontendPorts, request: service_pb.CountNexusOperationExecutionsRequest, context: CallContext
) -> service_pb.CountNexusOperationExecutionsResponse:
    """Count operations, also per group if the filter groups. Raise INVALID_ARGUMENT for a bad filter."""
    return await standalone.count(
        frontend, request, context, DIVISION, service_pb.CountNexusOperationExecutionsResponse()
    )


def _entry(row: VisibilityRow, custom: Mapping[str, AttributeType]) -> nexus_pb.NexusOperationExecutionListInfo:
    timed_out = row.status == wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    service = json.loads(row.search_attributes or "{}").get(_SERVICE, "")
    entry = nexus_pb.NexusOperationExecutionListInfo(
        operation_id=DIVISION.user_id(row),
        run_id=row.key.run_id,
        endpoint=row.task_queue,
        service=service,
        operation=row.workflow_type,
        status=enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT if timed_out else row.status,  # type: ignore[arg-type]
        state_transition_count=row.state_transition_count,
    )
    entry.schedule_time.FromMicroseconds(row.start_time_us)
    if row.close_time_us is not None:
        entry.close_time.FromMicroseconds(row.close_time_us)
        entry.execution_duration.FromMicroseconds(row.close_time_us - row.start_time_us)
    show_attributes(entry.search_attributes, row, custom)
    return entry


@validates(WorkflowService.DescribeNexusOperationExecution, WorkflowService.DeleteNexusOperationExecution)
def check_reference(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check that the operation is named correctly. Raise INVALID_ARGUMENT."""
    NAMES.check_reference(request, namespace, rules)
