"""The pollers of each queue: in memory for this process, in rows for the others.

A row is written when a poller is new or its row has grown old, and several are written together: a busy worker costs a
small write every ten seconds, an idle one a write per long poll.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS
from whistlestop.storage.errors import StorageError
from whistlestop.storage.notifications import notification_queue_record
from whistlestop.storage.records import PollerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.clock import Clock
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.task_queue.queue import PollRequest, QueueKey, TaskQueue
    from whistlestop.net.tasks.background import Background
    from whistlestop.storage.interface import TaskStore

log = logging.getLogger(__name__)

UNLIMITED_RPS = 100_000.0
"""The rate that Temporal reports for a poller that sent no limit."""

_ROWS_REMEMBERED = 50_000
_SKEW_NS = 60 * SECOND_NS
"""The maximum difference between the wall clocks of two processes."""


def worker_rps(poll: PollRequest) -> float | None:
    """Return the limit, in tasks per second, that an activity poll brings; None when it brings none."""
    if isinstance(poll, rr.PollActivityTaskQueueRequest) and poll.HasField("task_queue_metadata"):
        metadata = poll.task_queue_metadata
        if metadata.HasField("max_tasks_per_second"):
            return metadata.max_tasks_per_second.value
    return None


def poller_info(identity: str, last_access_ns: int, poll: PollRequest) -> queue_pb.PollerInfo:
    """Return what DescribeTaskQueue shows of a poller. `last_access_ns` is the wall clock's."""
    rps = worker_rps(poll)
    info = queue_pb.PollerInfo(
        identity=identity,
        last_access_time=timestamp_pb2.Timestamp(seconds=last_access_ns // SECOND_NS, nanos=last_access_ns % SECOND_NS),
        rate_per_second=UNLIMITED_RPS if rps is None else rps,
    )
    if poll.HasField("worker_version_capabilities"):
        info.worker_version_capabilities.CopyFrom(poll.worker_version_capabilities)
    if poll.HasField("deployment_options"):
        info.deployment_options.CopyFrom(poll.deployment_options)
    return info


def build_of(info: queue_pb.PollerInfo) -> str:
    """Return the build under which the enhanced description shows a poller; empty: unversioned."""
    if info.worker_version_capabilities.use_versioning:
        return info.worker_version_capabilities.build_id
    options = info.deployment_options
    if options.worker_versioning_mode == deployment_enums.WORKER_VERSIONING_MODE_VERSIONED:
        return f"{options.deployment_name}:{options.build_id}"
    return ""


class PollerRows:
    """Read and write the rows of pollers."""

    def __init__(self, store: TaskStore, clock: Clock, config: MatchingConfig, background: Background) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._known_ns = known_ns(config)
        self._background = background
        self._written_ns: dict[tuple[QueueKey, str], int] = {}
        self._waiting: dict[tuple[QueueKey, str], PollerRecord] = {}
        self._busy = False

    def is_old(self, key: QueueKey, identity: str, now_ns: int) -> bool:
        """Return whether the poller's row should be written again. `now_ns` is the steady clock's, as in `record`."""
        written_s = min(self._config.poller_write_s, self._config.poller_ttl_s / 2)
        return now_ns - self._written_ns.get((key, identity), 0) >= written_s * SECOND_NS

    def note(self, key: QueueKey, identity: str, poll: PollRequest, now_ns: int) -> None:
        """Write the poller's row soon, in the background."""
        self._waiting[(key, identity)] = self.record(key, identity, poll, now_ns)
        if not self._busy:
            self._busy = True
            self._background.spawn(self._run())

    def record(self, key: QueueKey, identity: str, poll: PollRequest, now_ns: int) -> PollerRecord:
        """Return the poller's row for the caller to write, and remember it as written."""
        if len(self._written_ns) >= _ROWS_REMEMBERED:
            self._written_ns.clear()
        self._written_ns[(key, identity)] = now_ns
        wall_ns = self._clock.now_ns()
        data = poller_info(identity, wall_ns, poll).SerializeToString()
        return PollerRecord(*key, identity, wall_ns, data, wall_ns + self._known_ns)

    def notification_queue_record(self, key: QueueKey, notification_queue: str, now_ns: int) -> PollerRecord:
        """Return the row by which the notification queue is notified of tasks, for the caller to write."""
        self._written_ns[(key, notification_queue)] = now_ns
        wall_ns = self._clock.now_ns()
        return notification_queue_record(*key, notification_queue, wall_ns, wall_ns + self._known_ns)

    async def write(self, records: Iterable[PollerRecord]) -> None:
        """Write the rows now. A failure is only logged: a lost row costs a line in a description."""
        try:
            await self._store.put_pollers(list(records))
        except StorageError as error:
            log.warning("poller rows could not be written: %s", error)

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                await self.write(waiting.values())
        finally:
            self._busy = False

    async def read(self, key: QueueKey) -> list[PollerRecord]:
        """Return the rows of the queue's pollers that have not expired.

        A row that expires later than any written now was written before the wall clock was set back. It is ignored: a
        live poller writes its row again. Raise StorageError.
        """
        now_ns = self._clock.now_ns()
        rows = await self._store.list_pollers(*key, now_ns, self._config.pollers_per_queue)
        return [row for row in rows if row.expires_ns <= now_ns + self._known_ns + _SKEW_NS]

    async def read_recent(self, key: QueueKey) -> list[PollerRecord]:
        """Return the rows of the pollers that descriptions show; empty without any. Raise StorageError."""
        since_ns = self._clock.now_ns() - int(self._config.poller_ttl_s * SECOND_NS)
        return [row for row in await self.read(key) if row.last_access_ns >= since_ns]

    async def remove(self, key: QueueKey, identity: str) -> bool:
        """Expire the row of a poller that shut down at once; with an empty identity, all rows of the queue.

        Return False when there is no such row. Raise StorageError.
        """
        now_ns = self._clock.now_ns()
        rows = [row for row in await self.read(key) if not identity or row.identity == identity]
        for row in rows:
            self._written_ns.pop((key, row.identity), None)
            self._waiting.pop((key, row.identity), None)
        if rows:
            await self.write(
                PollerRecord(*key, row.identity, max(now_ns, row.last_access_ns), row.data, expires_ns=now_ns)
                for row in rows
            )
        return bool(rows)


def note_in_memory(queue: TaskQueue, identity: str, poll: PollRequest, now_ns: int, config: MatchingConfig) -> None:
    """Record in memory that the poller polled at `now_ns`, in place of the oldest when there are too many."""
    pollers = queue.pollers
    if identity not in pollers and len(pollers) >= config.pollers_per_queue:
        forget_old(queue, now_ns, config)
        while len(pollers) >= config.pollers_per_queue:
            del pollers[next(iter(pollers))]
    pollers[identity] = (now_ns, poll)


def recent_pollers(queue: TaskQueue, now_ns: int, config: MatchingConfig) -> dict[str, tuple[int, PollRequest]]:
    """Return the pollers in memory that descriptions show; empty if there are none."""
    forget_old(queue, now_ns, config)
    since_ns = now_ns - int(config.poller_ttl_s * SECOND_NS)
    return {identity: known for identity, known in queue.pollers.items() if known[0] >= since_ns}


def known_ns(config: MatchingConfig) -> int:
    """Return how long a poller is remembered, in nanoseconds."""
    return int(max(config.poller_ttl_s, config.poller_row_s) * SECOND_NS)


def forget_old(queue: TaskQueue, now_ns: int, config: MatchingConfig) -> None:
    """Remove pollers that have not polled for longer than `known_ns`."""
    limit_ns = now_ns - known_ns(config)
    for identity in [identity for identity, (seen_ns, _) in queue.pollers.items() if seen_ns < limit_ns]:
        del queue.pollers[identity]
