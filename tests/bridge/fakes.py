"""A target in memory, on a fake clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.bridge.counters import OTHER
from whistlestop.bridge.pollers import ACTIVITY, WORKFLOW
from whistlestop.bridge.probe_schedule import NotifiedSchedule
from whistlestop.bridge.probes import OLD_PROBE_PATH, PROBE_PATH
from whistlestop.bridge.service import Bridge
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.errors import Code, ServiceError, unimplemented
from whistlestop.common.proto import worker_pb2 as worker_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


SERVICE = "/temporal.api.workflowservice.v1.WorkflowService/"


class FakeTarget:
    """Queues with numbers of tasks. As a function, or (`holds`) as a server."""

    def __init__(self, clock: FakeClock, *, holds: bool = False) -> None:
        self.clock = clock
        self.holds = holds
        self.tasks: Counter[tuple[str, str]] = Counter()
        self.calls: list[tuple[float, str]] = []
        self.error: ServiceError | None = None
        self.poll_error: ServiceError | None = None
        self.refused: set[str] = set()
        """What nobody is known by."""
        self.is_old = False
        """Knows probes by their name of release 0.1.0 alone."""
        self.garbled = 0
        """The number of probes that get an unreadable answer."""
        self.changed = asyncio.Event()
        self.lag_s = 0.01
        self.answers: dict[str, bytes] = {}
        self.wake_prefix = ""
        self.registered = ""
        self.heartbeats: list[str] = []
        self.last_probe = worker_pb.ProbeBacklogRequest()

    def add(self, queue: str, path: str = WORKFLOW) -> None:
        self.tasks[path, queue] += 1
        self.changed.set()

    def named(self, name: str) -> list[float]:
        return [at for at, called in self.calls if called == name]

    async def call(
        self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float | None, kind: str = OTHER
    ) -> bytes:
        self.calls.append((self.clock.now_ns() / SECOND_NS, path.rpartition("/")[2]))
        await self.clock.sleep(self.lag_s)
        if self.error is not None:
            raise self.error
        if headers.get("authorization") in self.refused:
            raise ServiceError(Code.PERMISSION_DENIED, "Request unauthorized.")
        if path == (PROBE_PATH if self.is_old else OLD_PROBE_PATH):
            raise unimplemented(f"unknown method {path}")
        path = PROBE_PATH if path == OLD_PROBE_PATH else path
        if path == PROBE_PATH and self.garbled:
            self.garbled -= 1
            return b"\xff"
        if path == PROBE_PATH:
            return await self._probe(body, timeout_s or 0)
        if path in (WORKFLOW, ACTIVITY) and self.poll_error is not None:
            raise self.poll_error
        if path in (WORKFLOW, ACTIVITY):
            kind_of: Any = rr.PollWorkflowTaskQueueRequest if path == WORKFLOW else rr.PollActivityTaskQueueRequest
            key = (path, kind_of.FromString(body).task_queue.name)
            if self.tasks[key]:
                self.tasks[key] -= 1
                return rr.PollWorkflowTaskQueueResponse(task_token=b"t").SerializeToString()
            await self.clock.sleep(0.5)
            return b""
        return self.answers.get(path, b"")

    async def _probe(self, body: bytes, timeout_s: float) -> bytes:
        request = self.last_probe = worker_pb.ProbeBacklogRequest.FromString(body)
        self.heartbeats += (each.worker_instance_key for each in request.heartbeats)
        wakes = bool(self.wake_prefix) and request.wake_queue.startswith(self.wake_prefix)
        self.registered = request.wake_queue if wakes else ""
        end_ns = self.clock.steady_ns() + int((timeout_s - 1) * SECOND_NS)
        while True:
            workflow = [self.tasks[WORKFLOW, poll.task_queue.name] for poll in request.workflow_polls]
            activity = [self.tasks[ACTIVITY, poll.task_queue.name] for poll in request.activity_polls]
            if any(workflow + activity) or not self.holds or self.clock.steady_ns() >= end_ns:
                return worker_pb.ProbeBacklogResponse(
                    workflow_tasks=workflow,
                    activity_tasks=activity,
                    holds=self.holds,
                    wake_queue_prefix=self.wake_prefix,
                    wakes=wakes,
                ).SerializeToString()
            self.changed.clear()
            waits = [asyncio.ensure_future(self.changed.wait()), asyncio.ensure_future(self.clock.sleep(1))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()


class FakeQueue:
    """A notification queue that does what a test says."""

    def __init__(self) -> None:
        self.name = ""
        self.prefixes: list[str] = []
        self._listeners: list[Callable[[], None]] = []

    def set_prefix(self, prefix: str) -> None:
        if not self.prefixes:
            self.rename(f"{prefix}1")
        self.prefixes.append(prefix)

    def listen(self, notify: Callable[[], None]) -> None:
        self._listeners.append(notify)

    def rename(self, name: str) -> None:
        """It is listened to from now on, or (empty) no more."""
        self.name = name
        self.message()

    def message(self) -> None:
        for notify in self._listeners:
            notify()


class Bench:
    """A bridge over a fake target, with a notification queue if the target wakes."""

    def __init__(self, *, holds: bool = False, wakes: bool = False) -> None:
        self.clock = FakeClock()
        self.target = FakeTarget(self.clock, holds=holds)
        self.queue = FakeQueue()
        self.target.wake_prefix = "stack-bridge-" if wakes else ""
        make_schedule = (lambda: NotifiedSchedule(self.clock, self.queue)) if wakes else None
        self.bridge = Bridge(self.target, self.clock, make_schedule=make_schedule)

    async def advance(self, seconds: float) -> None:
        """Let everything begin that can, and then time pass."""
        for _ in range(20):
            await asyncio.sleep(0)
        await self.clock.advance(seconds)

    def poll(
        self,
        queue: str = "q",
        path: str = WORKFLOW,
        seconds: float = 70,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> asyncio.Task[bytes]:
        kind: Any = rr.PollWorkflowTaskQueueRequest if path == WORKFLOW else rr.PollActivityTaskQueueRequest
        fields = {"identity": "me", **fields}
        request = kind(namespace="default", task_queue=queue_pb.TaskQueue(name=queue), **fields)
        deadline_ns = self.clock.steady_ns() + int(seconds * SECOND_NS)
        return asyncio.ensure_future(self.bridge.call(path, request.SerializeToString(), headers or {}, deadline_ns))

    async def polling(self, queue: str, path: str = WORKFLOW) -> None:
        """Poll again and again, as an SDK does."""
        while True:
            await self.poll(queue, path)

    def worker(self) -> list[asyncio.Task[None]]:
        """The pollers of an ordinary worker: workflow tasks, sticky ones, activities; five of each."""
        queues = [("q", WORKFLOW), ("host:sticky", WORKFLOW), ("q", ACTIVITY)]
        return [asyncio.ensure_future(self.polling(*queue)) for queue in queues for _ in range(5)]

    async def call(self, method: str, data: bytes = b"") -> bytes:
        return await self.bridge.call(SERVICE + method, data, {}, None)
