"""Several processes of the backend over one store, in one event loop: a simulated one, or any with a fake clock."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from tests.simulation.calls import CallLog
from tests.simulation.faults import FaultyStore, Weather
from tests.simulation.loop import LoopClock
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.registry import WORKFLOW_SERVICE
from whistlestop.frontend.service import Frontend
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.simulation.loop import SimulatedLoop
    from whistlestop.common.clients import Reply
    from whistlestop.common.notify import Subscription
    from whistlestop.matching.push.provider import Provider
    from whistlestop.storage.records import MatchingTask, TimerTask, TransferTask

M = TypeVar("M", bound=Message)
NAMESPACE = "default"


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


class _Late:
    service: Any = None

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        reply: Reply = await self.service.call(method, request, context)
        return reply


class Hints:
    """The hints of one process, heard by the others too, if the weather lets them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.local = LocalNotifier(backend.clock)

    def publish(self, topics: Iterable[str]) -> None:
        names = list(topics)
        for process in self._backend.processes:
            own = process.hints is self
            if own or self._backend.chance.random() >= self._backend.weather.lost_hint:
                process.hints.local.publish(names, elsewhere=not own)

    def subscribe(self, *topics: str) -> Subscription:
        return self.local.subscribe(*topics)


class LossyEffects:
    """Sometimes nobody in the process is told of a commit."""

    sees_tasks = True

    def __init__(self, backend: Backend, inner: Any) -> None:
        self._backend = backend
        self._inner = inner

    def _heard(self) -> bool:
        return self._backend.chance.random() >= self._backend.weather.lost_hint

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
        loop: SimulatedLoop | None = None,
    ) -> None:  # fmt: skip
        self.trace: Callable[..., None] = loop.trace if loop is not None else _trace_nothing
        self.chance = chance
        self.weather = weather
        self.note = note
        self.clock = LoopClock(loop) if loop is not None else FakeClock()
        self.ids = SeededIds(chance)
        self.log = CallLog()
        self.store = SqliteStore(":memory:")
        self.wanted = processes
        self.processes: list[Process] = []
        self._ending: dict[asyncio.Task[Any], None] = {}
        self.crashes = 0
        self.namespace_id = ""
        self.providers: Mapping[str, Provider] | None = None

    async def open(self) -> None:
        await self.store.open()
        await self.store.migrate()
        calm, self.weather.calm = self.weather.calm, True
        await self.fill()
        frontend = Frontend(self.store, _Late(), _Late(), self.clock, self.ids)
        await ensure_namespace(frontend, NAMESPACE)
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
        store: Any = FaultyStore(
            self.store, self.chance, self.weather, lambda: self.crash(made[0]), self.note, self.trace,
            self.log.committed,
        )
        hints = Hints(self)
        late = _Late()
        alone = self.wanted == 1
        config = MatchingConfig(hear_others=not alone, share_pollers=not alone)
        matching = Matching(store, late, self.clock, self.ids, hints, config, providers=self.providers)
        history = History(
            store, matching, self.clock, self.ids, hints, task_listener=matching.offer, exclusive=alone
        )
        history.engine.effects = LossyEffects(self, history.engine.effects)  # type: ignore[assignment]
        late.service = history
        frontend = Frontend(store, history, matching, self.clock, self.ids)
        process = Process(store, hints, history, matching, frontend)
        made.append(process)
        await history.start()
        return process

    def crash(self, process: Process) -> None:
        """The process is gone: nothing of it reaches the store any more, and its callers lose their connections."""
        if process.dead or self.weather.calm:
            return
        self.crashes += 1
        self.note("crash")
        process.store.dead = True
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
        context = CallContext(deadline_ns=self.clock.now_ns() + round(timeout_s * SECOND_NS))
        task = asyncio.ensure_future(process.frontend.call(f"{WORKFLOW_SERVICE}/{method}", request, context))
        process.calls[task] = None
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            del process.calls[task]
        if task.cancelled():
            raise ServiceError(Code.UNAVAILABLE, "the connection broke")
        reply = task.result()
        if process.dead:
            raise ServiceError(Code.UNAVAILABLE, "the connection broke before the answer")
        message = decoded(reply, kind)
        assert isinstance(message, kind)
        return message

    async def close(self) -> None:
        self.weather.calm = True
        for process in self.processes:
            await process.history.close()
            await process.matching.close()
            await process.frontend.close()
        await asyncio.gather(*self._ending)
        await self.store.close()
