"""Every RPC of Temporal's public services, and which function serves it.

There is one line per RPC. Its name and types come from its `service` block (`common/rpcs`); a test compares the table
with the descriptors, so that no RPC is missing by accident. To support an RPC, replace the feature
in its line by the function that serves it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.common.rpcs.workflow_service import WorkflowService

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Rpc

WORKFLOW_SERVICE = WorkflowService.full_name
OPERATOR_SERVICE = OperatorService.full_name
UNAUTHENTICATED_RPC = "GetSystemInfo"
"""The only RPC that needs no credential: SDKs call it before anything else."""


class Served(StrEnum):
    """The function that serves an RPC."""

    FRONTEND = "frontend"
    HISTORY = "history"
    MATCHING = "matching"
    UNIMPLEMENTED = "unimplemented"


class Access(StrEnum):
    """The kind of permission that an RPC requires."""

    READ = "read"
    WRITE = "write"
    WORKER = "worker"
    ADMIN = "admin"


class Feature(StrEnum):
    """Groups of unsupported RPCs. The value is the reason why they are not supported."""

    OLD_DEPLOYMENTS = "no server offers the pre-release deployment API any more; use worker deployments"
    RULE_TRIGGER = "workflow rules are not triggered by hand, as in Temporal"
    WORKER_CONFIG = "no server offers the configuration of workers yet"
    CLUSTERS = "this server is a single cluster; remote clusters are not supported"


AS_TEMPORAL: Mapping[Feature, tuple[Code, str]] = {
    Feature.OLD_DEPLOYMENTS: (
        Code.UNIMPLEMENTED, "Deployments are deprecated and no longer supported, use Worker Deployments instead",
    ),
    Feature.RULE_TRIGGER: (Code.UNIMPLEMENTED, "method {method} not supported"),
    Feature.WORKER_CONFIG: (Code.UNIMPLEMENTED, "{method} command is not enabled."),
}  # fmt: skip
"""Features that Temporal's server refuses as well, with its status and message."""


@dataclass(frozen=True, slots=True)
class RpcSpec:
    """An RPC. `full_name` is `package.Service/Method`, the gRPC path without its leading slash."""

    full_name: str
    service: str
    method: str
    request_type: type[Message]
    response_type: type[Message]
    served: Served
    feature: Feature | None
    access: Access
    namespaced: bool
    """The request has a namespace (or a task token with one)."""
    by_token: bool
    """The request has a task token."""
    admin_fields: tuple[str, ...]
    """Fields that only an admin may set."""
    long_poll: bool
    """A long poll: it ends with an empty reply at its deadline or when the server drains."""

    def access_to(self, request: Message) -> Access:
        """Return the permission that this particular request requires."""
        for field in self.admin_fields:
            if request.HasField(field):
                return Access.ADMIN
        return self.access

    @property
    def reason(self) -> str:
        """Why the RPC is not supported; empty when it is."""
        return "" if self.feature is None else self.feature.value


_F, _H, _M = Served.FRONTEND, Served.HISTORY, Served.MATCHING
_READ, _WRITE, _WORKER, _ADMIN = Access.READ, Access.WRITE, Access.WORKER, Access.ADMIN
_Line = tuple["Rpc[Any, Any]", "Served | Feature", Access]

_WORKFLOW_RPCS: tuple[_Line, ...] = (
    # Namespaces and the cluster
    (WorkflowService.RegisterNamespace, _F, _ADMIN),
    (WorkflowService.DescribeNamespace, _F, _READ),
    (WorkflowService.ListNamespaces, _F, _READ),
    (WorkflowService.UpdateNamespace, _F, _ADMIN),
    (WorkflowService.DeprecateNamespace, _F, _ADMIN),
    (WorkflowService.GetSearchAttributes, _F, _READ),
    (WorkflowService.GetClusterInfo, _F, _READ),
    (WorkflowService.GetSystemInfo, _F, _READ),
    # Executions
    (WorkflowService.StartWorkflowExecution, _H, _WRITE),
    (WorkflowService.ExecuteMultiOperation, _H, _WRITE),
    (WorkflowService.SignalWorkflowExecution, _H, _WRITE),
    (WorkflowService.SignalWithStartWorkflowExecution, _H, _WRITE),
    (WorkflowService.RequestCancelWorkflowExecution, _H, _WRITE),
    (WorkflowService.TerminateWorkflowExecution, _H, _WRITE),
    (WorkflowService.ResetWorkflowExecution, _H, _WRITE),
    (WorkflowService.DeleteWorkflowExecution, _H, _WRITE),
    (WorkflowService.UpdateWorkflowExecution, _H, _WRITE),
    (WorkflowService.PollWorkflowExecutionUpdate, _H, _READ),
    (WorkflowService.UpdateWorkflowExecutionOptions, _H, _WRITE),
    (WorkflowService.QueryWorkflow, _H, _READ),
    (WorkflowService.DescribeWorkflowExecution, _H, _READ),
    (WorkflowService.GetWorkflowExecutionHistory, _H, _READ),
    (WorkflowService.GetWorkflowExecutionHistoryReverse, _H, _READ),
    (WorkflowService.PauseWorkflowExecution, _H, _WRITE),
    (WorkflowService.UnpauseWorkflowExecution, _H, _WRITE),
    (WorkflowService.PollWorkflowExecutionTimeSkipping, _H, _READ),
    # Completions of workers
    (WorkflowService.RespondWorkflowTaskCompleted, _H, _WORKER),
    (WorkflowService.RespondWorkflowTaskFailed, _H, _WORKER),
    (WorkflowService.RecordActivityTaskHeartbeat, _H, _WORKER),
    (WorkflowService.RecordActivityTaskHeartbeatById, _H, _WORKER),
    (WorkflowService.RespondActivityTaskCompleted, _H, _WORKER),
    (WorkflowService.RespondActivityTaskCompletedById, _H, _WORKER),
    (WorkflowService.RespondActivityTaskFailed, _H, _WORKER),
    (WorkflowService.RespondActivityTaskFailedById, _H, _WORKER),
    (WorkflowService.RespondActivityTaskCanceled, _H, _WORKER),
    (WorkflowService.RespondActivityTaskCanceledById, _H, _WORKER),
    (WorkflowService.RespondQueryTaskCompleted, _H, _WORKER),
    (WorkflowService.ResetStickyTaskQueue, _H, _WORKER),
    # Polls and task queues
    (WorkflowService.PollWorkflowTaskQueue, _M, _WORKER),
    (WorkflowService.PollActivityTaskQueue, _M, _WORKER),
    (WorkflowService.PollNexusTaskQueue, _M, _WORKER),
    (WorkflowService.DescribeTaskQueue, _M, _READ),
    (WorkflowService.ListTaskQueuePartitions, _M, _READ),
    (WorkflowService.UpdateTaskQueueConfig, _M, _WRITE),
    (WorkflowService.ShutdownWorker, _M, _WORKER),
    (WorkflowService.RecordWorkerHeartbeat, _M, _WORKER),
    (WorkflowService.ListWorkers, _M, _READ),
    (WorkflowService.CountWorkers, _M, _READ),
    (WorkflowService.DescribeWorker, _M, _READ),
    (WorkflowService.FetchWorkerConfig, Feature.WORKER_CONFIG, _READ),
    (WorkflowService.UpdateWorkerConfig, Feature.WORKER_CONFIG, _WRITE),
    # Visibility
    (WorkflowService.ListWorkflowExecutions, _F, _READ),
    (WorkflowService.ScanWorkflowExecutions, _F, _READ),
    (WorkflowService.CountWorkflowExecutions, _F, _READ),
    (WorkflowService.ListOpenWorkflowExecutions, _F, _READ),
    (WorkflowService.ListClosedWorkflowExecutions, _F, _READ),
    (WorkflowService.ListArchivedWorkflowExecutions, _F, _READ),
    # Schedules
    (WorkflowService.CreateSchedule, _H, _WRITE),
    (WorkflowService.DescribeSchedule, _H, _READ),
    (WorkflowService.UpdateSchedule, _H, _WRITE),
    (WorkflowService.PatchSchedule, _H, _WRITE),
    (WorkflowService.ListScheduleMatchingTimes, _H, _READ),
    (WorkflowService.DeleteSchedule, _H, _WRITE),
    (WorkflowService.ListSchedules, _F, _READ),
    (WorkflowService.CountSchedules, _F, _READ),
    # Batches and rules
    (WorkflowService.StartBatchOperation, _F, _WRITE),
    (WorkflowService.StopBatchOperation, _F, _WRITE),
    (WorkflowService.DescribeBatchOperation, _F, _READ),
    (WorkflowService.ListBatchOperations, _F, _READ),
    (WorkflowService.CreateWorkflowRule, _F, _WRITE),
    (WorkflowService.DescribeWorkflowRule, _F, _READ),
    (WorkflowService.DeleteWorkflowRule, _F, _WRITE),
    (WorkflowService.ListWorkflowRules, _F, _READ),
    (WorkflowService.TriggerWorkflowRule, Feature.RULE_TRIGGER, _WRITE),
    # Activities from outside
    (WorkflowService.UpdateActivityOptions, _H, _WRITE),
    (WorkflowService.PauseActivity, _H, _WRITE),
    (WorkflowService.UnpauseActivity, _H, _WRITE),
    (WorkflowService.ResetActivity, _H, _WRITE),
    # Standalone activities
    (WorkflowService.StartActivityExecution, _H, _WRITE),
    (WorkflowService.DescribeActivityExecution, _H, _READ),
    (WorkflowService.PollActivityExecution, _H, _READ),
    (WorkflowService.ListActivityExecutions, _F, _READ),
    (WorkflowService.CountActivityExecutions, _F, _READ),
    (WorkflowService.RequestCancelActivityExecution, _H, _WRITE),
    (WorkflowService.TerminateActivityExecution, _H, _WRITE),
    (WorkflowService.DeleteActivityExecution, _H, _WRITE),
    (WorkflowService.PauseActivityExecution, _H, _WRITE),
    (WorkflowService.ResetActivityExecution, _H, _WRITE),
    (WorkflowService.UnpauseActivityExecution, _H, _WRITE),
    (WorkflowService.UpdateActivityExecutionOptions, _H, _WRITE),
    # Nexus
    (WorkflowService.RespondNexusTaskCompleted, _H, _WORKER),
    (WorkflowService.RespondNexusTaskFailed, _H, _WORKER),
    (WorkflowService.StartNexusOperationExecution, _H, _WRITE),
    (WorkflowService.DescribeNexusOperationExecution, _H, _READ),
    (WorkflowService.PollNexusOperationExecution, _H, _READ),
    (WorkflowService.ListNexusOperationExecutions, _F, _READ),
    (WorkflowService.CountNexusOperationExecutions, _F, _READ),
    (WorkflowService.RequestCancelNexusOperationExecution, _H, _WRITE),
    (WorkflowService.TerminateNexusOperationExecution, _H, _WRITE),
    (WorkflowService.DeleteNexusOperationExecution, _H, _WRITE),
    # Versioning of workers
    (WorkflowService.UpdateWorkerBuildIdCompatibility, _F, _WRITE),
    (WorkflowService.GetWorkerBuildIdCompatibility, _F, _READ),
    (WorkflowService.UpdateWorkerVersioningRules, _F, _WRITE),
    (WorkflowService.GetWorkerVersioningRules, _F, _READ),
    (WorkflowService.GetWorkerTaskReachability, _F, _READ),
    (WorkflowService.DescribeDeployment, Feature.OLD_DEPLOYMENTS, _READ),
    (WorkflowService.ListDeployments, Feature.OLD_DEPLOYMENTS, _READ),
    (WorkflowService.GetDeploymentReachability, Feature.OLD_DEPLOYMENTS, _READ),
    (WorkflowService.GetCurrentDeployment, Feature.OLD_DEPLOYMENTS, _READ),
    (WorkflowService.SetCurrentDeployment, Feature.OLD_DEPLOYMENTS, _WRITE),
    (WorkflowService.DescribeWorkerDeployment, _F, _READ),
    (WorkflowService.DescribeWorkerDeploymentVersion, _F, _READ),
    (WorkflowService.ListWorkerDeployments, _F, _READ),
    (WorkflowService.CreateWorkerDeployment, _F, _WRITE),
    (WorkflowService.CreateWorkerDeploymentVersion, _F, _WRITE),
    (WorkflowService.DeleteWorkerDeployment, _F, _WRITE),
    (WorkflowService.DeleteWorkerDeploymentVersion, _F, _WRITE),
    (WorkflowService.SetWorkerDeploymentCurrentVersion, _F, _WRITE),
    (WorkflowService.SetWorkerDeploymentRampingVersion, _F, _WRITE),
    (WorkflowService.SetWorkerDeploymentManager, _F, _WRITE),
    (WorkflowService.UpdateWorkerDeploymentVersionComputeConfig, _F, _ADMIN),
    (WorkflowService.ValidateWorkerDeploymentVersionComputeConfig, _F, _ADMIN),
    (WorkflowService.UpdateWorkerDeploymentVersionMetadata, _F, _WRITE),
)

_OPERATOR_RPCS: tuple[_Line, ...] = (
    (OperatorService.AddSearchAttributes, _F, _ADMIN),
    (OperatorService.RemoveSearchAttributes, _F, _ADMIN),
    (OperatorService.ListSearchAttributes, _F, _READ),
    (OperatorService.DeleteNamespace, _F, _ADMIN),
    (OperatorService.ListClusters, _F, _ADMIN),
    (OperatorService.AddOrUpdateRemoteCluster, Feature.CLUSTERS, _ADMIN),
    (OperatorService.RemoveRemoteCluster, Feature.CLUSTERS, _ADMIN),
    (OperatorService.GetNexusEndpoint, _F, _ADMIN),
    (OperatorService.CreateNexusEndpoint, _F, _ADMIN),
    (OperatorService.UpdateNexusEndpoint, _F, _ADMIN),
    (OperatorService.DeleteNexusEndpoint, _F, _ADMIN),
    (OperatorService.ListNexusEndpoints, _F, _ADMIN),
)

_LONG_POLLS = frozenset(
    {
        "PollWorkflowTaskQueue",
        "PollActivityTaskQueue",
        "PollNexusTaskQueue",
        "PollWorkflowExecutionUpdate",
        "GetWorkflowExecutionHistory",
        "UpdateWorkflowExecution",
        "ExecuteMultiOperation",
        "QueryWorkflow",
        "PollActivityExecution",
        "PollNexusOperationExecution",
        "PollWorkflowExecutionTimeSkipping",
        "ProbeBacklog",
        "Sleep",
        "SleepUntil",
        "UnlockTimeSkippingWithSleep",
    }
)


_COMPUTE = "temporal.api.compute."
"""Messages that determine what is started with the server's credentials, and at whose expense: for admins only."""


def _is_admins(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and field.has_presence and kind.full_name.startswith(_COMPUTE)


def spec_of(rpc: Rpc[Any, Any], served: Served | Feature, access: Access) -> RpcSpec:
    """Return the spec of an RPC, with what its descriptors say."""
    asked = rpc.request_type.DESCRIPTOR
    return RpcSpec(
        full_name=rpc.full_name,
        service=rpc.service,
        method=rpc.method,
        request_type=rpc.request_type,
        response_type=rpc.response_type,
        served=served if isinstance(served, Served) else Served.UNIMPLEMENTED,
        feature=served if isinstance(served, Feature) else None,
        access=access,
        namespaced="namespace" in asked.fields_by_name,
        by_token="task_token" in asked.fields_by_name,
        admin_fields=tuple(field.name for field in asked.fields if _is_admins(field)),
        long_poll=rpc.method in _LONG_POLLS,
    )


REGISTRY: dict[str, RpcSpec] = {
    line[0].full_name: spec_of(*line) for lines in (_WORKFLOW_RPCS, _OPERATOR_RPCS) for line in lines
}
"""RPCs by `package.Service/Method`."""

SERVICES: frozenset[str] = frozenset({WORKFLOW_SERVICE, OPERATOR_SERVICE})
