"""Chains of runs (retries, cron, continue-as-new and resets), identified by their first run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.engine import histories
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.engine.engine import Engine

MAX_RUNS = 100
"""The maximum number of runs of one chain that are followed."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a chain ended. `event` is None when the run that ended it has been deleted."""

    run_id: str
    event: history_pb.HistoryEvent | None


async def ending(engine: Engine, namespace_id: str, workflow_id: str, first_run_id: str) -> Ending | None:
    """Return how the chain that began with that run ended; None while it is open. Raise StorageError."""
    run_id = first_run_id
    current = await engine.store.get_current(namespace_id, workflow_id)
    if current is not None:
        entry = await engine.read_if_any(ExecutionKey(namespace_id, workflow_id, current.run_id))
        if entry is not None and entry.state.first_run_id == first_run_id:
            run_id = current.run_id
    for _ in range(MAX_RUNS):
        entry = await engine.read_if_any(ExecutionKey(namespace_id, workflow_id, run_id))
        if entry is None:
            return Ending(run_id, None)
        state = entry.state
        if state.status in (RUNNING, PAUSED):
            return None
        if not (state.new_run_id or state.reset_run_id):
            event = await histories.read_event(engine, entry, state.close_event_batch_id, state.next_event_id - 1)
            return Ending(run_id, event)
        run_id = state.new_run_id or state.reset_run_id
    return None
