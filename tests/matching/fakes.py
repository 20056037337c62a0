"""A store of tasks, a history service and a way to build things, all in memory and all obedient."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import Encoded, Reply, encoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError, not_found
from whistlestop.common.ids import CountedIds
from whistlestop.common.notify import LocalNotifier, Notifier
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.storage.errors import LeaseLost, Unavailable
from whistlestop.storage.records import Backlog, MatchingTask, PollerRecord, TaskKey, TaskQueueRecord, add_backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.storage.interface import TaskStore

NAMESPACE = "ns-id"
NORMAL = queue_enums.TASK_QUEUE_KIND_NORMAL
STICKY = queue_enums.TASK_QUEUE_KIND_STICKY


class FakeStore:
    """The task tables. `delay` (an awaitable factory) stands in front of each read, to make races."""

    def __init__(self) -> None:
        self.rows: dict[TaskKey, MatchingTask] = {}
        self.queues: dict[tuple[str, str, int], TaskQueueRecord] = {}
        self.pollers: dict[tuple[str, str, int, str], PollerRecord] = {}
        self.reads = 0
        self.rows_read = 0
        self.writes = 0
        self.broken = False
        self.delay: Callable[[], Any] | None = None

    async def _pause(self) -> None:
        if self.delay is not None:
            await self.delay()
        if self.broken:
            raise Unavailable("broken on purpose")

    async def list_tasks(
        self, namespace_id: str, task_queue: str, task_type: int, after: tuple[int, int] | None, limit: int
    ) -> list[MatchingTask]:
        self.reads += 1
        await self._pause()
        rows = [
            row
            for key, row in self.rows.items()
            if (key.namespace_id, key.task_queue, key.task_type) == (namespace_id, task_queue, task_type)
        ]
        rows.sort(key=lambda row: (row.key.priority, row.key.task_id))
        rows = [row for row in rows if after is None or (row.key.priority, row.key.task_id) > after][:limit]
        self.rows_read += len(rows)
        # The answer travels for a moment, too: what it says may be old when it arrives.
        await self._pause()
        return rows

    async def count_tasks(self, queues: Sequence[tuple[str, str, int]], limit: int) -> list[int]:
        return [len(await self.list_tasks(*queue, None, limit)) for queue in queues]

    async def list_tasks_by_level(
        self, namespace_id: str, task_queue: str, task_type: int, after: int, per_level: int, levels: int
    ) -> list[MatchingTask]:
        rows: dict[int, list[MatchingTask]] = {}
        before = self.rows_read
        for row in await self.list_tasks(namespace_id, task_queue, task_type, (after + 1, -1), len(self.rows)):
            rows.setdefault(row.key.priority, []).append(row)
        found = [row for level in sorted(rows)[:levels] for row in rows[level][:per_level]]
        self.rows_read = before + len(found)
        return found

    async def put_tasks(self, tasks: Sequence[MatchingTask]) -> None:
        self.rows.update({task.key: task for task in tasks})

    async def delete_tasks(self, keys: Sequence[TaskKey]) -> None:
        await self._pause()
        for key in keys:
            self.rows.pop(key, None)

    async def backlog(self, namespace_id: str, task_queue: str, task_type: int, limit: int) -> dict[int, Backlog]:
        found: dict[int, Backlog] = {}
        for row in await self.list_tasks(namespace_id, task_queue, task_type, None, limit):
            add_backlog(found, row.key.priority, 1, row.created_ns, limit)
        return found

    async def list_backlogged_queues(
        self, after: tuple[str, str, int] | None, limit: int
    ) -> list[tuple[str, str, int]]:
        names = sorted({(key.namespace_id, key.task_queue, key.task_type) for key in self.rows})
        return [name for name in names if after is None or name > after][:limit]

    async def get_task_queue(self, namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None:
        return self.queues.get((namespace_id, task_queue, task_type))

    async def put_task_queue(self, record: TaskQueueRecord, expected_range_id: int) -> None:
        key = (record.namespace_id, record.task_queue, record.task_type)
        seen = self.queues.get(key)
        if (0 if seen is None else seen.range_id) != expected_range_id:
            raise LeaseLost
        self.queues[key] = record

    async def put_pollers(self, pollers: Sequence[PollerRecord]) -> None:
        self.writes += 1
        for row in pollers:
            self.pollers[row.namespace_id, row.task_queue, row.task_type, row.identity] = row

    async def get_poller(
        self, namespace_id: str, task_queue: str, task_type: int, identity: str
    ) -> PollerRecord | None:
        return self.pollers.get((namespace_id, task_queue, task_type, identity))

    async def list_pollers(
        self, namespace_id: str, task_queue: str, task_type: int, now_ns: int, limit: int, after: str = ""
    ) -> list[PollerRecord]:
        found = [
            row
            for key, row in sorted(self.pollers.items())
            if key[:3] == (namespace_id, task_queue, task_type) and row.expires_ns > now_ns and row.identity > after
        ][:limit]
        self.rows_read += len(found)
        return found


class FakeHistory:
    """Starts a task once: removes its row, answers with the workflow id; NOT_FOUND when the row is gone."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.calls: list[tuple[str, Any]] = []
        self.started: list[str] = []
        self.resets: list[str] = []
        self.before: Callable[[str, Any], Any] | None = None
        """Awaited before the row is looked at; may raise."""
        self.after: Callable[[str, Any], Any] | None = None
        """Awaited when the start has taken place; what it raises, the caller sees."""

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        method = rpc.method
        self.calls.append((method, request))
        if self.before is not None:
            await self.before(method, request)
        message = cast("Any", request)
        if method == "RerouteTasks":
            return Encoded(b"")
        named = message if method == "RecordNexusTaskStarted" else message.execution
        workflow_id = named.workflow_id
        if method == "ResetStickyTask":
            self.resets.append(workflow_id)
            self._remove(workflow_id)
            return Encoded(b"")
        if method == "RecordQueryTaskStarted" or self._remove(workflow_id):
            self.started.append(workflow_id)
        else:
            raise not_found("stale")
        if self.after is not None:
            await self.after(method, request)
        if method == "RecordActivityTaskStarted":
            return Encoded(
                rr.PollActivityTaskQueueResponse(task_token=b"t", activity_id=workflow_id).SerializeToString()
            )
        response = rr.PollWorkflowTaskQueueResponse(task_token=b"t")
        response.workflow_execution.workflow_id = workflow_id
        return Encoded(response.SerializeToString())

    def _remove(self, workflow_id: str) -> bool:
        for key, row in self._store.rows.items():
            if row.workflow_id == workflow_id:
                del self._store.rows[key]
                return True
        return False


class Bench:
    """A matching service with its surroundings."""

    def __init__(
        self, config: MatchingConfig | None = None, *, store: TaskStore | None = None, notifier: Notifier | None = None
    ) -> None:
        self.clock = FakeClock()
        self.rows = FakeStore()
        self.store: TaskStore = store or self.rows
        self.history = FakeHistory(self.rows)
        self.notifier = notifier or LocalNotifier(self.clock)
        self.config = config or MatchingConfig(remote_notifications=False, share_pollers=False)
        self.matching = self.another()
        self._ids = CountedIds()

    def hint_from_elsewhere(self, topic: str) -> None:
        """What another process that wrote says."""
        assert isinstance(self.notifier, LocalNotifier)
        self.notifier.publish([topic], remote=True)

    def another(self, config: MatchingConfig | None = None, notifier: Notifier | None = None) -> Matching:
        """One more process over the same store."""
        return Matching(
            self.store, self.history, self.clock, CountedIds(), notifier or self.notifier, config or self.config
        )

    def task(
        self, name: str, *, queue: str = "q", task_type: int = 1, priority: int = 3, query_id: str = ""
    ) -> MatchingTask:
        """A row of the store."""
        task_id = self._ids.task_id(0)
        key = TaskKey(NAMESPACE, queue, task_type, priority, task_id)
        row = MatchingTask(key, name, "run", 2, 1, self.clock.now_ns(), query_id)
        self.rows.rows[key] = row
        return row

    def commit(self, *names: str, queue: str = "q", task_type: int = 1, priority: int = 3) -> None:
        """Rows that history commits and offers."""
        self.matching.offer([self.task(name, queue=queue, task_type=task_type, priority=priority) for name in names])

    def context(self, seconds: float | None = 70.0, *, can_long_poll: bool = True) -> CallContext:
        deadline_ns = None if seconds is None else self.clock.steady_ns() + round(seconds * SECOND_NS)
        return CallContext(deadline_ns, namespace_id=NAMESPACE, namespace="ns", can_long_poll=can_long_poll)

    def poll(
        self,
        queue: str = "q",
        *,
        seconds: float | None = 70.0,
        identity: str = "me",
        worker: str = "",
        sticky: bool = False,
        can_long_poll: bool = True,
        matching: Matching | None = None,
    ) -> asyncio.Task[rr.PollWorkflowTaskQueueResponse]:
        """A poll of workflow tasks that runs beside the test."""
        request = rr.PollWorkflowTaskQueueRequest(
            namespace="ns",
            task_queue=queue_pb.TaskQueue(
                name=queue, kind=STICKY if sticky else NORMAL, normal_name="q" if sticky else ""
            ),
            identity=identity,
            worker_instance_key=worker,
        )

        async def run() -> rr.PollWorkflowTaskQueueResponse:
            reply = await (matching or self.matching).call(
                MatchingService.PollWorkflowTaskQueue, request, self.context(seconds, can_long_poll=can_long_poll)
            )
            return rr.PollWorkflowTaskQueueResponse.FromString(encoded(reply))

        return asyncio.ensure_future(run())

    def poll_activity(
        self, queue: str = "q", *, rps: float | None = None, seconds: float = 70.0, can_long_poll: bool = True
    ) -> asyncio.Task[rr.PollActivityTaskQueueResponse]:
        """A poll of activity tasks that runs beside the test."""
        request = rr.PollActivityTaskQueueRequest(
            namespace="ns", task_queue=queue_pb.TaskQueue(name=queue, kind=NORMAL), identity="me"
        )
        if rps is not None:
            request.task_queue_metadata.max_tasks_per_second.value = rps

        async def run() -> rr.PollActivityTaskQueueResponse:
            reply = await self.matching.call(
                MatchingService.PollActivityTaskQueue, request, self.context(seconds, can_long_poll=can_long_poll)
            )
            return rr.PollActivityTaskQueueResponse.FromString(encoded(reply))

        return asyncio.ensure_future(run())

    async def ask(self, method: str, request: Message, *, can_long_poll: bool = True) -> Any:
        """A call whose answer is a message."""
        return await self.matching.call(
            MatchingService.rpcs[method], request, self.context(can_long_poll=can_long_poll)
        )


async def settle(rounds: int = 20) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def got(poll: asyncio.Task[rr.PollWorkflowTaskQueueResponse]) -> str:
    """The workflow that a finished poll got ('' for an empty answer)."""
    assert poll.done(), "the poll still waits"
    return poll.result().workflow_execution.workflow_id


def code_of(error: BaseException) -> str:
    assert isinstance(error, ServiceError)
    return error.code.name
