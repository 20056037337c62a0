"""Every RPC of both services that takes a namespace: an empty request, an unknown namespace, a bad run id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.operatorservice.v1 import service_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_pb

from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

    from tests.parity.puppet import Puppet

# Answered with the installation's own data, or compared with care elsewhere.
ELSEWHERE = {
    "GetClusterInfo",
    "GetSystemInfo",
    "ListNamespaces",
    "DescribeNamespace",
    "ListClusters",
    "ListNexusEndpoints",
    "GetSearchAttributes",
    "ListSearchAttributes",
    "ListWorkflowExecutions",
    "CountWorkflowExecutions",
    "ScanWorkflowExecutions",
    "ListOpenWorkflowExecutions",
    "ListClosedWorkflowExecutions",
    "DeleteNamespace",
    "DeprecateNamespace",
    "UpdateNamespace",
    "RegisterNamespace",
    "AddOrUpdateRemoteCluster",
    "RemoveRemoteCluster",
}
# Not part of what is compared yet: schedules, batches, deployments, standalone activities, Nexus, worker rules.
OTHER_PARTS = (
    "Schedule",
    "Batch",
    "Deployment",
    "ActivityExecution",
    "Nexus",
    "WorkflowRule",
    "WorkerBuildId",
    "WorkerVersioningRules",
    "WorkerTaskReachability",
    "WorkerConfig",
    "Workers",
    "Worker",
    "TaskQueueConfig",
    "PauseActivity",
    "UnpauseActivity",
    "ResetActivity",
    "UpdateActivityOptions",
    "PauseWorkflow",
    "UnpauseWorkflow",
    "TimeSkipping",
    "CurrentDeployment",
)


def _rpcs() -> list[MethodDescriptor]:
    methods: list[MethodDescriptor] = []
    for module, service in ((workflow_pb, "WorkflowService"), (operator_pb, "OperatorService")):
        methods += module.DESCRIPTOR.services_by_name[service].methods
    return [
        method
        for method in methods
        if method.name not in ELSEWHERE and not any(part in method.name for part in OTHER_PARTS)
    ]


def _executions(method: MethodDescriptor) -> list[FieldDescriptor]:
    return [
        field
        for field in method.input_type.fields
        if field.message_type and field.message_type.name == "WorkflowExecution"
    ]


@scenario
async def empty_requests(p: Puppet) -> None:
    for method in _rpcs():
        given: dict[str, Any] = {"namespace": ""} if "namespace" in method.input_type.fields_by_name else {}
        await p.attempt(method.name, deadline=3, **given)


@scenario
async def empty_but_for_the_namespace(p: Puppet) -> None:
    for method in _rpcs():
        if "namespace" in method.input_type.fields_by_name:
            await p.attempt(method.name, deadline=3)


@scenario
async def unknown_namespaces(p: Puppet) -> None:
    for method in _rpcs():
        if "namespace" in method.input_type.fields_by_name:
            await p.attempt(method.name, deadline=3, namespace="nowhere")


@scenario
async def bad_run_ids(p: Puppet) -> None:
    for method in _rpcs():
        for field in _executions(method):
            await p.attempt(method.name, deadline=3, **{field.name: p.execution(run_id="no uuid")})


@scenario
async def nobody(p: Puppet) -> None:
    for method in _rpcs():
        for field in _executions(method):
            await p.attempt(method.name, deadline=3, **{field.name: p.execution("nobody")})
