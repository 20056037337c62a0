"""Polls as clocks: where no process lives between calls, a poll has history fire what is due.

The look is one row of an index; history is called only when it finds something.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto import internal_pb2 as internal

if TYPE_CHECKING:
    from whistlestop.common.clients import ServiceClient
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.storage.interface import TimerStore

log = logging.getLogger(__name__)

_LEFT_BEHIND_NS = 2 * SECOND_NS
"""The call that wrote an outbox row delivers it; one as old as this was left behind."""


class Due(Protocol):
    """What a poll in a function does about timers."""

    async def fire(self, context: CallContext, *, first: bool) -> None:
        """Fire a page of what is due. `first`: the poll's first look, which takes the outbox in as well."""
        ...


class NothingDue:
    """A process that lives fires its own timers."""

    async def fire(self, context: CallContext, *, first: bool) -> None:
        return None


class DueRows:
    """Looks at the store, and calls history when something is due."""

    def __init__(self, store: TimerStore, history: ServiceClient, clock: Clock) -> None:
        self._store = store
        self._history = history
        self._clock = clock

    async def fire(self, context: CallContext, *, first: bool) -> None:
        now_ns = self._clock.now_ns()
        if not await self._store.anything_due(now_ns, now_ns - _LEFT_BEHIND_NS if first else 0):
            return
        try:
            await self._history.call("FireDue", internal.FireDueRequest(), context)
        except ServiceError as error:
            # The poll has its own work to do; another one tries again.
            log.warning("what is due could not be fired now: %r", error)
