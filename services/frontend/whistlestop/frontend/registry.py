"""Every RPC of Temporal's public services, and which function serves it.

There is one line per RPC. Request and response types come from the protobuf descriptors, never from here; a test
compares the table with the descriptors, so that no RPC is missing by accident. To support an RPC, replace the feature
in its line by the function that serves it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_pb

from whistlestop.common.errors import Code
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATOR_SERVICE = "temporal.api.operatorservice.v1.OperatorService"
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
_Line = tuple[str, "Served | Feature", Access]

_WORKFLOW_RPCS: tuple[_Line, ...] = (
    # Namespaces and the cluster
    ("RegisterNamespace", _F, _ADMIN),
    ("DescribeNamespace", _F, _READ),
    ("ListNamespaces", _F, _READ),
    ("UpdateNamespace", _F, _ADMIN),
    ("DeprecateNamespace", _F, _ADMIN),
    ("GetSearchAttributes", _F, _READ),
    ("GetClusterInfo", _F, _READ),
    ("GetSystemInfo", _F, _READ),
    # Executions
    ("StartWorkflowExecution", _H, _WRITE),
    ("ExecuteMultiOperation", _H, _WRITE),
    ("SignalWorkflowExecution", _H, _WRITE),
    ("SignalWithStartWorkflowExecution", _H, _WRITE),
    ("RequestCancelWorkflowExecution", _H, _WRITE),
    ("TerminateWorkflowExecution", _H, _WRITE),
    ("ResetWorkflowExecution", _H, _WRITE),
    ("DeleteWorkflowExecution", _H, _WRITE),
    ("UpdateWorkflowExecution", _H, _WRITE),
    ("PollWorkflowExecutionUpdate", _H, _READ),
    ("UpdateWorkflowExecutionOptions", _H, _WRITE),
    ("QueryWorkflow", _H, _READ),
    ("DescribeWorkflowExecution", _H, _READ),
    ("GetWorkflowExecutionHistory", _H, _READ),
    ("GetWorkflowExecutionHistoryReverse", _H, _READ),
    ("PauseWorkflowExecution", _H, _WRITE),
    ("UnpauseWorkflowExecution", _H, _WRITE),
    ("PollWorkflowExecutionTimeSkipping", _H, _READ),
    # Completions of workers
    ("RespondWorkflowTaskCompleted", _H, _WORKER),
    ("RespondWorkflowTaskFailed", _H, _WORKER),
    ("RecordActivityTaskHeartbeat", _H, _WORKER),
    ("RecordActivityTaskHeartbeatById", _H, _WORKER),
    ("RespondActivityTaskCompleted", _H, _WORKER),
    ("RespondActivityTaskCompletedById", _H, _WORKER),
    ("RespondActivityTaskFailed", _H, _WORKER),
    ("RespondActivityTaskFailedById", _H, _WORKER),
    ("RespondActivityTaskCanceled", _H, _WORKER),
    ("RespondActivityTaskCanceledById", _H, _WORKER),
    ("RespondQueryTaskCompleted", _H, _WORKER),
    ("ResetStickyTaskQueue", _H, _WORKER),
    # Polls and task queues
    ("PollWorkflowTaskQueue", _M, _WORKER),
    ("PollActivityTaskQueue", _M, _WORKER),
    ("PollNexusTaskQueue", _M, _WORKER),
    ("DescribeTaskQueue", _M, _READ),
    ("ListTaskQueuePartitions", _M, _READ),
    ("UpdateTaskQueueConfig", _M, _WRITE),
    ("ShutdownWorker", _M, _WORKER),
    ("RecordWorkerHeartbeat", _M, _WORKER),
    ("ListWorkers", _M, _READ),
    ("CountWorkers", _M, _READ),
    ("DescribeWorker", _M, _READ),
    ("FetchWorkerConfig", Feature.WORKER_CONFIG, _READ),
    ("UpdateWorkerConfig", Feature.WORKER_CONFIG, _WRITE),
    # Visibility
    ("ListWorkflowExecutions", _F, _READ),
    ("ScanWorkflowExecutions", _F, _READ),
    ("CountWorkflowExecutions", _F, _READ),
    ("ListOpenWorkflowExecutions", _F, _READ),
    ("ListClosedWorkflowExecutions", _F, _READ),
    ("ListArchivedWorkflowExecutions", _F, _READ),
    # Schedules
    ("CreateSchedule", _H, _WRITE),
    ("DescribeSchedule", _H, _READ),
    ("UpdateSchedule", _H, _WRITE),
    ("PatchSchedule", _H, _WRITE),
    ("ListScheduleMatchingTimes", _H, _READ),
    ("DeleteSchedule", _H, _WRITE),
    ("ListSchedules", _F, _READ),
    ("CountSchedules", _F, _READ),
    # Batches and rules
    ("StartBatchOperation", _F, _WRITE),
    ("StopBatchOperation", _F, _WRITE),
    ("DescribeBatchOperation", _F, _READ),
    ("ListBatchOperations", _F, _READ),
    ("CreateWorkflowRule", _F, _WRITE),
    ("DescribeWorkflowRule", _F, _READ),
    ("DeleteWorkflowRule", _F, _WRITE),
    ("ListWorkflowRules", _F, _READ),
    ("TriggerWorkflowRule", Feature.RULE_TRIGGER, _WRITE),
    # Activities from outside
    ("UpdateActivityOptions", _H, _WRITE),
    ("PauseActivity", _H, _WRITE),
    ("UnpauseActivity", _H, _WRITE),
    ("ResetActivity", _H, _WRITE),
    # Standalone activities
    ("StartActivityExecution", _H, _WRITE),
    ("DescribeActivityExecution", _H, _READ),
    ("PollActivityExecution", _H, _READ),
    ("ListActivityExecutions", _F, _READ),
    ("CountActivityExecutions", _F, _READ),
    ("RequestCancelActivityExecution", _H, _WRITE),
    ("TerminateActivityExecution", _H, _WRITE),
    ("DeleteActivityExecution", _H, _WRITE),
    ("PauseActivityExecution", _H, _WRITE),
    ("ResetActivityExecution", _H, _WRITE),
    ("UnpauseActivityExecution", _H, _WRITE),
    ("UpdateActivityExecutionOptions", _H, _WRITE),
    # Nexus
    ("RespondNexusTaskCompleted", _H, _WORKER),
    ("RespondNexusTaskFailed", _H, _WORKER),
    ("StartNexusOperationExecution", _H, _WRITE),
    ("DescribeNexusOperationExecution", _H, _READ),
    ("PollNexusOperationExecution", _H, _READ),
    ("ListNexusOperationExecutions", _F, _READ),
    ("CountNexusOperationExecutions", _F, _READ),
    ("RequestCancelNexusOperationExecution", _H, _WRITE),
    ("TerminateNexusOperationExecution", _H, _WRITE),
    ("DeleteNexusOperationExecution", _H, _WRITE),
    # Versioning of workers
    ("UpdateWorkerBuildIdCompatibility", _F, _WRITE),
    ("GetWorkerBuildIdCompatibility", _F, _READ),
    ("UpdateWorkerVersioningRules", _F, _WRITE),
    ("GetWorkerVersioningRules", _F, _READ),
    ("GetWorkerTaskReachability", _F, _READ),
    ("DescribeDeployment", Feature.OLD_DEPLOYMENTS, _READ),
    ("ListDeployments", Feature.OLD_DEPLOYMENTS, _READ),
    ("GetDeploymentReachability", Feature.OLD_DEPLOYMENTS, _READ),
    ("GetCurrentDeployment", Feature.OLD_DEPLOYMENTS, _READ),
    ("SetCurrentDeployment", Feature.OLD_DEPLOYMENTS, _WRITE),
    ("DescribeWorkerDeployment", _F, _READ),
    ("DescribeWorkerDeploymentVersion", _F, _READ),
    ("ListWorkerDeployments", _F, _READ),
    ("CreateWorkerDeployment", _F, _WRITE),
    ("CreateWorkerDeploymentVersion", _F, _WRITE),
    ("DeleteWorkerDeployment", _F, _WRITE),
    ("DeleteWorkerDeploymentVersion", _F, _WRITE),
    ("SetWorkerDeploymentCurrentVersion", _F, _WRITE),
    ("SetWorkerDeploymentRampingVersion", _F, _WRITE),
    ("SetWorkerDeploymentManager", _F, _WRITE),
    ("UpdateWorkerDeploymentVersionComputeConfig", _F, _ADMIN),
    ("ValidateWorkerDeploymentVersionComputeConfig", _F, _ADMIN),
    ("UpdateWorkerDeploymentVersionMetadata", _F, _WRITE),
)

_OPERATOR_RPCS: tuple[_Line, ...] = (
    ("AddSearchAttributes", _F, _ADMIN),
    ("RemoveSearchAttributes", _F, _ADMIN),
    ("ListSearchAttributes", _F, _READ),
    ("DeleteNamespace", _F, _ADMIN),
    ("ListClusters", _F, _ADMIN),
    ("AddOrUpdateRemoteCluster", Feature.CLUSTERS, _ADMIN),
    ("RemoveRemoteCluster", Feature.CLUSTERS, _ADMIN),
    ("GetNexusEndpoint", _F, _ADMIN),
    ("CreateNexusEndpoint", _F, _ADMIN),
    ("UpdateNexusEndpoint", _F, _ADMIN),
    ("DeleteNexusEndpoint", _F, _ADMIN),
    ("ListNexusEndpoints", _F, _ADMIN),
)

_TEST_RPCS: tuple[_Line, ...] = (
    ("LockTimeSkipping", _F, _ADMIN),
    ("UnlockTimeSkipping", _F, _ADMIN),
    ("Sleep", _F, _ADMIN),
    ("SleepUntil", _F, _ADMIN),
    ("UnlockTimeSkippingWithSleep", _F, _ADMIN),
    ("GetCurrentTime", _F, _READ),
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


def _spec(service: str, line: _Line, request_type: type[Message], response_type: type[Message]) -> RpcSpec:
    name, served, access = line
    asked = request_type.DESCRIPTOR
    return RpcSpec(
        full_name=f"{service}/{name}",
        service=service,
        method=name,
        request_type=request_type,
        response_type=response_type,
        served=served if isinstance(served, Served) else Served.UNIMPLEMENTED,
        feature=served if isinstance(served, Feature) else None,
        access=access,
        namespaced="namespace" in asked.fields_by_name,
        by_token="task_token" in asked.fields_by_name,
        admin_fields=tuple(field.name for field in asked.fields if _is_admins(field)),
        long_poll=name in _LONG_POLLS,
    )


def _specs() -> Iterator[RpcSpec]:
    """Yield all RPCs.

    Types are found by message names, because importing the service descriptors would import those of HTTP annotations
    too.
    """
    tables: tuple[tuple[str, Any, tuple[_Line, ...]], ...] = (
        (WORKFLOW_SERVICE, workflow_pb, _WORKFLOW_RPCS),
        (OPERATOR_SERVICE, operator_pb, _OPERATOR_RPCS),
    )
    for service, messages, lines in tables:
        for line in lines:
            yield _spec(service, line, getattr(messages, f"{line[0]}Request"), getattr(messages, f"{line[0]}Response"))


REGISTRY: dict[str, RpcSpec] = {spec.full_name: spec for spec in _specs()}
"""RPCs by `package.Service/Method`."""

SERVICES: frozenset[str] = frozenset({WORKFLOW_SERVICE, OPERATOR_SERVICE})


def registry_of_tests() -> dict[str, RpcSpec]:
    """Return the RPCs of the service with which tests move the clock; only the test server has them, as in Temporal."""
    from google.protobuf.message_factory import GetMessageClass
    from temporalio.api.testservice.v1 import service_pb2 as test_pb

    service = test_pb.DESCRIPTOR.services_by_name["TestService"]
    specs = []
    for line in _TEST_RPCS:
        method = service.methods_by_name[line[0]]
        types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        specs.append(_spec(service.full_name, line, *types))
    return {spec.full_name: spec for spec in specs}
