"""Backlog probes: one call that tells for many queues whether tasks wait, without taking any.

They serve workers behind a bridge to a function: instead of one long poll per poller, a worker process probes all of
its queues at once, and polls where the answer reports tasks. A prober counts as a poller of these queues.

A count may be out of date: a task may be gone when the poll comes, and the poll is then answered empty.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.clock import SECOND_NS, wait_until
from whistlestop.common.errors import ServiceError, unavailable
from whistlestop.common.notify import task_queue_topic
from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.common.task_queues import is_internal
from whistlestop.matching.pollers import note_in_memory
from whistlestop.matching.polls import ACTIVITY, NEXUS, WORKFLOW, check_poll
from whistlestop.matching.versions import queue_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from temporalio.api.worker.v1.message_pb2 import WorkerHeartbeat

    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.notify import Notifier
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.pollers import PollerRows
    from whistlestop.matching.task_queue.queue import PollRequest, QueueKey, TaskQueue
    from whistlestop.matching.task_queue.queues import Queues
    from whistlestop.matching.timer_scan import TimerScan
    from whistlestop.matching.versions import Versions
    from whistlestop.storage.interface import TaskStore

    PollsByQueue = list[tuple[QueueKey, PollRequest]]

log = logging.getLogger(__name__)

MAX_QUEUES = 200
"""The maximum of queues in one probe; further ones are reported as having a task, so that they are polled."""
_MAX_COUNTED = 100
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MAX_NAME_LENGTH = 80
"""The maximum length of an SQS queue's name."""


class BacklogProbes:
    """Serve ProbeBacklog."""

    def __init__(
        self,
        *,
        store: TaskStore,
        clock: Clock,
        notifier: Notifier,
        config: MatchingConfig,
        queues: Queues,
        rows: PollerRows,
        timer_scan: TimerScan,
        record_heartbeats: Callable[[CallContext, Sequence[WorkerHeartbeat]], Awaitable[None]],
        versions: Versions,
    ) -> None:
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._config = config
        self._queues = queues
        self._rows = rows
        self._timer_scan = timer_scan
        self._record_heartbeats = record_heartbeats
        self._versions = versions
        self._watchers: dict[QueueKey, dict[asyncio.Event, None]] = {}
        """The waiting probes of each queue, in the order in which they came, so that simulations replay."""
        self._closing = False

    def notify(self, key: QueueKey) -> None:
        """Wake the probes that wait for the queue, because a task of it was committed in this process."""
        for event in self._watchers.get(key, ()):
            event.set()

    def close(self) -> None:
        """Answer all waiting probes."""
        self._closing = True
        for events in self._watchers.values():
            for event in events:
                event.set()

    async def probe(
        self, request: worker_pb.ProbeBacklogRequest, context: CallContext
    ) -> worker_pb.ProbeBacklogResponse:
        """Count the waiting tasks of each queue; in a long-lived process, wait until there are some.

        Counts stop at the request's limit. Without any task the answer comes shortly before the caller's deadline.
        Raise UNAVAILABLE when the server is shutting down.
        """
        if self._closing:
            raise unavailable("the server is shutting down")
        polls = list(_polls_of(request, context.namespace_id))
        limit = min(max(request.limit, 1), _MAX_COUNTED)
        if request.heartbeats:
            await self._record_heartbeats(context, request.heartbeats)
        polls = await self._register(polls, context)
        prefix = "" if context.can_long_poll else self._config.notification_queue_prefix
        notification_queue = request.wake_queue if prefix and _is_allowed_queue_name(request.wake_queue, prefix) else ""
        if context.can_long_poll:
            counts = await self._wait_for_tasks(polls, limit, context)
        else:
            counts = await self._count_once(polls, limit, context, notification_queue)
        workflow, activity = len(request.workflow_polls), len(request.activity_polls)
        return worker_pb.ProbeBacklogResponse(
            workflow_tasks=counts[:workflow],
            activity_tasks=counts[workflow : workflow + activity],
            nexus_tasks=counts[workflow + activity :],
            holds=context.can_long_poll,
            wake_queue_prefix=prefix,
            wakes=bool(notification_queue),
        )

    async def _register(self, polls: PollsByQueue, context: CallContext) -> list[tuple[QueueKey, PollRequest]]:
        """Register the versions of the polls, as their first poll would; return the queues that they poll."""
        routed = list(polls)
        now_ns = self._clock.steady_ns()
        for index, (key, poll) in enumerate(polls[:MAX_QUEUES]):
            if self._is_valid(poll):
                try:
                    routed[index] = ((await self._versions.enter(context, poll, key[2], now_ns))[0], poll)
                except ServiceError as error:
                    log.warning("the version that polls %s is not registered: %s", poll.task_queue.name, error.message)
        return routed

    # In a function.

    async def _count_once(
        self, polls: PollsByQueue, limit: int, context: CallContext, notification_queue: str
    ) -> list[int]:
        now_ns = self._clock.steady_ns()
        valid = [(key, poll) for key, poll in polls if self._is_valid(poll)]
        records = [
            self._rows.record(key, poll.identity, poll, now_ns)
            for key, poll in valid
            if poll.identity and self._rows.is_old(key, poll.identity, now_ns)
        ]
        if notification_queue:
            # This is written before the count, so that tasks added later find the row.
            keys = dict.fromkeys(key for key, _ in valid)
            records += (
                self._rows.notification_queue_record(key, notification_queue, now_ns)
                for key in keys
                if self._rows.is_old(key, notification_queue, now_ns)
            )
        if records:
            await self._rows.write(records)
        await self._timer_scan.fire_timers(context, first=True)
        return await self._count(polls, limit)

    # In a long-lived process.

    async def _wait_for_tasks(self, polls: PollsByQueue, limit: int, context: CallContext) -> list[int]:
        now_ns = self._clock.steady_ns()
        end_ns = now_ns + int(self._config.long_poll_s * SECOND_NS)
        if context.deadline_ns is not None:
            end_ns = min(end_ns, context.deadline_ns - int(self._config.poll_margin_s * SECOND_NS))
        keys = {key for key, poll in polls if self._is_valid(poll)}
        queues = [self._record_poll(key, poll, now_ns) for key, poll in polls if key in keys]
        event = asyncio.Event()
        for key in keys:
            self._watchers.setdefault(key, {})[event] = None
        listener = asyncio.ensure_future(self._listen(keys, event)) if self._config.remote_notifications else None
        try:
            while True:
                event.clear()
                counts = await self._count(polls, limit)
                now_ns = self._clock.steady_ns()
                if any(counts) or self._closing or now_ns >= end_ns:
                    return counts
                # A notification may be lost, so count again from time to time.
                again_ns = min(end_ns, now_ns + int(self._config.reread_s * SECOND_NS))
                await wait_until(self._clock, again_ns, event.wait())
        finally:
            if listener is not None:
                listener.cancel()
            for key in keys:
                self._watchers[key].pop(event, None)
                if not self._watchers[key]:
                    del self._watchers[key]
            for queue in queues:
                queue.polls -= 1
                queue.last_poll_ns = self._clock.steady_ns()

    def _record_poll(self, key: QueueKey, poll: PollRequest, now_ns: int) -> TaskQueue:
        """Record that the queue is polled."""
        queue = self._queues.get(key, now_ns)
        queue.polls += 1
        queue.last_poll_ns = now_ns
        queue.worker_shut_down = False
        queue.sticky = poll.task_queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY
        if poll.identity:
            note_in_memory(queue, poll.identity, poll, now_ns, self._config)
            if self._config.share_pollers and self._rows.is_old(key, poll.identity, now_ns):
                self._rows.note(key, poll.identity, poll, now_ns)
        return queue

    async def _listen(self, keys: Iterable[QueueKey], event: asyncio.Event) -> None:
        """Wake the probe when another process reports new tasks."""
        with self._notifier.subscribe(*(task_queue_topic(*key) for key in keys)) as notifications:
            while True:
                if await notifications.wait(self._clock.steady_ns() + int(self._config.long_poll_s * SECOND_NS)):
                    event.set()
                    await self._clock.sleep(self._config.notification_pause_s)

    # In both.

    async def _count(self, polls: Sequence[tuple[QueueKey, PollRequest]], limit: int) -> list[int]:
        counts = [1] * len(polls)
        valid = [index for index, (_, poll) in enumerate(polls[:MAX_QUEUES]) if self._is_valid(poll)]
        found = await self._store.count_tasks([polls[index][0] for index in valid], limit)
        for index, count in zip(valid, found, strict=True):
            counts[index] = count
        return counts

    def _is_valid(self, poll: PollRequest) -> bool:
        try:
            check_poll(poll, self._config.max_id_length)
        except ServiceError:
            return False
        # The frontend refuses polls of internal queues, but probes do not pass that check.
        return not is_internal(poll.task_queue.name)


def _is_allowed_queue_name(name: str, prefix: str) -> bool:
    """Return whether the notification queue's name is allowed, so that no messages go to queues of other uses."""
    return name.startswith(prefix) and len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def _polls_of(request: worker_pb.ProbeBacklogRequest, namespace_id: str) -> Iterator[tuple[QueueKey, PollRequest]]:
    for workflow in request.workflow_polls:
        yield queue_of(namespace_id, workflow, WORKFLOW), workflow
    for activity in request.activity_polls:
        yield queue_of(namespace_id, activity, ACTIVITY), activity
    for nexus in request.nexus_polls:
        yield queue_of(namespace_id, nexus, NEXUS), nexus
