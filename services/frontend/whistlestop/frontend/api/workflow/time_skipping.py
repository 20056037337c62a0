"""Time skipping in workflows: the configuration in requests, and PollWorkflowExecutionTimeSkipping.

It is off unless the dynamic configuration has `frontend.WorkflowTimeSkippingEnabled=true`, as in Temporal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.rules import validates

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace


def check_config(owner: Any, rules: Rules) -> None:
    """Check the `time_skipping_config` of a request or of options, if set, and fill in the number of skips.

    Raise INVALID_ARGUMENT.
    """
    if not owner.HasField("time_skipping_config"):
        return
    _check_enabled(rules)
    config = owner.time_skipping_config
    if config.max_session_skip_count <= 0:
        config.max_session_skip_count = max(1, rules.config.time_skipping_max_session_skips)
    if not config.HasField("fast_forward_config"):
        return
    if config.fast_forward_config.duration.ToNanoseconds() <= 0:
        raise invalid_argument("Time skipping config invalid: fast_forward duration must be positive")
    _check_id(config.fast_forward_config.id)
    if not config.enabled:
        raise invalid_argument("time_skipping_config: cannot set fast_forward when enabled is false")


@validates(WorkflowService.PollWorkflowExecutionTimeSkipping)
def check_poll(
    request: service_pb.PollWorkflowExecutionTimeSkippingRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the execution and the fast-forward to wait for. Raise INVALID_ARGUMENT."""
    checks.check_execution(request, "workflow_execution")
    _check_enabled(rules)
    _check_id(request.fast_forward_id)


def _check_enabled(rules: Rules) -> None:
    if not rules.config.time_skipping_enabled:
        raise ServiceError(Code.UNIMPLEMENTED, "The Time-Skipping feature is not enabled for namespace.")


def _check_id(fast_forward_id: str) -> None:
    if not fast_forward_id.strip():
        raise invalid_argument("Time skipping config invalid: fast_forward_id must be set")
