"""Worker deployments: what operators see of them, and which version gets the work.

Deployments and versions come to be when their workers poll (matching) or by CreateWorkerDeployment. Each change here is
a compare-and-set of the namespace's row, and then what waits is put where it belongs now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.enums.v1.task_queue_pb2 import TaskQueueType
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.deployments import find_deployment, find_version, has_queue, version_string, versioned_queue
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, not_found
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, RerouteTasksRequest
from whistlestop.common.proto.internal_pb2 import HasPollerRequest, HasPollerResponse
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData
    from whistlestop.frontend.api.rules import Handler
    from whistlestop.frontend.service import Frontend

_WORKFLOW = int(TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
UNVERSIONED = "__unversioned__"
_INACTIVE = enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
_CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
_RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
_DRAINED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED
_PAGE = 100
_MOST_DEPLOYMENTS = 100


def _deployments(frontend: Frontend) -> Deployments:
    return Deployments(frontend.store, frontend.clock)


def _find(known: NamespaceDeployments, name: str) -> DeploymentData:
    if not name:
        raise invalid_argument("deployment name cannot be empty")
    data = find_deployment(known, name)
    if data is None:
        raise not_found(f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?")
    return data


def _find_version(data: DeploymentData, build_id: str) -> WorkerDeploymentVersionInfo:
    info = find_version(data, build_id)
    if info is None:
        name = data.description.worker_deployment_info.name
        raise not_found(f"build ID '{build_id}' not found in Worker Deployment '{name}'")
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


def _wanted_build(request: Any) -> str:
    """The build id that is to be current or ramping; empty: unversioned workers."""
    if request.build_id or not request.version or request.version == UNVERSIONED:
        return str(request.build_id)
    name, mark, build_id = str(request.version).partition(".")
    if not (name and mark and build_id):
        raise invalid_argument(
            f'invalid version string: "{request.version}", expected format is "<deployment_name>.<build_id>"'
        )
    if name != request.deployment_name:
        raise invalid_argument(
            f"invalid version string '{request.version}' does not match deployment name '{request.deployment_name}'"
        )
    return build_id


def _token(data: DeploymentData) -> bytes:
    return data.revision.to_bytes(8, "big")


def _check_caller(data: DeploymentData, request: Any) -> None:
    """Only the manager changes a managed deployment, and only the state that the caller has seen."""
    manager = data.description.worker_deployment_info.manager_identity
    if manager and manager != request.identity:
        raise failed_precondition(
            f"ManagerIdentity '{manager}' is set and does not match user identity '{request.identity}'; to proceed, "
            "set your own identity as the ManagerIdentity, remove the ManagerIdentity, or wait for the other client "
            "to do so"
        )
    token = getattr(request, "conflict_token", b"")
    if token and token != _token(data):
        raise failed_precondition("conflict token mismatch")


def _changed(data: DeploymentData, identity: str) -> None:
    data.revision += 1
    data.description.worker_deployment_info.last_modifier_identity = identity


# ---- reading --------------------------------------------------------------------------------------------------------


async def _drained(
    frontend: Frontend, context: CallContext, infos: list[WorkerDeploymentVersionInfo], now_ns: int
) -> None:
    """A draining version is drained as soon as no pinned workflow is open on it."""
    for info in infos:
        if info.status != _DRAINING:
            continue
        version = version_string(info.deployment_version).replace("'", "''")
        query = parse(
            f"TemporalWorkerDeploymentVersion = '{version}' AND TemporalWorkflowVersioningBehavior = 'Pinned'"
            " AND ExecutionStatus = 'Running'",
            {},
        )
        info.drainage_info.last_checked_time.FromNanoseconds(now_ns)
        if not await frontend.store.count_visibility(context.namespace_id, query):
            info.status = _DRAINED
            info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINED
            info.drainage_info.last_changed_time.FromNanoseconds(now_ns)


def _summary(
    info: WorkerDeploymentVersionInfo,
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
    return summary


async def describe_worker_deployment(
    frontend: Frontend, request: rr.DescribeWorkerDeploymentRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentResponse:
    """Routing and a summary of each version, newest first."""
    data = _find(await _deployments(frontend).read(context.namespace_id), request.deployment_name)
    infos = [each.worker_deployment_version_info for each in data.versions]
    await _drained(frontend, context, infos, frontend.clock.now_ns())
    reply = rr.DescribeWorkerDeploymentResponse(conflict_token=_token(data))
    reply.worker_deployment_info.CopyFrom(data.description.worker_deployment_info)
    reply.worker_deployment_info.version_summaries.extend(_summary(info) for info in reversed(infos))
    return reply


async def describe_worker_deployment_version(
    frontend: Frontend, request: rr.DescribeWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DescribeWorkerDeploymentVersionResponse:
    """One version and the queues that its workers poll."""
    name, build_id = _named_version(request)
    data = find_deployment(await _deployments(frontend).read(context.namespace_id), name)
    info = find_version(data, build_id) if data is not None else None
    if info is None:
        raise not_found("Worker Deployment Version not found")
    await _drained(frontend, context, [info], frontend.clock.now_ns())
    reply = rr.DescribeWorkerDeploymentVersionResponse(worker_deployment_version_info=info)
    for queue in info.task_queue_infos:
        reply.version_task_queues.add(name=queue.name, type=queue.type)
    return reply


async def list_worker_deployments(
    frontend: Frontend, request: rr.ListWorkerDeploymentsRequest, context: CallContext
) -> rr.ListWorkerDeploymentsResponse:
    """In the order of names; the token is the last name of the page."""
    known = await _deployments(frontend).read(context.namespace_id)
    after = request.next_page_token.decode(errors="replace")
    size = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
    everything = sorted(known.deployments, key=lambda data: data.description.worker_deployment_info.name)
    page = [data for data in everything if data.description.worker_deployment_info.name > after]
    reply = rr.ListWorkerDeploymentsResponse()
    if len(page) > size:
        page = page[:size]
        reply.next_page_token = page[-1].description.worker_deployment_info.name.encode()
    for data in page:
        described = data.description.worker_deployment_info
        infos = [each.worker_deployment_version_info for each in data.versions]
        await _drained(frontend, context, infos[-1:], frontend.clock.now_ns())
        line = reply.worker_deployments.add(name=described.name)
        line.create_time.CopyFrom(described.create_time)
        line.routing_config.CopyFrom(described.routing_config)
        if infos:
            line.latest_version_summary.CopyFrom(_summary(infos[-1]))
        for info in infos:
            if info.status == _CURRENT:
                line.current_version_summary.CopyFrom(_summary(info))
            elif info.status == _RAMPING:
                line.ramping_version_summary.CopyFrom(_summary(info))
    return reply


# ---- routing --------------------------------------------------------------------------------------------------------


def _deactivate(data: DeploymentData, build_id: str, now_ns: int) -> None:
    """The version gets no new workflows any more, and drains."""
    info = find_version(data, build_id) if build_id else None
    if info is None:
        return
    if info.status == _CURRENT:
        info.last_current_time.FromNanoseconds(now_ns)
    info.status = _DRAINING
    info.ClearField("current_since_time")
    info.ClearField("ramping_since_time")
    info.ramp_percentage = 0
    info.routing_changed_time.FromNanoseconds(now_ns)
    info.last_deactivation_time.FromNanoseconds(now_ns)
    info.drainage_info.status = enums.VERSION_DRAINAGE_STATUS_DRAINING
    info.drainage_info.last_changed_time.FromNanoseconds(now_ns)
    info.drainage_info.last_checked_time.FromNanoseconds(now_ns)


def _activate(info: WorkerDeploymentVersionInfo, now_ns: int) -> None:
    info.ClearField("drainage_info")
    info.routing_changed_time.FromNanoseconds(now_ns)
    if not info.HasField("first_activation_time"):
        info.first_activation_time.FromNanoseconds(now_ns)


def _check_queues(data: DeploymentData, build_id: str, what: str) -> None:
    """A version that lacks a queue of the current one would leave its tasks without workers."""
    current = data.description.worker_deployment_info.routing_config.current_deployment_version.build_id
    old = find_version(data, current) if current and current != build_id else None
    new = find_version(data, build_id)
    if old is None or new is None:
        return
    have = {(queue.name, queue.type) for queue in new.task_queue_infos}
    if any((queue.name, queue.type) not in have for queue in old.task_queue_infos):
        raise failed_precondition(
            f"proposed {what} version '{version_string(new.deployment_version)}' is missing active task queues from "
            f"the current version; these would become unversioned if it is set as the {what} version"
        )


async def set_current_version(
    frontend: Frontend, request: rr.SetWorkerDeploymentCurrentVersionRequest, context: CallContext
) -> rr.SetWorkerDeploymentCurrentVersionResponse:
    """All unpinned work goes to this version from now on (but for what ramps elsewhere)."""
    build_id, now_ns = _wanted_build(request), frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentCurrentVersionResponse, DeploymentData]:
        data = _find(known, request.deployment_name)
        _check_caller(data, request)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentCurrentVersionResponse(previous_version=routing.current_version)
        if routing.HasField("current_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.current_deployment_version)
        previous = routing.current_deployment_version.build_id
        if previous != build_id:
            if build_id:
                info = _find_version(data, build_id)
                if not request.ignore_missing_task_queues:
                    _check_queues(data, build_id, "current")
            _deactivate(data, previous, now_ns)
            routing.ClearField("current_deployment_version")
            routing.current_version = UNVERSIONED
            if build_id:
                if routing.ramping_deployment_version.build_id == build_id:
                    _unset_ramp(routing, now_ns)
                    info.ClearField("ramping_since_time")
                    info.ramp_percentage = 0
                routing.current_deployment_version.CopyFrom(info.deployment_version)
                routing.current_version = info.version
                _activate(info, now_ns)
                info.status = _CURRENT
                info.current_since_time.FromNanoseconds(now_ns)
            routing.current_version_changed_time.FromNanoseconds(now_ns)
            routing.revision_number += 1
            _changed(data, request.identity)
        reply.conflict_token = _token(data)
        return reply, data

    reply, data = await _deployments(frontend).change(context.namespace_id, change)
    await _reroute(frontend, context, data)
    return reply


def _unset_ramp(routing: deployment_pb.RoutingConfig, now_ns: int) -> None:
    routing.ClearField("ramping_deployment_version")
    routing.ramping_version = ""
    routing.ramping_version_percentage = 0
    routing.ramping_version_changed_time.FromNanoseconds(now_ns)
    routing.ramping_version_percentage_changed_time.FromNanoseconds(now_ns)


async def set_ramping_version(
    frontend: Frontend, request: rr.SetWorkerDeploymentRampingVersionRequest, context: CallContext
) -> rr.SetWorkerDeploymentRampingVersionResponse:
    """A share of the workflow ids goes to this version."""
    if not 0 <= request.percentage <= 100:
        raise invalid_argument("Percentage must be between 0 and 100 (inclusive)")
    build_id, now_ns = _wanted_build(request), frontend.clock.now_ns()
    if request.version == UNVERSIONED:
        raise invalid_argument("ramping to unversioned workers is not supported; name a version")

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentRampingVersionResponse, DeploymentData]:
        data = _find(known, request.deployment_name)
        _check_caller(data, request)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentRampingVersionResponse(
            previous_version=routing.ramping_version, previous_percentage=routing.ramping_version_percentage
        )
        if routing.HasField("ramping_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.ramping_deployment_version)
        previous = routing.ramping_deployment_version.build_id
        if previous == build_id and routing.ramping_version_percentage == request.percentage:
            reply.conflict_token = _token(data)
            return reply, data
        if not build_id and request.percentage:
            raise invalid_argument("ramp percentage must be 0 when unsetting the ramping version")
        if build_id and build_id == routing.current_deployment_version.build_id:
            raise failed_precondition(f"Ramping version {routing.current_version} is already current")
        if build_id:
            info = _find_version(data, build_id)
            if not request.ignore_missing_task_queues:
                _check_queues(data, build_id, "ramping")
        if previous != build_id:
            _deactivate(data, previous, now_ns)
            _unset_ramp(routing, now_ns)
        if build_id:
            routing.ramping_deployment_version.CopyFrom(info.deployment_version)
            routing.ramping_version = info.version
            _activate(info, now_ns)
            info.status = _RAMPING
            info.ramp_percentage = request.percentage
            if not info.HasField("ramping_since_time"):
                info.ramping_since_time.FromNanoseconds(now_ns)
        routing.ramping_version_percentage = request.percentage
        routing.ramping_version_percentage_changed_time.FromNanoseconds(now_ns)
        routing.revision_number += 1
        _changed(data, request.identity)
        reply.conflict_token = _token(data)
        return reply, data

    reply, data = await _deployments(frontend).change(context.namespace_id, change)
    await _reroute(frontend, context, data)
    return reply


async def _reroute(frontend: Frontend, context: CallContext, data: DeploymentData) -> None:
    """Let history see the new routing, and put what waits where it belongs."""
    queues = {
        (queue.name, int(queue.type))
        for each in data.versions
        for queue in each.worker_deployment_version_info.task_queue_infos
    }
    request = RerouteTasksRequest(
        queues=[RerouteTasksRequest.Queue(name=name, task_type=kind) for name, kind in sorted(queues)]
    )
    await frontend.history.call("RerouteTasks", request, context)


# ---- everything else ------------------------------------------------------------------------------------------------


async def set_manager(
    frontend: Frontend, request: rr.SetWorkerDeploymentManagerRequest, context: CallContext
) -> rr.SetWorkerDeploymentManagerResponse:
    """Who alone may change the deployment; nobody when it is empty."""
    manager = request.identity if request.self else request.manager_identity

    def change(known: NamespaceDeployments) -> rr.SetWorkerDeploymentManagerResponse:
        data = _find(known, request.deployment_name)
        if request.conflict_token and request.conflict_token != _token(data):
            raise failed_precondition("conflict token mismatch")
        described = data.description.worker_deployment_info
        reply = rr.SetWorkerDeploymentManagerResponse(previous_manager_identity=described.manager_identity)
        if described.manager_identity != manager:
            described.manager_identity = manager
            _changed(data, request.identity)
        reply.conflict_token = _token(data)
        return reply

    return await _deployments(frontend).change(context.namespace_id, change)


async def delete_version(
    frontend: Frontend, request: rr.DeleteWorkerDeploymentVersionRequest, context: CallContext
) -> rr.DeleteWorkerDeploymentVersionResponse:
    """Forget a version that nobody needs: neither routed to, nor draining, nor polled."""
    name, build_id = _named_version(request)
    deployments = _deployments(frontend)
    known = await deployments.read(context.namespace_id)
    data = find_deployment(known, name)
    info = find_version(data, build_id) if data is not None else None
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
        _check_caller(data, request)
        if info.status in (_CURRENT, _RAMPING):
            raise failed_precondition(f"version '{shown}' cannot be deleted since it is current or ramping")
        if is_draining:
            raise failed_precondition(f"version '{shown}' cannot be deleted since it is draining")
        if is_polled:
            raise failed_precondition(f"version '{shown}' cannot be deleted since it has active pollers")
        for index, each in enumerate(data.versions):
            if each.worker_deployment_version_info.deployment_version.build_id == build_id:
                del data.versions[index]
                break
        _changed(data, request.identity)

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
        _check_caller(data, request)
        if data.versions:
            raise failed_precondition("deployment has versions, can't be deleted")
        known.deployments.remove(data)

    await _deployments(frontend).change(context.namespace_id, change)
    return rr.DeleteWorkerDeploymentResponse()


async def update_version_metadata(
    frontend: Frontend, request: rr.UpdateWorkerDeploymentVersionMetadataRequest, context: CallContext
) -> rr.UpdateWorkerDeploymentVersionMetadataResponse:
    """Set and remove entries."""
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

    return await _deployments(frontend).change(context.namespace_id, change)


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
        return rr.CreateWorkerDeploymentResponse(conflict_token=_token(data))

    return await _deployments(frontend).change(context.namespace_id, change)


async def with_override(frontend: Frontend, request: Any, context: CallContext) -> Reply:
    """A start whose workflow is pinned from outside: a version that no worker of the queue has can't be pinned."""
    override = request.versioning_override
    version = override.pinned.version if override.HasField("pinned") else None
    if override.HasField("one_time"):
        version = override.one_time.target_deployment_version
    elif override.pinned_version:
        name, _, build_id = override.pinned_version.partition(".")
        version = deployment_pb.WorkerDeploymentVersion(deployment_name=name, build_id=build_id)
    if version is not None:
        queue = request.task_queue.name
        known = await _deployments(frontend).read(context.namespace_id)
        if not has_queue(known, version, queue, _WORKFLOW):
            raise failed_precondition(
                f"Pinned version '{version_string(version)}' is not present in task queue '{queue}' of type 'Workflow'"
            )
    method = str(request.DESCRIPTOR.name).removesuffix("Request")
    return await frontend.history.call(method, request, context)


AROUND: dict[str, Handler] = {
    "StartWorkflowExecution": with_override,
    "SignalWithStartWorkflowExecution": with_override,
}

HANDLERS: dict[str, Handler] = {
    "CreateWorkerDeployment": create_deployment,
    "DeleteWorkerDeployment": delete_deployment,
    "DeleteWorkerDeploymentVersion": delete_version,
    "DescribeWorkerDeployment": describe_worker_deployment,
    "DescribeWorkerDeploymentVersion": describe_worker_deployment_version,
    "ListWorkerDeployments": list_worker_deployments,
    "SetWorkerDeploymentCurrentVersion": set_current_version,
    "SetWorkerDeploymentManager": set_manager,
    "SetWorkerDeploymentRampingVersion": set_ramping_version,
    "UpdateWorkerDeploymentVersionMetadata": update_version_metadata,
}
