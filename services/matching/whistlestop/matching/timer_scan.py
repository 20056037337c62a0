"""Fire due timers from polls, where no process runs between calls.

The check reads one row of an index; history is called only when it finds something.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError
from whistlestop.common.proto import internal_pb2 as internal

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.storage.interface import TimerStore

log = logging.getLogger(__name__)

_LEFT_BEHIND_NS = 2 * SECOND_NS
"""A transfer task this old was left behind by the call that wrote it, which should have delivered it."""


class TimerScan(Protocol):
    """What a poll does about timers that are due."""

    async def fire_timers(self, context: CallContext, *, first: bool) -> None:
        """Fire a page of due timers. With `first` (the poll's first check), deliver overdue transfer tasks as well."""
        ...


class NoTimerScan:
    """Do nothing: a long-lived process fires its timers itself."""

    async def fire_timers(self, context: CallContext, *, first: bool) -> None:
        """Do nothing: something else fires timers."""
        return


class StoredTimerScan:
    """Check the store, and call history when something is due."""

    def __init__(self, store: TimerStore, history: HistoryService, clock: Clock) -> None:
        self._store = store
        self._history = history
        self._clock = clock

    async def fire_timers(self, context: CallContext, *, first: bool) -> None:
        """Fire a page of due timers. With `first` (the poll's first check), deliver overdue transfer tasks as well.

        Raise ServiceError or StorageError.
        """
        now_ns = self._clock.now_ns()
        if not await self._store.has_expired_rows(now_ns, now_ns - _LEFT_BEHIND_NS if first else 0):
            return
        try:
            await self._history.FireTimers(internal.FireTimersRequest(), context)
        except ServiceError as error:
            # The poll has its own work to do; another one will try again.
            log.warning("expired timers and transfer tasks could not be processed: %r", error)
