"""Notify matching of tasks for versions whose workers are started on demand, until workers take them.

Rules of this file:
- The commit that writes such a task writes a transfer task, too. So matching is notified after the commit, or by a
  sweep if the process that committed could not do it.
- What has to be checked again later (a cool-off, a back-off, workers that should have polled by then) is one timer row
  of the version. There is none while no task waits.
- Both rows belong to the version, not to a run: a target that does not answer delays no run's other effects.
- In a function, a task on the sticky queue of a worker that is gone would wait for its timeout before it gets to the
  version: a separate transfer task carries it, and its delivery checks whether the worker is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clients import decoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.deployment_pb2 import PushWorkersRequest, PushWorkersResponse
from whistlestop.common.proto.internal_pb2 import HasPollerRequest, HasPollerResponse, ResetStickyTaskRequest
from whistlestop.common.versioning.deployments import (
    Version,
    is_versioned,
    pushed_version,
    serving_versions,
    version_string,
    versioned_queue,
)
from whistlestop.storage.records import ExecutionKey, TimerTask, TransferTask, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.common.rpcs.matching_service import MatchingService
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.transfers.processor import TransferProcessor
    from whistlestop.storage.namespaces import NamespaceCache
    from whistlestop.storage.records import MatchingTask

from whistlestop.history.transfers.push_rows import KIND, PREFIX, STICKY_PREFIX, key_of, row_of, rows_for

_REMEMBERED = 10_000


def _version_of(key: ExecutionKey) -> Version:
    name, _, build_id = key.workflow_id.removeprefix(PREFIX).partition(":")
    return Version(deployment_name=name, build_id=build_id)


class Pushes:
    """Deliver the transfer tasks and fire the timer rows."""

    def __init__(
        self,
        engine: Engine,
        matching: MatchingService,
        history: HistoryService,
        namespaces: NamespaceCache,
        transfers: TransferProcessor,
    ) -> None:
        self._engine = engine
        self._store = engine.store
        self._matching = matching
        self._history = history
        self._namespaces = namespaces
        self._transfers = transfers
        self._handled: set[int] = set()
        """Ids of transfer tasks that were delivered with another one and are still queued."""
        self._armed: dict[ExecutionKey, int] = {}
        """When each version is to be checked again, as this process set it last."""

    async def written(self, tasks: Iterable[MatchingTask]) -> None:
        """Notify matching of tasks that were written without a commit of a run (queries), whose callers wait.

        Failures are logged.
        """
        versioned = [task for task in tasks if is_versioned(task.key.task_queue)]
        for namespace_id in {task.key.namespace_id for task in versioned}:
            deployments = await self._engine.deployments.cached(namespace_id)
            self._transfers.notify(rows_for(versioned, deployments, self._engine.ids, self._engine.clock.now_ns()))

    def check(self, namespace_id: str, deployments: NamespaceDeployments, queues: Iterable[tuple[str, int]]) -> None:
        """Start workers of the versions that serve these queues for tasks that wait there already."""
        versions: dict[str, Version] = {}
        for name, kind in queues:
            for info in serving_versions(deployments, name, kind):
                version = info.deployment_version
                if pushed_version(deployments, versioned_queue(name, version), kind) is not None:
                    versions[version_string(version)] = version
        keys = [key_of(namespace_id, version) for version in versions.values()]
        self._transfers.notify([row_of(key, self._engine.ids, self._engine.clock.now_ns()) for key in keys])

    async def deliver(self, task: TransferTask) -> None:
        """Notify matching of the task's version, once for all transfer tasks that are queued for it.

        Raise StorageError.
        """
        if task.data:
            await self._check_sticky(task)
            return
        if task.task_id in self._handled:
            self._handled.discard(task.task_id)
            return
        line = self._transfers.line(task.key)
        again_ns = await self._push(task.key, again=task.attempt > 0)
        if again_ns:
            await self._arm(task.key, again_ns)
        for each in line or (task,):
            await self._store.delete_transfer_task(each)
            if each.task_id != task.task_id:
                self._handled.add(each.task_id)

    async def _check_sticky(self, task: TransferTask) -> None:
        """Move the task to the version's queue if nobody polls the sticky queue; that starts a worker."""
        context = CallContext(namespace_id=task.key.namespace_id)
        asked = HasPollerRequest(task_queue=task.key.workflow_id.removeprefix(STICKY_PREFIX))
        answer = decoded(await self._matching.HasPoller(asked, context), HasPollerResponse)
        if not answer.has_poller:
            try:
                await self._history.ResetStickyTask(ResetStickyTaskRequest.FromString(task.data), context)
            except ServiceError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
        await self._store.delete_transfer_task(task)

    async def fire(self, timer: TimerTask) -> None:
        """Check again whether the timer's version lacks workers; set the next check, or delete the timer.

        Raise StorageError.
        """
        again_ns = await self._push(timer.key, again=True)
        if again_ns:
            await self._arm(timer.key, again_ns)
        else:
            self._armed.pop(timer.key, None)
            await self._store.delete_timer(timer)

    async def _push(self, key: ExecutionKey, *, again: bool) -> int:
        namespace = await self._namespaces.by_id(key.namespace_id)
        if namespace is None:
            return 0
        context = CallContext(
            deadline_ns=self._transfers.stop_ns, namespace_id=key.namespace_id, namespace=namespace.name
        )
        request = PushWorkersRequest(version=_version_of(key), again=again)
        return decoded(await self._matching.PushWorkers(request, context), PushWorkersResponse).again_ns

    async def _arm(self, key: ExecutionKey, at_ns: int) -> None:
        if self._engine.exclusive and self._engine.clock.now_ns() < self._armed.get(key, 0) <= at_ns:
            return  # An earlier check sees the same, and sets the next. No other process can have changed its row.
        timer = TimerTask(KIND, slot_of(key.namespace_id, key.workflow_id), key, at_ns)
        await self._store.put_timer(timer)
        if len(self._armed) >= _REMEMBERED:
            self._armed.clear()
        self._armed[key] = at_ns
        self._engine.effects.timer(timer)
