"""A world that checks more after each commit than the tables of cases need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tests.core.harness import HANDLERS_NAMESPACE_ID, World, short_name
from whistlestop.common.errors import ServiceError
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.state_pb2 import MutableState, TransferData
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID
from whistlestop.history.core.transition.run import NOT_BUFFERED, PAUSED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from tests.core.harness import Stored
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.records import ExecutionWrite

T = TypeVar("T")
OPEN = (RUNNING, PAUSED)
CLOSING = frozenset(
    {
        "WorkflowExecutionCompleted",
        "WorkflowExecutionFailed",
        "WorkflowExecutionTimedOut",
        "WorkflowExecutionTerminated",
        "WorkflowExecutionCanceled",
        "WorkflowExecutionContinuedAsNew",
    }
)
UNSEEN = frozenset(
    {
        "WorkflowExecutionSignaled",
        "WorkflowExecutionCancelRequested",
        "TimerFired",
        "ActivityTaskCompleted",
        "ActivityTaskFailed",
        "ActivityTaskTimedOut",
        "ActivityTaskCanceled",
        "StartChildWorkflowExecutionFailed",
        "ChildWorkflowExecutionStarted",
        "ChildWorkflowExecutionCompleted",
        "ChildWorkflowExecutionFailed",
        "ChildWorkflowExecutionCanceled",
        "ChildWorkflowExecutionTimedOut",
        "ChildWorkflowExecutionTerminated",
        "SignalExternalWorkflowExecutionFailed",
        "ExternalWorkflowExecutionSignaled",
        "RequestCancelExternalWorkflowExecutionFailed",
        "ExternalWorkflowExecutionCancelRequested",
        "WorkflowTaskFailed",
        "WorkflowTaskTimedOut",
        "WorkflowExecutionUpdateAdmitted",
        "NexusOperationStarted",
        "NexusOperationCompleted",
        "NexusOperationFailed",
        "NexusOperationCanceled",
        "NexusOperationTimedOut",
        "NexusOperationCancelRequestCompleted",
        "NexusOperationCancelRequestFailed",
    }
)
"""A workflow has to be given a task after one of these."""


class CheckedWorld(World):
    """Checks more after each commit than the tables of cases need."""

    def transact(self, decide: Callable[[Run], T], run_id: str = "") -> T:
        run = self.load(run_id)
        before = run._origin.SerializeToString(deterministic=True)
        stored = self.stored[run.key.run_id]
        was = (stored.version, stored.state, len(stored.batches), len(self.tasks), len(self.transfers))
        try:
            reply = decide(run)
        except ServiceError:
            now = (stored.version, stored.state, len(stored.batches), len(self.tasks), len(self.transfers))
            assert now == was, "a refused request changed something"
            raise
        finally:
            # The engine keeps this very object in its cache.
            assert run._origin.SerializeToString(deterministic=True) == before, (
                "deciding changed the state that was read"
            )
        if run.is_dirty:
            self.commit(run)
        else:
            assert run.state.SerializeToString(deterministic=True) == before, "changed, but nothing is to be committed"
        return reply

    def commit(self, run: Run, also: Run | None = None) -> None:
        if also is not None:
            super().commit(also)
        super().commit(run)

    def _write(self, write: ExecutionWrite) -> None:
        super()._write(write)
        check_serialised(write)
        check_order(self.stored[write.key.run_id])
        check_tasks(self, write.key.run_id)
        check_seen(self, write.key.run_id)


def check_serialised(write: ExecutionWrite) -> None:
    """What was written is read back as the same."""
    state = MutableState.FromString(write.state)
    again = MutableState.FromString(state.SerializeToString())
    assert again == state
    assert write.status == state.status
    assert write.next_event_id == state.next_event_id
    assert state.branches[-1].branch_id == write.branch_id


def check_order(stored: Stored) -> None:
    """Batches follow each other, nothing follows the closing event, and every event names its predecessors rightly."""
    state = MutableState.FromString(stored.state)
    events = [event for batch in stored.batches for event in batch.events]
    names = [short_name(event) for event in events]
    closing = [index for index, name in enumerate(names) if name in CLOSING]
    assert closing == ([] if state.status in OPEN else [len(names) - 1]), names
    assert all(batch.events for batch in stored.batches), "an empty batch"
    by_id = {event.event_id: name for event, name in zip(events, names, strict=True)}
    for event, name in zip(events, names, strict=True):
        check_references(event, name, by_id)
    check_pairs(events, names)
    for event in state.buffered_events:
        assert event.event_id == BUFFERED_EVENT_ID
        assert event.event_type not in NOT_BUFFERED, short_name(event)
    if state.buffered_events:
        assert state.workflow_task.started_event_id, "buffered, though no workflow task is started"
    if state.status not in OPEN:
        assert not state.buffered_events
        assert stored.batches[-1].events[0].event_id == state.close_event_batch_id


_REFERENCES = {
    "scheduled_event_id": ("ActivityTaskScheduled", "WorkflowTaskScheduled", "NexusOperationScheduled"),
    "initiated_event_id": (
        "StartChildWorkflowExecutionInitiated",
        "SignalExternalWorkflowExecutionInitiated",
        "RequestCancelExternalWorkflowExecutionInitiated",
    ),
    "requested_event_id": ("NexusOperationCancelRequested",),
    "workflow_task_completed_event_id": ("WorkflowTaskCompleted",),
    "latest_cancel_requested_event_id": ("ActivityTaskCancelRequested",),
    "accepted_event_id": ("WorkflowExecutionUpdateAccepted",),
}


def check_references(event: history_pb.HistoryEvent, name: str, by_id: dict[int, str]) -> None:
    """An id in an event is that of an earlier event of the right kind."""
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    for field, kinds in _REFERENCES.items():
        if field in attributes.DESCRIPTOR.fields_by_name and (value := getattr(attributes, field)):
            assert value < event.event_id, f"{name}.{field} points ahead"
            assert by_id[value] in kinds, f"{name}.{field} is a {by_id[value]}"
    if "started_event_id" in attributes.DESCRIPTOR.fields_by_name and (value := attributes.started_event_id):
        assert value < event.event_id, f"{name}.started_event_id points ahead"
        assert by_id[value].endswith("Started"), f"{name}.started_event_id is a {by_id[value]}"


def check_pairs(events: list[history_pb.HistoryEvent], names: list[str]) -> None:
    """What is over is over once: activities, timers, children, external requests, workflow tasks."""
    over: set[tuple[str, Any]] = set()
    task: str = ""
    for event, name in zip(events, names, strict=True):
        attributes = getattr(event, event.WhichOneof("attributes") or "")
        key: tuple[str, Any] | None = None
        if name.startswith("ActivityTask") and name.removeprefix("ActivityTask") in (
            "Completed",
            "Failed",
            "TimedOut",
            "Canceled",
        ):
            key = ("activity", attributes.scheduled_event_id)
        elif name.startswith("NexusOperation") and name.removeprefix("NexusOperation") in (
            "Completed",
            "Failed",
            "TimedOut",
            "Canceled",
        ):
            key = ("operation", attributes.scheduled_event_id)
        elif name in ("TimerFired", "TimerCanceled"):
            key = ("timer", attributes.started_event_id)
        elif name.startswith("ChildWorkflowExecution") and not name.endswith("Started"):
            key = ("child", attributes.initiated_event_id)
        elif name in ("ExternalWorkflowExecutionSignaled", "ExternalWorkflowExecutionCancelRequested") or (
            "External" in name and name.endswith("Failed")
        ):
            key = ("external", attributes.initiated_event_id)
        elif name == "WorkflowExecutionUpdateCompleted":
            key = ("update", attributes.accepted_event_id)
        if key is not None:
            assert key not in over, f"{key} is over twice: {names}"
            over.add(key)
        if name.startswith("WorkflowTask"):
            allowed = {
                "WorkflowTaskScheduled": ("", "WorkflowTaskCompleted", "WorkflowTaskFailed", "WorkflowTaskTimedOut"),
                "WorkflowTaskStarted": ("WorkflowTaskScheduled",),
                "WorkflowTaskCompleted": ("WorkflowTaskStarted",),
                "WorkflowTaskFailed": ("WorkflowTaskStarted",),
                "WorkflowTaskTimedOut": ("WorkflowTaskStarted", "WorkflowTaskScheduled"),
            }[name]
            assert task in allowed, f"{name} after {task or 'nothing'}: {names}"
            task = name


def check_tasks(world: World, run_id: str) -> None:
    """Exactly what is to be polled stands in the queues."""
    state = world.state(run_id)
    expected: set[tuple[int, int, int]] = set()
    if state.status in OPEN:
        task = state.workflow_task
        if task.scheduled_event_id and not task.started_event_id:
            assert task.row.task_id, "a workflow task is pending, and nobody is offered it"
            expected.add((1, task.scheduled_event_id, task.stamp))
        for activity in state.activities.values():
            if activity.started_ns:
                assert not activity.row.task_id, "a started activity is still offered"
                assert not activity.next_attempt_ns
            elif activity.row.task_id or not (
                activity.paused or activity.next_attempt_ns or state.versioning_info.HasField("version_transition")
            ):
                assert activity.row.task_id, f"nobody is offered the activity {activity}"
                expected.add((2, activity.scheduled_event_id, activity.stamp))
            else:
                assert not activity.row.task_id
        for operation in state.nexus_operations.values():
            for attempt in (operation.start, operation.cancel):
                assert not (attempt.deadline_ns and attempt.next_attempt_ns), f"under way and put off: {attempt}"
                assert not attempt.row.task_id or attempt.deadline_ns, f"offered, and never given up: {attempt}"
                if attempt.row.task_id:
                    assert attempt.row.namespace_id == HANDLERS_NAMESPACE_ID
                    expected.add((3, operation.scheduled_event_id, attempt.stamp))
            owed = {
                kind
                for kind, cancel in (("nexus_start", False), ("nexus_cancel", True))
                if nexus_operations.is_wanted(operation, cancel=cancel)
            }
            asked = {
                transfer.kind
                for transfer in world.transfers
                if transfer.key.run_id == run_id
                and TransferData.FromString(transfer.data).initiated_event_id == operation.scheduled_event_id
            }
            assert owed <= asked, f"nobody is to make the attempt: {operation}"
    offered = [(t.key.task_type, t.scheduled_event_id, t.stamp) for t in world.tasks.values() if t.run_id == run_id]
    assert sorted(offered) == sorted(expected)


def check_seen(world: World, run_id: str) -> None:
    """An open run that was told something has a workflow task, or waits for its first one."""
    state = world.state(run_id)
    if state.status != RUNNING or state.workflow_task.scheduled_event_id or state.first_workflow_task_backoff_until_ns:
        return
    names = world.names(run_id)
    started = max((index for index, name in enumerate(names) if name == "WorkflowTaskStarted"), default=-1)
    assert started >= 0, f"no first workflow task: {names}"
    unseen = [name for name in names[started:] if name in UNSEEN]
    assert not unseen, f"the workflow does not get to see {unseen}: {names}"
    waiting = [u.update_id for u in state.updates.values() if u.stage < u.ACCEPTED]
    assert not waiting, f"no task carries the updates {waiting}"
