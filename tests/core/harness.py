"""A world in memory for tests of the pure core: a clock, commits, queues and timers, without any shell.

    world = World()
    run = world.start(execution_timeout_s=60)         # the run id; also world.run_id
    task = world.poll()                               # starts the workflow task that is offered
    outcome = world.complete(schedule_activity("a"))  # answers it with commands
    world.advance(5)                                  # fires what is due on the way

Every commit goes through `finish` and `records_of` and is checked: ids without a gap, no deadline forgotten, and a mutable state
rebuilt from history equals the stored one in all that history carries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import text_format
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.ids import CountedIds
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history import tokens
from whistlestop.history.core import appliers as _appliers  # noqa: F401 - registers the appliers of events
from whistlestop.history.core import completion, deadlines
from whistlestop.history.core.activity import decide as core_activity
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.finish import finish
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.nexus.machine import TRANSITIONS, State, state_of
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.times import SECOND_NS, set_duration
from whistlestop.history.core.transition.apply import apply_event
from whistlestop.history.core.transition.records import records_of
from whistlestop.history.core.transition.run import PAUSED, RUNNING, Run
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message
    from temporalio.api.command.v1 import message_pb2 as command_pb

    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.storage.records import (
        CurrentExecution,
        ExecutionKey,
        ExecutionWrite,
        MatchingTask,
        TaskKey,
        TimerTask,
        TransferTask,
        VisibilityRow,
    )

T = TypeVar("T")
NAMESPACE_ID = "11111111-1111-7111-8111-111111111111"
HANDLERS_NAMESPACE_ID = "22222222-2222-7222-8222-222222222222"
"""Where the workers of Nexus endpoints are."""
NAMESPACE = "default"
QUEUE = "orders"
WORKFLOW_ID = "wf"
START_NS = 1_700_000_000 * SECOND_NS


@dataclass(slots=True)
class Stored:
    """One run as committed."""

    key: ExecutionKey
    state: bytes
    version: int
    batches: list[history_pb.History] = field(default_factory=list)


class World:
    """All runs of a namespace, in memory."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now_ns = START_NS
        self.ids = CountedIds()
        self.limits = limits or Limits()
        self.run_id = ""
        """The run that calls mean which name none: the last one started."""
        self.stored: dict[str, Stored] = {}
        self.tasks: dict[TaskKey, MatchingTask] = {}
        self.timers: dict[ExecutionKey, TimerTask] = {}
        self.retention_timers: dict[ExecutionKey, TimerTask] = {}
        self.transfers: list[TransferTask] = []
        self.visibility: dict[str, VisibilityRow] = {}
        self.current: dict[str, CurrentExecution] = {}
        self.workflow_token = TaskToken()
        self.activity_token = TaskToken()

    # ---- driving ------------------------------------------------------------------------------------------------

    def start(self, *, first_task: bool = True, prepare: Callable[[Run], object] | None = None, **fields: Any) -> str:
        """Start a run. Keys `*_timeout_s`, `start_delay_s` are seconds; the others are fields of the start request.

        `prepare` decides about the new run in the same commit.
        """
        request = service_pb.StartWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_id=fields.pop("workflow_id", WORKFLOW_ID), request_id=self.ids.uuid()
        )
        request.workflow_type.name = fields.pop("workflow_type", "Order")
        request.task_queue.name = fields.pop("task_queue", QUEUE)
        names = {
            "execution_timeout_s": "workflow_execution_timeout",
            "run_timeout_s": "workflow_run_timeout",
            "task_timeout_s": "workflow_task_timeout",
            "start_delay_s": "workflow_start_delay",
        }
        for name, value in fields.items():
            if name in names:
                set_duration(getattr(request, names[name]), int(value * SECOND_NS))
            else:
                target = getattr(request, name)
                if hasattr(target, "CopyFrom"):
                    target.CopyFrom(value)
                else:
                    setattr(request, name, value)
        previous = self.current.get(request.workflow_id)
        run = core_start.new_run(
            core_start.started_attributes(request, now_ns=self.now_ns, limits=self.limits),
            namespace_id=NAMESPACE_ID,
            namespace=NAMESPACE,
            workflow_id=request.workflow_id,
            run_id=self.ids.uuid(),
            request_id=request.request_id,
            now_ns=self.now_ns,
            ids=self.ids,
            limits=self.limits,
            expected_current_run_id=previous.run_id if previous else None,
        )
        if first_task:
            core_start.first_workflow_task(run)
        if prepare is not None:
            prepare(run)
        self.run_id = run.key.run_id
        self.commit(run)
        return self.run_id

    def load(self, run_id: str = "") -> Run:
        """A working copy of the run."""
        stored = self.stored[run_id or self.run_id]
        state = MutableState()
        state.ParseFromString(stored.state)
        run = Run(state, version=stored.version, now_ns=self.now_ns, ids=self.ids, limits=self.limits)
        run.start_event = stored.batches[0].events[0]
        run.nexus_endpoints = {"payments": "endpoint-1"}
        return run

    def transact(self, decide: Callable[[Run], T], run_id: str = "") -> T:
        """Decide on the run and commit, if there is something to commit."""
        run = self.load(run_id)
        reply = decide(run)
        if run.is_dirty:
            self.commit(run)
        return reply

    def poll(self, run_id: str = "", identity: str = "worker") -> TaskToken:
        """Start the workflow task that is offered; its token is kept for `complete` and `fail`."""
        run_id = run_id or self.run_id
        task = next((t for t in self.tasks.values() if t.key.task_type == 1 and t.run_id == run_id), None)
        assert task is not None, "no workflow task is offered"

        def decide(run: Run) -> TaskToken:
            assert run.state.workflow_task.stamp == task.stamp
            workflow_task.start(run, request_id=self.ids.uuid(), identity=identity)
            return tokens.parse(tokens.of_workflow_task(run))

        self.workflow_token = self.transact(decide, run_id)
        return self.workflow_token

    def complete(
        self, *commands: command_pb.Command, token: TaskToken | None = None, **fields: Any
    ) -> completion.Outcome:
        """Answer the started workflow task. Refusals stand in the outcome's `error`, or are raised."""
        token = token or self.workflow_token
        request = service_pb.RespondWorkflowTaskCompletedRequest(identity="worker", commands=commands, **fields)
        outcome = self.transact(lambda run: completion.respond_completed(run, token, request), token.run_id)
        if outcome.new_task_started:
            self.workflow_token = tokens.parse(tokens.of_workflow_task(self.load(token.run_id)))
        return outcome

    def turn(self, *commands: command_pb.Command, **fields: Any) -> completion.Outcome:
        """Poll and complete; a refusal is an error of the test."""
        self.poll()
        outcome = self.complete(*commands, **fields)
        assert outcome.error is None, outcome.error
        return outcome

    def poll_activity(self, activity_id: str = "", run_id: str = "", identity: str = "activity-worker") -> TaskToken:
        """Start the activity attempt that is offered (the one of that id, when there are several)."""
        run_id = run_id or self.run_id
        state = self.state(run_id)
        for task in self.tasks.values():
            if task.key.task_type == 2 and task.run_id == run_id:
                if activity_id and state.activities[task.scheduled_event_id].activity_id != activity_id:
                    continue

                def decide(run: Run, task: MatchingTask = task) -> TaskToken:
                    activity: Activity = core_activity.start(
                        run, task.scheduled_event_id, task.stamp, self.ids.uuid(), identity
                    )
                    return tokens.parse(tokens.of_activity(run, activity))

                self.activity_token = self.transact(decide, run_id)
                return self.activity_token
        raise AssertionError("no activity task is offered")

    def advance(self, seconds: float) -> None:
        """Let time pass, firing every timer row at its time."""
        end_ns = self.now_ns + round(seconds * SECOND_NS)
        while True:
            due = min(self.timers.values(), key=lambda timer: timer.fire_at_ns, default=None)
            if due is None or due.fire_at_ns > end_ns:
                break
            self.now_ns = max(self.now_ns, due.fire_at_ns)
            self.transact(deadlines.fire_deadlines, due.key.run_id)
            assert self.timers.get(due.key) != due, "a timer row that fired has to be moved or deleted"
        self.now_ns = end_ns

    # ---- looking ------------------------------------------------------------------------------------------------

    def state(self, run_id: str = "") -> MutableState:
        """The stored mutable state."""
        state = MutableState()
        state.ParseFromString(self.stored[run_id or self.run_id].state)
        return state

    def events(self, run_id: str = "") -> list[history_pb.HistoryEvent]:
        """The stored history."""
        return [event for batch in self.stored[run_id or self.run_id].batches for event in batch.events]

    def names(self, run_id: str = "") -> list[str]:
        """The types of the stored events, short: `WorkflowTaskScheduled`."""
        return [short_name(event) for event in self.events(run_id)]

    def last(self, name: str, run_id: str = "") -> Any:
        """The attributes of the newest event of that short name."""
        for event in reversed(self.events(run_id)):
            if short_name(event) == name:
                return getattr(event, event.WhichOneof("attributes") or "")
        raise AssertionError(f"no {name} among {self.names(run_id)}")

    def offered(self, task_type: int, run_id: str = "") -> list[MatchingTask]:
        """The matching tasks that stand."""
        return [t for t in self.tasks.values() if t.key.task_type == task_type and t.run_id == (run_id or self.run_id)]

    # ---- committing and checking --------------------------------------------------------------------------------

    def commit(self, run: Run) -> None:
        """Commit the run and the one that its end starts."""
        for each in (run, run.next_run):
            if each is None:
                continue
            finish(each)
            self._write(records_of(each))
            if not each.state.HasField("activity_execution"):  # of which history has only the start and the end
                check_rebuilt(self.stored[each.key.run_id])
            if each is run.next_run:
                self.run_id = each.key.run_id

    def _write(self, write: ExecutionWrite) -> None:
        stored = self.stored.get(write.key.run_id)
        assert (stored.version if stored else 0) == write.expected_version
        if stored is None:
            stored = self.stored[write.key.run_id] = Stored(write.key, b"", 0)
        check_operations(stored.state, write)
        stored.state = write.state
        stored.version += 1
        for batch in write.history:
            stored.batches.append(history_pb.History.FromString(batch.data))
        for key in write.tasks_removed:
            assert self.tasks.pop(key, None) is not None, f"removed a task that is not there: {key}"
        for task in write.tasks_added:
            self.tasks[task.key] = task
        if write.timer_removed:
            self.timers.pop(write.key, None)
        if write.timer is not None:
            self.timers[write.key] = write.timer
        if write.retention_timer is not None:
            self.retention_timers[write.key] = write.retention_timer
        self.transfers.extend(write.transfer_tasks_added)
        if write.visibility is not None:
            self.visibility[write.key.run_id] = write.visibility
        if write.current is not None:
            current = self.current.get(write.key.workflow_id)
            assert (current.run_id if current else None) == write.current.expected_run_id
            self.current[write.key.workflow_id] = write.current.current
        state = self.state(write.key.run_id)
        if state.status in (RUNNING, PAUSED):
            due_ns = deadlines.next_deadline(state)
            timer = self.timers.get(write.key)
            assert (timer.fire_at_ns if timer else 0) == deadlines.timer_row_wall_ns(state)
            if due_ns:
                assert timer is not None, "something will be due and nobody is to look at it"
                assert state.timer_row_ns <= due_ns, "something is due before the timer row"
        else:
            assert write.key not in self.timers
            assert not self.offered(1, write.key.run_id)
            assert not self.offered(2, write.key.run_id)
            assert not self.offered(3, write.key.run_id)


def short_name(event: history_pb.HistoryEvent) -> str:
    """`EVENT_TYPE_TIMER_FIRED` is `TimerFired`."""
    name = et.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


_VOLATILE = (
    "next_event_id",
    "last_first_event_id",
    "history_size_bytes",
    "state_transition_count",
    "branches",
    "first_workflow_task_backoff_until_ns",
    "sticky_task_queue",
    "sticky_schedule_to_start_timeout_ns",
    "sticky_worker_name",
    "timer_row_ns",
    "buffered_events",
    "buffered_queries",
    "workflow_close_attempted",
    "last_workflow_task_failure",
    "last_workflow_task_failure_cause",
    "request_ids",
    "signal_request_ids",
    "create_request_id",
    "cancel_request_id",
    "external_payloads",
    "external_payload_count",
    "external_payload_size_bytes",
    "last_completion_result",
    "paused",
    "child_ids_initialized_post_reset",
    "in_flight_updates",
    "update_admissions",
    "refused_updates",
    "reset_run_id",
    "reset_requests",
    "signal_with_start_digests",
    "nexus_execution",
    "ended_nexus_requests",
)
_LAST_CARRIED_ACTIVITY_FIELD = 19
_LAST_CARRIED_NEXUS_FIELD = 19
_LAST_CARRIED_CALLBACK_FIELD = 9
_CHANGEABLE_ACTIVITY_FIELDS = (
    "task_queue",
    "schedule_to_close_timeout_ns",
    "schedule_to_start_timeout_ns",
    "start_to_close_timeout_ns",
    "heartbeat_timeout_ns",
    "retry_policy",
    "priority",
)
"""UpdateActivityOptions changes them, and history does not say so."""


def check_operations(before: bytes, write: ExecutionWrite) -> None:
    """Fail if a Nexus operation came into a state that the table does not allow, by one transition or several."""
    old, new = MutableState.FromString(before), MutableState.FromString(write.state)
    for event_id, operation in new.nexus_operations.items():
        known = old.nexus_operations.get(event_id)
        was = state_of(known) if known is not None else State.SCHEDULED
        assert state_of(operation) in reachable(was), f"{was} became {state_of(operation)}: {operation}"


def reachable(state: State) -> set[State]:
    """The states that follow one another from `state` on, itself included."""
    found = {state}
    while more := {following for (at, _), following in TRANSITIONS.items() if at in found} - found:
        found |= more
    return found


def check_rebuilt(stored: Stored) -> None:
    """History has no gap, and the state that is rebuilt from it equals the stored one."""
    state = MutableState.FromString(stored.state)
    rebuilt = MutableState(
        namespace_id=state.namespace_id, namespace=state.namespace, workflow_id=state.workflow_id, run_id=state.run_id
    )
    if is_reset(state):
        rebuilt.start_ns = state.start_ns
        # Which run wrote an event, and so the ids that were derived from it.
        rebuilt.branches.extend(state.branches)
    expected_id = 1
    for batch in stored.batches:
        for event in batch.events:
            assert event.event_id == expected_id, f"event {event.event_id} where {expected_id} is due"
            expected_id += 1
            apply_event(rebuilt, event, batch.events[0].event_id)
    assert state.next_event_id == expected_id
    for event in state.buffered_events:
        apply_event(rebuilt, event, 0)
    expected, actual = carried(state, state), carried(rebuilt, state)
    assert actual == expected, (
        "A field that history does not carry belongs to _VOLATILE; any other is written by an applier only.\n"
        f"rebuilt:\n{text_format.MessageToString(actual)}\nstored:\n{text_format.MessageToString(expected)}"
    )


def is_reset(state: MutableState) -> bool:
    """A reset made this run: it began later than its first event says, and so did what it waits for."""
    return state.original_run_id != state.run_id


def carried(state: MutableState, stored: MutableState) -> MutableState:
    """A copy with nothing but what history carries."""
    copy = MutableState()
    copy.CopyFrom(state)
    for name in (*_VOLATILE, *(("run_expiration_ns", "execution_expiration_ns") if is_reset(stored) else ())):
        copy.ClearField(name)
    task = copy.workflow_task
    pending = stored.workflow_task.write_events and stored.workflow_task.scheduled_event_id
    kept = (task.scheduled_event_id, task.started_event_id) if pending else (0, 0)
    task.Clear()
    task.scheduled_event_id, task.started_event_id = kept
    if stored.status not in (RUNNING, PAUSED):
        # An activity that was cancelled in the run's last moment leaves no event.
        copy.ClearField("activities")
    for activity in copy.activities.values():
        _clear_above(activity, _LAST_CARRIED_ACTIVITY_FIELD)
        if is_reset(stored):
            activity.ClearField("first_scheduled_ns")
        known = stored.activities.get(activity.scheduled_event_id)
        if known is not None and known.stamp > 1:
            for name in _CHANGEABLE_ACTIVITY_FIELDS:
                activity.ClearField(name)  # type: ignore[arg-type]
    copy.search_attributes.pop("TemporalPauseInfo", None)
    copy.search_attributes.pop("TemporalReportedProblems", None)
    for operation in copy.nexus_operations.values():
        _clear_above(operation, _LAST_CARRIED_NEXUS_FIELD)
    for callback in copy.callback_infos:
        _clear_above(callback, _LAST_CARRIED_CALLBACK_FIELD)
    for child in copy.children.values():
        child.ClearField("started_event_id")
    for update_id in [u.update_id for u in copy.updates.values() if u.stage < u.ACCEPTED]:
        del copy.updates[update_id]
    for update in copy.updates.values():
        update.ClearField("instance")
    for point in copy.reset_points.points:
        # The namespace's retention is not in history.
        point.ClearField("expire_time")
    return copy


def _clear_above(message: Message, last: int) -> None:
    for descriptor, _ in message.ListFields():
        if descriptor.number > last:
            message.ClearField(descriptor.name)
