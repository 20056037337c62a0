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

from whistlestop.common.errors import Code, ServiceError, not_found
from whistlestop.common.messages import nesting
from whistlestop.history.core.operations import reset
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.transition import external_payloads
from whistlestop.history.core.workflow import close
from whistlestop.history.engine import engine as engines
from whistlestop.storage import errors as storage_errors
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.engine import Engine, Entry
    from whistlestop.storage.records import BranchRange, ExecutionKey, StoredExecution, VisibilityRow

_PAGE = 256
_log = logging.getLogger(__name__)


async def end_and_delete(engine: Engine, namespace_id: str, workflow_id: str, run_id: str) -> None:
    """Terminate the run if it is open, so that parent and children are notified; then delete everything stored of it.

    A run that can't be terminated because its rows are damaged is deleted all the same. Raise NOT_FOUND or
    StorageError.
    """

    def end(run: Run) -> None:
        if run.is_open:
            close.terminate(run, reason="Delete workflow execution", identity=close.HISTORY_SERVICE)

    try:
        run, _ = await engine.change(namespace_id, workflow_id, run_id, end, repairs=True)
        key = run.key
    except Exception as error:
        if not _is_damage(error):
            raise
        key = await engine.resolve(namespace_id, workflow_id, run_id)
        _log.exception("workflow %s, run %s can't be terminated: it is deleted all the same", workflow_id, key.run_id)
    await engine.delete(key)
    row = (key.namespace_id, key.workflow_id, key.run_id)
    for table, of_row in (("executions", row), ("timer_tasks", (*row, "execution"))):
        if engine.aside.is_noted(table, of_row):
            await engine.aside.forget(table, of_row)


def _is_damage(error: Exception) -> bool:
    if isinstance(error, ServiceError):
        return error.code is Code.DATA_LOSS
    return isinstance(error, storage_errors.Unreadable) or not isinstance(error, storage_errors.StorageError)


async def entry_of(engine: Engine, key: ExecutionKey) -> Entry:
    """Return the run's entry, rebuilt without its state. Raise NOT_FOUND, and storage errors."""
    stored = await engine.store.get_execution(key)
    if stored is None:
        raise not_found(engines.RUN_NOT_FOUND.format(key.workflow_id, key.run_id))
    branches = await engine.store.branches_of(key)
    try:
        state = await _from_history(engine, stored, branches)
    except (DecodeError, LookupError, ValueError, AttributeError, TypeError) as error:
        _log.warning(
            "the history of workflow %s, run %s can't be read either (%s): parent and children are not notified",
            key.workflow_id, key.run_id, error,
        )  # fmt: skip
        state = await _from_rows(engine, stored)
    state.status = stored.status
    state.next_event_id = stored.next_event_id
    del state.branches[:]
    for branch in branches:
        state.branches.add(
            branch_id=branch.branch_id,
            first_event_id=branch.first_event_id,
            next_event_id=branch.next_event_id if branch is not branches[-1] else 0,
        )
    return engines.Entry(key, state, stored.db_record_version, len(stored.state))


def _identity(key: ExecutionKey) -> MutableState:
    return MutableState(namespace_id=key.namespace_id, workflow_id=key.workflow_id, run_id=key.run_id)


async def _from_history(engine: Engine, stored: StoredExecution, branches: list[BranchRange]) -> MutableState:
    key = stored.key
    state = _identity(key)
    current = await engine.store.get_current(key.namespace_id, key.workflow_id)
    if current is not None and current.run_id == key.run_id:
        state.create_request_id = current.create_request_id
        if len(branches) > 1:
            state.start_ns = current.start_time_ns  # A run created by reset began later than its first event says.
    first = 1
    while first < stored.next_event_id:
        batches = await engine.store.read_history(key.namespace_id, branches, first, stored.next_event_id, _PAGE)
        if not batches or batches[0].first_event_id > first:
            raise LookupError(f"event {first} is missing")
        for batch in batches:
            events = nesting.parse(history_pb.History, batch.data).events
            reset.rebuild(state, [[event for event in events if event.event_id < stored.next_event_id]])
            state.history_size_bytes += len(batch.data)
            external_payloads.add(state, events, batch.data)
        first = batches[-1].next_event_id
    return state


async def _from_rows(engine: Engine, stored: StoredExecution) -> MutableState:
    key = stored.key
    state = _identity(key)
    row = await _visibility_row(engine, key)
    if row is None:
        return state
    state.workflow_type, state.task_queue = row.workflow_type, row.task_queue
    state.start_ns = row.start_time_us * 1000
    return state


async def _visibility_row(engine: Engine, key: ExecutionKey) -> VisibilityRow | None:
    everywhere = "(TemporalNamespaceDivision IS NULL OR TemporalNamespaceDivision IS NOT NULL)"
    rows, _ = await engine.store.list_visibility(
        key.namespace_id, parse(f"RunId = '{key.run_id}' AND {everywhere}", {}), 1, b""
    )
    return rows[0] if rows else None
