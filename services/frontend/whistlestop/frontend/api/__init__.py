"""What the frontend does for each RPC, one module for each small group.

A module registers functions by two decorators: `handles` for RPCs that the frontend serves, or where it does something
before or after the call of another service, and `validates` for the checks before an RPC is served by any service. A
module is imported when the first of its RPCs is called, as in history, because a function or a test server needs only a
few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from whistlestop.frontend.api.rules import HANDLERS, VALIDATORS, Rules, UnknownSearchAttribute, Validator

if TYPE_CHECKING:
    from whistlestop.common.rpcs.handlers import Handler
    from whistlestop.frontend.ports import FrontendPorts

_METHODS_OF = {
    "batch": (
        "StartBatchOperation", "StopBatchOperation", "DescribeBatchOperation", "ListBatchOperations",
    ),
    "cluster": (
        "GetSystemInfo", "GetClusterInfo", "ListClusters",
    ),
    "deployments.deployment_compute": (
        "CreateWorkerDeploymentVersion", "UpdateWorkerDeploymentVersionComputeConfig",
        "ValidateWorkerDeploymentVersionComputeConfig",
    ),
    "deployments.deployment_routing": (
        "SetWorkerDeploymentCurrentVersion", "SetWorkerDeploymentRampingVersion",
    ),
    "deployments.deployments": (
        "CreateWorkerDeployment", "DeleteWorkerDeployment", "DeleteWorkerDeploymentVersion",
        "DescribeWorkerDeployment", "DescribeWorkerDeploymentVersion", "ListWorkerDeployments",
        "SetWorkerDeploymentManager", "UpdateWorkerDeploymentVersionMetadata",
    ),
    "namespaces": (
        "RegisterNamespace", "DescribeNamespace", "ListNamespaces", "UpdateNamespace", "DeprecateNamespace",
        "DeleteNamespace",
    ),
    "nexus_endpoints": (
        "CreateNexusEndpoint", "UpdateNexusEndpoint", "DeleteNexusEndpoint", "GetNexusEndpoint", "ListNexusEndpoints",
    ),
    "schedules": (
        "ListSchedules", "CountSchedules", "CreateSchedule", "UpdateSchedule", "PatchSchedule", "DescribeSchedule",
        "DeleteSchedule", "ListScheduleMatchingTimes",
    ),
    "search_attributes": (
        "AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes", "GetSearchAttributes",
    ),
    "standalone_activities": (
        "ListActivityExecutions", "CountActivityExecutions", "StartActivityExecution", "DescribeActivityExecution",
        "PollActivityExecution", "DeleteActivityExecution", "RequestCancelActivityExecution",
        "TerminateActivityExecution", "PauseActivityExecution", "UnpauseActivityExecution", "ResetActivityExecution",
        "UpdateActivityExecutionOptions",
    ),
    "standalone_nexus": (
        "ListNexusOperationExecutions", "CountNexusOperationExecutions", "StartNexusOperationExecution",
        "DescribeNexusOperationExecution", "PollNexusOperationExecution", "DeleteNexusOperationExecution",
        "RequestCancelNexusOperationExecution", "TerminateNexusOperationExecution",
    ),
    "workflow.start_workflow": (
        "StartWorkflowExecution", "SignalWithStartWorkflowExecution", "ExecuteMultiOperation",
    ),
    "task_queue": (
        "PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue", "DescribeTaskQueue",
        "ListTaskQueuePartitions", "UpdateTaskQueueConfig", "ShutdownWorker",
    ),
    "versioning.task_reachability": (
        "GetWorkerTaskReachability", "DescribeTaskQueue",
    ),
    "workflow.time_skipping": (
        "PollWorkflowExecutionTimeSkipping",
    ),
    "workflow.update_workflow": (
        "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate", "UpdateWorkflowExecutionOptions",
    ),
    "versioning.version_sets": (
        "UpdateWorkerBuildIdCompatibility", "GetWorkerBuildIdCompatibility",
    ),
    "versioning.worker_deployment": (
        "CreateWorkerDeployment", "CreateWorkerDeploymentVersion", "DeleteWorkerDeployment",
        "DeleteWorkerDeploymentVersion", "DescribeWorkerDeployment", "DescribeWorkerDeploymentVersion",
        "SetWorkerDeploymentCurrentVersion", "SetWorkerDeploymentManager", "SetWorkerDeploymentRampingVersion",
    ),
    "versioning.versioning_rules": (
        "UpdateWorkerVersioningRules", "GetWorkerVersioningRules",
    ),
    "visibility": (
        "ListWorkflowExecutions", "ScanWorkflowExecutions", "CountWorkflowExecutions", "ListOpenWorkflowExecutions",
        "ListClosedWorkflowExecutions", "ListArchivedWorkflowExecutions",
    ),
    "worker_tasks": (
        "RecordActivityTaskHeartbeat", "RecordActivityTaskHeartbeatById", "RespondActivityTaskCompleted",
        "RespondActivityTaskCompletedById", "RespondActivityTaskCanceled", "RespondActivityTaskCanceledById",
        "RespondActivityTaskFailed", "RespondActivityTaskFailedById", "UpdateWorkerConfig",
        "RespondWorkflowTaskCompleted", "RespondWorkflowTaskFailed", "RespondQueryTaskCompleted",
        "RespondNexusTaskCompleted", "RespondNexusTaskFailed",
    ),
    "workflow.workflow_execution": (
        "SignalWorkflowExecution", "RequestCancelWorkflowExecution", "TerminateWorkflowExecution",
        "ResetWorkflowExecution", "DeleteWorkflowExecution", "DescribeWorkflowExecution", "QueryWorkflow",
        "GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse", "ResetStickyTaskQueue",
        "PauseWorkflowExecution", "UnpauseWorkflowExecution",
    ),
    "workflow.workflow_rules": (
        "CreateWorkflowRule", "DescribeWorkflowRule", "DeleteWorkflowRule", "ListWorkflowRules",
    ),
}  # fmt: skip
"""A method may have its handler in one module and its validator in another."""

MODULES_OF: dict[str, list[str]] = {}
for _module, _methods in _METHODS_OF.items():
    for _method in _methods:
        MODULES_OF.setdefault(_method, []).append(_module)


class Parts(NamedTuple):
    """What the frontend does for one RPC; None for nothing."""

    handler: Handler[FrontendPorts] | None
    """Serves the RPC, or wraps the call of the function that serves it."""
    validator: Validator | None


def parts_of(method: str) -> Parts:
    """Return the handler and validator of a method, importing their modules."""
    for name in MODULES_OF.get(method, ()):
        import_module(f"{__name__}.{name}")
    return Parts(HANDLERS.find(method), VALIDATORS.functions.get(method))


__all__ = ["HANDLERS", "VALIDATORS", "Parts", "Rules", "UnknownSearchAttribute", "Validator", "parts_of"]
