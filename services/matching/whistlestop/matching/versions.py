"""Versioned workers: their queues, and the deployments and versions that their polls create.

Workers of the older versioning, without deployments, only have a build id; see common/versioning/build_ids.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.deployment_pb2 import RefreshDrainageRequest, RerouteTasksRequest
from whistlestop.common.versioning.build_ids import queue_of_poll
from whistlestop.common.versioning.deployment_changes import DeploymentLimits, register
from whistlestop.common.versioning.deployments import (
    has_queue,
    version_of,
    versioned_queue,
    versioning_data,
)
from whistlestop.matching.pollers import note_in_memory, recent_pollers
from whistlestop.storage.deployments import MAX_BEHIND_S, Deployments

if TYPE_CHECKING:
    from temporalio.api.deployment.v1 import message_pb2 as deployment_pb

    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.pollers import PollerRows
    from whistlestop.matching.task_queue.queue import PollRequest, QueueKey
    from whistlestop.matching.task_queue.queues import Queues
    from whistlestop.storage.interface import TaskStore

log = logging.getLogger(__name__)

_STICKY = queue_enums.TASK_QUEUE_KIND_STICKY
_WORKER_COMMANDS = queue_enums.TASK_QUEUE_KIND_WORKER_COMMANDS
_OF_ONE_WORKER = frozenset((_STICKY, _WORKER_COMMANDS))
_AGAIN_NS = 10 * SECOND_NS
"""How often a versioned poll checks that it is still registered, and that no tasks are in a wrong queue."""
_REMEMBERED = 10_000


def queue_of(namespace_id: str, poll: PollRequest, task_type: int) -> QueueKey:
    """Return the queue from which the poll's worker takes tasks."""
    name = poll.task_queue.name
    if poll.task_queue.kind in _OF_ONE_WORKER:
        return (namespace_id, name, task_type)
    return (namespace_id, versioned_queue(name, version_of(poll.deployment_options)), task_type)


def build_of(poll: PollRequest) -> str:
    """Return the build id of a worker that is versioned without a deployment; empty for any other."""
    worker = poll.worker_version_capabilities
    if not worker.use_versioning or worker.deployment_series_name or version_of(poll.deployment_options) is not None:
        return ""
    return worker.build_id


class Versions:
    """Register versions as their workers poll."""

    def __init__(
        self,
        store: TaskStore,
        history: HistoryService,
        clock: Clock,
        config: MatchingConfig,
        queues: Queues,
        rows: PollerRows,
    ) -> None:
        self._deployments = Deployments(store, clock)
        self._history = history
        self._clock = clock
        self._config = config
        self._queues = queues
        self._rows = rows
        self._seen: dict[QueueKey, int] = {}

    async def enter(
        self, context: CallContext, poll: PollRequest, task_type: int, now_ns: int
    ) -> tuple[QueueKey, PollRequest]:
        """Register the poll's version; return its queue, and the poll as history has to see it.

        Raise RESOURCE_EXHAUSTED when a limit on deployments is reached, and OUT_OF_RANGE where a newer build id gets
        the tasks.
        """
        plain = (context.namespace_id, poll.task_queue.name, task_type)
        if poll.task_queue.kind == _WORKER_COMMANDS:
            return plain, poll  # one worker's own queue, whatever its version
        if build_id := build_of(poll):
            return await self._enter_build(context, poll, plain, build_id, now_ns)
        key = queue_of(context.namespace_id, poll, task_type)
        version = version_of(poll.deployment_options)
        if version is None or poll.task_queue.kind == _STICKY:
            return key, poll
        if key != plain:
            await self._show(context, poll, plain, now_ns)
        seen = (context.namespace_id, versioned_queue(poll.task_queue.name, version), task_type)
        if now_ns - self._seen.get(seen, 0) < _AGAIN_NS:
            return key, poll
        self._make_room()
        known = await self._deployments.read(context.namespace_id)
        self._seen[seen] = now_ns
        if not has_queue(known, version, poll.task_queue.name, task_type):
            try:
                await self._register(context, version, poll.task_queue.name, task_type)
            except BaseException:
                self._seen.pop(seen, None)  # The next poll tries again: there may be room by then.
                raise
            # Other processes learn of it a moment later, so the first poll after that checks again.
            self._seen[seen] = now_ns - _AGAIN_NS + 2 * int(MAX_BEHIND_S * SECOND_NS)
        if key != plain:
            await self._check_misrouted(context, poll.task_queue.name, task_type)
        return key, poll

    async def _register(
        self,
        context: CallContext,
        version: deployment_pb.WorkerDeploymentVersion,
        task_queue: str,
        task_type: int,
    ) -> None:
        async def is_polled(info: deployment_pb.WorkerDeploymentVersionInfo) -> bool:
            for queue in info.task_queue_infos:
                key = (context.namespace_id, versioned_queue(queue.name, info.deployment_version), int(queue.type))
                if await self.has_pollers(key, context):
                    return True
            return False

        async def refresh(draining: list[deployment_pb.WorkerDeploymentVersion]) -> None:
            try:
                await self._history.RefreshDrainage(RefreshDrainageRequest(versions=draining), context)
            except ServiceError as error:
                log.debug("the draining versions of %s could not be checked: %r", version.deployment_name, error)

        config = self._config
        limits = DeploymentLimits(
            config.max_deployments, config.max_versions, config.max_queues_in_version, config.max_versions_of_queue
        )
        await self._deployments.add(
            context.namespace_id,
            version.deployment_name,
            lambda wanted: register(wanted, version, task_queue, task_type, self._clock.now_ns(), limits),
            refresh=refresh,
            is_polled=is_polled,
        )

    async def has_pollers(self, key: QueueKey, context: CallContext) -> bool:
        """Return whether descriptions of the queue show a poller. Raise StorageError."""
        now_ns = self._clock.steady_ns()
        queue = self._queues.find(key)
        if queue is not None and recent_pollers(queue, now_ns, self._config):
            return True
        shared = self._config.share_pollers or not context.can_long_poll
        return shared and bool(await self._rows.read_recent(key))

    async def _enter_build(
        self, context: CallContext, poll: PollRequest, plain: QueueKey, build_id: str, now_ns: int
    ) -> tuple[QueueKey, PollRequest]:
        """Return the queue of a worker with a build id: its set's or its own.

        A sticky queue stays as it is, to run empty.
        """
        sticky = poll.task_queue.kind == _STICKY
        name = poll.task_queue.normal_name if sticky else poll.task_queue.name
        known = await self._deployments.read(context.namespace_id)
        queue, by_set = queue_of_poll(versioning_data(known, name), name, build_id)
        asked = poll
        if by_set or sticky:
            # History would take a build id in a started task for one of rule-based versioning.
            asked = type(poll)()
            asked.CopyFrom(poll)  # type: ignore[arg-type]
            asked.worker_version_capabilities.build_id = ""
        if sticky:
            return plain, asked
        await self._show(context, poll, plain, now_ns)
        key = (context.namespace_id, queue, plain[2])
        if now_ns - self._seen.get(key, 0) >= _AGAIN_NS:
            self._make_room()
            self._seen[key] = now_ns
            await self._check_misrouted(context, name, plain[2])
        return key, asked

    def _make_room(self) -> None:
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()

    async def _show(self, context: CallContext, poll: PollRequest, plain: QueueKey, now_ns: int) -> None:
        """Record the poller under the unversioned queue, whose description shows the pollers of all versions."""
        if not poll.identity:
            return
        if context.can_long_poll:
            note_in_memory(self._queues.get(plain, now_ns), poll.identity, poll, now_ns, self._config)
        shared = self._config.share_pollers or not context.can_long_poll
        if shared and self._rows.is_old(plain, poll.identity, now_ns):
            await self._rows.write([self._rows.record(plain, poll.identity, poll, now_ns)])

    async def _check_misrouted(self, context: CallContext, task_queue: str, task_type: int) -> None:
        """Let history reroute tasks that a change of routing may have left in a queue without pollers."""
        queue = RerouteTasksRequest.Queue(name=task_queue, task_type=task_type)
        try:
            await self._history.RerouteTasks(RerouteTasksRequest(queues=[queue]), context)
        except ServiceError as error:
            log.debug("tasks of queue %s could not be rerouted: %r", task_queue, error)
