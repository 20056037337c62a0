"""Several processes of the backend over one store, in one event loop: a simulated one, or any with a fake clock."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from tests.simulation.calls import CallLog
from tests.simulation.faults import FaultyStore, Link, Weather, jump, over_the_wire
from tests.simulation.loop import LoopClock
from tests.simulation.sqlite import SimulatedFile, open_file
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.frontend.registry import WORKFLOW_SERVICE
from whistlestop.frontend.service import Frontend
from whistlestop.history.core.limits import Limits
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.dynamic_keys import MATCHING_KEYS
from whistlestop.matching.service import Matching
from whistlestop.server.settings.dynamic_config import DynamicConfig
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.simulation.loop import SimulatedLoop
    from whistlestop.common.notify import Subscription
    from whistlestop.matching.push.provider import Provider
    from whistlestop.storage.records import MatchingTask, TimerTask, TransferTask

M = TypeVar("M", bound=Message)
NAMESPACE = "default"
POLLS = frozenset({"PollWorkflowTaskQueue", "PollActivityTaskQueue"})
MOST_MARGIN_S = 1.5
"""So long before its deadline a poll may be answered empty, whatever wall clocks are set to meanwhile."""


def _ignore(request: Message) -> None:
    return None


def _hear(task: asyncio.Task[Any]) -> None:
    """Whoever called may have gone: the answer is nobody's."""
    if not task.cancelled():
        task.exception()


def _nothing(_: object) -> None:
    return None


def _trace_nothing(*what: str | bytes) -> None:
    return None


class SeededIds:
    """Ids that follow from the seed; all processes draw from one."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def task_id(self, now_ns: int) -> int:
        self._count += 1
        return (now_ns // 1000 << 10) + self._count

    def nonce(self) -> int:
        return self._chance.getrandbits(64) or 1


class Hints:
    """The hints of one process, heard by the others too, if the weather lets them."""

    def __init__(self, backend: Backend, clock: FakeClock) -> None:
        self._backend = backend
        self.local = LocalNotifier(clock)

    def publish(self, topics: Iterable[str]) -> None:
        backend, weather, names = self._backend, self._backend.weather, list(topics)
        for process in backend.processes:
            if process.hints is self:
                self.local.publish(names)
            elif not weather.strike(weather.lost_hint, "a hint is lost"):
                publish = partial(process.hints.local.publish, names, remote=True)
                if weather.strike(weather.late_hint, "a hint is late"):
                    backend.later(backend.chance.choice([0.01, 1, 20]), publish)
                else:
                    publish()

    def subscribe(self, *topics: str) -> Subscription:
        return self.local.subscribe(*topics)


class LossyEffects:
    """Sometimes nobody in the process is told of a commit."""

    sees_tasks = True

    def __init__(self, backend: Backend, inner: Any) -> None:
        self._backend = backend
        self._inner = inner

    def _heard(self) -> bool:
        return not self._backend.weather.strike(self._backend.weather.lost_hint, "nobody is told of a commit")

    def tasks(self, tasks: Sequence[MatchingTask]) -> None:
        if self._heard():
            self._inner.tasks(tasks)

    def timer(self, timer: TimerTask) -> None:
        if self._heard():
            self._inner.timer(timer)

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        if self._heard():
            self._inner.transfers(transfers)


@dataclass(slots=True)
class Process:
    """One instance of all three services."""

    clock: FakeClock
    store: FaultyStore
    hints: Hints
    history: History
    matching: Matching
    frontend: Frontend
    calls: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    """In the order in which they began."""

    @property
    def dead(self) -> bool:
        return self.store.dead


class Backend:
    """The store and the processes that live now."""

    def __init__(
        self, chance: random.Random, *, processes: int, weather: Weather, note: Callable[[str], None],
        loop: SimulatedLoop | None = None, dynamic: Sequence[str] = (), over_file: bool = False,
    ) -> None:  # fmt: skip
        """With `over_file`, the one process writes to a SQLite file in groups."""
        self.loop = loop
        self.dynamic = DynamicConfig.parse(dynamic)
        self.trace: Callable[..., None] = loop.trace if loop is not None else _trace_nothing
        self.chance = chance
        self.weather = weather
        self.weather.note = note
        self.note = note
        self.clock = LoopClock(loop) if loop is not None else FakeClock()
        self.ids = SeededIds(chance)
        self.log = CallLog()
        self.store = SqliteStore(":memory:")
        self._over_file = over_file
        self.defers_cancellation = processes == 1
        """Whether the store is one of SQLite's, or else one of Postgres', which several processes share."""
        self.wanted = processes
        self.processes: list[Process] = []
        self._ending: dict[asyncio.Task[Any], None] = {}
        self.crashes_ns: list[int] = []
        self.set_clocks = [0]
        """By how much wall clocks of processes were ahead of the world's at any time."""
        self.namespace_id = ""
        self.providers: Mapping[str, Provider] | None = None
        self.errors: list[str] = []
        self.on_double: Callable[[Message], None] = _ignore
        """Told of a request that arrives twice."""

    async def open(self) -> None:
        if self._over_file:
            assert self.wanted == 1
            assert self.loop is not None
            self.store = await open_file(self.loop, self.chance, self.weather)
        else:
            await self.store.open()
            await self.store.migrate()
        calm, self.weather.calm = self.weather.calm, True
        await self.fill()
        own = self.processes[0]
        frontend = Frontend(self.store, own.history, own.matching, self.clock, self.ids)
        await ensure_namespace(frontend.ports, NAMESPACE)
        found = await self.store.get_namespace(name=NAMESPACE)
        assert found is not None
        self.namespace_id = found.namespace_id
        self.weather.calm = calm

    async def fill(self) -> None:
        """Start processes until there are as many as are wanted."""
        self.processes = [process for process in self.processes if not process.dead]
        while len(self.processes) < self.wanted:
            self.processes.append(await self._new_process())

    async def _new_process(self) -> Process:
        made: list[Process] = []
        alone = self.wanted == 1
        store: Any = FaultyStore(
            self.store, self, lambda: self.crash(made[0]), self.log.committed, self.log.heard if alone else _nothing
        )
        clock = LoopClock(self.loop) if self.loop is not None else self.clock
        hints = Hints(self, clock)
        to_history, to_matching = Link(self, "history"), Link(self, "matching")
        config = MatchingConfig(remote_notifications=not alone, share_pollers=not alone)
        config = self.dynamic.apply(config, MATCHING_KEYS)
        limits = self.dynamic.apply(Limits(), LIMIT_KEYS)
        matching = Matching(store, to_history, clock, self.ids, hints, config, providers=self.providers)
        history = History(
            store, to_matching, clock, self.ids, hints, limits=limits, task_listener=matching.offer, exclusive=alone
        )
        history.engine.effects = LossyEffects(self, history.engine.effects)  # type: ignore[assignment]
        to_clients = self.dynamic.apply(FrontendConfig(), FRONTEND_KEYS)
        frontend = Frontend(store, to_history, to_matching, clock, self.ids, to_clients)
        process = Process(clock, store, hints, history, matching, frontend)
        to_history.process = to_matching.process = process
        made.append(process)
        await history.start()
        return process

    # ---- trouble ------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Do it after that time."""
        assert self.loop is not None
        self.loop.call_at_ns(self.loop.now_ns + round(delay_s * SECOND_NS), what)

    async def delay(self, method: str) -> None:
        """Whatever is under way may take its time."""
        if self.weather.slow and self.weather.strike(self.weather.slow, f"{method} is slow"):
            await self.clock.sleep(self.chance.choice([0.001, 0.02, 0.2, 0.2, 2, 12]))

    def set_a_clock(self) -> None:
        """The wall clock of some process is set."""
        process = self.chance.choice(self.processes)
        if isinstance(process.clock, LoopClock):
            process.clock.ahead_ns = jump(self.chance)
            self.set_clocks.append(process.clock.ahead_ns)
            self.note(f"a clock is {process.clock.ahead_ns / SECOND_NS:.1f} s ahead")

    def ask(self, process: Process, serve: Any, *arguments: Any) -> asyncio.Task[Any]:
        """A call that the process serves, as long as it lives."""
        task: asyncio.Task[Any] = asyncio.ensure_future(serve(*arguments))
        process.calls[task] = None
        task.add_done_callback(partial(process.calls.pop))
        task.add_done_callback(_hear)
        return task

    async def over_the_wire(self, answer: asyncio.Task[Any], method: str, limit_s: float) -> Any:
        """See `faults`."""
        return await over_the_wire(self, answer, method, limit_s)

    def crash(self, process: Process) -> None:
        """The process is gone: nothing of it reaches the store any more, and its callers lose their connections."""
        if process.dead or self.weather.calm:
            return
        self.crashes_ns.append(self._time_ns())
        self.note("crash")
        process.store.dead = True
        if isinstance(self.store, SimulatedFile):
            self.store.crash()
        for call in list(process.calls):
            call.cancel()
        ending = asyncio.get_running_loop().create_task(self._bury(process))
        self._ending[ending] = None
        ending.add_done_callback(self._ending.pop)

    async def _bury(self, process: Process) -> None:
        await asyncio.gather(process.history.close(), process.matching.close(), process.frontend.close())

    async def call(self, method: str, request: Message, kind: type[M], *, timeout_s: float = 10) -> M:
        """A call of a client, to whichever process lives. Raises ServiceError."""
        self.trace("call", method, request.SerializeToString(deterministic=True))
        record = self.log.called(method, request)
        try:
            message = await self._call(method, request, kind, timeout_s)
        except ServiceError as error:
            self.log.returned(record, None, error)
            self.trace("refused", method, error.code.name, error.message)
            raise
        self.log.returned(record, message, None)
        self.trace("answer", method, message.SerializeToString(deterministic=True))
        return message

    async def _call(self, method: str, request: Message, kind: type[M], timeout_s: float) -> M:
        living = [process for process in self.processes if not process.dead]
        if not living:
            await self.clock.sleep(0.1)
            raise ServiceError(Code.UNAVAILABLE, "nobody serves")
        process = self.chance.choice(living)
        deadline_ns = process.clock.steady_ns() + round(timeout_s * SECOND_NS)
        arguments = f"{WORKFLOW_SERVICE}/{method}", request, CallContext(deadline_ns=deadline_ns)
        if self.weather.doubled and self.weather.strike(self.weather.doubled, f"{method} arrives twice"):
            # Its caller has given up on one of them: nobody knows what became of it.
            self.log.called(method, request)
            self.on_double(request)
            self.ask(process, process.frontend.call, *arguments)
        began_ns = self._time_ns()
        task = self.ask(process, process.frontend.call, *arguments)
        try:
            reply = await self.over_the_wire(task, method, timeout_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if process.dead:
            raise ServiceError(Code.UNAVAILABLE, "the connection broke before the answer")
        message = decoded(reply, kind)
        assert isinstance(message, kind)
        if method in POLLS and not message.task_token:  # type: ignore[attr-defined]
            held_s = (self._time_ns() - began_ns) / SECOND_NS
            if held_s < timeout_s - MOST_MARGIN_S:
                self.errors.append(f"{method} was answered empty after {held_s} s of {timeout_s} s")
        return message

    def _time_ns(self) -> int:
        """What nobody can set."""
        return self.loop.now_ns if self.loop is not None else self.clock.steady_ns()

    async def close(self) -> None:
        self.weather.calm = True
        for process in self.processes:
            await process.history.close()
            await process.matching.close()
            await process.frontend.close()
        await asyncio.gather(*self._ending)
        await self.store.close()
