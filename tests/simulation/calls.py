"""The log of all calls and commits of a simulation, and whether it is linearizable.

Each record has a number of its own, so the log says what was before what; see `tests.linearizability`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb

from tests.linearizability import checker, model
from tests.linearizability.checker import Call
from tests.simulation.programs import decode
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.state_pb2 import MutableState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from whistlestop.storage.records import ExecutionWrite, Transition

RunIds: TypeAlias = "Mapping[str, list[str]]"
UNKNOWN = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.ABORTED})
CLIENT = "client"
"""The identity of clients that terminate workflows."""
_CLOSES = {
    "workflow_execution_completed_event_attributes": model.COMPLETED,
    "workflow_execution_failed_event_attributes": model.FAILED,
    "workflow_execution_canceled_event_attributes": model.CANCELED,
    "workflow_execution_terminated_event_attributes": model.TERMINATED,
    "workflow_execution_continued_as_new_event_attributes": model.CONTINUED,
    "workflow_execution_timed_out_event_attributes": model.TIMED_OUT,
}


@dataclass(slots=True)
class _Record:
    method: str
    request: Any
    called: int
    returned: int | None = None
    reply: Any = None
    error: ServiceError | None = None


@dataclass(slots=True)
class _Commit:
    transition: Transition
    at: int
    heard: int


@dataclass(slots=True)
class CallLog:
    """Written while the simulation runs, read at its end."""

    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _records: list[_Record] = field(default_factory=list)
    _commits: list[_Commit] = field(default_factory=list)
    checked: int = 0

    def called(self, method: str, request: Message) -> _Record | None:
        """A client calls; None when the model does not know this RPC."""
        if method not in _OPERATIONS:
            return None
        copy = type(request)()
        copy.CopyFrom(request)
        record = _Record(method, copy, next(self._numbers))
        self._records.append(record)
        return record

    def returned(self, record: _Record | None, reply: Message | None, error: ServiceError | None) -> None:
        """It heard."""
        if record is not None:
            record.returned, record.reply, record.error = next(self._numbers), reply, error

    def committed(self, transition: Transition) -> _Commit:
        """The store has it."""
        at = next(self._numbers)
        commit = _Commit(transition, at, at)
        self._commits.append(commit)
        return commit

    def heard(self, commit: _Commit) -> None:
        """So has the one process that there is, which answers from its memory: for its callers it happens by then."""
        commit.heard = next(self._numbers)

    def check(self) -> None:
        """Raises AssertionError for the first workflow id whose calls no order explains."""
        logs: dict[str, list[Call[Any]]] = defaultdict(list)
        inside = _Inside(self._records)
        for commit in self._commits:
            for workflow_id, operation in inside.of(commit.transition):
                logs[workflow_id].append(Call(operation, commit.at, commit.heard))
        for record in self._records:
            for workflow_id, call in _calls_of(record, inside.run_ids):
                logs[workflow_id].append(call)
        for workflow_id, calls in logs.items():
            verdict = checker.check(calls, model.NOTHING, model.step, model.is_read)
            assert verdict.good, _complaint(workflow_id, calls, verdict)
            self.checked += len(calls)


def _complaint(workflow_id: str, calls: list[Call[Any]], verdict: checker.Verdict[Any]) -> str:
    state: model.State = ()
    for call in verdict.order:
        state = next(iter(model.step(state, call.operation)))
    lines = [f"{call.called}-{call.returned}: {call.operation}" for call in sorted(calls, key=lambda each: each.called)]
    stuck = "\n  ".join(f"{call.called}-{call.returned}: {call.operation}" for call in verdict.stuck_at)
    return (
        f"the calls of {workflow_id} are not linearizable. After {len(verdict.order)} of {len(calls)} the state is\n"
        f"  {state}\nand none of these may be next:\n  {stuck}\nAll:\n  " + "\n  ".join(lines)
    )


def operations_of(method: str, request: Any, reply: Any, unknown: bool, run_ids: RunIds) -> list[tuple[str, Any]]:
    """What the model is to be told of one call, by workflow id. No reply: it was refused, or its outcome is unknown."""
    refused = None if reply is not None or unknown else ServiceError(Code.NOT_FOUND, "")
    record = _Record(method, request, 0, None if unknown else 0, reply, refused)
    return list(_OPERATIONS[method](record, unknown, run_ids))


# ---- what callers did -----------------------------------------------------------------------------------------------


def _calls_of(record: _Record, run_ids: RunIds) -> Iterator[tuple[str, Call[Any]]]:
    error = record.error
    unknown = record.returned is None or (error is not None and error.code in UNKNOWN)
    if error is not None and not unknown and error.code not in (Code.NOT_FOUND, Code.ALREADY_EXISTS):
        return
    returned = None if unknown else record.returned
    for workflow_id, operation in _OPERATIONS[record.method](record, unknown, run_ids):
        yield workflow_id, Call(operation, record.called, returned)


def _found(record: _Record, unknown: bool) -> bool | None:
    return None if unknown else record.error is None


def _start_of(request: Any, run_id: str | None, candidates: RunIds, *, signal: str = "", joins: bool = False) -> Any:
    return model.Start(
        request.request_id, run_id, signal=signal, joins=joins,
        candidates=tuple(candidates.get(request.request_id, ())) if run_id is None else (),
        terminates=request.workflow_id_conflict_policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
        uses_existing=request.workflow_id_conflict_policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
        rejects_closed=request.workflow_id_reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
    )  # fmt: skip


def _start(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    request = record.request
    run_id = None if unknown else record.reply.run_id if record.reply else ""
    yield request.workflow_id, _start_of(request, run_id, run_ids, signal=getattr(request, "signal_name", ""))


def _multi(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    request = record.request.operations[0].start_workflow
    if record.reply is None:
        # Whatever it failed of: the workflow may have been started.
        yield request.workflow_id, _start_of(request, None, run_ids, joins=True)
        return
    started = record.reply.responses[0].start_workflow
    if started.status in model.OPEN:
        yield request.workflow_id, _start_of(request, started.run_id, run_ids, joins=True)
    yield from _updated(request.workflow_id, record.reply.responses[1].update_workflow)


def _updated(workflow_id: str, reply: Any) -> Iterator[tuple[str, Any]]:
    outcome = reply.outcome.SerializeToString(deterministic=True) if reply.HasField("outcome") else None
    if outcome is None and reply.stage < 3:
        return
    if not reply.outcome.HasField("failure"):
        run_id = reply.update_ref.workflow_execution.run_id
        yield workflow_id, model.Updated(reply.update_ref.update_id, run_id, outcome)


def _update(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    if record.reply is not None:
        yield from _updated(record.request.workflow_execution.workflow_id, record.reply)


def _signal(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    execution = record.request.workflow_execution
    yield execution.workflow_id, model.Signal(record.request.signal_name, execution.run_id, _found(record, unknown))


def _terminate(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    execution = record.request.workflow_execution
    yield execution.workflow_id, model.Terminate(execution.run_id, _found(record, unknown))


def _cancel(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    execution = record.request.workflow_execution
    yield execution.workflow_id, model.Cancel(execution.run_id, _found(record, unknown))


def _reset(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    if record.reply is None and not unknown:
        return
    execution = record.request.workflow_execution
    request_id = record.request.request_id
    run_id = record.reply.run_id if record.reply else ""
    candidates = () if run_id else tuple(run_ids.get(request_id, ()))
    yield execution.workflow_id, model.Reset(execution.run_id, request_id, run_id, candidates)


def _describe(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    if unknown:
        return
    workflow_id = record.request.execution.workflow_id
    if record.reply is None:
        yield workflow_id, model.Described(0, record.request.execution.run_id)
        return
    info = record.reply.workflow_execution_info
    if record.request.execution.run_id:
        yield workflow_id, model.Described(info.status, info.execution.run_id)
    else:
        yield workflow_id, model.Current(info.execution.run_id, info.status)


def _list(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    if record.reply is not None:
        workflow_id = record.request.query.partition('"')[2].rpartition('"')[0]
        runs = frozenset((info.execution.run_id, int(info.status)) for info in record.reply.executions)
        yield workflow_id, model.Listed(runs)


def _query(record: _Record, unknown: bool, run_ids: RunIds) -> Iterator[tuple[str, Any]]:
    if record.reply is not None:
        yield record.request.execution.workflow_id, model.Queried(decode(record.reply.query_result))


_OPERATIONS = {
    "StartWorkflowExecution": _start,
    "SignalWithStartWorkflowExecution": _start,
    "ExecuteMultiOperation": _multi,
    "UpdateWorkflowExecution": _update,
    "SignalWorkflowExecution": _signal,
    "TerminateWorkflowExecution": _terminate,
    "RequestCancelWorkflowExecution": _cancel,
    "ResetWorkflowExecution": _reset,
    "DescribeWorkflowExecution": _describe,
    "ListWorkflowExecutions": _list,
    "QueryWorkflow": _query,
}


# ---- what happened inside -------------------------------------------------------------------------------------------


class _Inside:
    """Finds in commits what no caller asked for."""

    def __init__(self, records: list[_Record]) -> None:
        self.run_ids: dict[str, list[str]] = defaultdict(list)
        """The run that a request created, by request id."""
        self._asked: set[str] = set()
        for record in records:
            if record.method == "ExecuteMultiOperation":
                self._asked.add(record.request.operations[0].start_workflow.request_id)
            elif hasattr(record.request, "request_id"):
                self._asked.add(record.request.request_id)
        self._written: dict[str, int] = Counter()
        self._pings: dict[str, int] = Counter()

    def of(self, transition: Transition) -> Iterator[tuple[str, model.Inside]]:
        found: dict[str, list[model.Inside]] = defaultdict(list)
        taken_over: set[str] = set()
        for write in transition.writes:
            state = MutableState.FromString(write.state)
            if not write.expected_version and state.create_request_id:
                self.run_ids[state.create_request_id].append(write.key.run_id)
                if state.create_request_id in self._asked:
                    taken_over.add(write.key.workflow_id)
        for write in transition.writes:
            inside = self._of_write(write, replaced=write.key.workflow_id in taken_over)
            if inside is not None:
                found[write.key.workflow_id].append(inside)
        for workflow_id, each in found.items():
            each.sort(key=lambda inside: inside.begins)
            last: model.Inside | None = None
            for inside in reversed(each):
                last = inside if last is None else model.then(inside, last)
            if last is not None:
                yield workflow_id, last

    def _of_write(self, write: ExecutionWrite, *, replaced: bool) -> model.Inside | None:
        state = MutableState.FromString(write.state)
        run_id = write.key.run_id
        events = [event for batch in write.history for event in history_pb.History.FromString(batch.data).events]
        is_new = not write.expected_version
        asked = is_new and state.create_request_id in self._asked
        pings = self._new_pings(run_id, events, state)
        begins = is_new and not asked
        closes = 0 if replaced else _closing_status(events)
        accepted = [event.workflow_execution_update_accepted_event_attributes for event in events]
        completed = [event.workflow_execution_update_completed_event_attributes for event in events]
        inside = model.Inside(
            run_id, begins=begins, request_id=state.create_request_id if begins else "",
            continues=_continued(events) if begins else "", first=state.first_run_id if begins else "", closes=closes, pings=0 if asked else pings,
            accepted=tuple(a.protocol_instance_id for a in accepted if a.protocol_instance_id),
            completed=tuple(
                (c.meta.update_id, c.outcome.SerializeToString(deterministic=True)) for c in completed if c.meta.update_id
            ),
        )  # fmt: skip
        return None if inside == model.Inside(run_id) else inside

    def _new_pings(self, run_id: str, events: list[history_pb.HistoryEvent], state: MutableState) -> int:
        """Those that were neither in history nor buffered before."""
        self._written[run_id] += _count_pings(events)
        total = self._written[run_id] + _count_pings(list(state.buffered_events))
        fresh = total - self._pings[run_id]
        self._pings[run_id] = total
        return fresh


def _count_pings(events: list[history_pb.HistoryEvent]) -> int:
    return sum(event.workflow_execution_signaled_event_attributes.signal_name.startswith("ping ") for event in events)


def _closing_status(events: list[history_pb.HistoryEvent]) -> int:
    if not events:
        return 0
    kind = events[-1].WhichOneof("attributes") or ""
    if events[-1].workflow_execution_terminated_event_attributes.identity == CLIENT:
        return 0
    return _CLOSES.get(kind, 0)


def _continued(events: list[history_pb.HistoryEvent]) -> str:
    a = events[0].workflow_execution_started_event_attributes
    return a.continued_execution_run_id if a.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_WORKFLOW else ""
