"""Worker deployments as every service sees them: where they are stored, and which version a task goes to.

All deployments of a namespace are one row of `task_queues`, changed by compare-and-set, because routing needs a
consistent view of all those that serve a queue. Tasks of a version wait in a queue of their own, so that they never
reach a worker of another version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from temporalio.api.deployment.v1 import message_pb2 as deployment_pb
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1.task_queue_pb2 import TASK_QUEUE_TYPE_WORKFLOW

from whistlestop.common.errors import failed_precondition
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, VersioningData

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.workflow.v1.message_pb2 import VersioningOverride

    from whistlestop.common.proto.deployment_pb2 import DeploymentData

ROW_NAME = "/_sys/worker-deployments"
ROW_TYPE = 0
"""Type of the `task_queues` row. No real queue has this name or type."""

UNVERSIONED = "__unversioned__"
"""Stands for unversioned workers where routing names a version."""

Version = deployment_pb.WorkerDeploymentVersion
EMPTY = NamespaceDeployments()
_NO_VERSIONING = VersioningData()


def versioned_queue(task_queue: str, version: Version | None) -> str:
    """Return the queue on which the version's tasks wait; the queue itself for None (unversioned workers)."""
    return f"/_sys/{version_string(version)}/{task_queue}" if version is not None else task_queue


def versioning_data(deployments: NamespaceDeployments, task_queue: str) -> VersioningData:
    """Return the build-id sets and rules of the queue; empty when it has none. The result must not be changed."""
    return deployments.versioning.get(task_queue, _NO_VERSIONING)


def is_versioned(queue: str) -> bool:
    """Return whether `queue` holds the tasks of a version or build id."""
    return queue.startswith("/_sys/")


def is_version_of(queue: str, task_queue: str) -> bool:
    """Return whether `queue` holds the tasks of a version of `task_queue`'s workers."""
    return is_versioned(queue) and queue.endswith(f"/{task_queue}")


def push_row(version: Version) -> str:
    """Return the name of the row that records which workers were started for the version; its type is `ROW_TYPE`."""
    return f"/_sys/push/{version_string(version)}"


def version_string(version: Version) -> str:
    """Return the version as search attributes and messages show it: `deployment:build_id`."""
    return f"{version.deployment_name}:{version.build_id}"


def older_version_string(version: Version | None) -> str:
    """Return the version in the form of deprecated API fields, `deployment.build_id`; `UNVERSIONED` for None."""
    return UNVERSIONED if version is None else f"{version.deployment_name}.{version.build_id}"


def version_of(options: deployment_pb.WorkerDeploymentOptions) -> Version | None:
    """Return the version of a worker; None when it is not versioned."""
    if options.worker_versioning_mode != deployment_enums.WORKER_VERSIONING_MODE_VERSIONED:
        return None
    return Version(deployment_name=options.deployment_name, build_id=options.build_id)


def find_deployment(deployments: NamespaceDeployments, name: str) -> DeploymentData | None:
    """Return the deployment with that name; None when there is none."""
    for data in deployments.deployments:
        if data.description.worker_deployment_info.name == name:
            return data
    return None


def find_version(data: DeploymentData, build_id: str) -> deployment_pb.WorkerDeploymentVersionInfo | None:
    """Return the version of the deployment with that build id; None when there is none."""
    for each in data.versions:
        if each.worker_deployment_version_info.deployment_version.build_id == build_id:
            return each.worker_deployment_version_info
    return None


def find_version_info(
    deployments: NamespaceDeployments, version: Version
) -> deployment_pb.WorkerDeploymentVersionInfo | None:
    """Return the stored information of that version; None when it is unknown."""
    data = find_deployment(deployments, version.deployment_name)
    return find_version(data, version.build_id) if data is not None else None


def serves(info: deployment_pb.WorkerDeploymentVersionInfo, task_queue: str, task_type: int) -> bool:
    """Return whether a worker of the version has ever polled the queue."""
    return any(queue.name == task_queue and queue.type == task_type for queue in info.task_queue_infos)


def has_queue(deployments: NamespaceDeployments, version: Version, task_queue: str, task_type: int) -> bool:
    """Return whether the version exists and serves the queue."""
    info = find_version_info(deployments, version)
    return info is not None and serves(info, task_queue, task_type)


def named_version(override: VersioningOverride) -> Version | None:
    """Return the version that a client's override names, in current or deprecated fields; None when it names none."""
    if override.HasField("pinned"):
        return override.pinned.version if override.pinned.HasField("version") else None
    if override.HasField("one_time"):
        return override.one_time.target_deployment_version
    if override.pinned_version:
        name, _, build_id = override.pinned_version.partition(".")
        return Version(deployment_name=name, build_id=build_id)
    return None


def check_override(deployments: NamespaceDeployments, override: VersioningOverride, task_queue: str) -> None:
    """Refuse an override to a version that no worker of the queue has. Raises FAILED_PRECONDITION."""
    version = named_version(override)
    if version is not None and not has_queue(deployments, version, task_queue, int(TASK_QUEUE_TYPE_WORKFLOW)):
        raise failed_precondition(
            f"Pinned version '{version_string(version)}' is not present in task queue '{task_queue}' of type 'Workflow'"
        )


def _serving(data: DeploymentData, version: Version, task_queue: str, task_type: int) -> bool:
    info = find_version(data, version.build_id) if version.build_id else None
    return info is not None and serves(info, task_queue, task_type)


def pushed_version(deployments: NamespaceDeployments, queue: str, task_type: int) -> Version | None:
    """Return the version whose workers are started when a task on `queue` finds no poller; None when there is none."""
    if not is_versioned(queue):
        return None
    for data in deployments.deployments:
        for each in data.versions:
            info = each.worker_deployment_version_info
            if info.compute_config.scaling_groups and queue.startswith(versioned_queue("", info.deployment_version)):
                groups = info.compute_config.scaling_groups.values()
                if any(not group.task_queue_types or task_type in group.task_queue_types for group in groups):
                    return info.deployment_version
    return None


class Routing(NamedTuple):
    """Where a queue's unpinned tasks go. As a version, None stands for unversioned workers."""

    current: Version | None
    current_ns: int
    """When it became current; 0 when it was never set."""
    current_revision: int
    ramping: Version | None
    ramping_ns: int
    ramping_revision: int
    ramps: bool
    """Whether a share goes to `ramping`, which may be None."""
    percentage: float


def routing_of(deployments: NamespaceDeployments, task_queue: str, task_type: int) -> Routing:
    """Return how a queue is routed.

    If several deployments serve it, the one whose routing changed last counts, as in Temporal; one that has a current
    version takes precedence over one that has none.
    """
    current: Version | None = None
    current_ns, revision = -1, 0
    unset_ns, unset_revision = -1, 0
    ramping: Version | None = None
    ramping_ns = -1
    ramps, percentage, ramping_revision = False, 0.0, 0
    for data in deployments.deployments:
        routing = data.description.worker_deployment_info.routing_config
        changed_ns = routing.current_version_changed_time.ToNanoseconds()
        serves_current = _serving(data, routing.current_deployment_version, task_queue, task_type)
        if changed_ns > current_ns and serves_current:
            current, current_ns, revision = routing.current_deployment_version, changed_ns, routing.revision_number
        elif (
            changed_ns > unset_ns
            and not routing.HasField("current_deployment_version")
            and any(serves(each.worker_deployment_version_info, task_queue, task_type) for each in data.versions)
        ):
            unset_ns, unset_revision = changed_ns, routing.revision_number
        changed_ns = routing.ramping_version_changed_time.ToNanoseconds()
        away = serves_current and routing.ramping_version == UNVERSIONED
        if changed_ns > ramping_ns and (
            away or _serving(data, routing.ramping_deployment_version, task_queue, task_type)
        ):
            ramping, ramping_ns = None if away else routing.ramping_deployment_version, changed_ns
            ramps, percentage = True, routing.ramping_version_percentage
            ramping_revision = 0 if away else routing.revision_number
    if current is None:
        current_ns, revision = unset_ns, unset_revision
    return Routing(
        current, max(current_ns, 0), revision, ramping, max(ramping_ns, 0), ramping_revision, ramps, percentage
    )


def target_of(
    deployments: NamespaceDeployments, task_queue: str, task_type: int, workflow_id: str, *, use_ramping: bool = False
) -> tuple[Version | None, int]:
    """Return the version to which an unpinned task goes, and the revision of the routing that says so.

    The version is the current one or, for its share of workflow ids, the ramping one; None stands for unversioned
    workers. The revision is 0 when no deployment routes the queue.
    """
    if not deployments.deployments:
        return None, 0
    routing = routing_of(deployments, task_queue, task_type)
    if routing.ramps and (use_ramping or in_ramp(workflow_id, routing.percentage)):
        return routing.ramping, routing.ramping_revision
    return routing.current, routing.current_revision


def in_ramp(workflow_id: str, percentage: float) -> bool:
    """Return whether the workflow id falls into the share of the ramping version.

    The answer depends only on the arguments, and is the same as Temporal's.
    """
    if percentage <= 0 or percentage >= 100:
        return percentage > 0
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.common.fingerprint import fingerprint32

    return 100 * fingerprint32(workflow_id.encode()) / 2**32 <= percentage


def serving_versions(
    deployments: NamespaceDeployments, task_queue: str, task_type: int
) -> Iterable[deployment_pb.WorkerDeploymentVersionInfo]:
    """Yield all versions whose workers have polled the queue."""
    for data in deployments.deployments:
        for each in data.versions:
            if serves(each.worker_deployment_version_info, task_queue, task_type):
                yield each.worker_deployment_version_info
