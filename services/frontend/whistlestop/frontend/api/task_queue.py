"""Polls and RPCs about task queues: checks and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.task_queue_pb2 import DescribeTaskQueueMode, TaskQueueKind, TaskQueueType

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.rules import validates
from whistlestop.frontend.api.versioning.worker_version import check_worker_version

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace

_STICKY = TaskQueueKind.TASK_QUEUE_KIND_STICKY
_WORKER_COMMANDS = TaskQueueKind.TASK_QUEUE_KIND_WORKER_COMMANDS
_WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
_NEXUS = TaskQueueType.TASK_QUEUE_TYPE_NEXUS
_ENHANCED = DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
_MAX_REASON = 1000


@validates(WorkflowService.PollWorkflowTaskQueue)
def check_poll_workflow(
    request: service_pb.PollWorkflowTaskQueueRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the poller's identity and version, and the queue. Raise INVALID_ARGUMENT."""
    checks.check_identity(request.identity, rules)
    _check_versioning(request, rules)
    checks.check_task_queue(request, rules, user_defined=True)
    checks.check_not_internal(request.task_queue.normal_name)
    checks.check_queue_kind(request.task_queue, _WORKFLOW)
    if namespace is not None and request.binary_checksum in namespace.data.config.bad_binaries.binaries:
        bad = namespace.data.config.bad_binaries.binaries[request.binary_checksum]
        raise invalid_argument(f"Binary {request.binary_checksum} already marked as bad deployment: {bad.reason}")


@validates(WorkflowService.PollActivityTaskQueue)
def check_poll_activity(
    request: service_pb.PollActivityTaskQueueRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the queue, and the poller's identity and version. Raise INVALID_ARGUMENT."""
    _check_poll(request, rules)
    checks.check_queue_kind(request.task_queue, _ACTIVITY)


@validates(WorkflowService.PollNexusTaskQueue)
def check_poll_nexus(request: service_pb.PollNexusTaskQueueRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the queue, and the poller's identity and version. Raise INVALID_ARGUMENT."""
    _check_poll(request, rules)
    checks.check_queue_kind(request.task_queue, _NEXUS)


def _check_poll(request: Any, rules: Rules) -> None:
    checks.check_task_queue(request, rules, user_defined=True)
    checks.check_identity(request.identity, rules)
    _check_versioning(request, rules)


@validates(WorkflowService.ShutdownWorker)
def check_shutdown(request: service_pb.ShutdownWorkerRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that the worker does not name the server's own queues. Raise INVALID_ARGUMENT."""
    checks.check_not_internal(request.task_queue)
    checks.check_not_internal(request.sticky_task_queue)


@validates(WorkflowService.DescribeTaskQueue)
def check_describe_task_queue(
    request: service_pb.DescribeTaskQueueRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the request, in the default and the enhanced mode, and fill in defaults. Raise INVALID_ARGUMENT."""
    checks.check_task_queue(request, rules, partition=request.api_mode != _ENHANCED)
    if not request.task_queue_type or request.api_mode == _ENHANCED:
        request.task_queue_type = _WORKFLOW
    if not request.task_queue_types:
        request.task_queue_types.extend((_WORKFLOW, _ACTIVITY))
    if request.api_mode == _ENHANCED and request.task_queue.kind == _STICKY:
        raise invalid_argument(
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue."
        )
    if request.api_mode != _ENHANCED:
        checks.check_queue_kind(request.task_queue, request.task_queue_type)
    elif request.task_queue.kind == _WORKER_COMMANDS or request.task_queue.normal_name:
        raise invalid_argument("Task Queue Partition invalid, use a different Task Queue or Task Queue Type")


@validates(WorkflowService.ListTaskQueuePartitions)
def check_list_partitions(
    request: service_pb.ListTaskQueuePartitionsRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the queue's name and kind. Raise INVALID_ARGUMENT."""
    checks.check_task_queue(request, rules)
    checks.check_queue_kind(request.task_queue, _WORKFLOW)


@validates(WorkflowService.UpdateTaskQueueConfig)
def check_update_config(
    request: service_pb.UpdateTaskQueueConfigRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check rate limits (not for workflow tasks), the lengths of texts, and fairness weights.

    Raise INVALID_ARGUMENT.
    """
    checks.check_not_internal(request.task_queue)
    for update, label, noun in (
        (request.update_queue_rate_limit, "UpdateQueueRateLimit", "rate limit"),
        (
            request.update_fairness_key_rate_limit_default,
            "UpdateFairnessKeyRateLimitDefault",
            "fairness key rate limit",
        ),
    ):
        if not update.HasField("rate_limit"):
            continue
        if request.task_queue_type == _WORKFLOW:
            raise invalid_argument(f"Setting {noun} on workflow task queues is not allowed.")
        if update.rate_limit.requests_per_second < 0:
            raise invalid_argument(f"RequestsPerSecond for {label} rate limit must be non-negative.")
        _check_text(f"{label}.Reason", update.reason, _MAX_REASON)
    _check_text("Identity", request.identity, rules.config.max_id_length)
    _check_weights(request, rules.config.max_fairness_weight_overrides)


def _check_weights(request: service_pb.UpdateTaskQueueConfigRequest, most: int) -> None:
    wanted, unset = request.set_fairness_weight_overrides, request.unset_fairness_weight_overrides
    if len(wanted) + len(unset) > most:
        raise invalid_argument(
            f"too many fairness weight overrides in request: got {len(wanted) + len(unset)}, maximum {most}"
        )
    for key in (*wanted, *unset):
        if not key:
            raise invalid_argument("fairness weight override key must not be empty")
        if checks.length(key) > 64:
            raise invalid_argument("fairness key length exceeds limit")
    for key, weight in wanted.items():
        if weight <= 0:
            raise invalid_argument(f'invalid fairness weight weight for key "{key}": must be greater than zero')
    for key in unset:
        if key in wanted:
            raise invalid_argument(f'fairness weight override key "{key}" present in both set and unset lists')


def _check_text(field: str, text: str, most: int) -> None:
    if checks.length(text) > most:
        raise invalid_argument(f"{field} field too long (max {most} characters).")


def _check_versioning(request: Any, rules: Rules) -> None:
    check_worker_version(request, request.worker_version_capabilities, request.task_queue, rules)
