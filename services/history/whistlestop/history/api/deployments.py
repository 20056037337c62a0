"""Worker deployments: reroute waiting tasks after routing changes, and check versions that drain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import RefreshDrainageResponse, RerouteTasksResponse
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning import drainage
from whistlestop.common.versioning.build_ids import queues_of
from whistlestop.common.versioning.deployments import (
    find_version_info,
    serving_versions,
    version_string,
    versioned_queue,
    versioning_data,
)
from whistlestop.history.api import handles
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import nexus as nexus_routing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersion, WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import (
        NamespaceDeployments,
        RefreshDrainageRequest,
        RerouteTasksRequest,
    )
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import MatchingTask

_PAGE = 100
_MOST_PAGES = 100


@handles(HistoryService.RerouteTasks)
async def reroute_tasks(
    ports: HistoryPorts, request: RerouteTasksRequest, context: CallContext
) -> RerouteTasksResponse:
    """Reroute the tasks of the named queues, of versions that serve them and get no new work, and of build ids.

    Raise StorageError.
    """
    deployments = await ports.engine.deployments.read(context.namespace_id)
    moved = 0
    for queue in request.queues:
        names = [queue.name]
        names.extend(
            versioned_queue(queue.name, info.deployment_version)
            for info in serving_versions(deployments, queue.name, queue.task_type)
            if info.status != deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
        )
        names.extend(queues_of(versioning_data(deployments, queue.name), queue.name))
        for name in names:
            moved += await reroute(ports, context.namespace_id, name, queue.task_type, deployments)
    if request.push:
        queues = [(queue.name, queue.task_type) for queue in request.queues]
        ports.push.check(context.namespace_id, deployments, queues)
    return RerouteTasksResponse(moved=moved)


async def reroute(
    ports: HistoryPorts, namespace_id: str, task_queue: str, task_type: int, deployments: NamespaceDeployments
) -> int:
    """Move a queue's waiting tasks to the queues where they belong; return how many were moved.

    Raise StorageError.
    """
    moved = 0
    after: tuple[int, int] | None = None
    for _ in range(_MOST_PAGES):
        tasks = await ports.store.list_tasks(namespace_id, task_queue, task_type, after, _PAGE)
        for task in tasks:
            if not task.query_id:
                moved += await _redispatch(ports, task, deployments)
        if len(tasks) < _PAGE:
            break
        after = (tasks[-1].key.priority, tasks[-1].key.task_id)
    return moved


async def _redispatch(ports: HistoryPorts, task: MatchingTask, deployments: NamespaceDeployments) -> bool:
    def decide(run: Run) -> bool:
        run.bookkeeping = True
        return versioning.redispatch(run, task, deployments)

    namespace_id = task.key.namespace_id
    if task.key.task_type == nexus_routing.TASK_TYPE:
        try:
            namespace_id = nexus_routing.caller_namespace(task)
        except DecodeError:
            return False  # the next poll sets it aside
    try:
        _, moved = await ports.engine.change(namespace_id, task.workflow_id, task.run_id, decide)
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return False
    return moved


@handles(HistoryService.RefreshDrainage)
async def refresh_drainage(
    ports: HistoryPorts, request: RefreshDrainageRequest, context: CallContext
) -> RefreshDrainageResponse:
    """Check whether open workflows are pinned to draining versions, for those whose check is due.

    Raise StorageError.
    """
    now_ns = ports.clock.now_ns()
    limits, deployments = ports.limits.of(context.namespace), ports.engine.deployments

    def to_check(known: NamespaceDeployments) -> list[WorkerDeploymentVersionInfo]:
        found = []
        for version in request.versions:
            info = find_version_info(known, version)
            if info is not None and drainage.needs_check(
                info, now_ns, limits.version_drainage_grace_ns, limits.version_drainage_refresh_ns
            ):
                found.append(info)
        return found

    unchecked = [info.deployment_version for info in to_check(await deployments.read(context.namespace_id))]
    if not unchecked:
        return RefreshDrainageResponse()
    pinned: set[str] = set()
    for start in range(0, len(unchecked), _PAGE):
        pinned |= await _pinned_to(ports, context.namespace_id, unchecked[start : start + _PAGE])
    checked = {version_string(version) for version in unchecked}

    def change(known: NamespaceDeployments) -> None:
        for info in to_check(known):
            name = version_string(info.deployment_version)
            if name in checked:
                drainage.note_check(info, now_ns, is_pinned_to=name in pinned)

    await deployments.change(context.namespace_id, change)
    return RefreshDrainageResponse(looked_at=len(unchecked))


async def _pinned_to(ports: HistoryPorts, namespace_id: str, versions: Sequence[WorkerDeploymentVersion]) -> set[str]:
    """Return those of the versions, as strings, to which open workflows are pinned, by a single query."""
    from whistlestop.storage.visibility import Attribute, AttributeType, parse

    name = "TemporalWorkerDeploymentVersion"
    asked = ", ".join("'" + version_string(version).replace("'", "''") + "'" for version in versions)
    query = parse(
        f"{name} IN ({asked}) AND TemporalWorkflowVersioningBehavior = 'Pinned' AND ExecutionStatus = 'Running'", {}
    )
    query = replace(query, group_by=(Attribute(name, AttributeType.Keyword, name),))
    groups = await ports.store.count_visibility_groups(namespace_id, query, len(versions))
    return {str(values[0]) for values, _ in groups}
