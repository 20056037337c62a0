"""ResetWorkflowExecution: read what the core needs to decide, and make the commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError, not_found
from whistlestop.common.messages import nesting
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.api.start import MAX_EARLIER_RUNS
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.operations import reset as core_reset
from whistlestop.history.core.workflow import close
from whistlestop.history.engine import chains, changes, histories
from whistlestop.history.engine.engine import WORKFLOW_NOT_FOUND
from whistlestop.storage.records import CurrentWrite, ExecutionKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.changes import Changes
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import HistoryBatch

MAX_CHAIN = 1000
"""The maximum of runs in a chain whose events are applied again."""


@handles(HistoryService.ResetWorkflowExecution)
async def reset_workflow_execution(
    ports: HistoryPorts, request: service_pb.ResetWorkflowExecutionRequest, context: CallContext
) -> service_pb.ResetWorkflowExecutionResponse:
    """Create a run that starts at a point of the base's history, and terminate the current one.

    Return the new run's id. Raise NOT_FOUND, INVALID_ARGUMENT for an invalid point, or UNAVAILABLE after too many
    conflicts.
    """
    engine = ports.engine
    execution = request.workflow_execution

    async def attempt(change: Changes) -> str:
        current = await change.current(context.namespace_id, execution.workflow_id)
        if execution.run_id:
            base = await change.run(ExecutionKey(context.namespace_id, execution.workflow_id, execution.run_id))
        elif current is not None:
            base = current
        else:
            raise not_found(WORKFLOW_NOT_FOUND.format(execution.workflow_id))
        return await _reset(ports, request, change, base, current)

    run_id = await changes.change_together(engine, attempt, workflow_id=execution.workflow_id)
    await _await_child_events(engine, ExecutionKey(context.namespace_id, execution.workflow_id, run_id))
    return service_pb.ResetWorkflowExecutionResponse(run_id=run_id)


async def _reset(
    ports: HistoryPorts,
    request: service_pb.ResetWorkflowExecutionRequest,
    change: Changes,
    base: Run,
    current: Run | None,
) -> str:
    engine = ports.engine
    entry = change.entry(base)
    made = await _made_before(engine, request.request_id, entry, current.state if current is not None else None)
    if made:
        return made
    core_reset.check_point(entry.state, request.workflow_task_finish_event_id)
    if request.post_reset_operations:
        known = await engine.deployments.read(base.key.namespace_id)
        core_reset.check_operations(entry.state, request, known)
    run = await _begin(ports, request, entry)
    base.state.reset_run_id = run.key.run_id
    base.changed = True
    if current is not None and current.is_open:
        close.terminate(current, reason=request.reason, identity=core_reset.RESETTER, by_reset=True)
        current.superseded = True
    kinds = core_reset.excluded(request)
    await _reapply(engine, run, entry, request.workflow_task_finish_event_id, kinds, current)
    core_reset.finish(run, request)
    core_reset.remember(run, request.request_id, (current or base).state)
    run.current = CurrentWrite(
        run.current_record(), expected_run_id=current.key.run_id if current is not None else None
    )
    change.add(run)
    return run.key.run_id


async def _made_before(engine: Engine, request_id: str, base: Entry, current: MutableState | None) -> str:
    """Return the run that this request created if it was sent before: the current run or a predecessor; else empty."""
    state = current or base.state
    made = core_reset.made_by(state, request_id)
    previous = [base.state.reset_run_id, state.continued_run_id]
    for _ in range(MAX_EARLIER_RUNS):
        run_id = previous.pop() if previous else ""
        if made or not run_id:
            break
        entry = await engine.read_if_any(ExecutionKey(base.key.namespace_id, base.key.workflow_id, run_id))
        if entry is not None:
            made = core_reset.made_by(entry.state, request_id)
            previous.append(entry.state.continued_run_id)
    return made


async def _begin(ports: HistoryPorts, request: service_pb.ResetWorkflowExecutionRequest, entry: Entry) -> Run:
    finish_event_id = request.workflow_task_finish_event_id
    batches = [
        (batch.data, list(nesting.parse(history_pb.History, batch.data).events))
        async for batch in _batches(ports.engine, entry, 1, finish_event_id)
    ]
    return core_reset.begin(
        entry.state,
        batches,
        finish_event_id,
        run_id=ports.ids.uuid(),
        request_id=request.request_id,
        reason=request.reason,
        now_ns=ports.clock.now_ns(),
        ids=ports.ids,
        limits=ports.limits,
    )


async def _batches(engine: Engine, entry: Entry, first: int, end: int) -> AsyncIterator[HistoryBatch]:
    """Yield all batches that contain those events."""
    while first < end:
        batches = await histories.read_batches(engine, entry, first, end)
        if not batches:
            return
        for batch in batches:
            yield batch
        first = batches[-1].next_event_id


async def _reapply(
    engine: Engine, run: Run, base: Entry, first: int, kinds: frozenset[int], current: Run | None
) -> None:
    """Apply the events again of the base, of the existing runs that continued it as new, and of the termination."""
    entry = base
    for _ in range(MAX_CHAIN):
        end = entry.state.next_event_id
        following = ""
        async for batch in _batches(engine, entry, first, end):
            events = nesting.parse(history_pb.History, histories.trimmed(batch, first, end)).events
            following = core_reset.reapply(run, events, kinds)
        if current is not None and entry.key == current.key:
            for flushed in (*current.batches, current.batch):
                core_reset.reapply(run, flushed, kinds)
        if not following:
            return
        key = ExecutionKey(base.key.namespace_id, base.key.workflow_id, following)
        try:
            entry, first = await engine.read(key), 1
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return


async def _await_child_events(engine: Engine, key: ExecutionKey) -> None:
    """Record in the new run the ends of children that closed while no run of their parent was open.

    This happens after the commit: a child that closes later finds the new run by itself. If it is interrupted, the
    repeated request comes here again.
    """
    entry = await engine.read_if_any(key)
    pending = [] if entry is None else [child for child in entry.state.children.values() if child.started_event_id]
    endings: dict[int, chains.Ending] = {}
    for child in pending:
        ending = await chains.ending(engine, child.namespace_id, child.workflow_id, child.run_id)
        if ending is not None and ending.event is not None:
            endings[child.initiated_event_id] = ending

    def decide(run: Run) -> None:
        for initiated_event_id, ending in endings.items():
            child = run.state.children.get(initiated_event_id)
            if run.is_open and child is not None and ending.event is not None:
                children.record_closed(run, child, ending.run_id, ending.event)

    if endings:
        await engine.change(key.namespace_id, key.workflow_id, key.run_id, decide)
