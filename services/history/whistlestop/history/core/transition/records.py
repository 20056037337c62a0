"""Turn a finished run into the records of its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history.core.transition import external_payloads, visibility
from whistlestop.storage.records import ExecutionWrite, HistoryBatch

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def records_of(run: Run) -> ExecutionWrite:
    """Return everything that a finished run collected as one write. Nothing is decided here: see `core/finish.py`."""
    state = run.state
    batches = tuple(_serialise(run))
    return ExecutionWrite(
        key=run.key,
        slot=run.slot,
        expected_version=run.version,
        state=state.SerializeToString(),
        next_event_id=state.next_event_id,
        status=state.status,
        branch_id=state.branches[-1].branch_id,
        history=batches,
        tasks_added=tuple(run.tasks_added),
        tasks_removed=tuple(run.tasks_removed),
        timer=run.timer,
        timer_removed=run.timer_removed,
        retention_timer=run.retention_timer,
        transfer_tasks_added=tuple(run.transfers),
        visibility=visibility.row(state, run.policy.search_attributes) if run.visibility_changed else None,
        current=run.current,
        forked_from=run.forked_from,
    )


def _serialise(run: Run) -> list[HistoryBatch]:
    state = run.state
    batches = []
    for events in run.batches:
        data = history_pb.History(events=events).SerializeToString()
        batches.append(HistoryBatch(events[0].event_id, events[-1].event_id + 1, data))
        state.history_size_bytes += len(data)
        external_payloads.add(state, events, data)
        state.last_first_event_id = events[0].event_id
    return batches
