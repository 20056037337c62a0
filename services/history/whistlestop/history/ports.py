"""What handlers of RPCs and deliveries may use of the history service: engine, store, other services, time and ids.

It stands below the handlers, which never see the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.common.rpcs.matching_service import MatchingService
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.engine.completion_pages import CompletionPages
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.engine.waiting_callers import WaitingCallers
    from whistlestop.history.timers.processor import TimerProcessor
    from whistlestop.history.transfers.processor import TransferProcessor
    from whistlestop.history.transfers.push import Pushes
    from whistlestop.net.outbound import Outbound
    from whistlestop.storage.interface import Store
    from whistlestop.storage.namespaces import NamespaceCache


@dataclass(frozen=True, slots=True)
class HistoryPorts:
    """What a handler is given beside its request."""

    engine: Engine
    """Reads and changes runs."""
    store: Store
    matching: MatchingService
    itself: HistoryService
    """The history service, for calls of its other RPCs."""
    clock: Clock
    wall: Clock
    """The machine's clock: `clock` is ahead of it where time is skipped, which must not affect waiting callers."""
    ids: Ids
    notifier: Notifier
    limits: Limits
    namespaces: NamespaceCache
    outbound: Outbound
    """The HTTP client for callbacks and external endpoints."""
    waiting_callers: WaitingCallers
    completion_pages: CompletionPages
    timers: TimerProcessor
    transfers: TransferProcessor
    push: Pushes
    """Starts workers on demand."""
    is_closing: Callable[[], bool]
    """Returns whether the service stops, so that nobody should wait any longer."""
