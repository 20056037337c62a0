"""Trouble on purpose: where it strikes, how often, and which of it is left out.

Every call of a store, every call from one service to another or from a client, every hint and every clock passes one
of the classes here. Each strike has a number; a shrunk seed is one with some of the numbers left out.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError, unavailable
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.sqlite.writer import _end_of, _Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from tests.simulation.backend import Backend, Process
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import Transition

NEVER_FAILS = frozenset({"open", "close", "migrate", "schema_version", "backup", "check", "ping"})
"""Methods of the store that a serving process does not call."""
READS = ("get_", "list_", "read_", "due_", "next_", "count_", "anything_")
"""How methods begin that write nothing."""
MOST_AHEAD_S = 300.0
"""How far a process's wall clock may be ahead or behind."""


@dataclass(slots=True)
class Weather:
    """How often something goes wrong, as probabilities per call, hint or step."""

    before: float = 0.02
    after: float = 0.02
    read: float = 0.005
    crash: float = 0.003
    lost_hint: float = 0.1
    late_hint: float = 0.0
    slow: float = 0.0
    """A call takes its time: of the store, or between services."""
    lost_call: float = 0.0
    """A request or an answer between services, or of a client, is lost."""
    half_open: float = 0.0
    """The answer never comes, and nobody says that the connection is gone."""
    doubled: float = 0.0
    """A client's request arrives twice, beside itself."""
    elsewhere: float = 0.0
    """Matching and history ask another process than their own: several own the same."""
    clock: float = 0.0
    """A process's wall clock is set forward or back, per step."""
    calm: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    spared: frozenset[int] = frozenset()
    """Numbers of strikes that are left out."""
    strikes: int = 0
    struck: list[tuple[int, str]] = field(default_factory=list)
    note: Callable[[str], None] = print

    def strike(self, probability: float, what: str) -> bool:
        """Whether this goes wrong now."""
        if not probability or self.chance.random() >= probability:
            return False
        self.strikes += 1
        if self.strikes in self.spared:
            return False
        self.struck.append((self.strikes, what))
        self.note(f"#{self.strikes} {what}")
        return True

    def clear(self) -> None:
        """Nothing goes wrong from now on."""
        self.before = self.after = self.read = self.crash = self.lost_hint = self.late_hint = self.slow = 0.0
        self.lost_call = self.half_open = self.doubled = self.elsewhere = self.clock = 0.0
        self.calm = True


def weather_of(chance: random.Random) -> Weather:
    """One of several climates."""
    weather = Weather(chance=random.Random(chance.getrandbits(64)))
    kind = chance.random()
    if kind < 0.1:
        weather.clear()
    elif kind < 0.3:
        weather.before = weather.after = 0.08
        weather.lost_hint = 0.4
    if kind >= 0.1:
        for name, most in (
            ("late_hint", 0.2), ("slow", 0.1), ("lost_call", 0.03), ("half_open", 0.01), ("doubled", 0.03),
            ("elsewhere", 0.5), ("clock", 0.1),
        ):  # fmt: skip
            # Each seed has some kinds of trouble only: they hide each other.
            if chance.random() < 0.4:
                setattr(weather, name, chance.random() * most)
    return weather


class FaultyStore:
    """The one real store, as one process sees it. Once the process is dead, nothing of it reaches the store any more."""

    def __init__(
        self, store: Store, backend: Backend, crash: Callable[[], None], committed: Callable[[Transition], Any],
        heard: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._backend = backend
        self._crash = crash
        self._committed = committed
        self._heard = heard
        self.dead = False
        self.defers_cancellation = backend.defers_cancellation

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in NEVER_FAILS or not inspect.iscoroutinefunction(method):
            return method
        call = self._writing(name, method) if not name.startswith(READS) else self._reading(name, method)
        setattr(self, name, call)
        return call

    def _reading(self, name: str, method: Any) -> Any:
        weather = self._backend.weather

        async def call(*arguments: Any, **keywords: Any) -> Any:
            self._backend.trace(name)
            await self._on_the_way(name)
            if weather.strike(weather.read, f"{name} fails"):
                raise Unavailable(f"{name}: trouble")
            result = await method(*arguments, **keywords)
            await self._on_the_way(name)
            return result

        return call

    def _writing(self, name: str, method: Any) -> Any:
        weather = self._backend.weather

        async def call(*arguments: Any, **keywords: Any) -> Any:
            self._backend.trace(name)
            await self._on_the_way(name)
            if weather.strike(weather.before, f"{name} fails before"):
                if weather.strike(weather.crash * 10, "crash"):
                    self._crash()
                raise Unavailable(f"{name}: trouble before")
            result = await method(*arguments, **keywords)
            commit = self._committed(*arguments) if name == "commit" else None
            if weather.strike(weather.after, f"{name} fails after"):
                if weather.strike(weather.crash * 10, "crash"):
                    self._crash()
                raise Unavailable(f"{name}: trouble after")
            if weather.strike(weather.crash, f"crash behind {name}"):
                self._crash()
            await self._on_the_way(name)
            if commit is not None:
                self._heard(commit)
            return result

        async def uncancelled(*arguments: Any, **keywords: Any) -> Any:
            """As SQLite's writes, which end before their caller hears that it was cancelled."""
            ending: _Ending[Any] = _Ending(loop=asyncio.get_running_loop())
            asyncio.ensure_future(call(*arguments, **keywords)).add_done_callback(partial(_settle, ending))
            return await _end_of(ending)

        return uncancelled if self.defers_cancellation else call

    async def _on_the_way(self, name: str) -> None:
        # A fake clock that a test moves waits for a few turns of the loop only.
        for _ in range(self._backend.chance.randrange(3) if self._backend.loop is not None else 0):
            await asyncio.sleep(0)
        await self._backend.delay(name)
        if self.dead:
            raise Unavailable(f"{name} of a dead process")


def _settle(ending: _Ending[Any], done: asyncio.Future[Any]) -> None:
    if error := done.exception():
        ending.set_exception(error)
    else:
        ending.set_result(done.result())


class Link:
    """How the services of one process call one another, and sometimes those of another process."""

    def __init__(self, backend: Backend, role: str) -> None:
        self._backend = backend
        self._role = role
        self.process: Process | None = None

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        backend, weather = self._backend, self._backend.weather
        own = self.process
        assert own is not None
        reply: Reply
        if not weather.elsewhere or not weather.strike(weather.elsewhere, f"{rpc.method} goes elsewhere"):
            reply = await getattr(own, self._role).call(rpc, request, context)
            return reply
        living = [process for process in backend.processes if not process.dead]
        if not living:
            raise unavailable(f"{self._role} can't be reached. Try again.")
        target = backend.chance.choice(living)
        limit_s = context.remaining_s(own.clock, 120.0)
        answer = backend.ask(target, getattr(target, self._role).call, rpc, request, _moved(context, own, target))
        reply = await backend.over_the_wire(answer, rpc.method, limit_s + 2)
        return reply


def _moved(context: CallContext, source: Process, target: Process) -> CallContext:
    """The same call by the other process's clock."""
    from dataclasses import replace

    if context.deadline_ns is None:
        return context
    left_ns = context.deadline_ns - source.clock.steady_ns()
    return replace(context, deadline_ns=target.clock.steady_ns() + left_ns)


async def over_the_wire(backend: Backend, answer: asyncio.Task[Any], method: str, limit_s: float) -> Any:
    """What the caller gets of the answer, and when. Raises UNAVAILABLE or DEADLINE_EXCEEDED.

    Before anything of the request has run: it may be late, or lost. Behind: the answer may be lost, or never come.
    """
    weather = backend.weather
    await backend.delay(method)
    if weather.strike(weather.lost_call / 2, f"the request {method} is lost"):
        answer.cancel()
        raise ServiceError(Code.UNAVAILABLE, "the connection broke")
    if weather.strike(weather.half_open, f"{method} is never answered"):
        await backend.clock.sleep(limit_s)
        raise ServiceError(Code.DEADLINE_EXCEEDED, "nobody answered")
    done, _ = await asyncio.wait({answer})
    del done
    if answer.cancelled() or weather.strike(weather.lost_call / 2, f"the answer to {method} is lost"):
        if not answer.cancelled():
            answer.exception()
        raise ServiceError(Code.UNAVAILABLE, "the connection broke")
    return answer.result()


def jump(chance: random.Random) -> int:
    """How far a wall clock is ahead from now on, nanoseconds."""
    return round(chance.choice([0, 0.2, -0.2, 3, -3, 30, -30, MOST_AHEAD_S, -MOST_AHEAD_S]) * SECOND_NS)
