"""Execute a schedule: load it, let the policy decide, start runs, commit.

A schedule is a run in `executions` that no worker ever sees: its workflow id is `temporal-sys-scheduler:<schedule id>`,
its first event records its creation, its last one its deletion, and in between everything is in `MutableState.
schedule`. So it is guarded, cached, listed, retained and deleted like a run. Above all, the runs that it starts are
part of the commit that records their start, so each action is taken once, whatever crashes when.

How a started run ends is reported by a transfer task (`schedule_action_closed`); requests to cancel and terminate runs
are transfer tasks, too. Its timer row has the kind `schedule`.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from google.protobuf import timestamp_pb2
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common import task_queues
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages import nesting
from whistlestop.history.api.start import check_version
from whistlestop.history.core import retry
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.core.workflow import cancel, close
from whistlestop.history.engine import chains, changes
from whistlestop.history.schedule import policy
from whistlestop.history.schedule.schedule_pb2 import BufferedStart, ScheduleData
from whistlestop.net.tasks.offload import off_loop
from whistlestop.storage.records import ExecutionKey, TimerTask
from whistlestop.storage.visibility import AttributeType

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.changes import Changes
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.history.schedule.spec import CompiledSpec
    from whistlestop.storage.records import TransferTask

    Decide = Callable[[Run, ScheduleData], None]

log = logging.getLogger(__name__)
ID_PREFIX = "temporal-sys-scheduler:"
WORKFLOW_TYPE = "temporal-sys-scheduler-workflow"
TASK_QUEUE = task_queues.PER_NAMESPACE_QUEUE
DIVISION = "TemporalScheduler"
MEMO_INFO = "ScheduleInfo"
PAUSED_ATTRIBUTE = "TemporalSchedulePaused"
DIVISION_ATTRIBUTE = "TemporalNamespaceDivision"
NEXT_ACTION_ATTRIBUTE, RUNNING_ATTRIBUTE = "TemporalScheduleNextActionTime", "TemporalScheduleRunningWorkflowCount"
BUFFERED_ATTRIBUTE, IDLE_CLOSE_ATTRIBUTE = "TemporalScheduleBufferedStartsCount", "TemporalScheduleIdleCloseTime"
OWN_ATTRIBUTES = (
    PAUSED_ATTRIBUTE, NEXT_ACTION_ATTRIBUTE, RUNNING_ATTRIBUTE, BUFFERED_ATTRIBUTE, IDLE_CLOSE_ATTRIBUTE,
    DIVISION_ATTRIBUTE, "BinaryChecksums", "BuildIds",
)  # fmt: skip
_REQUEST_IDS = uuid.UUID("5b0e6a5e-7d0f-5c1b-9f53-0c1d6a3f3a10")
MAX_ROUNDS = 100
_CLOSED = "workflow execution already completed"
_STATUS_OF = {
    et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: wf_enums.WORKFLOW_EXECUTION_STATUS_CANCELED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: wf_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED,
    et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
}


def workflow_id_of(schedule_id: str) -> str:
    """Return the workflow id of the schedule's run in `executions`."""
    return ID_PREFIX + schedule_id


def identity_of(run: Run, data: ScheduleData) -> str:
    """Return the identity under which a schedule acts."""
    return f"temporal-scheduler-{run.state.namespace}-{data.schedule_id}"


P = ParamSpec("P")
T = TypeVar("T")


def no_change(run: Run, data: ScheduleData) -> None:
    """Change nothing, so that only due work is done."""


async def work(ports: HistoryPorts, key: ExecutionKey, decide: Decide = no_change) -> ScheduleData:
    """Do what is due, then what `decide` wants, and commit; repeat on a conflict.

    Return the schedule's data afterwards. Raise NOT_FOUND when the schedule is closed, UNAVAILABLE after too many
    conflicts.
    """

    async def attempt(change: Changes) -> ScheduleData:
        return await _process(ports, change, await change.run(key), decide)

    return await changes.change_together(ports.engine, attempt, workflow_id=key.workflow_id)


async def _process(ports: HistoryPorts, change: Changes, run: Run, decide: Decide) -> ScheduleData:
    """Do what is due, then what `decide` wants; return the schedule's data. Raise NOT_FOUND when it is closed."""
    if not run.is_open or not run.state.schedule:
        raise not_found(_CLOSED)
    turn = _Turn(ports, run, nesting.parse(ScheduleData, run.state.schedule))
    await turn.run_to_end(decide)
    if run.is_open:
        write(run, turn.data, await off_loop_if(turn.spec, outlook, turn.data, turn.spec, run.now_ns))
    change.add(*turn.started)
    return turn.data


async def off_loop_if(spec: CompiledSpec | None, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return the result of `work`, computed off the event loop for a spec whose times take long to find.

    Raise what `work` raises. None is a spec that can't be read: nothing takes long.
    """
    if spec is not None and spec.is_long:
        return await off_loop(work, *arguments, **named)
    return work(*arguments, **named)


class Outlook(NamedTuple):
    """What is stored with a schedule's data, and follows from it and its spec."""

    deadline_ns: int
    """When the schedule has to be processed again."""
    list_info: bytes
    """What lists show of it, serialised."""
    next_action: bytes
    """When it acts next, and when it will be closed as idle: values of search attributes, empty for never."""
    idle_close: bytes


def outlook(data: ScheduleData, spec: CompiledSpec | None, now_ns: int) -> Outlook:
    """Return what is stored of a schedule beside its data; without a spec, no next action time."""
    listed = policy.listed(data, spec)
    times = listed.future_action_times
    next_action = f'"{times[0].ToJsonString()}"'.encode() if times else b""
    idle_close = b""
    if not times and policy.is_idle(data):
        at = timestamp_pb2.Timestamp()
        at.FromNanoseconds(policy.retention_ends(data))
        idle_close = f'"{at.ToJsonString()}"'.encode()
    return Outlook(
        policy.next_check(data, spec, now_ns), listed.SerializeToString(deterministic=True), next_action, idle_close
    )


def write(run: Run, data: ScheduleData, outlook: Outlook) -> None:
    """Write the data of an open schedule into its run, with the timer and what lists show (see `outlook`)."""
    deadline_ns, list_info, next_action, idle_close = outlook
    if deadline_ns != data.timer_row_ns:
        data.timer_row_ns = deadline_ns
        if deadline_ns:
            run.timer = TimerTask("schedule", run.slot, run.key, deadline_ns)
    run.state.schedule = data.SerializeToString()
    run.changed = True
    payload = common_pb.Payload(metadata={"encoding": b"binary/plain"})
    payload.data = list_info
    if MEMO_INFO not in run.state.memo or run.state.memo[MEMO_INFO] != payload:
        run.state.memo[MEMO_INFO].CopyFrom(payload)
        run.visibility_changed = True
    paused = b"true" if data.schedule.state.paused else b"false"
    _set_attribute(run, PAUSED_ATTRIBUTE, paused, AttributeType.Bool)
    _set_attribute(run, NEXT_ACTION_ATTRIBUTE, next_action, AttributeType.Datetime)
    _set_attribute(run, IDLE_CLOSE_ATTRIBUTE, idle_close, AttributeType.Datetime)
    running = str(len(data.info.running_workflows)).encode()
    _set_attribute(run, RUNNING_ATTRIBUTE, running, AttributeType.Int)
    _set_attribute(run, BUFFERED_ATTRIBUTE, str(len(data.buffered)).encode(), AttributeType.Int)


def _set_attribute(run: Run, name: str, data: bytes, kind: AttributeType) -> None:
    """Set one of the server's own search attributes; without data, remove it."""
    attributes = run.state.search_attributes
    present = attributes[name].data if name in attributes else b""
    if data == present:
        return
    if data:
        attributes[name].CopyFrom(attribute(data, kind))
    else:
        del attributes[name]
    run.visibility_changed = True


def attribute(data: bytes, kind: AttributeType) -> common_pb.Payload:
    """Return a search attribute as the server itself sets it."""
    return common_pb.Payload(metadata={"encoding": b"json/plain", "type": kind.name.encode()}, data=data)


@dataclass(slots=True)
class _Turn:
    """The processing of one schedule, on working copies."""

    ports: HistoryPorts
    run: Run
    data: ScheduleData
    started: list[Run] = field(default_factory=list)
    spec: CompiledSpec | None = None

    async def run_to_end(self, decide: Decide) -> None:
        run, data = self.run, self.data
        self.spec = policy.compiled(data, run.state.namespace_id)
        await off_loop_if(self.spec, policy.advance, data, self.spec, run.now_ns)
        if data.HasField("initial_patch"):
            policy.patch(data, data.initial_patch, run.now_ns)
            data.ClearField("initial_patch")
        decide(run, data)
        if not run.is_open:
            return
        self.spec = policy.compiled(data, run.state.namespace_id)
        await off_loop_if(self.spec, policy.advance, data, self.spec, run.now_ns)
        await off_loop_if(self.spec, policy.backfill, data, self.spec)
        if not data.schedule.action.HasField("start_workflow"):
            del data.buffered[:]
        if data.buffered:
            await self._refresh()
        for _ in range(MAX_ROUNDS):
            if not await self._take():
                break
        if await off_loop_if(self.spec, policy.is_over, data, self.spec, run.now_ns):
            event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
            event.workflow_execution_completed_event_attributes.SetInParent()
            close.finish(run, event)

    async def _take(self) -> bool:
        """Start what may start now. Return True when a start was skipped, so that another may take its place."""
        data = self.data
        room = policy.STARTS_AT_ONCE - len(self.started)
        if not data.buffered or room <= 0:
            return False
        taken = policy.take(data, room)
        again = False
        for start, tracked in taken.starts:
            if not policy.spend(data, start):
                again = True
                continue
            run = await self._new_run(start, tracked=tracked)
            if run is None:
                again = True
                continue
            self.started.append(run)
            policy.record_start(data, start, run.key.workflow_id, run.key.run_id, self.run.now_ns, tracked=tracked)
        if taken.cancel or taken.terminate:
            self._stop_running("schedule_terminate" if taken.terminate else "schedule_cancel")
        return again

    def _stop_running(self, kind: str) -> None:
        for each in policy.executions(self.data):
            self.run.add_transfer(
                kind,
                TransferData(
                    target_namespace_id=self.run.state.namespace_id,
                    target_workflow_id=each.workflow_id,
                    target_run_id=each.run_id,
                    request_id=self.ports.ids.uuid(),
                    namespace=identity_of(self.run, self.data),
                ),
            )

    async def _new_run(self, start: BufferedStart, *, tracked: bool) -> Run | None:
        """Return the run of a start; None when its workflow id is in use or its pinned version does not exist."""
        state = self.run.state
        request = start_request(self.run, self.data, start, tracked=tracked)
        if request.HasField("retry_policy"):
            retry.set_defaults(request.retry_policy, self.run.limits.workflow_retry)
        if any(run.key.workflow_id == request.workflow_id for run in self.started):
            return None
        current = await self.ports.store.get_current(state.namespace_id, request.workflow_id)
        if current is not None:
            keeps_id = self.data.schedule.policies.keep_original_workflow_id
            if current.status in (RUNNING, PAUSED) or not (start.manual or keeps_id):
                return None
        context = CallContext(namespace_id=state.namespace_id, namespace=state.namespace)
        try:
            await check_version(self.ports, request, context)
        except ServiceError as error:
            log.warning("schedule %s started no workflow: %s", self.data.schedule_id, error.message)
            return None
        now_ns = self.run.now_ns
        run = core_start.new_run(
            core_start.started_attributes(request, now_ns=now_ns, limits=self.run.limits),
            namespace_id=context.namespace_id,
            namespace=context.namespace,
            workflow_id=request.workflow_id,
            run_id=self.ports.ids.uuid(),
            request_id=request.request_id,
            now_ns=now_ns,
            ids=self.ports.ids,
            limits=self.ports.limits,
            user_metadata=request.user_metadata if request.HasField("user_metadata") else None,
            expected_current_run_id=current.run_id if current is not None else None,
        )
        run.state.scheduled_by = state.workflow_id
        core_start.first_workflow_task(run)
        return run

    async def _refresh(self) -> None:
        """Record the ends of runs that closed without reporting it yet, or are gone, so that they block no start."""
        for each in policy.executions(self.data):
            closed = await _closed(self.ports, self.run.state.namespace_id, each)
            if closed is not None:
                status, event = closed
                policy.record_closed(self.data, each.workflow_id, each.run_id, status, event)


def start_request(
    run: Run, data: ScheduleData, start: BufferedStart, *, tracked: bool
) -> service_pb.StartWorkflowExecutionRequest:
    """Return the schedule's action as a start request."""
    action = data.schedule.action.start_workflow
    nominal = datetime.fromtimestamp(start.nominal_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    keeps_id = data.schedule.policies.keep_original_workflow_id
    request = service_pb.StartWorkflowExecutionRequest(
        workflow_id=action.workflow_id if keeps_id else f"{action.workflow_id}-{nominal}",
        request_id=str(uuid.uuid5(_REQUEST_IDS, f"{run.key.run_id} {data.info.action_count} {start.nominal_ns}")),
        identity=identity_of(run, data),
    )
    for name in (
        "workflow_type", "task_queue", "input", "workflow_execution_timeout", "workflow_run_timeout",
        "workflow_task_timeout", "retry_policy", "memo", "search_attributes", "header", "user_metadata", "priority",
        "versioning_override",
    ):  # fmt: skip
        if action.HasField(name):
            getattr(request, name).CopyFrom(getattr(action, name))
    attributes = request.search_attributes.indexed_fields
    attributes["TemporalScheduledStartTime"].CopyFrom(attribute(f'"{nominal}"'.encode(), AttributeType.Datetime))
    attributes["TemporalScheduledById"].CopyFrom(attribute(_quoted(data.schedule_id), AttributeType.Keyword))
    if tracked and data.HasField("last_completion_result"):
        request.last_completion_result.CopyFrom(data.last_completion_result)
    if tracked and data.HasField("continued_failure"):
        request.continued_failure.CopyFrom(data.continued_failure)
    return request


def _quoted(text: str) -> bytes:
    import json

    return json.dumps(text, ensure_ascii=False).encode()


# ---- the started runs ------------------------------------------------------------------------------------------------


async def _closed(
    ports: HistoryPorts, namespace_id: str, execution: common_pb.WorkflowExecution
) -> tuple[wf_enums.WorkflowExecutionStatus.ValueType, history_pb.HistoryEvent | None] | None:
    """Return how the chain that began with that run ended; None while it is open. A deleted chain counts as ended."""
    ending = await chains.ending(ports.engine, namespace_id, execution.workflow_id, execution.run_id)
    if ending is None:
        return None
    kind = et.EVENT_TYPE_UNSPECIFIED if ending.event is None else ending.event.event_type
    return _STATUS_OF.get(kind, wf_enums.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED), ending.event


async def is_running(ports: HistoryPorts, namespace_id: str, execution: common_pb.WorkflowExecution) -> bool:
    """Return whether the chain that began with that run is open. Raise StorageError."""
    return await _closed(ports, namespace_id, execution) is None


async def fire(ports: HistoryPorts, timer: TimerTask) -> None:
    """Fire the schedule's timer row, which may have been moved. Raise StorageError."""
    if ports.clock.now_ns() < timer.fire_at_ns:
        return
    try:
        data = await work(ports, timer.key)
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
    else:
        if data.timer_row_ns == timer.fire_at_ns:
            return
    await ports.store.delete_timer(timer)


async def action_closed(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    """Record in the schedule how a run that it started ended. Raise StorageError."""
    event = data.close_event
    status = _STATUS_OF.get(event.event_type, wf_enums.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED)

    def decide(run: Run, schedule: ScheduleData) -> None:
        policy.record_closed(schedule, task.key.workflow_id, data.target_run_id, status, event)

    run = await change.current(data.target_namespace_id, data.target_workflow_id)
    if run is not None and run.is_open and run.state.schedule:
        await _process(ports, change, run, decide)


async def stop_action(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    """Cancel or terminate a run that blocks the next one. Raise StorageError."""
    run = await change.current(data.target_namespace_id, data.target_workflow_id)
    if run is None or not run.is_open or run.state.first_run_id != data.target_run_id:
        return
    # The row's `namespace` field has the schedule's identity, because nothing else is needed here.
    if task.kind == "schedule_terminate":
        close.terminate(run, reason="terminated by schedule overlap policy", identity=data.namespace)
    else:
        cancel.request(
            run, cause="cancelled by schedule overlap policy", identity=data.namespace, request_id=data.request_id
        )
