"""What the frontend does for each RPC, one module for each small group.

A module may have three tables by method: `HANDLERS` for RPCs that the frontend serves, `AROUND` for RPCs of another
function where something is done before or after the call, and `VALIDATORS`, the checks before an RPC is served by any
function. As in history, a module is imported when the first of its methods is called, because a function or a test
server needs only a few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from whistlestop.frontend.api.rules import Handler, Rules, UnknownSearchAttribute, Validator

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

    handler: Handler | None
    """Serves the RPC, or wraps the call of the function that serves it."""
    validator: Validator | None


def parts_of(method: str) -> Parts:
    """Return the handler and validator of a method, importing their modules."""
    handler, validator = None, None
    for name in MODULES_OF.get(method, ()):
        module: Any = import_module(f"{__name__}.{name}")
        for table in ("HANDLERS", "AROUND"):
            handler = handler or getattr(module, table, {}).get(method)
        validator = validator or getattr(module, "VALIDATORS", {}).get(method)
    return Parts(handler, validator)


__all__ = ["Handler", "Parts", "Rules", "UnknownSearchAttribute", "Validator", "parts_of"]
