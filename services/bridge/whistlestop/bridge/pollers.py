"""The polls of workers: they wait here, and a single check (ProbeBacklog) for all of them goes to the target.

A poll is passed on only after a check has found a task for it; waiting polls cost the target nothing. A task that was
received for a poll goes to that poll or, if it was cancelled meanwhile, to another one of the same queue, worker and
credential, even one that arrives a little later.

There is one check at a time per namespace. A server holds it until there is a task (it is replaced by another one
when a further queue is polled); a function answers at once, and `ProbeSchedule` decides when to check again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.bridge.counters import POLL
from whistlestop.bridge.heartbeats import Heartbeats
from whistlestop.bridge.probes import Prober
from whistlestop.common.clock import SECOND_NS, wait_until
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.common.timing.backoff import backoff
from whistlestop.common.versioning.deployments import version_of, version_string

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from whistlestop.bridge.counters import Counters
    from whistlestop.bridge.probe_schedule import ProbeSchedule
    from whistlestop.bridge.target import Target
    from whistlestop.common.clock import Clock

    PollRequest: TypeAlias = (
        rr.PollWorkflowTaskQueueRequest | rr.PollActivityTaskQueueRequest | rr.PollNexusTaskQueueRequest
    )

log = logging.getLogger(__name__)

_SERVICE: Final = "/temporal.api.workflowservice.v1.WorkflowService/"
WORKFLOW: Final = _SERVICE + "PollWorkflowTaskQueue"
ACTIVITY: Final = _SERVICE + "PollActivityTaskQueue"
NEXUS: Final = _SERVICE + "PollNexusTaskQueue"
POLLS: Final[Mapping[str, type[PollRequest]]] = {
    WORKFLOW: rr.PollWorkflowTaskQueueRequest,
    ACTIVITY: rr.PollActivityTaskQueueRequest,
    NEXUS: rr.PollNexusTaskQueueRequest,
}

LONG_POLL_S = 60.0
MARGIN_S = 3.0
"""How long before the caller's deadline an empty reply is sent, so that a task received last still arrives."""
POLL_S = 2.2
"""Deadline of a poll that is passed on. Servers refuse polls of less than two seconds."""
SHORT_PROBE_S = 1.0
"""Every target answers a check with this deadline at once."""
_MAX_AT_ONCE = 20
_SHUTDOWN_MEMORY_S = 30.0
"""How long polls of a worker that has shut down are answered at once."""
_KEPT_S = 5.0
"""How long a task is kept whose poll was cancelled: half the default workflow task timeout."""
_BATCHING_S = 0.01
"""Polls of a worker that arrive within this time share a check."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0
_TRANSIENT = frozenset({
    Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNKNOWN, Code.ABORTED,
    Code.CANCELLED,
})  # fmt: skip

_AUTHORIZATION = "authorization"

Key: TypeAlias = tuple[str, str, str]
"""Path of the poll, name of its queue, and the worker's deployment version: versions get different tasks."""


@dataclass(eq=False, slots=True)
class Poller:
    """A waiting poll. Its future gets the bytes of the reply, or a ServiceError."""

    key: Key
    request: PollRequest
    data: bytes
    headers: Mapping[str, str]
    future: asyncio.Future[bytes]
    end_ns: int
    sent: bool = False
    """It has been passed on to the target."""
    worker_shuts_down: bool = False
    """Its worker is shutting down: it gets an empty reply unless it has been passed on."""
    worker: tuple[Key, str, str] = field(init=False)
    """Polls with equal values may get each other's tasks: queue, identity, and credential."""

    def __post_init__(self) -> None:
        self.worker = (self.key, self.request.identity, self.headers.get(_AUTHORIZATION, ""))

    def answer(self, data: bytes) -> None:
        """Send the reply to the poller; nothing happens if it was answered or has gone."""
        if not self.future.done():
            self.future.set_result(data)

    def fail(self, error: ServiceError) -> None:
        """Send the error to the poller; nothing happens if it was answered or has gone."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Probe:
    """A check in progress."""

    keys: frozenset[Key]
    """Queues that need no other check now: those in the check, and those with polls that were passed on."""
    task: asyncio.Task[worker_pb.ProbeBacklogResponse]
    is_long_poll: bool
    superseded: bool = field(default=False)


class NamespacePolls:
    """All polls of a namespace."""

    def __init__(
        self, namespace: str, target: Target, clock: Clock, schedule: ProbeSchedule, counters: Counters
    ) -> None:
        self._namespace = namespace
        self._target = target
        self._prober = Prober(target)
        self._clock = clock
        self.schedule = schedule
        self._counters = counters
        self.heartbeats = Heartbeats(clock)
        self._waiting: dict[Key, dict[Poller, None]] = {}
        self._sent: set[Poller] = set()
        self._shutdown_until_ns: dict[str, int] = {}
        """Instance keys of workers that have shut down, and until when they are remembered."""
        self._busy: set[Key] = set()
        """Queues with polls that were passed on: the result of a check would be outdated for them."""
        self._probed: frozenset[Key] = frozenset()
        self._limit = 1
        """The number of tasks up to which the last check counted."""
        self._poll_failures = 0
        """Consecutive failures of polls that were passed on."""
        self._kept: list[tuple[int, tuple[Key, str, str], bytes]] = []
        """Tasks whose polls were cancelled: until when they are kept, and for which worker."""
        self._probe: _Probe | None = None
        self._arrived = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self.long_polls = False

    async def poll(
        self, path: str, request: PollRequest, data: bytes, headers: Mapping[str, str], deadline_ns: int | None
    ) -> bytes:
        """Wait for a task; return empty bytes if none arrives in time. Raises ServiceError."""
        end_ns = self._clock.steady_ns() + int(LONG_POLL_S * SECOND_NS)
        if deadline_ns is not None:
            end_ns = min(end_ns, deadline_ns - int(MARGIN_S * SECOND_NS))
        if self._shutdown_until_ns.get(request.worker_instance_key, 0) > self._clock.steady_ns():
            return b""
        key = (path, request.task_queue.name, _version(request))
        poller = Poller(key, request, data, headers, asyncio.get_running_loop().create_future(), end_ns)
        kept = self._kept_for(poller)
        if kept:
            return kept
        self._add(poller)
        ender = asyncio.ensure_future(self._clock.sleep((end_ns - self._clock.steady_ns()) / SECOND_NS))
        try:
            both: set[asyncio.Future[Any]] = {poller.future, ender}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if poller.future.done() or poller.sent:
                return await poller.future
            return b""
        finally:
            ender.cancel()
            poller.future.cancel()
            self._remove(poller)

    def end_where(self, is_ended: Callable[[PollRequest], bool], worker_instance_key: str = "") -> None:
        """End the polls of a worker that is shutting down, and those that it sends from now on."""
        now_ns = self._clock.steady_ns()
        if worker_instance_key:
            self._shutdown_until_ns = {
                key: until_ns for key, until_ns in self._shutdown_until_ns.items() if until_ns > now_ns
            }
            self._shutdown_until_ns[worker_instance_key] = now_ns + int(_SHUTDOWN_MEMORY_S * SECOND_NS)
        for poller in self._sent:
            poller.worker_shuts_down = poller.worker_shuts_down or is_ended(poller.request)
        for pollers in list(self._waiting.values()):
            for poller in list(pollers):
                if is_ended(poller.request):
                    self._remove(poller)
                    poller.answer(b"")

    async def settle(self) -> None:
        """Wait for calls in progress, other than those that the target holds.

        A function does not remember which workers have left, and any later poll or check would register the worker
        again: so its ShutdownWorker has to be the last call.
        """
        probe = self._probe
        if self.long_polls or (probe is not None and probe.is_long_poll):
            return
        in_progress: set[asyncio.Future[Any]] = {*self._sending}
        if probe is not None:
            in_progress.add(probe.task)
        if in_progress:
            await asyncio.wait(in_progress)

    @property
    def waiting(self) -> int:
        """The number of waiting polls."""
        return sum(map(len, self._waiting.values()))

    async def close(self) -> None:
        """End all polls: with the target's reply if they were passed on, else empty."""
        self.end_where(lambda _: True)
        if self._loop is not None:
            self._loop.cancel()
        if self._sending:
            # Deliver tasks that the target has already handed out.
            await wait_until(self._clock, self._clock.steady_ns() + int(POLL_S * SECOND_NS), self._sent_all())
        late = tuple(self._sent)
        tasks = [task for task in (self._loop, *self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for poller in late:
            poller.answer(b"")

    async def _sent_all(self) -> None:
        await asyncio.gather(*self._sending, return_exceptions=True)

    # Waiting polls.

    def _add(self, poller: Poller, *, first: bool = False) -> None:
        pollers = self._waiting.setdefault(poller.key, {})
        if first:
            self._waiting[poller.key] = {poller: None, **pollers}
        else:
            pollers[poller] = None
        self._request_probe(poller.key)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name=f"probes of {self._namespace}")

    def _remove(self, poller: Poller) -> None:
        pollers = self._waiting.get(poller.key)
        if pollers is not None:
            pollers.pop(poller, None)
            if not pollers:
                del self._waiting[poller.key]

    def _request_probe(self, key: Key) -> None:
        """Include the queue in the next check, replacing a held check that lacks it."""
        if key in self._busy:
            return
        self._arrived.set()
        probe = self._probe
        if key in (self._probed if probe is None else probe.keys):
            return
        if probe is not None and probe.is_long_poll:
            probe.superseded = True
            probe.task.cancel()
        else:
            self.schedule.probe_soon(_BATCHING_S)

    # Checking for tasks.

    async def _run(self) -> None:
        failures = 0
        while True:
            keys = self._waiting.keys() - self._busy
            if not keys:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            is_prompted = True
            if not self.long_polls:
                is_prompted = await self.schedule.wait()
                keys = self._waiting.keys() - self._busy
                if not keys:
                    # A check is due while all polls are passed on: check again for whichever comes back.
                    self._probed = frozenset()
                    continue
            began_ns, was_long_poll = self._clock.steady_ns(), self.long_polls
            poller = next(iter(self._waiting[next(iter(keys))]))
            try:
                found = await self._probe_once(keys, poller.headers, is_prompted=is_prompted)
            except ServiceError as error:
                failures = await self._failed(error, poller, failures)
                continue
            failures = 0
            if found is None:
                continue
            if was_long_poll and not found and self._clock.steady_ns() - began_ns < SECOND_NS:
                await self._clock.sleep(_RETRY_FIRST_S)  # the target should hold checks, but did not this time
            for key, count in found.items():
                self._send(key, count)

    async def _probe_once(
        self, keys: Iterable[Key], headers: Mapping[str, str], *, is_prompted: bool
    ) -> dict[Key, int] | None:
        """Return the number of waiting tasks by queue; None if the check was replaced by another one."""
        by_key = {key: next(iter(self._waiting[key])) for key in keys}
        request = worker_pb.ProbeBacklogRequest(namespace=self._namespace)
        ordered: dict[str, list[Key]] = {WORKFLOW: [], ACTIVITY: [], NEXUS: []}
        lists = {
            WORKFLOW: request.workflow_polls, ACTIVITY: request.activity_polls, NEXUS: request.nexus_polls
        }  # fmt: skip
        for key, poller in by_key.items():
            ordered[key[0]].append(key)
            lists[key[0]].append(poller.request)  # type: ignore[attr-defined]  # each list takes its own kind
        # Count up to one more than the number of polls, to know whether tasks are left.
        request.limit = self._limit = min(max(len(self._waiting[key]) for key in by_key), _MAX_AT_ONCE) + 1
        heartbeats = self.heartbeats.waiting()
        request.heartbeats.extend(heartbeats)
        request.wake_queue = self.schedule.notification_queue
        is_long_poll = self.long_polls
        timeout_s = LONG_POLL_S if is_long_poll else SHORT_PROBE_S
        work = self._prober.probe(request, headers, timeout_s)
        # A notification may be for a queue whose poll was passed on: check it when the poll is back.
        self._probed = frozenset(by_key) if is_prompted else frozenset(by_key) | self._busy
        self._probe = probe = _Probe(self._probed, asyncio.ensure_future(work), is_long_poll)
        try:
            answer = await probe.task
        except asyncio.CancelledError:
            probe.task.cancel()
            task = asyncio.current_task()
            if probe.superseded and not (task is not None and task.cancelling()):
                return None
            raise
        finally:
            self._probe = None
        self.long_polls = answer.holds
        self.heartbeats.delivered(heartbeats)
        self.schedule.record_answer(answer.wake_queue_prefix, registered=answer.wakes)
        found: dict[Key, int] = {}
        answers = ((WORKFLOW, answer.workflow_tasks), (ACTIVITY, answer.activity_tasks), (NEXUS, answer.nexus_tasks))
        for path, counts in answers:
            found |= {key: count for key, count in zip(ordered[path], counts, strict=False) if count}
        return found

    async def _failed(self, error: ServiceError, prober: Poller, failures: int) -> int:
        """Wait before the next check. A permanent error is returned to every poll with the same credential."""
        if error.code not in _TRANSIENT:
            for pollers in list(self._waiting.values()):
                for poller in list(pollers):
                    if poller.worker[-1] == prober.worker[-1]:
                        self._remove(poller)
                        poller.fail(error)
            return 0
        pause_s = backoff(_RETRY_FIRST_S, failures + 1, _RETRY_MOST_S)
        if failures == 0:
            log.warning("checking for tasks of %s failed, trying again: %s", self._namespace, error.message)
        # A different process, which does not hold checks, may answer the next one.
        self.long_polls = False
        await self._clock.sleep(pause_s)
        self.schedule.probe_soon()
        return min(failures + 1, 10)

    # Passing polls on.

    def _send(self, key: Key, count: int) -> None:
        pollers = list(self._waiting.get(key, ()))[:count]
        if not pollers:
            return
        self._busy.add(key)
        for poller in pollers:
            poller.sent = True
            self._sent.add(poller)
            self._remove(poller)
        task = asyncio.create_task(self._send_all(key, pollers, more=count > len(pollers) or count >= self._limit))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_all(self, key: Key, pollers: list[Poller], *, more: bool) -> None:
        """Pass polls on. `more`: tasks may be left for which there is no poll."""
        try:
            served = await asyncio.gather(*(self._send_one(poller) for poller in pollers))
        finally:
            self._busy.discard(key)
            self._sent.difference_update(pollers)
        if any(served) and more:
            self.schedule.probe_soon()
        elif any(served):
            self.schedule.call_started()
        if key in self._waiting:
            self._request_probe(key)

    async def _send_one(self, poller: Poller) -> bool:
        """Pass a poll on and return whether there was a task."""
        try:
            data = await self._target.call(poller.key[0], poller.data, poller.headers, POLL_S, POLL)
        except ServiceError as error:
            if error.code not in _TRANSIENT:
                poller.fail(error)
            else:
                pause_s = backoff(_RETRY_FIRST_S, self._poll_failures + 1, _RETRY_MOST_S)
                self._poll_failures = min(self._poll_failures + 1, 10)
                await self._clock.sleep(pause_s)
                self._wait_again(poller)
                self.schedule.probe_soon()  # the task that was found is probably still there
            return False
        self._poll_failures = 0
        if not data:
            self._wait_again(poller)
            return False
        self._counters.tasks += 1
        if poller.future.done():
            successor = self._successor(poller)
            if successor is None:
                log.warning("a task of %s was received for a poll that was cancelled meanwhile", poller.key[1])
                self._kept.append((self._clock.steady_ns() + int(_KEPT_S * SECOND_NS), poller.worker, data))
                return True
            self._remove(successor)
            successor.answer(data)
            return True
        poller.answer(data)
        return True

    def _wait_again(self, poller: Poller) -> None:
        """Make the poll wait again, because there was no task."""
        poller.sent = False
        self._sent.discard(poller)
        if poller.worker_shuts_down or self._clock.steady_ns() >= poller.end_ns:
            poller.answer(b"")
        elif not poller.future.done():
            self._add(poller, first=True)

    def _successor(self, cancelled: Poller) -> Poller | None:
        for poller in self._waiting.get(cancelled.key, ()):
            if poller.worker == cancelled.worker:
                return poller
        return None

    def _kept_for(self, poller: Poller) -> bytes:
        now_ns = self._clock.steady_ns()
        self._kept = [kept for kept in self._kept if kept[0] > now_ns]
        for kept in self._kept:
            if kept[1] == poller.worker:
                self._kept.remove(kept)
                return kept[2]
        return b""


def _version(request: PollRequest) -> str:
    version = version_of(request.deployment_options)
    return "" if version is None else version_string(version)


async def long_polls(target: Target, namespace: str, headers: Mapping[str, str]) -> bool:
    """Ask the target whether it holds calls at no cost. Raises ServiceError."""
    answer = await Prober(target).probe(worker_pb.ProbeBacklogRequest(namespace=namespace), headers, SHORT_PROBE_S)
    return answer.holds
