"""The polls of workers: they wait here, and one look for all of them goes to the target.

Rules of this file: a poll of a worker is sent on only where a look said that a task waits for it. Waiting polls cost
the target nothing. A task that was taken for a poll goes to that poll, or to another one of the same queue, worker and
credential when it has gone away meanwhile, be it one that comes a little later.

There is one look under way per namespace at any time. A server holds it until there is something (it is given up for
another one when one more queue is polled); a function answers at once, and `WakeChannel` says when to look next.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.protobuf.message import DecodeError
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.bridge.counters import LOOK, POLL
from whistlestop.bridge.heartbeats import Heartbeats
from whistlestop.common.clock import SECOND_NS, wait_until
from whistlestop.common.deployments import version_of, version_string
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto import worker_pb2 as worker_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from whistlestop.bridge.counters import Counters
    from whistlestop.bridge.target import Target
    from whistlestop.bridge.wake import WakeChannel
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
LOOK_PATH: Final = "/whistlestop.worker.v1.WorkerService/LookForTasks"

LONG_POLL_S = 60.0
MARGIN_S = 3.0
"""An empty answer leaves this long before the caller's deadline: a task taken in the last moment still arrives."""
POLL_S = 2.2
"""The deadline of a poll that is sent on. Servers refuse polls of less than two seconds."""
QUICK_LOOK_S = 1.0
"""A look with this deadline is answered at once by every target."""
_MOST_AT_ONCE = 20
_LEFT_S = 30.0
"""How long polls of a worker that has shut down are answered at once."""
_KEPT_S = 5.0
"""How long a task is kept whose poll has gone away: half of the time that a workflow task has by default."""
_TOGETHER_S = 0.01
"""Pollers of a worker that come as close together as this share a look."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0
_TRANSIENT = frozenset({
    Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNKNOWN, Code.ABORTED,
    Code.CANCELLED,
})  # fmt: skip

_AUTHORIZATION = "authorization"

Key: TypeAlias = tuple[str, str, str]
"""Path of the poll, name of its queue, and the worker's deployment version: versions take different tasks."""


@dataclass(eq=False, slots=True)
class Poller:
    """A poll that waits. Its future gets the answer's bytes, or a ServiceError."""

    key: Key
    request: PollRequest
    data: bytes
    headers: Mapping[str, str]
    future: asyncio.Future[bytes]
    end_ns: int
    sent: bool = False
    """It is on its way to the target."""
    leaves: bool = False
    """Its worker shuts down: answered empty as soon as it is not on its way."""
    worker: tuple[Key, str, str] = field(init=False)
    """Whose polls may get each other's tasks: queue, identity, and what shows who calls."""

    def __post_init__(self) -> None:
        self.worker = (self.key, self.request.identity, self.headers.get(_AUTHORIZATION, ""))

    def answer(self, data: bytes) -> None:
        if not self.future.done():
            self.future.set_result(data)

    def fail(self, error: ServiceError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Look:
    """One look under way."""

    keys: frozenset[Key]
    """Queues that need no further look now: those that it counts, and those where polls are on their way."""
    task: asyncio.Task[bytes]
    is_held: bool
    superseded: bool = field(default=False)


class NamespacePolls:
    """All polls of one namespace."""

    def __init__(self, namespace: str, target: Target, clock: Clock, wake: WakeChannel, counters: Counters) -> None:
        self._namespace = namespace
        self._target = target
        self._clock = clock
        self.wake = wake
        self._counters = counters
        self.heartbeats = Heartbeats(clock)
        self._waiting: dict[Key, dict[Poller, None]] = {}
        self._sent: set[Poller] = set()
        self._left_ns: dict[str, int] = {}
        """Instance keys of workers that shut down, and when that is forgotten."""
        self._busy: set[Key] = set()
        """Queues with polls on their way: what a look said of them would be old."""
        self._looked: frozenset[Key] = frozenset()
        self._limit = 1
        """Up to how many tasks the last look counted."""
        self._poll_failures = 0
        """Of polls that were sent on, in a row."""
        self._kept: list[tuple[int, tuple[Key, str, str], bytes]] = []
        """Until when, for whom: tasks whose polls have gone away."""
        self._look: _Look | None = None
        self._arrived = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self.holds = False

    async def poll(
        self, path: str, request: PollRequest, data: bytes, headers: Mapping[str, str], deadline_ns: int | None
    ) -> bytes:
        """Wait for a task; empty bytes when none came in time. Raises ServiceError."""
        end_ns = self._clock.steady_ns() + int(LONG_POLL_S * SECOND_NS)
        if deadline_ns is not None:
            end_ns = min(end_ns, deadline_ns - int(MARGIN_S * SECOND_NS))
        if self._left_ns.get(request.worker_instance_key, 0) > self._clock.steady_ns():
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

    def end_where(self, leaves: Callable[[PollRequest], bool], worker_instance_key: str = "") -> None:
        """Answer the polls of a worker that shuts down, and those that it still sends."""
        now_ns = self._clock.steady_ns()
        if worker_instance_key:
            self._left_ns = {key: until_ns for key, until_ns in self._left_ns.items() if until_ns > now_ns}
            self._left_ns[worker_instance_key] = now_ns + int(_LEFT_S * SECOND_NS)
        for poller in self._sent:
            poller.leaves = poller.leaves or leaves(poller.request)
        for pollers in list(self._waiting.values()):
            for poller in list(pollers):
                if leaves(poller.request):
                    self._remove(poller)
                    poller.answer(b"")

    async def quiet(self) -> None:
        """Until what is on its way has been answered. What a target holds is not waited for: it knows who has left.

        A goodbye is to be the last that a function hears of a worker: it remembers nobody, and any later poll or look
        would make the worker known again.
        """
        look = self._look
        if self.holds or (look is not None and look.is_held):
            return
        under_way: set[asyncio.Future[Any]] = {*self._sending}
        if look is not None:
            under_way.add(look.task)
        if under_way:
            await asyncio.wait(under_way)

    @property
    def waiting(self) -> int:
        """Polls that wait now."""
        return sum(map(len, self._waiting.values()))

    async def close(self) -> None:
        """Answer all polls: those that are on their way with what comes back, the others empty."""
        self.end_where(lambda _: True)
        if self._loop is not None:
            self._loop.cancel()
        if self._sending:
            # A task that the target has given away is somebody's.
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

    # Who waits.

    def _add(self, poller: Poller, *, first: bool = False) -> None:
        pollers = self._waiting.setdefault(poller.key, {})
        if first:
            self._waiting[poller.key] = {poller: None, **pollers}
        else:
            pollers[poller] = None
        self._wanted(poller.key)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name=f"looks of {self._namespace}")

    def _remove(self, poller: Poller) -> None:
        pollers = self._waiting.get(poller.key)
        if pollers is not None:
            pollers.pop(poller, None)
            if not pollers:
                del self._waiting[poller.key]

    def _wanted(self, key: Key) -> None:
        """The queue is to be in the next look; a look that was made without it is not worth waiting for."""
        if key in self._busy:
            return
        self._arrived.set()
        look = self._look
        if key in (self._looked if look is None else look.keys):
            return
        if look is not None and look.is_held:
            look.superseded = True
            look.task.cancel()
        else:
            self.wake.look_now(_TOGETHER_S)

    # Looking.

    async def _run(self) -> None:
        failures = 0
        while True:
            keys = self._waiting.keys() - self._busy
            if not keys:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            is_asked = True
            if not self.holds:
                is_asked = await self.wake.wait()
                keys = self._waiting.keys() - self._busy
                if not keys:
                    # It was time to look, and polls are on their way: whichever comes back is to be looked for.
                    self._looked = frozenset()
                    continue
            began_ns, was_held = self._clock.steady_ns(), self.holds
            poller = next(iter(self._waiting[next(iter(keys))]))
            try:
                found = await self._look_once(keys, poller.headers, is_asked=is_asked)
            except ServiceError as error:
                failures = await self._failed(error, poller, failures)
                continue
            failures = 0
            if found is None:
                continue
            if was_held and not found and self._clock.steady_ns() - began_ns < SECOND_NS:
                await self._clock.sleep(_RETRY_FIRST_S)  # it says that it holds looks, and does not just now
            for key, count in found.items():
                self._send(key, count)

    async def _look_once(
        self, keys: Iterable[Key], headers: Mapping[str, str], *, is_asked: bool
    ) -> dict[Key, int] | None:
        """How many tasks wait where; None when the look was given up for another one."""
        by_key = {key: next(iter(self._waiting[key])) for key in keys}
        request = worker_pb.LookForTasksRequest(namespace=self._namespace)
        ordered: dict[str, list[Key]] = {WORKFLOW: [], ACTIVITY: [], NEXUS: []}
        lists = {
            WORKFLOW: request.workflow_polls, ACTIVITY: request.activity_polls, NEXUS: request.nexus_polls
        }  # fmt: skip
        for key, poller in by_key.items():
            ordered[key[0]].append(key)
            lists[key[0]].append(poller.request)  # type: ignore[attr-defined]  # each list takes its own kind
        # One more than there are polls tells whether tasks are left.
        request.limit = self._limit = min(max(len(self._waiting[key]) for key in by_key), _MOST_AT_ONCE) + 1
        heartbeats = self.heartbeats.waiting()
        request.heartbeats.extend(heartbeats)
        request.wake_queue = self.wake.wake_queue
        is_held = self.holds
        timeout_s = LONG_POLL_S if is_held else QUICK_LOOK_S
        work = self._target.call(LOOK_PATH, request.SerializeToString(), headers, timeout_s, LOOK)
        # What was told of may be for a queue where a poll is on its way: that one is looked at when the poll is back.
        self._looked = frozenset(by_key) if is_asked else frozenset(by_key) | self._busy
        self._look = look = _Look(self._looked, asyncio.ensure_future(work), is_held)
        try:
            answer = worker_pb.LookForTasksResponse.FromString(await look.task)
        except DecodeError:
            raise ServiceError(Code.INTERNAL, "the target's answer to a look is not understood") from None
        except asyncio.CancelledError:
            look.task.cancel()
            task = asyncio.current_task()
            if look.superseded and not (task is not None and task.cancelling()):
                return None
            raise
        finally:
            self._look = None
        self.holds = answer.holds
        self.heartbeats.told(heartbeats)
        self.wake.answered(answer.wake_queue_prefix, wakes=answer.wakes)
        found: dict[Key, int] = {}
        answers = ((WORKFLOW, answer.workflow_tasks), (ACTIVITY, answer.activity_tasks), (NEXUS, answer.nexus_tasks))
        for path, counts in answers:
            found |= {key: count for key, count in zip(ordered[path], counts, strict=False) if count}
        return found

    async def _failed(self, error: ServiceError, looked: Poller, failures: int) -> int:
        """Wait before the next look. An error that will not pass is told to all that call as the one who looked."""
        if error.code not in _TRANSIENT:
            for pollers in list(self._waiting.values()):
                for poller in list(pollers):
                    if poller.worker[-1] == looked.worker[-1]:
                        self._remove(poller)
                        poller.fail(error)
            return 0
        pause_s = _pause_s(failures)
        if failures == 0:
            log.warning("no look for tasks of %s: %s; trying again", self._namespace, error.message)
        # What held looks before may not be what answers next.
        self.holds = False
        await self._clock.sleep(pause_s)
        self.wake.look_now()
        return min(failures + 1, 10)

    # Polling where something waits.

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
        """`more`: tasks may be left that nobody polls for."""
        try:
            served = await asyncio.gather(*(self._send_one(poller) for poller in pollers))
        finally:
            self._busy.discard(key)
            self._sent.difference_update(pollers)
        if any(served) and more:
            self.wake.look_now()
        elif any(served):
            self.wake.begun()
        if key in self._waiting:
            self._wanted(key)

    async def _send_one(self, poller: Poller) -> bool:
        """Whether there was a task."""
        try:
            data = await self._target.call(poller.key[0], poller.data, poller.headers, POLL_S, POLL)
        except ServiceError as error:
            if error.code not in _TRANSIENT:
                poller.fail(error)
            else:
                pause_s = _pause_s(self._poll_failures)
                self._poll_failures = min(self._poll_failures + 1, 10)
                await self._clock.sleep(pause_s)
                self._go_on(poller)
                self.wake.look_now()  # what was found is still there, as far as is known
            return False
        self._poll_failures = 0
        if not data:
            self._go_on(poller)
            return False
        self._counters.tasks += 1
        if poller.future.done():
            heir = self._heir(poller)
            if heir is None:
                log.warning("a task of %s was taken for a poll that has gone away", poller.key[1])
                self._kept.append((self._clock.steady_ns() + int(_KEPT_S * SECOND_NS), poller.worker, data))
                return True
            self._remove(heir)
            heir.answer(data)
            return True
        poller.answer(data)
        return True

    def _go_on(self, poller: Poller) -> None:
        """Nothing was there: the poll waits on."""
        poller.sent = False
        self._sent.discard(poller)
        if poller.leaves or self._clock.steady_ns() >= poller.end_ns:
            poller.answer(b"")
        elif not poller.future.done():
            self._add(poller, first=True)

    def _heir(self, gone: Poller) -> Poller | None:
        for poller in self._waiting.get(gone.key, ()):
            if poller.worker == gone.worker:
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


def _pause_s(failures: int) -> float:
    return min(_RETRY_FIRST_S * float(2**failures), _RETRY_MOST_S)


def _version(request: PollRequest) -> str:
    version = version_of(request.deployment_options)
    return "" if version is None else version_string(version)


async def holds(target: Target, namespace: str, headers: Mapping[str, str]) -> bool:
    """Ask the target whether it holds calls at no cost. Raises ServiceError."""
    request = worker_pb.LookForTasksRequest(namespace=namespace)
    answer = await target.call(LOOK_PATH, request.SerializeToString(), headers, QUICK_LOOK_S, LOOK)
    return worker_pb.LookForTasksResponse.FromString(answer).holds
