"""One run during a decision: its working state, and the events and effects collected so far.

Rules of this file: `append` is the only way to add an event, and applies it to the state at once. External events
(signals, completions, fired timers) are buffered until no workflow task is started, because SDKs rely on seeing in the
next task what happened during one. Nothing is performed here: `records.records_of` turns everything into the
records of one commit, after `core/finish.py` has ended the transition.

Buffering follows Temporal's rule: a buffered event gets its id when the buffer is flushed (before the next workflow
task is scheduled, or at the end of the transition when no task is started), with closing events of activities, children
and operations after all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.times import set_timestamp
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID, FIRST_TASK_ID, apply_event
from whistlestop.history.core.transition.namespace_policy import UNKNOWN, NamespacePolicy
from whistlestop.storage.records import (
    BranchRange,
    CurrentExecution,
    CurrentWrite,
    ExecutionKey,
    MatchingTask,
    TaskKey,
    TimerTask,
    TransferTask,
    slot_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.protocol.v1 import message_pb2 as protocol_pb

    from whistlestop.common.ids import Ids
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.versioning.deployments import Version
    from whistlestop.history.core import state_pb2
    from whistlestop.history.core.limits import Limits

RUNNING = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
PAUSED = wf_enums.WORKFLOW_EXECUTION_STATUS_PAUSED
_OPEN_STATUSES = frozenset((RUNNING, PAUSED))

NOT_BUFFERED = frozenset(
    {
        et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        et.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        et.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        et.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        et.EVENT_TYPE_WORKFLOW_TASK_FAILED,
        et.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        et.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        et.EVENT_TYPE_TIMER_STARTED,
        et.EVENT_TYPE_TIMER_CANCELED,
        et.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        et.EVENT_TYPE_MARKER_RECORDED,
        et.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        et.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        et.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        et.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED,
        et.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
    }
)
"""Workflow state changes, workflow tasks, and what a worker's commands and messages cause directly."""

FLUSHED_LAST = frozenset(
    {
        et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        et.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        et.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        et.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        et.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        et.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        et.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    }
)

_STARTS = {
    et.EVENT_TYPE_ACTIVITY_TASK_STARTED: ("activity_task_started_event_attributes", "scheduled_event_id"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: (
        "child_workflow_execution_started_event_attributes",
        "initiated_event_id",
    ),
    et.EVENT_TYPE_NEXUS_OPERATION_STARTED: ("nexus_operation_started_event_attributes", "scheduled_event_id"),
}
_CLOSES = {
    et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("activity_task_completed_event_attributes", "scheduled_event_id"),
    et.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("activity_task_failed_event_attributes", "scheduled_event_id"),
    et.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("activity_task_timed_out_event_attributes", "scheduled_event_id"),
    et.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("activity_task_canceled_event_attributes", "scheduled_event_id"),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: (
        "child_workflow_execution_completed_event_attributes",
        "initiated_event_id",
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: (
        "child_workflow_execution_failed_event_attributes",
        "initiated_event_id",
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: (
        "child_workflow_execution_timed_out_event_attributes",
        "initiated_event_id",
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: (
        "child_workflow_execution_canceled_event_attributes",
        "initiated_event_id",
    ),
    et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: (
        "child_workflow_execution_terminated_event_attributes",
        "initiated_event_id",
    ),
}


class StartEventNeeded(Exception):
    """The decision needs the run's first event: the engine reads it into `Run.start_event` and decides again."""


class Run:
    """The working copy of one run, during one transition."""

    def __init__(
        self,
        state: state_pb2.MutableState,
        *,
        version: int,
        now_ns: int,
        ids: Ids,
        limits: Limits,
        policy: NamespacePolicy = UNKNOWN,
    ) -> None:
        self._origin = state
        self.version = version
        """The `db_record_version` that was read; 0 for a new run."""
        self.wall_ns = now_ns
        """The server's clock, used for matching tasks, transfer tasks and the timer row."""
        self.now_ns = now_ns
        """The run's own clock, used for its state and history; it is ahead if time was skipped."""
        self.ids = ids
        self.limits = limits.of(state.namespace)
        self.key = ExecutionKey(state.namespace_id, state.workflow_id, state.run_id)
        self.slot = slot_of(state.namespace_id, state.workflow_id)
        self.start_event: history_pb.HistoryEvent | None = None
        """The run's first event, once it was needed (see `first_event`)."""
        self.check_search_attributes: Callable[[common_pb.SearchAttributes, str], str] | None = None
        """Returns what is wrong with search attributes in a namespace; None: they are not checked."""
        self.namespace_ids: Mapping[str, str] = {}
        """Ids of the other namespaces that commands name, by name, as the engine looked them up."""
        self.policy = policy
        """What the decision has to know of the namespace; UNKNOWN where it needs nothing."""
        self.placed_by: dict[str, NamespaceDeployments] = {}
        """The deployments by which the queues of its new tasks were chosen."""
        self.superseded = False
        """Whether another run takes over the workflow id in the same commit."""
        self.nexus_endpoints: Mapping[str, str] = {}
        """Ids of the existing endpoints that commands name, by name, as the engine looked them up."""
        self.restart()

    def restart(self) -> None:
        """Start again from the state that was read, discarding everything decided so far."""
        self.state = MutableState()
        self.state.CopyFrom(self._origin)
        self.update_clock()
        self.batches: list[list[history_pb.HistoryEvent]] = []
        self.batch: list[history_pb.HistoryEvent] = []
        self.mem_buffer: list[history_pb.HistoryEvent] = []
        self.tasks_added: list[MatchingTask] = []
        self.tasks_removed: list[TaskKey] = []
        self.transfers: list[TransferTask] = []
        self.timer: TimerTask | None = None
        self.timer_removed = False
        self.retention_timer: TimerTask | None = None
        self.current: CurrentWrite | None = None
        self.forked_from: tuple[BranchRange, ...] = ()
        self.visibility_changed = False
        self.pinned_to: Version | None = None
        """The version to which a client's request pins the run, so that it has work from now on."""
        self.postpones_timer = False
        """Whether the timer row is moved to the next deadline at the end, if that is later."""
        self.finished = False
        self.bookkeeping = False
        """Whether the commit changes neither events nor workflow state but only this server's records, which
        Temporal keeps elsewhere or in memory: then it is no state transition in its sense. Events make it one all
        the same."""
        self.transitions = 1
        """The number of Temporal's state transitions for which this commit stands."""
        self.changed = False
        """Whether there is something to commit even without an event."""
        self.outgoing_messages: list[protocol_pb.Message] = []
        """Messages that go to the worker with the workflow task that was started."""
        self.answers: list[tuple[str, bytes]] = []
        """Queries that the worker answered, and their serialised answers."""
        self.next_run: Run | None = None
        """The next run, which is started by the same commit that closes this one."""
        self.warnings: list[str] = []
        """Messages for the operator, to be logged after the commit."""
        self.requests_ended: dict[tuple[str, str], bool] = {}
        """For each kind of Nexus transfer task and destination that ended a request: whether it failed and is
        retried."""
        self.activities_to_cancel: dict[str, dict[int, bytes]] = {}
        """Tokens of activities whose workers are to be notified, by control queue (see worker_commands.py)."""
        self.activity_ids: set[str] | None = None
        """Ids of the pending activities, once a command has needed them."""
        self._wired: dict[int, int] = {}

    def update_clock(self) -> None:
        """Update the run's own clock after time was skipped."""
        self.now_ns = self.wall_ns + self.state.time_skipping.skipped_ns

    def warn(self, text: str) -> None:
        """Warn the operator, after the commit, that something is near its limit."""
        self.warnings.append(text)

    # ---- reading ----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the run is open."""
        return self.state.status in _OPEN_STATUSES

    @property
    def has_pending_workflow_task(self) -> bool:
        """Whether a workflow task is scheduled or started."""
        return self.state.workflow_task.scheduled_event_id != 0

    @property
    def has_started_workflow_task(self) -> bool:
        """Whether a worker has the workflow task."""
        task = self.state.workflow_task
        return task.scheduled_event_id != 0 and task.started_event_id != 0

    @property
    def has_buffered_events(self) -> bool:
        """Whether events wait in the buffer, stored or of this transition."""
        return bool(self.mem_buffer) or len(self.state.buffered_events) > 0

    def buffered(self, wanted: Callable[[history_pb.HistoryEvent], bool]) -> history_pb.HistoryEvent | None:
        """Return the first buffered event that is `wanted`, or None."""
        for event in self.state.buffered_events:
            if wanted(event):
                return event
        return next((event for event in self.mem_buffer if wanted(event)), None)

    def first_event(self) -> history_pb.HistoryEvent:
        """Return the run's started event. Raise StartEventNeeded if it has not been read."""
        if self.start_event is None:
            for events in (*self.batches, self.batch):
                if events and events[0].event_id == 1:
                    return events[0]
            raise StartEventNeeded
        return self.start_event

    @property
    def batch_id(self) -> int:
        """The id of the first event of the batch that the next unbuffered event will be in."""
        return self.batch[0].event_id if self.batch else self.state.next_event_id

    # ---- events -----------------------------------------------------------------------------------------------

    def event(self, event_type: int) -> history_pb.HistoryEvent:
        """Return a new event of that type with the current time, to be filled and appended."""
        event = history_pb.HistoryEvent(event_type=event_type)  # type: ignore[arg-type]
        set_timestamp(event.event_time, self.now_ns)
        return event

    def append(self, event: history_pb.HistoryEvent) -> history_pb.HistoryEvent:
        """Add the event to history (or to the buffer) and apply it to the state."""
        if event.event_type in NOT_BUFFERED:
            self._take_id(event)
            self.batch.append(event)
            apply_event(self.state, event, self.batch[0].event_id)
        else:
            event.event_id = BUFFERED_EVENT_ID
            self.mem_buffer.append(event)
            apply_event(self.state, event, 0)
        return event

    def _take_id(self, event: history_pb.HistoryEvent) -> None:
        event_id = self.state.next_event_id
        event.event_id = event_id
        event.task_id = FIRST_TASK_ID + self.state.task_id_offset + event_id
        self.state.next_event_id = event_id + 1

    def flush_buffer(self) -> None:
        """Move the buffered events into history, giving them ids."""
        if not self.has_buffered_events:
            return
        events = [*self.state.buffered_events, *self.mem_buffer]
        stored = len(self.state.buffered_events) > 0
        if stored:
            # The repeated field owns its messages, so copy them before it is cleared.
            copies = []
            for event in events:
                copy = history_pb.HistoryEvent()
                copy.CopyFrom(event)
                copies.append(copy)
            events = copies
            del self.state.buffered_events[:]
        self.mem_buffer.clear()
        if not self.is_open:
            return
        if len(events) > 1:
            events = [e for e in events if e.event_type not in FLUSHED_LAST] + [
                e for e in events if e.event_type in FLUSHED_LAST
            ]
        for event in events:
            self._take_id(event)
        for event in events:
            self._wire(event)
            self.batch.append(event)

    def take_buffered(self, wanted: Callable[[history_pb.HistoryEvent], bool]) -> bool:
        """Remove the first buffered event that is `wanted`, as if it never happened; return whether there was one."""
        for index, event in enumerate(self.state.buffered_events):
            if wanted(event):
                del self.state.buffered_events[index]
                return True
        for index, event in enumerate(self.mem_buffer):
            if wanted(event):
                del self.mem_buffer[index]
                return True
        return False

    def _wire(self, event: history_pb.HistoryEvent) -> None:
        """Set the started event's id in closing events and in the state, now that ids are known."""
        kind = event.event_type
        if kind in _STARTS:
            field, id_field = _STARTS[kind]
            scheduled_event_id = getattr(getattr(event, field), id_field)
            self._wired[scheduled_event_id] = event.event_id
            if kind == et.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED and scheduled_event_id in self.state.children:
                self.state.children[scheduled_event_id].started_event_id = event.event_id
            elif kind == et.EVENT_TYPE_ACTIVITY_TASK_STARTED and scheduled_event_id in self.state.activities:
                self.state.activities[scheduled_event_id].started_event_id = event.event_id
        elif kind in _CLOSES:
            field, id_field = _CLOSES[kind]
            attributes = getattr(event, field)
            started = self._wired.get(getattr(attributes, id_field))
            if started is not None:
                attributes.started_event_id = started
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            request_id = event.workflow_execution_signaled_event_attributes.request_id
            if request_id and request_id in self.state.request_ids:
                self.state.request_ids[request_id].event_id = event.event_id
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
            update_id = event.workflow_execution_update_admitted_event_attributes.request.meta.update_id
            if update_id in self.state.updates:
                self.state.updates[update_id].admitted_event_id = event.event_id
            request_id = event.workflow_execution_update_admitted_event_attributes.request.request_id
            if request_id in self.state.request_ids and self.state.request_ids[request_id].event_type == kind:
                self.state.request_ids[request_id].event_id = event.event_id
        elif kind == et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
            request_id = event.workflow_execution_options_updated_event_attributes.attached_request_id
            if request_id and request_id in self.state.request_ids:
                self.state.request_ids[request_id].event_id = event.event_id

    def new_batch(self) -> None:
        """Close the current batch of events (the start of a workflow task ends one)."""
        if self.batch:
            self.batches.append(self.batch)
            self.batch = []

    # ---- effects ----------------------------------------------------------------------------------------------

    def arm(self, deadline_ns: int) -> None:
        """Make sure that the run's timer row fires no later than `deadline_ns` (by the run's clock; 0: no deadline).

        A run has one timer row, and its time is a lower bound of all deadlines: an earlier one moves it, a later one
        leaves it, and if it fires too early, nothing is due and the row is moved. So most timeouts, which never fire,
        cost no write.
        """
        if deadline_ns <= 0:
            return
        row_ns = self.state.timer_row_ns
        if row_ns == 0 or deadline_ns < row_ns:
            self.set_timer_row(deadline_ns)

    def set_timer_row(self, deadline_ns: int) -> None:
        """Move the run's timer row to exactly `deadline_ns` by the run's clock."""
        self.state.timer_row_ns = deadline_ns
        self.timer_removed = False
        self.timer = TimerTask("execution", self.slot, self.key, deadline_ns - self.state.time_skipping.skipped_ns)

    def add_task(
        self,
        row: state_pb2.TaskRow,
        task_queue: str,
        task_type: int,
        priority: int,
        scheduled_event_id: int,
        stamp: int,
        *,
        namespace_id: str = "",
        data: bytes = b"",
        sticky: bool = False,
    ) -> None:
        """Write a matching task, and remember its row in `row`. `namespace_id` is the queue's, if not the run's."""
        task_id = self.ids.task_id(self.wall_ns)
        key = TaskKey(namespace_id or self.state.namespace_id, task_queue, task_type, priority, task_id)
        self.tasks_added.append(
            MatchingTask(
                key,
                self.state.workflow_id,
                self.state.run_id,
                scheduled_event_id,
                stamp,
                self.wall_ns,
                data=data,
                sticky=sticky,
            )
        )
        row.namespace_id = namespace_id
        row.task_queue = task_queue
        row.task_type = task_type
        row.priority = priority
        row.task_id = task_id

    def drop_task(self, row: state_pb2.TaskRow) -> None:
        """Delete the matching task in `row`, if there is one."""
        if row.task_id == 0:
            return
        namespace_id = row.namespace_id or self.state.namespace_id
        key = TaskKey(namespace_id, row.task_queue, row.task_type, row.priority, row.task_id)
        for index, task in enumerate(self.tasks_added):
            if task.key == key:
                del self.tasks_added[index]
                break
        else:
            self.tasks_removed.append(key)
        row.Clear()

    def add_transfer(self, kind: str, data: state_pb2.TransferData) -> None:
        """Add a transfer task: an effect on another execution, delivered after the commit."""
        self.transfers.append(
            TransferTask(
                self.slot, self.ids.task_id(self.wall_ns), self.key, kind, data.SerializeToString(), self.wall_ns
            )
        )

    # ---- the end of the transition ----------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to commit."""
        return bool(
            self.changed
            or self.batch
            or self.batches
            or self.mem_buffer
            or self.tasks_added
            or self.tasks_removed
            or self.transfers
            or self.timer
            or self.next_run
        )

    def current_record(self) -> CurrentExecution:
        """Return the current row while this run is the current one."""
        state = self.state
        return CurrentExecution(
            state.namespace_id,
            state.workflow_id,
            state.run_id,
            state.create_request_id,
            state.status,
            state.start_ns,
            state.close_ns,
        )
