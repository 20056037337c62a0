"""RerouteTasks: routing of a queue has changed, so tasks that wait may belong to other workers now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums

from whistlestop.common.build_ids import queues_of
from whistlestop.common.deployments import serving_versions, versioned_queue, versioning_data
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import RerouteTasksResponse
from whistlestop.history.api import METHODS
from whistlestop.history.core import versioning

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments, RerouteTasksRequest
    from whistlestop.history.core.run import Run
    from whistlestop.history.service import History
    from whistlestop.storage.records import MatchingTask

_PAGE = 100
_MOST_PAGES = 100


async def reroute_tasks(service: History, request: RerouteTasksRequest, context: CallContext) -> Reply:
    """Look through what waits for unversioned workers, for versions that get nothing new by now, and for build ids."""
    deployments = await service.engine.deployments.read(context.namespace_id)
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
            moved += await _reroute(service, context.namespace_id, name, queue.task_type, deployments)
    if request.push:
        queues = [(queue.name, queue.task_type) for queue in request.queues]
        service.push.look(context.namespace_id, deployments, queues)
    return RerouteTasksResponse(moved=moved)


async def _reroute(
    service: History, namespace_id: str, task_queue: str, task_type: int, deployments: NamespaceDeployments
) -> int:
    moved = 0
    after: tuple[int, int] | None = None
    for _ in range(_MOST_PAGES):
        tasks = await service.store.list_tasks(namespace_id, task_queue, task_type, after, _PAGE)
        for task in tasks:
            if not task.query_id:
                moved += await _redispatch(service, task, deployments)
        if len(tasks) < _PAGE:
            break
        after = (tasks[-1].key.priority, tasks[-1].key.task_id)
    return moved


async def _redispatch(service: History, task: MatchingTask, deployments: NamespaceDeployments) -> bool:
    def decide(run: Run) -> bool:
        run.bookkeeping = True
        return versioning.redispatch(run, task, deployments)

    try:
        _, moved = await service.engine.transact(task.key.namespace_id, task.workflow_id, task.run_id, decide)
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return False
    return moved


METHODS["RerouteTasks"] = reroute_tasks
