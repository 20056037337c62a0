"""Rebuild a run whose state is damaged, well enough to end it: from its history or its other rows.

What history does not contain (attempts, heartbeats, buffered events, task rows) is lost. That is why only requests that
end a run rebuild it. Its parent, children and callbacks are notified of the end as far as history knows them. Rows of
its tasks are left behind; history refuses them when a worker takes them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.errors import not_found
from whistlestop.common.messages import nesting
from whistlestop.history.core.operations import reset
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.transition import external_payloads
from whistlestop.history.engine.entries import RUN_NOT_FOUND, Entry
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import BranchRange, ExecutionKey, StoredExecution, VisibilityRow

_PAGE = 256
_log = logging.getLogger(__name__)


async def entry_of(store: Store, key: ExecutionKey) -> Entry:
    """Return the run's entry, rebuilt without its state. Raise NOT_FOUND, and storage errors."""
    stored = await store.get_execution(key)
    if stored is None:
        raise not_found(RUN_NOT_FOUND.format(key.workflow_id, key.run_id))
    branches = await store.branches_of(key)
    try:
        state = await _from_history(store, stored, branches)
    except (DecodeError, LookupError, ValueError, AttributeError, TypeError) as error:
        _log.warning(
            "the history of workflow %s, run %s can't be read either (%s): parent and children are not notified",
            key.workflow_id, key.run_id, error,
        )  # fmt: skip
        state = await _from_rows(store, stored)
    state.status = stored.status
    state.next_event_id = stored.next_event_id
    del state.branches[:]
    for branch in branches:
        state.branches.add(
            branch_id=branch.branch_id,
            first_event_id=branch.first_event_id,
            next_event_id=branch.next_event_id if branch is not branches[-1] else 0,
        )
    return Entry(key, state, stored.db_record_version, len(stored.state))


def _identity(key: ExecutionKey) -> MutableState:
    return MutableState(namespace_id=key.namespace_id, workflow_id=key.workflow_id, run_id=key.run_id)


async def _from_history(store: Store, stored: StoredExecution, branches: list[BranchRange]) -> MutableState:
    key = stored.key
    state = _identity(key)
    current = await store.get_current(key.namespace_id, key.workflow_id)
    if current is not None and current.run_id == key.run_id:
        state.create_request_id = current.create_request_id
        if len(branches) > 1:
            state.start_ns = current.start_time_ns  # A run created by reset began later than its first event says.
    first = 1
    while first < stored.next_event_id:
        batches = await store.read_history(key.namespace_id, branches, first, stored.next_event_id, _PAGE)
        if not batches or batches[0].first_event_id > first:
            raise LookupError(f"event {first} is missing")
        for batch in batches:
            events = nesting.parse(history_pb.History, batch.data).events
            reset.rebuild(state, [[event for event in events if event.event_id < stored.next_event_id]])
            state.history_size_bytes += len(batch.data)
            external_payloads.add(state, events, batch.data)
        first = batches[-1].next_event_id
    return state


async def _from_rows(store: Store, stored: StoredExecution) -> MutableState:
    key = stored.key
    state = _identity(key)
    row = await _visibility_row(store, key)
    if row is None:
        return state
    state.workflow_type, state.task_queue = row.workflow_type, row.task_queue
    state.start_ns = row.start_time_us * 1000
    return state


async def _visibility_row(store: Store, key: ExecutionKey) -> VisibilityRow | None:
    everywhere = "(TemporalNamespaceDivision IS NULL OR TemporalNamespaceDivision IS NOT NULL)"
    rows, _ = await store.list_visibility(
        key.namespace_id, parse(f"RunId = '{key.run_id}' AND {everywhere}", {}), 1, b""
    )
    return rows[0] if rows else None
