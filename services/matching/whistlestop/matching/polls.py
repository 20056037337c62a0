"""Long polls: pick a task, let history start it and answer; or wait; or answer empty before the deadline.

There are two modes. In a long-lived process a poll works on the queue in memory and waits as a future among its
waiters. In a function (`context.can_long_poll` is False) nothing is remembered: each attempt reads the store, and the
poll waits only briefly.

History's reply is passed on without being parsed; matching appends its own fields in serialised form. NOT_FOUND from
history means that the task is stale, and its row is deleted. Any other error leaves the row, and the poll continues.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common import task_queues
from whistlestop.common.clients import Encoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument, unavailable
from whistlestop.common.fairness import is_keyed
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.proto.nexus_pb2 import (
    NexusTaskData,
    RecordNexusRequestStartedRequest,
    RecordNexusTaskStartedRequest,
)
from whistlestop.matching.pollers import note_in_memory, worker_rps
from whistlestop.matching.task_queue.dispatch_order import in_random_order
from whistlestop.matching.task_queue.queue import Waiter
from whistlestop.matching.task_queue.queues import read_fairly
from whistlestop.matching.task_queue.scaling import advise, own_fields
from whistlestop.matching.task_queue.settings import settings_of
from whistlestop.storage.errors import StorageError
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.pollers import PollerRows
    from whistlestop.matching.row_deletes import RowDeletes
    from whistlestop.matching.task_queue.queue import PollRequest, QueueKey, TaskQueue
    from whistlestop.matching.task_queue.queues import Queues
    from whistlestop.matching.task_queue.settings import Refusal, Settings
    from whistlestop.matching.timer_scan import TimerScan
    from whistlestop.matching.versions import Versions
    from whistlestop.matching.workers.heartbeats import Workers
    from whistlestop.net.tasks.deadline_queue import DeadlineQueue
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask
    from whistlestop.storage.set_aside import SetAside

log = logging.getLogger(__name__)

WORKFLOW: Final = int(queue_enums.TASK_QUEUE_TYPE_WORKFLOW)
ACTIVITY: Final = int(queue_enums.TASK_QUEUE_TYPE_ACTIVITY)
NEXUS: Final = int(queue_enums.TASK_QUEUE_TYPE_NEXUS)

EMPTY: Final = Encoded(b"")
"""The answer of a poll that got no task: an empty message of any kind."""

_MAX_FAILURES = 10
"""After this many failures, some ten minutes, a task is set aside."""


class Counters:
    """Counters of how polls ended, for metrics."""

    __slots__ = ("backlogged", "empty", "failed", "fresh", "polls", "stale")

    def __init__(self) -> None:
        self.polls = self.empty = self.fresh = self.backlogged = self.stale = self.failed = 0


class Polls:
    """Serve workflow, activity and Nexus polls."""

    def __init__(
        self,
        *,
        store: TaskStore,
        history: HistoryService,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        config: MatchingConfig,
        deadlines: DeadlineQueue,
        queues: Queues,
        rows: PollerRows,
        deletes: RowDeletes,
        settings: Settings,
        workers: Workers,
        timer_scan: TimerScan,
        versions: Versions,
        aside: SetAside,
    ) -> None:
        self._store = store
        self._history = history
        self._clock = clock
        self._ids = ids
        self._notifier = notifier
        self._config = config
        self._deadlines = deadlines
        self._queues = queues
        self._rows = rows
        self._deletes = deletes
        self._settings = settings
        self._workers = workers
        self._timer_scan = timer_scan
        self._versions = versions
        self._aside = aside
        self._settings_ns = int(config.queue_config_s * SECOND_NS)
        self.counters = Counters()
        self.closing = False

    async def poll(self, task_type: int, poll: PollRequest, context: CallContext) -> Reply:
        """Serve one poll. Return EMPTY when no task came in time, or when the worker has shut down.

        Raise INVALID_ARGUMENT for a malformed poll, FAILED_PRECONDITION for a too short deadline, and UNAVAILABLE when
        the server is shutting down.
        """
        if self.closing:
            raise unavailable("the server is shutting down")
        now_ns = self._clock.steady_ns()
        config = self._config
        if context.deadline_ns is None:
            end_ns = now_ns + int(config.long_poll_s * SECOND_NS)
        else:
            left_ns = context.deadline_ns - now_ns
            if context.can_long_poll and left_ns < config.shortest_poll_s * SECOND_NS:
                raise failed_precondition("Context timeout is too short.")
            end_ns = now_ns + min(int(config.long_poll_s * SECOND_NS), left_ns)
        check_poll(poll, config.max_id_length)
        self.counters.polls += 1
        if self._workers.has_left(poll.worker_instance_key, now_ns):
            self.counters.empty += 1
            return EMPTY
        try:
            key, poll = await self._versions.enter(context, poll, task_type, now_ns)
            if context.can_long_poll:
                if context.deadline_ns is not None:
                    end_ns = min(end_ns, context.deadline_ns - int(config.poll_margin_s * SECOND_NS))
                reply = await self._poll_in_memory(key, poll, context, now_ns, end_ns)
            else:
                if context.deadline_ns is not None:
                    end_ns = min(end_ns, context.deadline_ns - int(config.function_margin_s * SECOND_NS))
                end_ns = min(end_ns, now_ns + int(config.function_wait_s * SECOND_NS))
                reply = await self._poll_function(key, poll, context, now_ns, end_ns)
        except StorageError as error:
            raise service_error(error) from error
        if reply is EMPTY:
            self.counters.empty += 1
        return reply

    # In a long-lived process.

    async def _poll_in_memory(
        self, key: QueueKey, poll: PollRequest, context: CallContext, now_ns: int, end_ns: int
    ) -> Reply:
        queue = self._queues.find(key) or self._queues.get(key, now_ns)
        queue.polls += 1
        queue.last_poll_ns = now_ns
        queue.worker_shut_down = False
        if queue.listener is None:
            self._queues.listen(queue)
        queue.sticky = poll.task_queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY
        identity = poll.identity
        if identity:
            note_in_memory(queue, identity, poll, now_ns, self._config)
            if self._config.share_pollers and self._rows.is_old(key, identity, now_ns):
                self._rows.note(key, identity, poll, now_ns)
        try:
            if key[2] != WORKFLOW or queue.fair is not None:
                await self._bring_limits(queue, poll, now_ns)
            reply = await self._serve(queue, poll, context, now_ns, end_ns)
        finally:
            queue.polls -= 1
            queue.last_poll_ns = now_ns = self._clock.steady_ns()
        if identity and identity in queue.pollers:
            queue.pollers[identity] = (now_ns, poll)
        return reply

    async def _bring_limits(self, queue: TaskQueue, poll: PollRequest, now_ns: int) -> None:
        ready_ns = queue.limiter.ready_ns
        queue.limiter.set_worker_rps(worker_rps(poll), now_ns)
        if now_ns - queue.config_read_ns >= self._settings_ns:
            await self._settings.refresh(queue, now_ns)
        if queue.limiter.ready_ns != ready_ns:
            queue.limits_changed(now_ns)

    async def _serve(
        self, queue: TaskQueue, poll: PollRequest, context: CallContext, began_ns: int, end_ns: int
    ) -> Reply:
        now_ns = began_ns
        while now_ns < end_ns:
            if queue.needs_read(now_ns):
                await self._queues.read(queue)
                if queue.fair is not None:
                    await self._bring_limits(queue, poll, now_ns)
                now_ns = self._clock.steady_ns()
            fresh = False
            task = None if queue.waiters else queue.take(now_ns)
            if task is None:
                # The worker may have shut down while the store was read above; then nobody would end this poll.
                if self.closing or self._workers.has_left(poll.worker_instance_key, now_ns):
                    break
                waiter = await self._wait(queue, poll, end_ns)
                task, fresh = waiter.future.result(), waiter.fresh
                if task is None:
                    break
            limited = queue.limiter.is_set or queue.key_rate is not None
            if limited and self._config.share_pollers and not await self._shared_token(queue, task, poll):
                now_ns = self._clock.steady_ns()
                continue
            reply = await self._start_from(queue, task, poll, context)
            now_ns = self._clock.steady_ns()
            if reply is not None:
                if fresh:
                    self.counters.fresh += 1
                else:
                    self.counters.backlogged += 1
                delta = advise(queue, self._config, now_ns - began_ns, now_ns, self._clock.now_ns, fresh=fresh)
                return with_own_fields(reply, own_fields(queue.key[2], queue.backlog, delta))
        return EMPTY

    async def _wait(self, queue: TaskQueue, poll: PollRequest, end_ns: int) -> Waiter:
        """Wait until there is a task, the time is over, or the poll is ended; return the finished waiter."""
        future: asyncio.Future[MatchingTask | None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(future, poll)
        queue.wait(waiter)
        deadline = waiter.deadline = self._deadlines.call_at(end_ns, waiter.end)
        try:
            await future
        except asyncio.CancelledError:
            # The client went away. A task that was assigned to it at this moment goes to the next poll.
            if not future.cancelled() and (task := future.result()) is not None:
                queue.release(task, self._clock.steady_ns())
            raise
        finally:
            self._deadlines.cancel(deadline)
            queue.waiters.pop(waiter, None)
        return waiter

    async def _shared_token(self, queue: TaskQueue, task: MatchingTask, poll: PollRequest) -> bool:
        """Take a token from the buckets in the queue's row, which all processes share.

        Return False, with the task put back until there is a token, when the limit is used up.
        """
        wall_ns = self._clock.now_ns()
        try:
            refusal = await self._settings.take_shared_token(queue.key, worker_rps(poll), task, wall_ns)
        except BaseException:
            queue.release(task, self._clock.steady_ns())
            raise
        if refusal is None:
            return True
        delay = queue.delay_key if refusal.of_key else queue.delay
        now_ns = self._clock.steady_ns()
        delay(task, refusal.again_ns(now_ns), now_ns)
        return False

    async def _start_from(
        self, queue: TaskQueue, task: MatchingTask, poll: PollRequest, context: CallContext
    ) -> Reply | None:
        """Let history start a task of the queue; return None when the poll should try another."""
        try:
            reply = await self._start(task, poll, context)
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                self.counters.stale += 1
                queue.finish(task, dispatched=False, now_ns=self._clock.steady_ns())
                self._deletes.add(task.key)
            elif error.code is Code.DATA_LOSS:
                await self._set_aside(task, error, queue)
            else:
                self.counters.failed += 1
                log.debug("a task of workflow %s/%s could not be started: %r", task.workflow_id, task.run_id, error)
                queue.retry_later(task, self._clock.steady_ns())
            return None
        except asyncio.CancelledError:
            queue.forget_unconfirmed(task, self._clock.steady_ns())
            raise
        except Exception as error:
            if isinstance(error, DecodeError) or queue.failures_of(task) >= _MAX_FAILURES:
                await self._set_aside(task, error, queue)
                return None
            self.counters.failed += 1
            log.exception("a task of workflow %s/%s could not be started", task.workflow_id, task.run_id)
            queue.retry_later(task, self._clock.steady_ns())
            return None
        if task.query_id:
            # Deleted first, so that no read of the queue finds it again after it is forgotten here.
            await self._store.delete_tasks([task.key])
        queue.finish(task, dispatched=True, now_ns=self._clock.steady_ns())
        return reply

    async def _set_aside(self, task: MatchingTask, error: BaseException, queue: TaskQueue | None = None) -> None:
        """Set aside a task that can't be started and remove it from its queue, where each poll would try it first."""
        self.counters.failed += 1
        await self._aside.note("tasks", (task.key.namespace_id, task.workflow_id, task.run_id), error)
        if queue is None:
            await self._store.delete_tasks([task.key])
        else:
            queue.finish(task, dispatched=False, now_ns=self._clock.steady_ns())
            self._deletes.add(task.key)

    async def _start(self, task: MatchingTask, poll: PollRequest, context: CallContext) -> Reply:
        return await start_task(self._history, task, poll, self._ids, context)

    # In a function.

    async def _poll_function(
        self, key: QueueKey, poll: PollRequest, context: CallContext, now_ns: int, end_ns: int
    ) -> Reply:
        if poll.identity and self._rows.is_old(key, poll.identity, now_ns):
            await self._rows.write([self._rows.record(key, poll.identity, poll, now_ns)])
        with self._notifier.subscribe(f"q/{key[0]}/{key[2]}/{key[1]}") as notifications:
            first = True
            while True:
                await self._timer_scan.fire_timers(context, first=first)
                first = False
                rows = await self._candidates(key)
                again_ns, spent = end_ns, set[int]()
                for index, task in enumerate(rows):
                    if task.key.priority in spent:
                        continue
                    if key[2] != WORKFLOW and (refusal := await self._token(key, poll, task, end_ns)) is not None:
                        if not refusal.of_key:
                            return EMPTY
                        spent.add(task.key.priority)
                        again_ns = min(again_ns, refusal.again_ns(self._clock.steady_ns()))
                        continue
                    reply = await self._start_row(task, poll, context)
                    if reply is not None:
                        self.counters.backlogged += 1
                        return with_own_fields(reply, own_fields(key[2], len(rows) - index - 1, 0))
                if not await notifications.wait(again_ns) and self._clock.steady_ns() >= end_ns:
                    return EMPTY

    async def _candidates(self, key: QueueKey) -> list[MatchingTask]:
        """Return a page of tasks in the order in which to try them.

        With fairness keys the order is drawn at random by weight, because nothing is remembered between polls.
        """
        rows = await self._store.list_tasks(*key, None, self._config.page)
        if not rows or not is_keyed(rows[0].key.priority):
            return rows
        window = await read_fairly(self._store, key)
        settings = settings_of(await self._settings.read(key))
        return in_random_order(window.rows, settings.fairness_weight_overrides, self._draw)

    def _draw(self) -> float:
        """Return a random number above 0 and up to 1."""
        return (zlib.crc32(self._ids.uuid().encode()) + 1) / 2**32

    async def _token(self, key: QueueKey, poll: PollRequest, task: MatchingTask, end_ns: int) -> Refusal | None:
        """Take a token of the queue's rate limits, waiting for the queue's as long as the poll may.

        Return None with a token, otherwise the refusal. There is no wait for the limit of a key, since other keys may
        go on.
        """
        while True:
            refusal = await self._settings.take_shared_token(key, worker_rps(poll), task, self._clock.now_ns())
            if refusal is None or refusal.of_key or refusal.again_ns(self._clock.steady_ns()) >= end_ns:
                return refusal
            await self._clock.sleep(refusal.after_ns / SECOND_NS)

    async def _start_row(self, task: MatchingTask, poll: PollRequest, context: CallContext) -> Reply | None:
        try:
            reply = await self._start(task, poll, context)
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                self.counters.stale += 1
                await self._store.delete_tasks([task.key])
            elif error.code is Code.DATA_LOSS:
                await self._set_aside(task, error)
            else:
                self.counters.failed += 1
            return None
        except DecodeError as error:
            await self._set_aside(task, error)
            return None
        if task.query_id:
            await self._store.delete_tasks([task.key])
        return reply


def start_task(
    history: HistoryService, task: MatchingTask, poll: PollRequest, ids: Ids, context: CallContext
) -> Awaitable[Reply]:
    """Ask history to start `task` for `poll`, and return what the poll is answered with.

    Raise ServiceError: NOT_FOUND for a task that is stale.
    """
    if isinstance(poll, rr.PollActivityTaskQueueRequest):
        return start_activity_task(history, task, poll, ids, context)
    if isinstance(poll, rr.PollNexusTaskQueueRequest) and task.query_id:
        return history.RecordNexusRequestStarted(
            RecordNexusRequestStartedRequest(query_id=task.query_id, namespace_id=task.key.namespace_id),
            context,
        )
    if isinstance(poll, rr.PollNexusTaskQueueRequest):
        return history.RecordNexusTaskStarted(
            RecordNexusTaskStartedRequest(
                task=NexusTaskData.FromString(task.data),
                workflow_id=task.workflow_id,
                run_id=task.run_id,
                scheduled_event_id=task.scheduled_event_id,
                stamp=task.stamp,
                poll=poll,
                handler_namespace_id=task.key.namespace_id,
            ),
            context,
        )
    execution = common_pb.WorkflowExecution(workflow_id=task.workflow_id, run_id=task.run_id)
    if task.query_id:
        return history.RecordQueryTaskStarted(
            internal.RecordQueryTaskStartedRequest(
                execution=execution, query_id=task.query_id, poll=poll, task_queue=task.key.task_queue
            ),
            context,
        )
    return history.RecordWorkflowTaskStarted(
        internal.RecordWorkflowTaskStartedRequest(
            execution=execution,
            scheduled_event_id=task.scheduled_event_id,
            stamp=task.stamp,
            request_id=ids.uuid(),
            poll=poll,
            task_queue=task.key.task_queue,
        ),
        context,
    )


def start_activity_task(
    history: HistoryService, task: MatchingTask, poll: rr.PollActivityTaskQueueRequest, ids: Ids, context: CallContext
) -> Awaitable[rr.PollActivityTaskQueueResponse | Encoded]:
    """Ask history to start an activity task. Raise ServiceError: NOT_FOUND for a task that is stale."""
    request = internal.RecordActivityTaskStartedRequest(
        execution=common_pb.WorkflowExecution(workflow_id=task.workflow_id, run_id=task.run_id),
        scheduled_event_id=task.scheduled_event_id,
        stamp=task.stamp,
        request_id=ids.uuid(),
        poll=poll,
    )
    return history.RecordActivityTaskStarted(request, context)


def with_own_fields(reply: Reply, fields: bytes) -> Reply:
    """Return history's reply merged with matching's own serialised fields."""
    if not fields:
        return reply
    if isinstance(reply, Encoded):
        return Encoded(reply.data + fields)
    reply.MergeFromString(fields)
    return reply


def check_poll(poll: PollRequest, max_length: int) -> None:
    """Raise INVALID_ARGUMENT for a poll that Temporal refuses, with its wording."""
    if len(poll.identity) > max_length:
        raise invalid_argument("Identity length exceeds limit.")
    if not poll.HasField("task_queue"):
        raise invalid_argument("taskQueue is not set")
    check_queue_name(poll.task_queue.name, max_length)


def check_queue_name(name: str, max_length: int, *, partitions: bool = False) -> None:
    """Raise INVALID_ARGUMENT for a name that no task queue can have."""
    if not name:
        raise invalid_argument("missing task queue name")
    if len(name) > max_length:
        raise invalid_argument("taskQueue length exceeds limit")
    if not partitions and name.startswith(task_queues.RESERVED_PREFIX):
        raise invalid_argument(task_queues.RESERVED)
