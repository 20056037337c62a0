"""FireTimers: process due timers and transfer tasks on request, since nothing runs in a function between calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.ports import HistoryPorts

PAGE = 50
OUTBOX_GRACE_NS = 1_000_000_000
"""Younger transfer tasks are being delivered by the calls that wrote them."""


@handles(HistoryService.FireTimers)
async def fire_timers(
    ports: HistoryPorts, request: internal_pb2.FireTimersRequest, context: CallContext
) -> internal_pb2.FireTimersResponse:
    """Process one page of due timers and overdue transfer tasks. Repeated or concurrent calls are harmless.

    Mostly nothing is due, which one statement finds out. The next deadline is returned to callers that set a limit: to
    wake-ups, which set the next one, but not to waiting calls. Raise StorageError.
    """
    limit = request.limit or PAGE
    began_ns = ports.clock.now_ns()
    timers = transfers = 0
    if await ports.store.has_expired_rows(began_ns, began_ns - OUTBOX_GRACE_NS):
        timers = await ports.timers.fire_page(limit)
        transfers = await ports.transfers.sweep_once(limit, OUTBOX_GRACE_NS)
        await ports.transfers.drain(context.deadline_ns)
    # Counted from before the check, so that what became due meanwhile is not overlooked.
    nearest = await ports.store.next_timers(0, SLOTS, began_ns, 1) if request.limit else []
    return internal_pb2.FireTimersResponse(
        timers=timers,
        transfers=transfers,
        more=limit in (timers, transfers),
        next_due_ns=nearest[0].fire_at_ns if nearest else 0,
    )
