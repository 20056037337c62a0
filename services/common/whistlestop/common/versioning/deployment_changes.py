"""Add to and remove from the stored worker deployments of a namespace, within their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.versioning.deployments import (
    UNVERSIONED,
    find_deployment,
    find_version,
    serves,
    serving_versions,
)

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersion, WorkerDeploymentVersionInfo

    from whistlestop.common.proto.deployment_pb2 import DeploymentData, NamespaceDeployments

_CREATED = enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
_INACTIVE = enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
_DRAINING = enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
_NEEDED = (
    enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT,
    enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING,
    _DRAINING,
)


AUTO_CREATED = "_auto_create_"
"""Prefix of the request id of a deployment that was created by its workers' polls."""


class DeploymentLimits(NamedTuple):
    """Maximum numbers, with Temporal's defaults."""

    deployments: int = 100
    """Deployments in a namespace."""
    versions: int = 100
    """Versions of a deployment."""
    queues: int = 100
    """Task queues of a version."""
    versions_of_queue: int = 200
    """Versions, of all deployments, that serve one task queue."""


def limit_reached(message: str) -> ServiceError:
    """Return the RESOURCE_EXHAUSTED error for exceeding a limit on worker deployments."""
    return ServiceError(Code.RESOURCE_EXHAUSTED, message, _details())


def _details() -> details_pb.ResourceExhaustedFailure:
    return details_pb.ResourceExhaustedFailure(
        cause=causes.RESOURCE_EXHAUSTED_CAUSE_WORKER_DEPLOYMENT_LIMITS,
        scope=causes.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
    )


class TooManyVersions(ServiceError):
    """A deployment has its maximum number of versions. The caller may delete one that is not needed and try again."""

    def __init__(self, version: str, most: int) -> None:
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            f"cannot add version {version} since maximum number of versions ({most}) have been registered in the "
            "deployment",
            _details(),
        )


def add_deployment(known: NamespaceDeployments, name: str, now_ns: int, limits: DeploymentLimits) -> DeploymentData:
    """Add a deployment without versions. Raises RESOURCE_EXHAUSTED.

    Its revision, which clients see as the conflict token, starts from the current time, so that it differs from that
    of a deleted deployment with the same name.
    """
    if len(known.deployments) >= limits.deployments:
        raise limit_reached(f"reached maximum deployments in namespace ({limits.deployments})")
    data = known.deployments.add(revision=now_ns)
    described = data.description.worker_deployment_info
    described.name = name
    described.create_time.FromNanoseconds(now_ns)
    described.routing_config.current_version = UNVERSIONED
    return data


def add_version(
    data: DeploymentData, build_id: str, now_ns: int, limits: DeploymentLimits, *, polled: bool
) -> WorkerDeploymentVersionInfo:
    """Add a version without task queues. Raises TooManyVersions."""
    name = data.description.worker_deployment_info.name
    version = f"{name}.{build_id}"
    if len(data.versions) >= limits.versions:
        raise TooManyVersions(version, limits.versions)
    info = data.versions.add().worker_deployment_version_info
    info.version = version
    info.deployment_version.deployment_name, info.deployment_version.build_id = name, build_id
    info.create_time.FromNanoseconds(now_ns)
    info.status = _INACTIVE if polled else _CREATED
    return info


def register(
    known: NamespaceDeployments,
    version: WorkerDeploymentVersion,
    task_queue: str,
    task_type: int,
    now_ns: int,
    limits: DeploymentLimits,
) -> None:
    """Make sure that the deployment, the version and its task queue exist. Raises RESOURCE_EXHAUSTED."""
    data = find_deployment(known, version.deployment_name)
    info = find_version(data, version.build_id) if data is not None else None
    if info is not None and serves(info, task_queue, task_type):
        return
    if sum(1 for _ in serving_versions(known, task_queue, task_type)) > limits.versions_of_queue:
        raise limit_reached(
            f"exceeding maximum number of Deployment Versions in this task queue (limit = {limits.versions_of_queue})"
        )
    if data is None:
        data = add_deployment(known, version.deployment_name, now_ns, limits)
        data.create_request_id = f"{AUTO_CREATED}{version.build_id}"
    if info is None:
        info = add_version(data, version.build_id, now_ns, limits, polled=True)
    names = {queue.name for queue in info.task_queue_infos}
    if len(names) >= limits.queues and task_queue not in names:
        raise limit_reached(
            f"cannot add task queue {task_queue} since maximum number of task queues ({limits.queues}) have been "
            "registered in deployment"
        )
    if info.status == _CREATED:
        info.status = _INACTIVE
    info.task_queue_infos.add(name=task_queue, type=task_type)


def remove_version(data: DeploymentData, build_id: str) -> None:
    """Delete a version, if it exists."""
    for index, each in enumerate(data.versions):
        if each.worker_deployment_version_info.deployment_version.build_id == build_id:
            del data.versions[index]
            data.notes.pop(build_id, None)
            return


def draining_versions(data: DeploymentData) -> list[WorkerDeploymentVersion]:
    """Return the versions with the stored status DRAINING; empty if there are none."""
    infos = (each.worker_deployment_version_info for each in data.versions)
    return [info.deployment_version for info in infos if info.status == _DRAINING]


def idle_versions(data: DeploymentData) -> list[WorkerDeploymentVersionInfo]:
    """Return the versions that get no work (not current, ramping or draining), oldest first."""
    infos = [each.worker_deployment_version_info for each in data.versions]
    infos.sort(key=lambda info: info.create_time.ToNanoseconds())
    return [info for info in infos if info.status not in _NEEDED]
