"""Versions with a compute config, whose workers are started when tasks find no poller.

A config is stored once matching has found that its targets can be reached and has started one worker of each group:
that worker registers the queues that it polls, so that tasks can be routed to the version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.compute.v1 import config_pb2 as compute_pb
from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found, unavailable
from whistlestop.common.proto.deployment_pb2 import CheckComputeRequest, CheckComputeResponse, RerouteTasksRequest
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning.deployment_changes import add_version
from whistlestop.common.versioning.deployments import find_deployment, find_version, serves
from whistlestop.frontend.api.deployments import compute_config
from whistlestop.frontend.api.deployments.deployments import change_adding_version, find, limits_of, store_of
from whistlestop.frontend.api.rules import handles

if TYPE_CHECKING:
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData, NamespaceDeployments
    from whistlestop.frontend.ports import FrontendPorts

_REQUESTS_REMEMBERED = 20


def _check_names(version: deployment_pb.WorkerDeploymentVersion) -> None:
    if not version.deployment_name:
        raise invalid_argument("deployment name cannot be empty")
    if not version.build_id:
        raise invalid_argument("build ID cannot be empty")


async def _check(
    frontend: FrontendPorts,
    context: CallContext,
    version: deployment_pb.WorkerDeploymentVersion,
    config: compute_pb.ComputeConfig,
    *,
    start: bool,
) -> CheckComputeResponse:
    compute_config.check(config)
    request = CheckComputeRequest(version=version, config=config, start=start)
    return decoded(await frontend.matching.CheckCompute(request, context), CheckComputeResponse)


def _store(
    data: DeploymentData,
    info: WorkerDeploymentVersionInfo,
    config: compute_pb.ComputeConfig,
    checked: CheckComputeResponse,
    now_ns: int,
) -> None:
    """Store the config in the version."""
    info.compute_config.CopyFrom(config)
    for queue in checked.queues:
        if not serves(info, queue.name, queue.task_type):
            info.task_queue_infos.add(name=queue.name, type=queue.task_type)
        info.status = info.status if info.status != _CREATED else _INACTIVE
    status = data.notes[info.deployment_version.build_id].compute_status
    status.provider_validation.error_message = ""
    status.provider_validation.last_check_time.FromNanoseconds(now_ns)


_CREATED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
_INACTIVE = enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE


async def _start_for_backlog(frontend: FrontendPorts, context: CallContext, info: WorkerDeploymentVersionInfo) -> None:
    """Start workers for tasks that are already waiting."""
    queues = [RerouteTasksRequest.Queue(name=queue.name, task_type=queue.type) for queue in info.task_queue_infos]
    if queues:
        await frontend.history.RerouteTasks(RerouteTasksRequest(queues=queues, push=True), context)


@handles(WorkflowService.CreateWorkerDeploymentVersion)
async def create_version(
    frontend: FrontendPorts, request: rr.CreateWorkerDeploymentVersionRequest, context: CallContext
) -> rr.CreateWorkerDeploymentVersionResponse:
    """Create a version before its first worker polls. Raise INVALID_ARGUMENT, NOT_FOUND or ALREADY_EXISTS.

    Repeating the request with the same id has no effect.
    """
    version = request.deployment_version
    _check_names(version)
    deployments = store_of(frontend)
    if _is_created(find(await deployments.read(context.namespace_id), version.deployment_name), request):
        return rr.CreateWorkerDeploymentVersionResponse()
    has_config = request.HasField("compute_config")
    checked = CheckComputeResponse()
    if has_config:
        checked = await _check(frontend, context, version, request.compute_config, start=True)
    now_ns = frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> WorkerDeploymentVersionInfo | None:
        data = find(known, version.deployment_name)
        info = find_version(data, version.build_id)
        if info is None or not has_config or data.notes[version.build_id].create_request_id:
            if _is_created(data, request):
                return None
            info = add_version(data, version.build_id, now_ns, limits_of(frontend, context), polled=False)
        # Otherwise the worker that was just started has already polled and so registered the version.
        info.last_modifier_identity = request.identity
        data.notes[version.build_id].create_request_id = request.request_id
        if has_config:
            _store(data, info, request.compute_config, checked, now_ns)
        return info

    await change_adding_version(frontend, context, version.deployment_name, change)
    return rr.CreateWorkerDeploymentVersionResponse()


def _is_created(data: DeploymentData, request: rr.CreateWorkerDeploymentVersionRequest) -> bool:
    """Return whether this very request created the version. Raises ALREADY_EXISTS if another one did."""
    version = request.deployment_version
    if find_version(data, version.build_id) is None:
        return False
    notes = data.notes.get(version.build_id)
    if request.request_id and notes is not None and notes.create_request_id == request.request_id:
        return True
    version_name = f"{version.deployment_name}.{version.build_id}"
    raise ServiceError(Code.ALREADY_EXISTS, f'Worker Deployment Version "{version_name}" already exists')


@handles(WorkflowService.UpdateWorkerDeploymentVersionComputeConfig)
async def update_compute_config(
    frontend: FrontendPorts, request: rr.UpdateWorkerDeploymentVersionComputeConfigRequest, context: CallContext
) -> rr.UpdateWorkerDeploymentVersionComputeConfigResponse:
    """Add, change and remove scaling groups. When none is left, workers are no longer started.

    Raise INVALID_ARGUMENT.
    """
    version = request.deployment_version
    _check_names(version)
    upserts, removes = request.compute_config_scaling_groups, request.remove_compute_config_scaling_groups
    if not upserts and not removes:
        raise invalid_argument("no change found")
    deployments = store_of(frontend)
    data, info = _version_in(await deployments.read(context.namespace_id), version)
    notes = data.notes.get(version.build_id)
    if request.request_id and notes is not None and request.request_id in notes.compute_request_ids:
        return rr.UpdateWorkerDeploymentVersionComputeConfigResponse()
    config = compute_config.updated(info.compute_config, upserts, removes)
    checked = CheckComputeResponse()
    if config.scaling_groups:
        checked = await _check(frontend, context, version, config, start=True)
    now_ns = frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> WorkerDeploymentVersionInfo:
        data, info = _version_in(known, version)
        if compute_config.updated(info.compute_config, upserts, removes) != config:
            raise unavailable("the compute config was changed at the same time; try again")
        _store(data, info, config, checked, now_ns)
        if not config.scaling_groups:
            info.ClearField("compute_config")
        info.last_modifier_identity = request.identity
        if request.request_id:
            remembered = data.notes[version.build_id].compute_request_ids
            remembered.append(request.request_id)
            del remembered[:-_REQUESTS_REMEMBERED]
        return info

    await _start_for_backlog(frontend, context, await deployments.change(context.namespace_id, change))
    return rr.UpdateWorkerDeploymentVersionComputeConfigResponse()


def _version_in(
    known: NamespaceDeployments, version: deployment_pb.WorkerDeploymentVersion
) -> tuple[DeploymentData, WorkerDeploymentVersionInfo]:
    data = find_deployment(known, version.deployment_name)
    info = find_version(data, version.build_id) if data is not None else None
    if data is None or info is None:
        raise not_found(f"build ID '{version.build_id}' not found in Worker Deployment '{version.deployment_name}'")
    return data, info


@handles(WorkflowService.ValidateWorkerDeploymentVersionComputeConfig)
async def validate_compute_config(
    frontend: FrontendPorts, request: rr.ValidateWorkerDeploymentVersionComputeConfigRequest, context: CallContext
) -> rr.ValidateWorkerDeploymentVersionComputeConfigResponse:
    """Check an update without starting any worker. The version need not exist. Raise INVALID_ARGUMENT."""
    version = request.deployment_version
    upserts, removes = request.compute_config_scaling_groups, request.remove_compute_config_scaling_groups
    known = await store_of(frontend).read(context.namespace_id)
    data = find_deployment(known, version.deployment_name)
    info = find_version(data, version.build_id) if data is not None else None
    current = info.compute_config if info is not None else compute_pb.ComputeConfig()
    if not current.scaling_groups and not upserts:
        raise invalid_argument(
            "No prior compute config found, which means nothing can be removed and something needs to be added to be "
            "valid"
        )
    if upserts or removes:
        config = compute_config.updated(current, upserts, removes)
        await _check(frontend, context, version, config, start=False)
    return rr.ValidateWorkerDeploymentVersionComputeConfigResponse()
