"""What the bridge does with a call: pass it on, or let it wait here.

A call is a path, bytes, metadata and a deadline, independent of the transport; a reply is bytes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.bridge import pollers, waits
from whistlestop.bridge.counters import HEARTBEAT, OTHER, WAIT, Counters
from whistlestop.bridge.probe_schedule import AdaptiveSchedule
from whistlestop.bridge.progress import Progress, Step, step_of
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError, deadline_exceeded, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.bridge.pollers import PollRequest
    from whistlestop.bridge.probe_schedule import ProbeSchedule
    from whistlestop.bridge.target import Target
    from whistlestop.common.clock import Clock

logger = logging.getLogger(__name__)

_SERVICE: Final = "/temporal.api.workflowservice.v1.WorkflowService/"
_SHUTDOWN: Final = _SERVICE + "ShutdownWorker"
_WORKER_HEARTBEAT: Final = _SERVICE + "RecordWorkerHeartbeat"
_HEARTBEATS: Final = frozenset({
    _WORKER_HEARTBEAT, _SERVICE + "RecordActivityTaskHeartbeat", _SERVICE + "RecordActivityTaskHeartbeatById",
})  # fmt: skip
_WORK_WHILE_CALLED: Final = frozenset({
    _SERVICE + name for name in ("QueryWorkflow", "UpdateWorkflowExecution", "ExecuteMultiOperation")
})  # fmt: skip
"""A worker has to answer before these calls end."""
_WORK_AFTERWARDS: Final = frozenset({
    _SERVICE + name
    for name in (
        "StartWorkflowExecution", "SignalWorkflowExecution", "SignalWithStartWorkflowExecution",
        "RequestCancelWorkflowExecution", "TerminateWorkflowExecution", "ResetWorkflowExecution",
        "UpdateWorkflowExecutionOptions", "RespondWorkflowTaskCompleted", "RespondWorkflowTaskFailed",
        "RespondActivityTaskCompleted", "RespondActivityTaskCompletedById", "RespondActivityTaskFailed",
        "RespondActivityTaskFailedById", "RespondActivityTaskCanceled", "RespondActivityTaskCanceledById",
        "RespondQueryTaskCompleted", "RespondNexusTaskCompleted", "RespondNexusTaskFailed", "ResetStickyTaskQueue",
        "UnpauseActivity", "ResetActivity", "UnpauseWorkflowExecution", "PatchSchedule", "CreateSchedule",
    )
})  # fmt: skip
"""There may be a task after these calls have ended."""
_CALLER_ENDS_S = 0.02


class Bridge:
    """Serves the calls of a worker process and its clients."""

    def __init__(
        self,
        target: Target,
        clock: Clock,
        counters: Counters | None = None,
        make_schedule: Callable[[], ProbeSchedule] | None = None,
    ) -> None:
        self._target = target
        self._clock = clock
        self.counters = counters or Counters()
        self._make_schedule = make_schedule or (lambda: AdaptiveSchedule(clock))
        self._namespaces: dict[str, pollers.NamespacePolls] = {}
        self._progress = Progress()
        self._long_polls: bool | None = None
        self._closing = False

    async def call(self, path: str, data: bytes, headers: Mapping[str, str], deadline_ns: int | None) -> bytes:
        """Serve a call and return the reply. Raises ServiceError.

        `deadline_ns` is on the steady clock; None: no deadline.
        """
        kind = pollers.POLLS.get(path)
        if kind is not None:
            return await self._poll(path, kind, data, headers, deadline_ns)
        namespace = waits.long_poll_namespace(path, data)
        if namespace is not None:
            return await self._wait(namespace, path, data, headers, deadline_ns)
        if path in _WORK_WHILE_CALLED:
            self._expect_work(after_s=_CALLER_ENDS_S)
        elif path == _SHUTDOWN:
            await self._end_polls(data)
        elif path == _WORKER_HEARTBEAT and self._defer_heartbeat(data):
            return b""
        elif path in _WORK_AFTERWARDS:
            for each in self._namespaces.values():
                each.schedule.call_started()
        answer = await self._target.call(
            path, data, headers, self._remaining_s(deadline_ns), HEARTBEAT if path in _HEARTBEATS else OTHER
        )
        if path in _WORK_AFTERWARDS:
            self._expect_work()
            self._progress.notify(step_of(path, data))
        return answer

    @property
    def waiting(self) -> int:
        """The number of polls of workers that are waiting here."""
        return sum(each.waiting for each in self._namespaces.values())

    async def close(self) -> None:
        """End all waiting calls."""
        self._closing = True
        self._progress.notify(Step())
        for each in self._namespaces.values():
            await each.close()

    def _remaining_s(self, deadline_ns: int | None) -> float | None:
        if deadline_ns is None:
            return None
        remaining_s = (deadline_ns - self._clock.steady_ns()) / SECOND_NS
        if remaining_s <= 0:
            raise deadline_exceeded()
        return remaining_s

    # Polls.

    async def _poll(
        self, path: str, kind: type[PollRequest], data: bytes, headers: Mapping[str, str], deadline_ns: int | None
    ) -> bytes:
        if self._closing:
            raise unavailable("the bridge is shutting down")
        try:
            request = kind.FromString(data)
        except DecodeError as error:
            raise ServiceError(Code.INTERNAL, "grpc: error unmarshalling request") from error
        polls = self._namespaces.get(request.namespace)
        if polls is None:
            polls = self._namespaces[request.namespace] = pollers.NamespacePolls(
                request.namespace, self._target, self._clock, self._make_schedule(), self.counters
            )
        return await polls.poll(path, request, data, headers, deadline_ns)

    async def _end_polls(self, data: bytes) -> None:
        """End the polls of a worker that is shutting down, as a server does."""
        try:
            request = rr.ShutdownWorkerRequest.FromString(data)
        except DecodeError:
            return
        polls = self._namespaces.get(request.namespace)
        if polls is not None:
            polls.end_where(lambda poll: _belongs_to(poll, request), request.worker_instance_key)
            await polls.settle()

    def _defer_heartbeat(self, data: bytes) -> bool:
        """Return whether the heartbeat is kept for the next check."""
        try:
            request = rr.RecordWorkerHeartbeatRequest.FromString(data)
        except DecodeError:
            return False
        polls = self._namespaces.get(request.namespace)
        if polls is None or polls.long_polls or not polls.waiting:
            return False
        return polls.heartbeats.defer(request.worker_heartbeat)

    def _expect_work(self, after_s: float = 0.0) -> None:
        for each in self._namespaces.values():
            each.schedule.expect_work(after_s)

    # Waits of clients.

    async def _wait(
        self, namespace: str, path: str, data: bytes, headers: Mapping[str, str], deadline_ns: int | None
    ) -> bytes:
        if await self._target_long_polls(namespace, headers):
            return await self._target.call(path, data, headers, self._remaining_s(deadline_ns), WAIT)
        return await waits.wait(self._target, self._clock, self._progress, path, data, headers, deadline_ns)

    async def _target_long_polls(self, namespace: str, headers: Mapping[str, str]) -> bool:
        """Return whether waiting is free at the target: known from checks, or asked once if there is no worker."""
        if any(each.long_polls for each in self._namespaces.values()):
            return True
        if self._long_polls is None:
            try:
                self._long_polls = await pollers.long_polls(self._target, namespace, headers)
            except ServiceError as error:
                logger.debug("checking whether the target supports long polls failed: %s", error.message)
                return False
        return self._long_polls


def _belongs_to(poll: PollRequest, request: rr.ShutdownWorkerRequest) -> bool:
    """Return whether a poll belongs to the worker that is shutting down.

    It is identified by its instance key or, without one, by its sticky queue or its identity on the named queue.
    """
    if request.worker_instance_key:
        return poll.worker_instance_key == request.worker_instance_key
    name = poll.task_queue.name
    if request.sticky_task_queue and name == request.sticky_task_queue:
        return True
    return bool(request.identity) and name == request.task_queue and poll.identity == request.identity
