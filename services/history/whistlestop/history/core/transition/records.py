"""Turn a finished run into the records of its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history.core.transition import external_payloads
from whistlestop.storage.records import ExecutionKey, ExecutionWrite, HistoryBatch, VisibilityRow
from whistlestop.storage.visibility import AttributeType, row_json
from whistlestop.storage.visibility.attributes import encode_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.history.core.state_pb2 import MutableState
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
        visibility=visibility_row(state, run.policy.search_attributes) if run.visibility_changed else None,
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
        if external_payloads.find(data) is not None:
            external_payloads.add(state, events, data)
        state.last_first_event_id = events[0].event_id
    return batches


def visibility_row(state: MutableState, types: Mapping[str, AttributeType]) -> VisibilityRow:
    """Return the row for the run's state; `types` are the types of the namespace's custom search attributes."""
    closed = state.close_ns != 0
    has_parent = bool(state.parent.workflow_id)
    memo = common_pb.Memo()
    for key, payload in state.memo.items():
        memo.fields[key].CopyFrom(payload)
    return VisibilityRow(
        key=ExecutionKey(state.namespace_id, state.workflow_id, state.run_id),
        workflow_type=state.workflow_type,
        task_queue=state.task_queue,
        status=state.status,
        start_time_us=state.start_ns // 1000,
        execution_time_us=state.execution_start_ns // 1000,
        close_time_us=state.close_ns // 1000 if closed else None,
        execution_duration_ns=max(state.close_ns - state.execution_start_ns, 0) if closed else None,
        history_length=state.next_event_id - 1 if closed else 0,
        history_size_bytes=state.history_size_bytes if closed else 0,
        state_transition_count=state.state_transition_count if closed else 0,
        parent_workflow_id=state.parent.workflow_id if has_parent else None,
        parent_run_id=state.parent.run_id if has_parent else None,
        root_workflow_id=state.root_workflow_id or state.workflow_id,
        root_run_id=state.root_run_id or state.run_id,
        search_attributes=_search_attributes(state, types, closed=closed),
        memo=memo.SerializeToString(),
    )


def _search_attributes(state: MutableState, types: Mapping[str, AttributeType], *, closed: bool) -> str:
    attributes = state.search_attributes
    if not closed or not state.external_payload_count:
        return row_json(attributes, types) if attributes else "{}"
    indexed = dict(attributes)
    for name, number in (
        ("TemporalExternalPayloadCount", state.external_payload_count),
        ("TemporalExternalPayloadSizeBytes", state.external_payload_size_bytes),
    ):
        indexed[name] = encode_value(number, AttributeType.Int)
    return row_json(indexed, types)
