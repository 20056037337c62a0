"""The matching service: task queues, polls and workers.

Its methods are registered by the decorator `handles`, and know no transport. Nothing held in memory is needed for
correctness: a fresh instance per call (`context.can_long_poll` False) works on the store alone; in a long-lived process
memory only saves reads.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError, data_loss, unimplemented
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.handlers import Handlers
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.backlog_probes import BacklogProbes
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.offers import tasks_of
from whistlestop.matching.pollers import PollerRows
from whistlestop.matching.polls import ACTIVITY, NEXUS, WORKFLOW, Polls
from whistlestop.matching.row_deletes import RowDeletes
from whistlestop.matching.task_queue.describe import Descriptions
from whistlestop.matching.task_queue.queues import Queues
from whistlestop.matching.task_queue.settings import Settings
from whistlestop.matching.timer_scan import NoTimerScan
from whistlestop.matching.versions import Versions
from whistlestop.matching.workers.heartbeats import Workers, count_workers, describe_worker, list_workers
from whistlestop.matching.workers.rows import WorkerRows
from whistlestop.net.tasks.background import Background
from whistlestop.net.tasks.deadline_queue import DeadlineQueue
from whistlestop.storage.errors import StorageError
from whistlestop.storage.set_aside import SetAside
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from google.protobuf.message import Message
    from temporalio.api.worker.v1 import message_pb2 as worker_pb

    from whistlestop.common.clients import Encoded, Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.proto import worker_pb2 as probe_pb
    from whistlestop.common.proto.deployment_pb2 import (
        CheckComputeRequest,
        CheckComputeResponse,
        DescribeVersionQueuesRequest,
        DescribeVersionQueuesResponse,
        PushWorkersRequest,
        PushWorkersResponse,
    )
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.matching.polls import Counters
    from whistlestop.matching.push.provider import Provider
    from whistlestop.matching.push.pusher import Pusher
    from whistlestop.matching.task_queue.queue import PollRequest, QueueKey, TaskQueue
    from whistlestop.matching.timer_scan import TimerScan
    from whistlestop.matching.workers.heartbeats import KnownWorkers
    from whistlestop.net.outbound import Outbound
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

_LONG_POLL_S = 70.0
"""The row of a poll that another process holds may show when the poll began: up to a long poll and a margin ago."""

_RESET_PAGE = 100
_RESET_PAGES = 100


HANDLERS: Handlers[Matching] = Handlers()
handles = HANDLERS.register


class Matching:
    """Serve task queues, polls and workers. Call it from one event loop."""

    rpcs = MatchingService.rpcs

    def __init__(
        self,
        store: TaskStore,
        history: Channel,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        config: MatchingConfig | None = None,
        *,
        timer_scan: TimerScan | None = None,
        providers: Mapping[str, Provider] | None = None,
        outbound: Outbound | None = None,
    ) -> None:
        config = config or MatchingConfig()
        self._store = store
        history_service = self._history = HistoryService(history)
        self._clock = clock
        self._config = self.config = config
        self._window_ns = int(config.sticky_window_s * SECOND_NS)
        self._deadlines = DeadlineQueue(clock)
        self._background = Background(log, "background work of matching failed")
        self._queues = Queues(store, clock, notifier, config, self._deadlines, self._background)
        self._rows = PollerRows(store, clock, config, self._background)
        self._settings = Settings(store, config)
        self._workers = Workers(config)
        self._worker_rows = WorkerRows(store, config)
        self._descriptions = Descriptions(store, clock, config, self._queues, self._rows, self._settings)
        versions = self._versions = Versions(store, history_service, clock, config, self._queues, self._rows)
        self.aside = SetAside(store, clock)  # type: ignore[arg-type]  # a store of tasks is all of a store
        """Tasks that could not be started."""
        self._polls = Polls(
            store=store,
            history=history_service,
            clock=clock,
            ids=ids,
            notifier=notifier,
            config=config,
            deadlines=self._deadlines,
            queues=self._queues,
            rows=self._rows,
            deletes=RowDeletes(store, self._background),
            settings=self._settings,
            workers=self._workers,
            timer_scan=timer_scan or NoTimerScan(),
            versions=versions,
            aside=self.aside,
        )
        self._probes = BacklogProbes(
            store=store, clock=clock, notifier=notifier, config=config, queues=self._queues, rows=self._rows,
            timer_scan=timer_scan or NoTimerScan(), record_heartbeats=self._record_heartbeats, versions=versions,
        )  # fmt: skip
        self._ids = ids
        self._outbound = outbound
        self._providers = providers
        self._made_pusher: Pusher | None = None

    @property
    def counters(self) -> Counters:
        """Counters of how polls have ended."""
        return self._polls.counters

    @property
    def waiting(self) -> int:
        """The number of waiting polls."""
        return sum(len(queue.waiters) for queue in self._queues)

    @property
    def known_backlog(self) -> int:
        """The number of ready tasks in memory."""
        return sum(queue.backlog for queue in self._queues)

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Serve an RPC of MatchingService and return its reply. Raise ServiceError."""
        handler = HANDLERS.functions.get(rpc.method)
        if handler is None:
            raise unimplemented(f"matching has no method {rpc.method}")
        try:
            return await handler(self, request, context)
        except StorageError as error:
            raise service_error(error) from error
        except DecodeError as error:
            # Requests were parsed earlier, so this is about stored data.
            raise data_loss(f"{rpc.method} found stored data that can't be read: {error}") from error

    def offer(self, tasks: Sequence[MatchingTask]) -> None:
        """Pass on tasks that were just committed, so that waiting polls get them without reading the store."""
        now_ns = self._clock.steady_ns()
        for task in tasks:
            key = task.key
            queue_key = (key.namespace_id, key.task_queue, key.task_type)
            queue = self._queues.find(queue_key) or self._queues.get(queue_key, now_ns)
            queue.sticky = queue.sticky or task.sticky
            if queue.sticky and not task.query_id and not queue.polled_since(now_ns - self._window_ns):
                self._background.spawn(self._reset_if_unpolled(task, queue_key))
            queue.offer(task, now_ns)
            self._probes.notify(queue_key)

    async def settle(self) -> None:
        """In a function: finish background work before the answer goes out."""
        await self._background.join()

    async def close(self) -> None:
        """Answer all open polls empty, refuse new ones, and finish background work."""
        self._polls.closing = True
        self._probes.close()
        self._queues.close()
        self._deadlines.close()
        await self._background.join()

    # Polls.

    @handles(MatchingService.PollWorkflowTaskQueue)
    def _poll_workflow(
        self, request: PollRequest, context: CallContext
    ) -> Awaitable[rr.PollWorkflowTaskQueueResponse | Encoded]:
        poll: Awaitable[Any] = self._polls.poll(WORKFLOW, request, context)
        return poll

    @handles(MatchingService.PollActivityTaskQueue)
    def _poll_activity(
        self, request: PollRequest, context: CallContext
    ) -> Awaitable[rr.PollActivityTaskQueueResponse | Encoded]:
        poll: Awaitable[Any] = self._polls.poll(ACTIVITY, request, context)
        return poll

    @handles(MatchingService.PollNexusTaskQueue)
    async def _poll_nexus(
        self, request: rr.PollNexusTaskQueueRequest, context: CallContext
    ) -> rr.PollNexusTaskQueueResponse | Encoded:
        if request.worker_heartbeat:
            await self._record_heartbeats(context, request.worker_heartbeat)
        reply: Any = await self._polls.poll(NEXUS, request, context)
        answer: rr.PollNexusTaskQueueResponse | Encoded = reply
        return answer

    @handles(MatchingService.ProbeBacklog)
    def _probe_backlog(
        self, request: probe_pb.ProbeBacklogRequest, context: CallContext
    ) -> Awaitable[probe_pb.ProbeBacklogResponse]:
        return self._probes.probe(request, context)

    def _is_shared(self, context: CallContext) -> bool:
        """Return whether other processes may know of pollers and workers that this one does not: then rows are used."""
        return self._config.share_pollers or not context.can_long_poll

    # Queues.

    @handles(MatchingService.DescribeTaskQueue)
    async def _describe_task_queue(
        self, request: rr.DescribeTaskQueueRequest, context: CallContext
    ) -> rr.DescribeTaskQueueResponse:
        return await self._descriptions.describe(request, context)

    @handles(MatchingService.DescribeVersionQueues)
    async def _describe_version_queues(
        self, request: DescribeVersionQueuesRequest, context: CallContext
    ) -> DescribeVersionQueuesResponse:
        return await self._descriptions.version_queues(request, context)

    @handles(MatchingService.ListTaskQueuePartitions)
    async def _list_partitions(
        self, request: rr.ListTaskQueuePartitionsRequest, context: CallContext
    ) -> rr.ListTaskQueuePartitionsResponse:
        return self._descriptions.partitions(request)

    @handles(MatchingService.UpdateTaskQueueConfig)
    async def _update_config(
        self, request: rr.UpdateTaskQueueConfigRequest, context: CallContext
    ) -> rr.UpdateTaskQueueConfigResponse:
        config = await self._settings.update(context.namespace_id, request, self._clock.now_ns())
        queue = self._queues.find((context.namespace_id, request.task_queue, int(request.task_queue_type)))
        if queue is not None:
            now_ns = self._clock.steady_ns()
            await self._settings.refresh(queue, now_ns)
            queue.limits_changed(now_ns)
        return rr.UpdateTaskQueueConfigResponse(config=config)

    @handles(MatchingService.OfferTasks)
    async def _offer_tasks(self, request: internal.OfferTasksRequest, context: CallContext) -> internal.Empty:
        if context.can_long_poll:  # a function has no waiting polls
            self.offer(tasks_of(request))
        return internal.Empty()

    @handles(MatchingService.HasPoller)
    async def _has_poller(
        self, request: internal.HasPollerRequest, context: CallContext
    ) -> internal.HasPollerResponse | Encoded:
        key = (context.namespace_id, request.task_queue, request.task_type or WORKFLOW)
        if request.in_history:
            return internal.HasPollerResponse(has_poller=await self._versions.has_pollers(key, context))
        window_ns = request.within_s * SECOND_NS or self._window_ns
        found = await self._is_polled(key, window_ns, shared=self._is_shared(context))
        return internal.HasPollerResponse(has_poller=found)

    async def _is_polled(self, key: QueueKey, window_ns: int, *, shared: bool) -> bool:
        queue = self._queues.find(key)
        if queue is not None and queue.polled_since(self._clock.steady_ns() - window_ns):
            return True
        if not shared:
            return False
        since_ns = self._clock.now_ns() - window_ns - int(_LONG_POLL_S * SECOND_NS)
        return any(row.last_access_ns >= since_ns for row in await self._rows.read(key))

    # Sticky queues.

    async def _reset_if_unpolled(self, task: MatchingTask, key: QueueKey) -> None:
        try:
            if not await self._is_polled(key, self._window_ns, shared=self._config.share_pollers):
                await self._reset_sticky(task, CallContext(namespace_id=key[0]))
        except StorageError as error:
            log.debug("the pollers of queue %s could not be read: %s", key[1], error)

    async def _reset_sticky(self, task: MatchingTask, context: CallContext) -> None:
        """Ask history to move the task to the normal queue. If that fails, its schedule-to-start timeout moves it."""
        request = internal.ResetStickyTaskRequest(
            execution=common_pb.WorkflowExecution(workflow_id=task.workflow_id, run_id=task.run_id),
            scheduled_event_id=task.scheduled_event_id,
            stamp=task.stamp,
        )
        try:
            await self._history.ResetStickyTask(request, context)
        except ServiceError as error:
            log.debug("sticky task of %s/%s was not moved to a normal queue: %r", task.workflow_id, task.run_id, error)

    # Workers.

    @property
    def _pusher(self) -> Pusher:
        """The pusher, created at first use: most cold starts do without it."""
        if self._made_pusher is None:
            from whistlestop.matching.push.pusher import Pusher

            self._made_pusher = Pusher(
                store=self._store, history=self._history, clock=self._clock, ids=self._ids, config=self._config,
                queues=self._queues, rows=self._rows, background=self._background, providers=self._providers,
                outbound=self._outbound,
            )  # fmt: skip
        return self._made_pusher

    @handles(MatchingService.CheckCompute)
    async def _check_compute(self, request: CheckComputeRequest, context: CallContext) -> CheckComputeResponse:
        return await self._pusher.check(request, context)

    @handles(MatchingService.PushWorkers)
    async def _push_workers(self, request: PushWorkersRequest, context: CallContext) -> PushWorkersResponse:
        return await self._pusher.push(request, context)

    @handles(MatchingService.ShutdownWorker)
    async def _shutdown_worker(
        self, request: rr.ShutdownWorkerRequest, context: CallContext
    ) -> rr.ShutdownWorkerResponse:
        namespace_id = context.namespace_id
        if request.HasField("worker_heartbeat"):
            await self._record_heartbeats(context, [request.worker_heartbeat])
        if request.worker_instance_key:
            self._workers.leave(request.worker_instance_key, self._clock.steady_ns())
        types = [int(kind) for kind in request.task_queue_types] or [WORKFLOW, ACTIVITY]
        named = {(namespace_id, request.task_queue, task_type) for task_type in types} if request.task_queue else set()
        for queue in self._queues:
            if queue.key[0] == namespace_id and queue.waiters:
                self._end_polls(queue, request, named=queue.key in named)
        shared = self._is_shared(context)
        for key in named:
            if request.identity:
                await self._forget_pollers(key, request.identity, shared=shared)
        if request.task_queue and request.identity:
            await self._pusher.left(context, request, types)
        if request.sticky_task_queue:
            await self._leave_sticky((namespace_id, request.sticky_task_queue, WORKFLOW), context, shared=shared)
        return rr.ShutdownWorkerResponse()

    def _end_polls(self, queue: TaskQueue, request: rr.ShutdownWorkerRequest, *, named: bool) -> None:
        """End the worker's polls: by its instance key, or, without one, by its identity on the queue that it names."""
        for waiter in list(queue.waiters):
            if request.worker_instance_key:
                is_ended = waiter.poll.worker_instance_key == request.worker_instance_key
            else:
                is_ended = named and bool(request.identity) and waiter.poll.identity == request.identity
            if is_ended:
                waiter.end()

    async def _forget_pollers(self, key: QueueKey, identity: str, *, shared: bool) -> None:
        queue = self._queues.find(key)
        if queue is not None:
            if identity:
                queue.pollers.pop(identity, None)
            else:
                queue.pollers.clear()
        if shared:
            await self._rows.remove(key, identity)

    async def _leave_sticky(self, key: QueueKey, context: CallContext, *, shared: bool) -> None:
        """End the polls of a sticky queue whose worker is gone, and move its tasks to the normal queue."""
        await self._forget_pollers(key, "", shared=shared)
        queue = self._queues.find(key)
        if queue is not None:
            for waiter in list(queue.waiters):
                waiter.end()
            queue.sticky = True
            queue.worker_shut_down = True
            queue.drain()
        after: tuple[int, int] | None = None
        for _ in range(_RESET_PAGES):
            tasks = await self._store.list_tasks(*key, after, _RESET_PAGE)
            for task in tasks:
                if not task.query_id:
                    await self._reset_sticky(task, context)
            if len(tasks) < _RESET_PAGE:
                break
            after = (tasks[-1].key.priority, tasks[-1].key.task_id)

    async def _record_heartbeats(self, context: CallContext, heartbeats: Sequence[worker_pb.WorkerHeartbeat]) -> None:
        self._workers.record(context.namespace_id, heartbeats, self._clock.steady_ns())
        if self._is_shared(context):
            await self._worker_rows.write(context.namespace_id, heartbeats, self._clock.now_ns())

    def _known_workers(self, context: CallContext) -> tuple[KnownWorkers, int]:
        """Return the source of heartbeats and its current time: rows use the wall clock, memory the steady one."""
        if self._is_shared(context):
            return self._worker_rows, self._clock.now_ns()
        return self._workers, self._clock.steady_ns()

    @handles(MatchingService.RecordWorkerHeartbeat)
    async def _record_heartbeat(
        self, request: rr.RecordWorkerHeartbeatRequest, context: CallContext
    ) -> rr.RecordWorkerHeartbeatResponse:
        await self._record_heartbeats(context, request.worker_heartbeat)
        return rr.RecordWorkerHeartbeatResponse()

    @handles(MatchingService.ListWorkers)
    async def _list_workers(self, request: rr.ListWorkersRequest, context: CallContext) -> rr.ListWorkersResponse:
        known, now_ns = self._known_workers(context)
        return await list_workers(known, context.namespace_id, request, now_ns)

    @handles(MatchingService.CountWorkers)
    async def _count_workers(self, request: rr.CountWorkersRequest, context: CallContext) -> rr.CountWorkersResponse:
        known, now_ns = self._known_workers(context)
        return await count_workers(known, context.namespace_id, request, now_ns)

    @handles(MatchingService.DescribeWorker)
    async def _describe_worker(
        self, request: rr.DescribeWorkerRequest, context: CallContext
    ) -> rr.DescribeWorkerResponse:
        known, now_ns = self._known_workers(context)
        return await describe_worker(known, context.namespace_id, request, now_ns)
