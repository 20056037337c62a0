"""Worker deployments: what operators see of them, and which version gets the work.

Deployments and versions come to be when their workers poll (matching) or by CreateWorkerDeployment. Each change here is
a compare-and-set of the namespace's row, and then what waits is put where it belongs now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import RoutingConfigUpdateState
from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.deployments import (
    UNVERSIONED,
    find_deployment,
    find_version,
    version_string,
    versioned_queue,
)
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.page_tokens import last_of, list_mark, page_token
from whistlestop.common.proto.deployment_pb2 import (
    DescribeVersionQueuesRequest,
    DescribeVersionQueuesResponse,
    RerouteTasksRequest,
)
from whistlestop.common.proto.internal_pb2 import HasPollerRequest, HasPollerResponse
from whistlestop.frontend.api import compute_config
from whistlestop.frontend.api.compute_status import compute_status
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.visibility import Attribute, AttributeType, parse

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData, NamespaceDeployments
    from whistlestop.frontend.api.rules import Handler
    from whistlestop.frontend.service import Frontend

_CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
_RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
_DRAINED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED
_VERSION = Attribute("TemporalWorkerDeploymentVersion", AttributeType.Keyword, "TemporalWorkerDeploymentVersion")
_PAGE = 100
_MOST_DEPLOYMENTS = 100
_MOST_VERSIONS = 100


def store_of(frontend: Frontend) -> Deployments:
    """The stored deployments."""
    return Deployments(frontend.store, frontend.clock)


def find(known: NamespaceDeployments, name: str) -> DeploymentData:
    """The deployment of that name. Raises NOT_FOUND."""
    if not name:
        raise invalid_argument("deployment name cannot be empty")
    data = find_deployment(known, name)
    if data is None:
        raise not_found(f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?")
    return data


def find_in(data: DeploymentData, build_id: str) -> WorkerDeploymentVersionInfo:
    """The version of that build. Raises NOT_FOUND."""
    info = find_version(data, build_id)
    if info is None:
        name = data.description.worker_deployment_info.name
        raise not_found(f"build ID '{build_id}' not found in Worker Deployment '{name}'")
    return info


def add_version(data: DeploymentData, build_id: str, now_ns: int) -> WorkerDeploymentVersionInfo:
    """A version that no worker has polled for yet. Raises RESOURCE_EXHAUSTED."""
    name = data.description.worker_deployment_info.name
    if len(data.versions) >= _MOST_VERSIONS:
        raise ServiceError(
            Code.RESOURCE_EXHAUSTED,
            f"cannot add version {name}.{build_id} since maximum number of versions ({_MOST_VERSIONS}) have been "
            "registered in the deployment",
        )
    info = data.versions.add().worker_deployment_version_info
    info.version = f"{name}.{build_id}"
    info.deployment_version.deployment_name, info.deployment_version.build_id = name, build_id
    info.create_time.FromNanoseconds(now_ns)
    info.status = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
    return info


def _named_version(request: Any) -> tuple[str, str]:
    """Deployment name and build id of the version that a request names, in either form."""
    if request.HasField("deployment_version"):
        return request.deployment_version.deployment_name, request.deployment_version.build_id
    name, mark, build_id = request.version.partition(".")
    if not (name and mark and build_id):
        raise invalid_argument(
            f'invalid version string "{request.version}", expected format is "<deployment_name>.<build_id>"'
        )
    return name, build_id


def token_of(data: DeploymentData) -> bytes:
    """What a caller sends back to say which state it has seen."""
    return data.revision.to_bytes(8, "big")


def check_caller(data: DeploymentData, request: Any) -> None:
    """Only the manager changes a managed deployment, and only the state that the caller has seen."""
    manager = data.description.worker_deployment_info.manager_identity
    if manager and manager != request.identity:
        raise failed_precondition(
            f"ManagerIdentity '{manager}' is set and does not match user identity '{request.identity}'; to proceed, "
            "set your own identity as the ManagerIdentity, remove the ManagerIdentity, or wait for the other client "
            "to do so"
        )
    token = getattr(request, "conflict_token", b"")
    if token and token != token_of(data):
        raise failed_precondition("conflict token mismatch")


def changed(data: DeploymentData, identity: str) -> None:
    """Note who changed it; tokens given out before are stale."""
    data.revision += 1
    data.description.worker_deployment_info.last_modifier_identity = identity


# ---- reading --------------------------------------------------------------------------------------------------------


async def _drained(
    frontend: Frontend, context: CallContext, infos: list[WorkerDeploymentVersionInfo], now_ns: int
) -> None:
    """A draining version is drained as soon as no pinned workflow is open on it."""
    draining = [info for info in infos if info.status == _DRAINING]
    if not draining:
        return
    # One look at the open runs for all versions.
    asked = ", ".join("'" + version_string(info.deployment_version).replace("'", "''") + "'" for info in draining)
    query = parse(
        f"TemporalWorkerDeploymentVersion IN ({asked}) AND TemporalWorkflowVersioningBehavior = 'Pinned'"
        " AND ExecutionStatus = 'Running'",
        {},
    )
    query = replace(query, group_by=(_VERSION,))
    groups = await frontend.store.count_visibility_groups(context.namespace_id, query, len(draining))
    pinned = {values[0] for values, _ in groups}
    for info in draining:
        info.drainage_info.last_checked_time.FromNanoseconds(now_ns)
        if version_string(info.deployment_version) not in pinned:
            info.status = _DRAINED
            info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINED
            info.drainage_info.last_changed_time.FromNanoseconds(now_ns)


def _summary(
    info: WorkerDeploymentVersionInfo, status: deployment_pb.ComputeStatus | None
) -> deployment_pb.WorkerDeploymentInfo.WorkerDeploymentVersionSummary:
    summary = deployment_pb.WorkerDeploymentInfo.WorkerDeploymentVersionSummary(
        version=info.version, status=info.status, drainage_status=info.drainage_info.status
    )
    summary.deployment_version.CopyFrom(info.deployment_version)
    for name in ("create_time", "drainage_info", "current_since_time", "ramping_since_time", "first_activation_time",
                 "last_current_time", "last_deactivation_time"):  # fmt: skip
        if info.HasField(name):
            getattr(summary, name).CopyFrom(getattr(info, name))
    if info.HasField("routing_changed_time"):
        summary.routing_update_time.CopyFrom(info.routing_changed_time)
    if info.HasField("compute_config"):
        summary.compute_config.CopyFrom(compute_config.summary(info.compute_config))
    if status is not None:
        summary.compute_status.CopyFrom(status)
    return summary


async def describe_worker_deployment(
    frontend: Frontend, request: rr.DescribeWorkerDeploymentRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentResponse:
    """Routing and a summary of each version, newest first."""
    data = find(await store_of(frontend).read(context.namespace_id), request.deployment_name)
    infos = [each.worker_deployment_version_info for each in data.versions]
    await _drained(frontend, context, infos, frontend.clock.now_ns())
    reply = rr.DescribeWorkerDeploymentResponse(conflict_token=token_of(data))
    reply.worker_deployment_info.CopyFrom(data.description.worker_deployment_info)
    # Routing is in force as soon as its change is answered.
    reply.worker_deployment_info.routing_config_update_state = (
        RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_COMPLETED
    )
    statuses = await compute_status(frontend, context, data, infos)
    reply.worker_deployment_info.version_summaries.extend(
        _summary(info, statuses.get(info.deployment_version.build_id)) for info in reversed(infos)
    )
    return reply


async def describe_worker_deployment_version(
    frontend: Frontend, request: rr.DescribeWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentVersionResponse:
    """One version and the queues that its workers poll."""
    name, build_id = _named_version(request)
    data = find_deployment(await store_of(frontend).read(context.namespace_id), name)
    info = find_version(data, build_id) if data is not None else None
    if info is None:
        raise not_found("Worker Deployment Version not found")
    await _drained(frontend, context, [info], frontend.clock.now_ns())
    reply = rr.DescribeWorkerDeploymentVersionResponse(worker_deployment_version_info=info)
    compute_config.hide_secrets(reply.worker_deployment_version_info.compute_config)
    if request.report_task_queue_stats:
        queues = [RerouteTasksRequest.Queue(name=queue.name, task_type=queue.type) for queue in info.task_queue_infos]
        asked = DescribeVersionQueuesRequest(version=info.deployment_version, queues=queues)
        answer: Any = decoded(
            await frontend.matching.call("DescribeVersionQueues", asked, context), DescribeVersionQueuesResponse
        )
        reply.version_task_queues.extend(answer.queues)
    else:
        for queue in info.task_queue_infos:
            reply.version_task_queues.add(name=queue.name, type=queue.type)
    return reply


async def list_worker_deployments(
    frontend: Frontend, request: rr.ListWorkerDeploymentsRequest, context: CallContext
) -> rr.ListWorkerDeploymentsResponse:
    """In the order of names; the token is the last name of the page."""
    known = await store_of(frontend).read(context.namespace_id)
    mark = list_mark(context.namespace_id)
    after = last_of(request.next_page_token, mark)
    size = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
    everything = sorted(known.deployments, key=lambda data: data.description.worker_deployment_info.name)
    page = [data for data in everything if data.description.worker_deployment_info.name > after]
    reply = rr.ListWorkerDeploymentsResponse()
    if len(page) > size:
        page = page[:size]
        reply.next_page_token = page_token(page[-1].description.worker_deployment_info.name, mark)
    latest_ones = [each.worker_deployment_version_info for data in page for each in data.versions[-1:]]
    await _drained(frontend, context, latest_ones, frontend.clock.now_ns())
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


async def set_manager(
    frontend: Frontend, request: rr.SetWorkerDeploymentManagerRequest, context: CallContext
) -> rr.SetWorkerDeploymentManagerResponse:
    """Who alone may change the deployment; nobody when it is empty."""
    manager = request.identity if request.self else request.manager_identity

    def change(known: NamespaceDeployments) -> rr.SetWorkerDeploymentManagerResponse:
        data = find(known, request.deployment_name)
        if request.conflict_token and request.conflict_token != token_of(data):
            raise failed_precondition("conflict token mismatch")
        described = data.description.worker_deployment_info
        reply = rr.SetWorkerDeploymentManagerResponse(previous_manager_identity=described.manager_identity)
        if described.manager_identity != manager:
            described.manager_identity = manager
            changed(data, request.identity)
        reply.conflict_token = token_of(data)
        return reply

    return await store_of(frontend).change(context.namespace_id, change)


async def delete_version(
    frontend: Frontend, request: rr.DeleteWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DeleteWorkerDeploymentVersionResponse:
    """Forget a version that nobody needs: neither routed to, nor draining, nor polled."""
    name, build_id = _named_version(request)
    deployments = store_of(frontend)
    known = await deployments.read(context.namespace_id)
    data = find_deployment(known, name)
    info = find_version(data, build_id) if data is not None else None
    if data is None:
        raise not_found(f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?")
    if info is None:
        return rr.DeleteWorkerDeploymentVersionResponse()
    shown = version_string(info.deployment_version)
    await _drained(frontend, context, [info], frontend.clock.now_ns())
    is_draining = info.status == _DRAINING and not request.skip_drainage
    is_polled = False
    for queue in info.task_queue_infos:
        has_poller = HasPollerRequest(
            task_queue=versioned_queue(queue.name, info.deployment_version), task_type=queue.type
        )
        answer: Any = decoded(await frontend.matching.call("HasPoller", has_poller, context), HasPollerResponse)
        is_polled = is_polled or answer.has_poller

    def change(known: NamespaceDeployments) -> None:
        data = find_deployment(known, name)
        info = find_version(data, build_id) if data is not None else None
        if data is None or info is None:
            return
        check_caller(data, request)
        if info.status in (_CURRENT, _RAMPING):
            raise failed_precondition(f"version '{shown}' cannot be deleted since it is current or ramping")
        if is_draining:
            raise failed_precondition(f"version '{shown}' cannot be deleted since it is draining")
        if is_polled:
            raise failed_precondition(f"version '{shown}' cannot be deleted since it has active pollers")
        for index, each in enumerate(data.versions):
            if each.worker_deployment_version_info.deployment_version.build_id == build_id:
                del data.versions[index]
                data.notes.pop(build_id, None)
                break
        changed(data, request.identity)

    await deployments.change(context.namespace_id, change)
    return rr.DeleteWorkerDeploymentVersionResponse()


async def delete_deployment(
    frontend: Frontend, request: rr.DeleteWorkerDeploymentRequest, context: CallContext
) -> rr.DeleteWorkerDeploymentResponse:
    """Forget a deployment that has no versions."""

    def change(known: NamespaceDeployments) -> None:
        data = find_deployment(known, request.deployment_name)
        if data is None:
            return
        check_caller(data, request)
        if data.versions:
            raise failed_precondition("deployment has versions, can't be deleted")
        known.deployments.remove(data)

    await store_of(frontend).change(context.namespace_id, change)
    return rr.DeleteWorkerDeploymentResponse()


async def update_version_metadata(
    frontend: Frontend, request: rr.UpdateWorkerDeploymentVersionMetadataRequest, context: CallContext
) -> rr.UpdateWorkerDeploymentVersionMetadataResponse:
    """Set and remove entries."""
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


async def create_deployment(
    frontend: Frontend, request: rr.CreateWorkerDeploymentRequest, context: CallContext
) -> rr.CreateWorkerDeploymentResponse:
    """A deployment before its first worker polls. The same request id gives the same answer."""
    if not request.deployment_name:
        raise invalid_argument("deployment name cannot be empty")
    now_ns = frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> rr.CreateWorkerDeploymentResponse:
        data = find_deployment(known, request.deployment_name)
        if data is None:
            if len(known.deployments) >= _MOST_DEPLOYMENTS:
                raise ServiceError(
                    Code.RESOURCE_EXHAUSTED, f"reached maximum deployments in namespace ({_MOST_DEPLOYMENTS})"
                )
            data = known.deployments.add(revision=1, create_request_id=request.request_id)
            described = data.description.worker_deployment_info
            described.name = request.deployment_name
            described.create_time.FromNanoseconds(now_ns)
            described.last_modifier_identity = request.identity
            described.routing_config.current_version = UNVERSIONED
        elif not request.request_id or data.create_request_id != request.request_id:
            raise ServiceError(
                Code.ALREADY_EXISTS, f'Worker Deployment with name "{request.deployment_name}" already exists'
            )
        return rr.CreateWorkerDeploymentResponse(conflict_token=token_of(data))

    return await store_of(frontend).change(context.namespace_id, change)


HANDLERS: dict[str, Handler] = {
    "CreateWorkerDeployment": create_deployment,
    "DeleteWorkerDeployment": delete_deployment,
    "DeleteWorkerDeploymentVersion": delete_version,
    "DescribeWorkerDeployment": describe_worker_deployment,
    "DescribeWorkerDeploymentVersion": describe_worker_deployment_version,
    "ListWorkerDeployments": list_worker_deployments,
    "SetWorkerDeploymentManager": set_manager,
    "UpdateWorkerDeploymentVersionMetadata": update_version_metadata,
}
