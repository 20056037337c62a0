"""Worker deployments: describe, list, create, change and delete them.

Deployments and versions are created when their workers poll (in matching) or by CreateWorkerDeployment. Each change
here is a compare-and-set of the namespace's row, after which waiting tasks are rerouted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import RoutingConfigUpdateState
from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.messages.page_tokens import last_of, list_mark, page_token
from whistlestop.common.proto.deployment_pb2 import (
    DescribeVersionQueuesRequest,
    DescribeVersionQueuesResponse,
    RefreshDrainageRequest,
    RerouteTasksRequest,
)
from whistlestop.common.proto.internal_pb2 import HasPollerRequest, HasPollerResponse
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning import drainage
from whistlestop.common.versioning.deployment_changes import (
    AUTO_CREATED,
    DeploymentLimits,
    add_deployment,
    remove_version,
)
from whistlestop.common.versioning.deployments import (
    find_deployment,
    find_version,
    version_string,
    versioned_queue,
)
from whistlestop.frontend.api.deployments import compute_config
from whistlestop.frontend.api.deployments.compute_status import compute_status
from whistlestop.frontend.api.rules import handles
from whistlestop.storage.deployments import MAX_BEHIND_S, Deployments

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData, NamespaceDeployments
    from whistlestop.frontend.ports import FrontendPorts

    T = TypeVar("T")

_CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
_RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
_PAGE = 100


def store_of(frontend: FrontendPorts) -> Deployments:
    """Return the object by which this frontend reads and changes stored deployments."""
    return Deployments(frontend.store, frontend.clock)


def find(known: NamespaceDeployments, name: str) -> DeploymentData:
    """Return the deployment with that name. Raises INVALID_ARGUMENT for an empty name, NOT_FOUND."""
    if not name:
        raise invalid_argument("deployment name cannot be empty")
    data = find_deployment(known, name)
    if data is None:
        raise not_found(f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?")
    return data


def find_in(data: DeploymentData, build_id: str) -> WorkerDeploymentVersionInfo:
    """Return the version with that build id. Raises NOT_FOUND."""
    info = find_version(data, build_id)
    if info is None:
        name = data.description.worker_deployment_info.name
        raise not_found(f"build ID '{build_id}' not found in Worker Deployment '{name}'")
    return info


def limits_of(frontend: FrontendPorts, context: CallContext) -> DeploymentLimits:
    """Return the limits on deployments and versions."""
    config = frontend.config.of(context.namespace)
    return DeploymentLimits(deployments=config.max_deployments, versions=config.max_versions_in_deployment)


async def change_adding_version(
    frontend: FrontendPorts, context: CallContext, name: str, change: Callable[[NamespaceDeployments], T]
) -> T:
    """Apply a change that may add a version to the deployment with that name. Raises RESOURCE_EXHAUSTED."""

    async def is_polled(info: WorkerDeploymentVersionInfo) -> bool:
        return await has_pollers(frontend, context, info)

    async def refresh(versions: list[deployment_pb.WorkerDeploymentVersion]) -> None:
        await _check_drainage(frontend, context, versions)

    deployments = store_of(frontend)
    return await deployments.add(context.namespace_id, name, change, refresh=refresh, is_polled=is_polled)


async def reroute_tasks(frontend: FrontendPorts, request: RerouteTasksRequest, context: CallContext) -> None:
    """Make history read the new routing of these queues, and move waiting tasks accordingly. Raise ServiceError."""
    await frontend.history.RerouteTasks(request, context)
    if not context.can_long_poll:
        # Other instances of a function use the old routing for a moment, and do not check again when they answer.
        await frontend.clock.sleep(MAX_BEHIND_S)
        await frontend.history.RerouteTasks(request, context)


async def has_pollers(frontend: FrontendPorts, context: CallContext, info: WorkerDeploymentVersionInfo) -> bool:
    """Return whether any queue of the version has a poller. Raise ServiceError when matching does not answer."""
    for queue in info.task_queue_infos:
        name = versioned_queue(queue.name, info.deployment_version)
        asked = HasPollerRequest(task_queue=name, task_type=queue.type, in_history=True)
        answer = decoded(await frontend.matching.HasPoller(asked, context), HasPollerResponse)
        if answer.has_poller:
            return True
    return False


def _named_version(request: Any) -> tuple[str, str]:
    """Return deployment name and build id of the version that a request names, in new or deprecated fields."""
    if request.HasField("deployment_version"):
        return request.deployment_version.deployment_name, request.deployment_version.build_id
    name, mark, build_id = request.version.partition(".")
    if not (name and mark and build_id):
        raise invalid_argument(
            f'invalid version string "{request.version}", expected format is "<deployment_name>.<build_id>"'
        )
    return name, build_id


def token_of(data: DeploymentData) -> bytes:
    """Return the conflict token, which a caller sends back to say which state it has seen."""
    return data.revision.to_bytes(8, "big")


def check_manager(data: DeploymentData, request: Any) -> None:
    """Refuse changes to a managed deployment by anyone but its manager. Raises FAILED_PRECONDITION."""
    manager = data.description.worker_deployment_info.manager_identity
    if manager and manager != request.identity:
        raise failed_precondition(
            f"ManagerIdentity '{manager}' is set and does not match user identity '{request.identity}'; to proceed, "
            "set your own identity as the ManagerIdentity, remove the ManagerIdentity, or wait for the other client "
            "to do so"
        )


def check_token(data: DeploymentData, request: Any) -> None:
    """Refuse a change based on an outdated state. Raises FAILED_PRECONDITION."""
    if request.conflict_token and request.conflict_token != token_of(data):
        raise failed_precondition("conflict token mismatch")


def changed(data: DeploymentData, identity: str, now_ns: int) -> None:
    """Record a change and who made it. Tokens given out before become stale, even those of a deleted deployment."""
    data.revision = max(data.revision + 1, now_ns)
    data.description.worker_deployment_info.last_modifier_identity = identity


# ---- reading --------------------------------------------------------------------------------------------------------


async def _read(
    frontend: FrontendPorts,
    context: CallContext,
    choose: Callable[[NamespaceDeployments], list[WorkerDeploymentVersionInfo]],
) -> NamespaceDeployments:
    """Read the deployments, after checking the drainage of the versions picked by `choose` if a check is due."""
    deployments, now_ns = store_of(frontend), frontend.clock.now_ns()
    known = await deployments.read(context.namespace_id)
    grace_ns = int(frontend.config.of(context.namespace).version_drainage_grace_s * SECOND_NS)
    refresh_ns = int(frontend.config.of(context.namespace).version_drainage_refresh_s * SECOND_NS)
    unchecked = [info for info in choose(known) if drainage.needs_check(info, now_ns, grace_ns, refresh_ns)]
    if not unchecked:
        return known
    await _check_drainage(frontend, context, [info.deployment_version for info in unchecked])
    return await deployments.read(context.namespace_id)


async def _check_drainage(
    frontend: FrontendPorts, context: CallContext, versions: list[deployment_pb.WorkerDeploymentVersion]
) -> None:
    try:
        await frontend.history.RefreshDrainage(RefreshDrainageRequest(versions=versions), context)
    except ServiceError as error:
        if error.code is not Code.UNIMPLEMENTED:  # a history service of the previous release does not have it
            raise


async def _read_version(
    frontend: FrontendPorts, context: CallContext, name: str, build_id: str
) -> NamespaceDeployments:
    def choose(known: NamespaceDeployments) -> list[WorkerDeploymentVersionInfo]:
        _, info = _version_in(known, name, build_id)
        return [info] if info is not None else []

    return await _read(frontend, context, choose)


def _version_in(
    known: NamespaceDeployments, name: str, build_id: str
) -> tuple[DeploymentData | None, WorkerDeploymentVersionInfo | None]:
    data = find_deployment(known, name)
    return data, find_version(data, build_id) if data is not None else None


def _infos(data: DeploymentData | None) -> list[WorkerDeploymentVersionInfo]:
    return [each.worker_deployment_version_info for each in data.versions] if data is not None else []


def _summary(
    info: WorkerDeploymentVersionInfo, status: deployment_pb.ComputeStatus | None
) -> deployment_pb.WorkerDeploymentInfo.WorkerDeploymentVersionSummary:
    """Return a version's line in a description or a list of deployments."""
    summary = deployment_pb.WorkerDeploymentInfo.WorkerDeploymentVersionSummary(
        version=info.version, status=info.status
    )
    summary.deployment_version.CopyFrom(info.deployment_version)
    for name in ("create_time", "drainage_info", "current_since_time", "ramping_since_time", "first_activation_time",
                 "last_current_time", "last_deactivation_time"):  # fmt: skip
        if info.HasField(name):
            getattr(summary, name).CopyFrom(getattr(info, name))
    if info.status == _CURRENT:
        # Temporal tells since when the version does not drain.
        summary.drainage_info.last_changed_time.CopyFrom(info.current_since_time)
        summary.drainage_info.last_checked_time.CopyFrom(info.current_since_time)
    if info.HasField("routing_changed_time"):
        summary.routing_update_time.CopyFrom(info.routing_changed_time)
    if info.HasField("compute_config"):
        summary.compute_config.CopyFrom(compute_config.summary(info.compute_config))
    if status is not None:
        summary.compute_status.CopyFrom(status)
    return summary


@handles(WorkflowService.DescribeWorkerDeployment)
async def describe_worker_deployment(
    frontend: FrontendPorts, request: rr.DescribeWorkerDeploymentRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentResponse:
    """Return the routing and a summary of each version, newest first. Raise NOT_FOUND."""
    name = request.deployment_name
    data = find(await _read(frontend, context, lambda known: _infos(find_deployment(known, name))), name)
    infos = _infos(data)
    reply = rr.DescribeWorkerDeploymentResponse(conflict_token=token_of(data))
    reply.worker_deployment_info.CopyFrom(data.description.worker_deployment_info)
    # Routing takes effect before its change is answered.
    reply.worker_deployment_info.routing_config_update_state = (
        RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_COMPLETED
    )
    statuses = await compute_status(frontend, context, data, infos)
    for info in reversed(infos):
        summary = _summary(info, statuses.get(info.deployment_version.build_id))
        summary.drainage_status = summary.drainage_info.status  # deprecated, and not set in lists
        reply.worker_deployment_info.version_summaries.append(summary)
    return reply


@handles(WorkflowService.DescribeWorkerDeploymentVersion)
async def describe_worker_deployment_version(
    frontend: FrontendPorts, request: rr.DescribeWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentVersionResponse:
    """Describe a version and the queues that its workers poll. Raise NOT_FOUND."""
    name, build_id = _named_version(request)
    _, info = _version_in(await _read_version(frontend, context, name, build_id), name, build_id)
    if info is None:
        raise not_found("Worker Deployment Version not found")
    reply = rr.DescribeWorkerDeploymentVersionResponse(worker_deployment_version_info=info)
    # Temporal tells these times in summaries alone.
    reply.worker_deployment_version_info.ClearField("first_activation_time")
    reply.worker_deployment_version_info.ClearField("last_current_time")
    reply.worker_deployment_version_info.ClearField("last_deactivation_time")
    compute_config.hide_secrets(reply.worker_deployment_version_info.compute_config)
    if request.report_task_queue_stats:
        queues = [RerouteTasksRequest.Queue(name=queue.name, task_type=queue.type) for queue in info.task_queue_infos]
        asked = DescribeVersionQueuesRequest(version=info.deployment_version, queues=queues)
        answer = decoded(await frontend.matching.DescribeVersionQueues(asked, context), DescribeVersionQueuesResponse)
        reply.version_task_queues.extend(answer.queues)
    else:
        for queue in info.task_queue_infos:
            reply.version_task_queues.add(name=queue.name, type=queue.type)
    return reply


@handles(WorkflowService.ListWorkerDeployments)
async def list_worker_deployments(
    frontend: FrontendPorts, request: rr.ListWorkerDeploymentsRequest, context: CallContext
) -> rr.ListWorkerDeploymentsResponse:
    """Return a page of deployments ordered by name. Raise INVALID_ARGUMENT for a bad page token.

    The page token contains the last name of the page.
    """
    mark = list_mark(context.namespace_id)
    after = last_of(request.next_page_token, mark)
    size = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE

    def rest(known: NamespaceDeployments) -> list[DeploymentData]:
        """Return the page, and one more deployment if there is one."""
        everything = sorted(known.deployments, key=lambda data: data.description.worker_deployment_info.name)
        return [data for data in everything if data.description.worker_deployment_info.name > after][: size + 1]

    known = await _read(frontend, context, lambda known: [info for data in rest(known) for info in _infos(data)[-1:]])
    page = rest(known)
    reply = rr.ListWorkerDeploymentsResponse()
    if len(page) > size:
        page = page[:size]
        reply.next_page_token = page_token(page[-1].description.worker_deployment_info.name, mark)
    for data in page:
        described = data.description.worker_deployment_info
        infos = [each.worker_deployment_version_info for each in data.versions]
        line = reply.worker_deployments.add(name=described.name)
        line.create_time.CopyFrom(described.create_time)
        line.routing_config.CopyFrom(described.routing_config)
        routed = [info for info in infos if info.status in (_CURRENT, _RAMPING)]
        statuses = await compute_status(frontend, context, data, [*infos[-1:], *routed])
        if infos:
            latest = infos[-1]
            line.latest_version_summary.CopyFrom(_summary(latest, statuses.get(latest.deployment_version.build_id)))
        for info in routed:
            summary = _summary(info, statuses.get(info.deployment_version.build_id))
            if info.status == _CURRENT:
                line.current_version_summary.CopyFrom(summary)
            else:
                line.ramping_version_summary.CopyFrom(summary)
    return reply


# ---- everything else ------------------------------------------------------------------------------------------------


@handles(WorkflowService.SetWorkerDeploymentManager)
async def set_manager(
    frontend: FrontendPorts, request: rr.SetWorkerDeploymentManagerRequest, context: CallContext
) -> rr.SetWorkerDeploymentManagerResponse:
    """Set the only identity that may change the deployment; empty to remove it.

    Raise NOT_FOUND, or FAILED_PRECONDITION for an old conflict token.
    """
    manager = request.identity if request.self else request.manager_identity

    def change(known: NamespaceDeployments) -> rr.SetWorkerDeploymentManagerResponse:
        data = find(known, request.deployment_name)
        described = data.description.worker_deployment_info
        reply = rr.SetWorkerDeploymentManagerResponse(previous_manager_identity=described.manager_identity)
        if described.manager_identity != manager or described.last_modifier_identity != request.identity:
            check_token(data, request)
            described.manager_identity = manager
            changed(data, request.identity, frontend.clock.now_ns())
        reply.conflict_token = token_of(data)
        return reply

    return await store_of(frontend).change(context.namespace_id, change)


@handles(WorkflowService.DeleteWorkerDeploymentVersion)
async def delete_version(
    frontend: FrontendPorts, request: rr.DeleteWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DeleteWorkerDeploymentVersionResponse:
    """Delete a version that is neither routed to, nor draining, nor polled. Raises FAILED_PRECONDITION."""
    name, build_id = _named_version(request)
    data, info = _version_in(await _read_version(frontend, context, name, build_id), name, build_id)
    if data is None:
        raise not_found(f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?")
    if info is None:
        return rr.DeleteWorkerDeploymentVersionResponse()
    version_name = version_string(info.deployment_version)
    is_polled = await has_pollers(frontend, context, info)

    def change(known: NamespaceDeployments) -> None:
        data, info = _version_in(known, name, build_id)
        if data is None or info is None:
            return
        if info.status in (_CURRENT, _RAMPING):
            raise failed_precondition(f"version '{version_name}' cannot be deleted since it is current or ramping")
        check_manager(data, request)
        if info.status == _DRAINING and not request.skip_drainage:
            raise failed_precondition(f"version '{version_name}' cannot be deleted since it is draining")
        if is_polled:
            raise failed_precondition(f"version '{version_name}' cannot be deleted since it has active pollers")
        remove_version(data, build_id)
        changed(data, request.identity, frontend.clock.now_ns())

    await store_of(frontend).change(context.namespace_id, change)
    return rr.DeleteWorkerDeploymentVersionResponse()


@handles(WorkflowService.DeleteWorkerDeployment)
async def delete_deployment(
    frontend: FrontendPorts, request: rr.DeleteWorkerDeploymentRequest, context: CallContext
) -> rr.DeleteWorkerDeploymentResponse:
    """Delete a deployment without versions. Raises FAILED_PRECONDITION if it has any."""

    def change(known: NamespaceDeployments) -> None:
        data = find_deployment(known, request.deployment_name)
        if data is None:
            return
        if data.versions:
            raise failed_precondition("deployment has versions, can't be deleted")
        known.deployments.remove(data)

    await store_of(frontend).change(context.namespace_id, change)
    return rr.DeleteWorkerDeploymentResponse()


@handles(WorkflowService.UpdateWorkerDeploymentVersionMetadata)
async def update_version_metadata(
    frontend: FrontendPorts, request: rr.UpdateWorkerDeploymentVersionMetadataRequest, context: CallContext
) -> rr.UpdateWorkerDeploymentVersionMetadataResponse:
    """Set and remove metadata entries of a version. Raise INVALID_ARGUMENT or NOT_FOUND."""
    if not request.upsert_entries and not request.remove_entries:
        raise invalid_argument("At least one of remove_entries or upsert_entries must be provided")
    name, build_id = _named_version(request)

    def change(known: NamespaceDeployments) -> rr.UpdateWorkerDeploymentVersionMetadataResponse:
        data = find_deployment(known, name)
        info = find_version(data, build_id) if data is not None else None
        if data is None or info is None:
            raise not_found("Worker Deployment Version not found")
        entries = info.metadata.entries
        for key, payload in request.upsert_entries.items():
            entries[key].CopyFrom(payload)
        for key in request.remove_entries:
            if key in entries:
                del entries[key]
        info.last_modifier_identity = request.identity
        return rr.UpdateWorkerDeploymentVersionMetadataResponse(metadata=info.metadata)

    return await store_of(frontend).change(context.namespace_id, change)


@handles(WorkflowService.CreateWorkerDeployment)
async def create_deployment(
    frontend: FrontendPorts, request: rr.CreateWorkerDeploymentRequest, context: CallContext
) -> rr.CreateWorkerDeploymentResponse:
    """Create a deployment before its first worker polls. Repeating the request with the same id has no effect.

    Raise INVALID_ARGUMENT.
    """
    if not request.deployment_name:
        raise invalid_argument("deployment name cannot be empty")
    now_ns = frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> rr.CreateWorkerDeploymentResponse:
        data = find_deployment(known, request.deployment_name)
        if data is None:
            data = add_deployment(known, request.deployment_name, now_ns, limits_of(frontend, context))
            data.create_request_id = request.request_id
            data.description.worker_deployment_info.last_modifier_identity = request.identity
        elif not request.request_id or data.create_request_id != request.request_id:
            polled = " (auto-created from worker polls)" if data.create_request_id.startswith(AUTO_CREATED) else ""
            raise ServiceError(
                Code.ALREADY_EXISTS, f'Worker Deployment with name "{request.deployment_name}" already exists{polled}'
            )
        return rr.CreateWorkerDeploymentResponse(conflict_token=token_of(data))

    return await store_of(frontend).change(context.namespace_id, change)
