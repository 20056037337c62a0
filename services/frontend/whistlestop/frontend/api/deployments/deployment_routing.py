"""Set the current and the ramping version of a worker deployment, and reroute waiting tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.errors import failed_precondition, invalid_argument
from whistlestop.common.proto.deployment_pb2 import (
    DescribeVersionQueuesRequest,
    DescribeVersionQueuesResponse,
    NamespaceDeployments,
    RerouteTasksRequest,
)
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.common.versioning import drainage
from whistlestop.common.versioning.deployment_changes import add_deployment, add_version
from whistlestop.common.versioning.deployments import (
    UNVERSIONED,
    find_deployment,
    find_version,
    routing_of,
)
from whistlestop.frontend.api.rules import handles

if TYPE_CHECKING:
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData
    from whistlestop.common.versioning.deployment_changes import DeploymentLimits
    from whistlestop.frontend.ports import FrontendPorts

from whistlestop.frontend.api.deployments.deployments import (
    change_adding_version,
    changed,
    check_manager,
    check_token,
    find,
    find_in,
    limits_of,
    reroute_tasks,
    store_of,
    token_of,
)

_CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
_RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING


def wanted_build(request: Any) -> str:
    """Return the build id to become current or ramping; empty for unversioned workers. Raise INVALID_ARGUMENT."""
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


def _deactivate(data: DeploymentData, build_id: str, now_ns: int) -> None:
    """Mark a version as no longer routed to: it gets no new workflows and drains."""
    info = find_version(data, build_id) if build_id else None
    if info is None:
        return
    info.ClearField("current_since_time")
    info.ClearField("ramping_since_time")
    info.ramp_percentage = 0
    info.routing_changed_time.FromNanoseconds(now_ns)
    info.last_deactivation_time.FromNanoseconds(now_ns)
    drainage.begin(info, now_ns)


def _activate(info: WorkerDeploymentVersionInfo, now_ns: int) -> None:
    info.ClearField("drainage_info")
    info.ClearField("last_deactivation_time")
    info.routing_changed_time.FromNanoseconds(now_ns)
    if not info.HasField("first_activation_time"):
        info.first_activation_time.FromNanoseconds(now_ns)


class _Queue(NamedTuple):
    name: str
    task_type: int


def _missing_queues(data: DeploymentData, build_id: str) -> list[_Queue]:
    """Return the queues of the current version that the version with that build id does not serve."""
    current = data.description.worker_deployment_info.routing_config.current_deployment_version.build_id
    old = find_version(data, current) if current and current != build_id else None
    if old is None:
        return []
    new = find_version(data, build_id)
    have = {(queue.name, queue.type) for queue in new.task_queue_infos} if new is not None else set()
    return [
        _Queue(queue.name, int(queue.type)) for queue in old.task_queue_infos if (queue.name, queue.type) not in have
    ]


async def _needed_queues(
    frontend: FrontendPorts, context: CallContext, request: Any, build_id: str
) -> frozenset[_Queue]:
    """Return the queues that the version lacks, and whose tasks would be left without workers if it became current.

    A queue counts if tasks wait on it or arrive, unless another deployment has taken it over.
    """
    if not build_id or request.ignore_missing_task_queues:
        return frozenset()
    known = await store_of(frontend).read(context.namespace_id)
    data = find_deployment(known, request.deployment_name)
    if data is None:
        return frozenset()
    current = data.description.worker_deployment_info.routing_config.current_deployment_version
    missing = [
        queue
        for queue in _missing_queues(data, build_id)
        if routing_of(known, queue.name, queue.task_type).current == current
    ]
    if not missing:
        return frozenset()
    asked = DescribeVersionQueuesRequest(version=current)
    for queue in missing:
        asked.queues.add(name=queue.name, task_type=queue.task_type)
    reply = decoded(await frontend.matching.DescribeVersionQueues(asked, context), DescribeVersionQueuesResponse)
    return frozenset(
        _Queue(queue.name, int(queue.type))
        for queue in reply.queues
        if queue.stats.approximate_backlog_count or queue.stats.tasks_add_rate
    )


def _check_queues(data: DeploymentData, build_id: str, needed: frozenset[_Queue], what: str) -> None:
    """Refuse a version that lacks a needed queue of the current one. Raises FAILED_PRECONDITION."""
    if needed.isdisjoint(_missing_queues(data, build_id)):
        return
    name = data.description.worker_deployment_info.name
    raise failed_precondition(
        f"proposed {what} version '{name}:{build_id}' is missing active task queues from the current version; these "
        f"would become unversioned if it is set as the {what} version"
    )


def _deployment(known: NamespaceDeployments, limits: DeploymentLimits, request: Any, now_ns: int) -> DeploymentData:
    """Return the deployment to change; create it if the request allows one without pollers. Raises NOT_FOUND."""
    data = find_deployment(known, request.deployment_name)
    if data is None and request.allow_no_pollers:
        return add_deployment(known, request.deployment_name, now_ns, limits)
    return find(known, request.deployment_name)


def _wanted(
    data: DeploymentData, limits: DeploymentLimits, request: Any, build_id: str, now_ns: int
) -> WorkerDeploymentVersionInfo:
    """Return the version to route to; create it if the request allows one without pollers. Raises NOT_FOUND."""
    if request.allow_no_pollers and find_version(data, build_id) is None:
        return add_version(data, build_id, now_ns, limits, polled=False)
    return find_in(data, build_id)


def _is_modifier(data: DeploymentData, request: Any) -> bool:
    """Return whether the caller made the last change to the deployment."""
    return bool(data.description.worker_deployment_info.last_modifier_identity == request.identity)


@handles(WorkflowService.SetWorkerDeploymentCurrentVersion)
async def set_current_version(
    frontend: FrontendPorts, request: rr.SetWorkerDeploymentCurrentVersionRequest, context: CallContext
) -> rr.SetWorkerDeploymentCurrentVersionResponse:
    """Route all unpinned work to this version, except for the share of a ramping version.

    Raise INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION (another manager, an old conflict token, missing queues).
    """
    build_id, now_ns = wanted_build(request), frontend.clock.now_ns()
    needed, limits = await _needed_queues(frontend, context, request, build_id), limits_of(frontend, context)

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentCurrentVersionResponse, DeploymentData]:
        data = _deployment(known, limits, request, now_ns)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentCurrentVersionResponse(previous_version=routing.current_version)
        if routing.HasField("current_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.current_deployment_version)
        previous = routing.current_deployment_version.build_id
        if previous != build_id or not _is_modifier(data, request):
            check_token(data, request)
            info = _wanted(data, limits, request, build_id, now_ns) if build_id else None
            check_manager(data, request)
            if previous != build_id:
                _check_queues(data, build_id, needed, "current")
                _make_current(data, info, now_ns)
            changed(data, request.identity, now_ns)
        reply.conflict_token = token_of(data)
        return reply, data

    reply, data = await change_adding_version(frontend, context, request.deployment_name, change)
    await _reroute(frontend, context, data)
    return reply


def _make_current(data: DeploymentData, info: WorkerDeploymentVersionInfo | None, now_ns: int) -> None:
    """Make a version current; None stands for unversioned workers."""
    routing = data.description.worker_deployment_info.routing_config
    _deactivate(data, routing.current_deployment_version.build_id, now_ns)
    routing.ClearField("current_deployment_version")
    routing.current_version = UNVERSIONED
    if info is None:
        if routing.ramping_version == UNVERSIONED:
            _unset_ramp(routing, now_ns)
    else:
        if routing.ramping_deployment_version == info.deployment_version:
            _unset_ramp(routing, now_ns)
            info.ClearField("ramping_since_time")
            info.ramp_percentage = 0
        routing.current_deployment_version.CopyFrom(info.deployment_version)
        routing.current_version = info.version
        _activate(info, now_ns)
        info.status = _CURRENT
        info.current_since_time.FromNanoseconds(now_ns)
        info.last_current_time.FromNanoseconds(now_ns)
    routing.current_version_changed_time.FromNanoseconds(now_ns)
    routing.revision_number += 1


def _unset_ramp(routing: deployment_pb.RoutingConfig, now_ns: int) -> None:
    routing.ClearField("ramping_deployment_version")
    routing.ramping_version = ""
    routing.ramping_version_percentage = 0
    routing.ramping_version_changed_time.FromNanoseconds(now_ns)
    routing.ramping_version_percentage_changed_time.FromNanoseconds(now_ns)


@handles(WorkflowService.SetWorkerDeploymentRampingVersion)
async def set_ramping_version(
    frontend: FrontendPorts, request: rr.SetWorkerDeploymentRampingVersionRequest, context: CallContext
) -> rr.SetWorkerDeploymentRampingVersionResponse:
    """Route a share (a percentage from 0 to 100) of the workflow ids to this version.

    Raise INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION (another manager, an old conflict token, missing queues).
    """
    if not 0 <= request.percentage <= 100:
        raise invalid_argument("Percentage must be between 0 and 100 (inclusive)")
    build_id, now_ns = wanted_build(request), frontend.clock.now_ns()
    # Neither build id nor percentage: remove the ramp.
    ramping_version = f"{request.deployment_name}.{build_id}" if build_id else UNVERSIONED if request.percentage else ""

    needed, limits = await _needed_queues(frontend, context, request, build_id), limits_of(frontend, context)

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentRampingVersionResponse, DeploymentData]:
        data = _deployment(known, limits, request, now_ns)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentRampingVersionResponse(
            previous_version=routing.ramping_version, previous_percentage=routing.ramping_version_percentage
        )
        if routing.HasField("ramping_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.ramping_deployment_version)
        is_new = routing.ramping_version != ramping_version
        same = not is_new and routing.ramping_version_percentage == request.percentage
        if not same or not _is_modifier(data, request):
            check_token(data, request)
            if ramping_version == routing.current_version:
                raise failed_precondition(f"requested ramping version {routing.current_version} is already current")
            info = _wanted(data, limits, request, build_id, now_ns) if build_id else None
            check_manager(data, request)
            if is_new:
                _check_queues(data, build_id, needed, "ramping")
            if not same:
                _ramp(data, ramping_version, info, request.percentage, now_ns)
            changed(data, request.identity, now_ns)
        reply.conflict_token = token_of(data)
        return reply, data

    reply, data = await change_adding_version(frontend, context, request.deployment_name, change)
    await _reroute(frontend, context, data)
    return reply


def _ramp(
    data: DeploymentData,
    ramping_version: str,
    info: WorkerDeploymentVersionInfo | None,
    percentage: float,
    now_ns: int,
) -> None:
    """Let a share of the workflow ids go to a version; None: to unversioned workers, or the ramp is removed."""
    routing = data.description.worker_deployment_info.routing_config
    if routing.ramping_version != ramping_version:
        _deactivate(data, routing.ramping_deployment_version.build_id, now_ns)
        _unset_ramp(routing, now_ns)
        routing.ramping_version = ramping_version
    if info is not None:
        routing.ramping_deployment_version.CopyFrom(info.deployment_version)
        _activate(info, now_ns)
        info.status = _RAMPING
        info.ramp_percentage = percentage
        if not info.HasField("ramping_since_time"):
            info.ramping_since_time.FromNanoseconds(now_ns)
    routing.ramping_version_percentage = percentage
    routing.ramping_version_percentage_changed_time.FromNanoseconds(now_ns)
    routing.revision_number += 1


async def _reroute(frontend: FrontendPorts, context: CallContext, data: DeploymentData) -> None:
    """Make history read the new routing, and move waiting tasks accordingly."""
    queues = {
        (queue.name, int(queue.type))
        for each in data.versions
        for queue in each.worker_deployment_version_info.task_queue_infos
    }
    request = RerouteTasksRequest(
        queues=[RerouteTasksRequest.Queue(name=name, task_type=kind) for name, kind in sorted(queues)]
    )
    await reroute_tasks(frontend, request, context)
