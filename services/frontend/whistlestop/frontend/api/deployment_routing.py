"""Which version of a worker deployment is current and which ramps, and what follows for tasks that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.deployments import (
    UNVERSIONED,
    check_override,
    find_version,
    named_version,
    version_string,
)
from whistlestop.common.errors import failed_precondition, invalid_argument
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, RerouteTasksRequest

if TYPE_CHECKING:
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData
    from whistlestop.frontend.api.rules import Handler
    from whistlestop.frontend.service import Frontend

from whistlestop.frontend.api.deployments import (
    add_version,
    changed,
    check_caller,
    find,
    find_in,
    store_of,
    token_of,
)

_CURRENT = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
_RAMPING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING


def wanted_build(request: Any) -> str:
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


def _wanted(data: DeploymentData, request: Any, build_id: str, now_ns: int) -> WorkerDeploymentVersionInfo:
    """The version to route to, which may come before its first worker if the request says so. Raises NOT_FOUND."""
    if request.allow_no_pollers and find_version(data, build_id) is None:
        return add_version(data, build_id, now_ns)
    return find_in(data, build_id)


async def set_current_version(
    frontend: Frontend, request: rr.SetWorkerDeploymentCurrentVersionRequest, context: CallContext
) -> rr.SetWorkerDeploymentCurrentVersionResponse:
    """All unpinned work goes to this version from now on (but for what ramps elsewhere)."""
    build_id, now_ns = wanted_build(request), frontend.clock.now_ns()

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentCurrentVersionResponse, DeploymentData]:
        data = find(known, request.deployment_name)
        check_caller(data, request)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentCurrentVersionResponse(previous_version=routing.current_version)
        if routing.HasField("current_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.current_deployment_version)
        previous = routing.current_deployment_version.build_id
        if previous != build_id:
            if build_id:
                info = _wanted(data, request, build_id, now_ns)
                if not request.ignore_missing_task_queues:
                    _check_queues(data, build_id, "current")
            _deactivate(data, previous, now_ns)
            routing.ClearField("current_deployment_version")
            routing.current_version = UNVERSIONED
            if not build_id and routing.ramping_version == UNVERSIONED:
                _unset_ramp(routing, now_ns)
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
                info.last_current_time.FromNanoseconds(now_ns)
            routing.current_version_changed_time.FromNanoseconds(now_ns)
            routing.revision_number += 1
            changed(data, request.identity)
        reply.conflict_token = token_of(data)
        return reply, data

    reply, data = await store_of(frontend).change(context.namespace_id, change)
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
    build_id, now_ns = wanted_build(request), frontend.clock.now_ns()
    # No build and no percentage: nothing ramps any more.
    ramping_version = f"{request.deployment_name}.{build_id}" if build_id else UNVERSIONED if request.percentage else ""

    def change(known: NamespaceDeployments) -> tuple[rr.SetWorkerDeploymentRampingVersionResponse, DeploymentData]:
        data = find(known, request.deployment_name)
        check_caller(data, request)
        routing = data.description.worker_deployment_info.routing_config
        reply = rr.SetWorkerDeploymentRampingVersionResponse(
            previous_version=routing.ramping_version, previous_percentage=routing.ramping_version_percentage
        )
        if routing.HasField("ramping_deployment_version"):
            reply.previous_deployment_version.CopyFrom(routing.ramping_deployment_version)
        previous = routing.ramping_deployment_version.build_id
        if routing.ramping_version == ramping_version and routing.ramping_version_percentage == request.percentage:
            reply.conflict_token = token_of(data)
            return reply, data
        if ramping_version == routing.current_version:
            raise failed_precondition(f"requested ramping version {routing.current_version} is already current")
        if build_id:
            info = _wanted(data, request, build_id, now_ns)
            if not request.ignore_missing_task_queues:
                _check_queues(data, build_id, "ramping")
        if routing.ramping_version != ramping_version:
            _deactivate(data, previous, now_ns)
            _unset_ramp(routing, now_ns)
            routing.ramping_version = ramping_version
        if build_id:
            routing.ramping_deployment_version.CopyFrom(info.deployment_version)
            _activate(info, now_ns)
            info.status = _RAMPING
            info.ramp_percentage = request.percentage
            if not info.HasField("ramping_since_time"):
                info.ramping_since_time.FromNanoseconds(now_ns)
        routing.ramping_version_percentage = request.percentage
        routing.ramping_version_percentage_changed_time.FromNanoseconds(now_ns)
        routing.revision_number += 1
        changed(data, request.identity)
        reply.conflict_token = token_of(data)
        return reply, data

    reply, data = await store_of(frontend).change(context.namespace_id, change)
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


async def with_override(frontend: Frontend, request: Any, context: CallContext) -> Reply:
    """A start whose workflow is pinned from outside: a version that no worker of the queue has can't be pinned."""
    if named_version(request.versioning_override) is not None:
        known = await store_of(frontend).read(context.namespace_id)
        check_override(known, request.versioning_override, request.task_queue.name)
    method = str(request.DESCRIPTOR.name).removesuffix("Request")
    return await frontend.history.call(method, request, context)


AROUND: dict[str, Handler] = {
    "StartWorkflowExecution": with_override,
    "SignalWithStartWorkflowExecution": with_override,
}

HANDLERS: dict[str, Handler] = {
    "SetWorkerDeploymentCurrentVersion": set_current_version,
    "SetWorkerDeploymentRampingVersion": set_ramping_version,
}
