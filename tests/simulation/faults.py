"""A store that fails on purpose: before a write, after it (done, but the caller does not learn of it), or on a read.

Each instance of the services sees the one real store through a `FaultyStore` of its own. Once the instance is dead,
nothing of it reaches the store any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whistlestop.storage.errors import Unavailable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import Transition

WRITES = frozenset({
    "commit", "put_tasks", "delete_tasks", "put_timer", "delete_timer", "delete_transfer", "postpone_transfer",
    "put_query", "answer_query", "delete_query", "purge_queries", "put_pollers", "delete_execution",
})
READS = frozenset({
    "get_execution", "get_current", "read_history", "list_tasks", "due_timers", "next_timers", "due_transfers",
    "get_query", "list_buffered_queries", "get_namespace",
})


@dataclass(slots=True)
class Weather:
    """How often something goes wrong, as probabilities per call."""

    before: float = 0.02
    after: float = 0.02
    read: float = 0.005
    crash: float = 0.003
    lost_hint: float = 0.1
    calm: bool = False

    def clear(self) -> None:
        """Nothing goes wrong from now on."""
        self.before = self.after = self.read = self.crash = self.lost_hint = 0.0
        self.calm = True


class FaultyStore:
    """Every method of the store, with trouble."""

    def __init__(
        self, store: Store, chance: random.Random, weather: Weather, crash: Callable[[], None],
        note: Callable[[str], None], trace: Callable[[str], None],
        committed: Callable[[Transition], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._chance = chance
        self._weather = weather
        self._crash = crash
        self._note = note
        self._trace = trace
        self._committed = committed
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in WRITES and name not in READS:
            return method
        is_write = name in WRITES

        async def call(*arguments: Any, **keywords: Any) -> Any:
            chance, weather = self._chance, self._weather
            self._trace(name)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            self._check(name)
            if chance.random() < (weather.before if is_write else weather.read):
                self._note(f"{name} fails before")
                if chance.random() < weather.crash * 10:
                    self._crash()
                raise Unavailable("trouble before")
            result = await method(*arguments, **keywords)
            if name == "commit":
                self._committed(*arguments)
            if is_write and chance.random() < weather.after:
                self._note(f"{name} fails after")
                if chance.random() < weather.crash * 10:
                    self._crash()
                raise Unavailable("trouble after")
            if is_write and chance.random() < weather.crash:
                self._note(f"crash behind {name}")
                self._crash()
            for _ in range(chance.randrange(2)):
                await asyncio.sleep(0)
            self._check(name)
            return result

        return call

    def _check(self, name: str) -> None:
        if self.dead:
            raise Unavailable(f"{name} of a dead process")
