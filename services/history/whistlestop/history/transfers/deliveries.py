"""Deliver each kind of transfer task. The row is deleted by the commit that carries out its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import namespace_pb2 as namespace_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.messages import nesting
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.commands.faults import RESERVED_ID_PREFIXES
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.transition import worker_commands as core_worker_commands
from whistlestop.history.core.workflow import close
from whistlestop.history.engine import changes
from whistlestop.history.engine.changes import Overtaken
from whistlestop.history.nexus import deliveries as nexus_deliveries
from whistlestop.history.transfers import push_rows, worker_commands
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.state_pb2 import Child, MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.changes import Changes
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.history.transfers.outcomes import Rest
    from whistlestop.storage.records import CurrentExecution, TransferTask

MAX_RESETS = 20
"""The maximum of resets, one after the other, along which a parent is followed."""
HISTORY_SERVICE = "history-service"


async def deliver(ports: HistoryPorts, task: TransferTask) -> Rest | None:
    """Deliver one transfer task, except for a remaining part that calls another server and is returned.

    Raise ServiceError or StorageError when the delivery has to be retried; so does the remaining part.
    """
    if task.kind == push_rows.KIND:
        await ports.push.deliver(task)
        return None
    data = nesting.parse(TransferData, task.data)
    if task.kind in nexus_deliveries.KINDS:
        return await nexus_deliveries.deliver(ports, task, data)
    if task.kind == core_worker_commands.KIND:
        await worker_commands.deliver(ports, task, data)
        return None

    async def attempt(change: Changes) -> None:
        await _KINDS[task.kind](ports, change, task, data)

    await changes.change_together(ports.engine, attempt, workflow_id=data.target_workflow_id, done=task)
    return None


async def _initiated(change: Changes, sender: Run, data: TransferData) -> history_pb.HistoryEvent:
    return await change.event(sender, data.initiated_event_batch_id, data.initiated_event_id)


# ---- children -------------------------------------------------------------------------------------------------------


async def _start_child(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    """Start the child: its first commit and the parent's started event are one transaction."""
    parent = await change.get(task.key)
    child = parent.state.children.get(data.initiated_event_id) if parent is not None and parent.is_open else None
    if parent is None or child is None or child.started_event_id:
        return
    initiated = await _initiated(change, parent, data)
    if await _is_for_a_deleted_namespace(ports, task, data):
        cause = fc.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
        children.record_start_failed(parent, initiated, cause)
        return
    old: Run | None = None
    current = await ports.store.get_current(data.target_namespace_id, data.target_workflow_id)
    if current is not None:
        if current.create_request_id == child.request_id:
            children.record_started(parent, initiated, current.run_id)
            return
        if _replaces(current, initiated):
            old = await change.run(ExecutionKey(current.namespace_id, current.workflow_id, current.run_id))
            if not old.is_open:
                raise Overtaken
        elif not _may_follow(current, initiated):
            children.record_start_failed(
                parent, initiated, fc.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
            )
            return
    deployments = await ports.engine.deployments.cached(task.key.namespace_id)
    expected = None if current is None else current.run_id
    run = _new_child(ports, parent, initiated, child.request_id, expected, deployments)
    if old is not None:
        close.terminate_for(old, run.key.run_id)
    if old is not parent:
        children.record_started(parent, initiated, run.key.run_id)
    change.add(run)


async def _is_for_a_deleted_namespace(ports: HistoryPorts, task: TransferTask, data: TransferData) -> bool:
    """Return whether the child would be created in another namespace that has been deleted since."""
    if data.target_namespace_id == task.key.namespace_id:
        return False
    namespace = await ports.namespaces.by_id(data.target_namespace_id)
    return namespace is None or namespace.state == namespace_enums.NAMESPACE_STATE_DELETED


_OPEN = (wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING, wf_enums.WORKFLOW_EXECUTION_STATUS_PAUSED)


def _replaces(current: CurrentExecution, initiated: history_pb.HistoryEvent) -> bool:
    """Return whether the child takes the workflow id from an open run, which is terminated."""
    policy = initiated.start_child_workflow_execution_initiated_event_attributes.workflow_id_reuse_policy
    return policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING and current.status in _OPEN


def _may_follow(current: CurrentExecution, initiated: history_pb.HistoryEvent) -> bool:
    """Return whether the reuse policy lets the child take the workflow id of `current`."""
    policy = initiated.start_child_workflow_execution_initiated_event_attributes.workflow_id_reuse_policy
    if current.status in _OPEN:
        return False
    if policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        return False
    if policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY:
        return current.status != wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    return True


def _new_child(
    ports: HistoryPorts,
    parent: Run,
    initiated: history_pb.HistoryEvent,
    request_id: str,
    expected: str | None,
    deployments: NamespaceDeployments,
) -> Run:
    now_ns = ports.clock.now_ns()
    attributes = initiated.start_child_workflow_execution_initiated_event_attributes
    run = core_start.new_run(
        children.started_attributes(
            parent.state,
            initiated,
            now_ns=now_ns,
            limits=ports.limits.of(attributes.namespace),
            deployments=deployments,
        ),
        namespace_id=attributes.namespace_id,
        namespace=attributes.namespace,
        workflow_id=attributes.workflow_id,
        run_id=ports.ids.uuid(),
        request_id=request_id,
        now_ns=now_ns,
        ids=ports.ids,
        limits=ports.limits,
        user_metadata=initiated.user_metadata if initiated.HasField("user_metadata") else None,
        expected_current_run_id=expected,
    )
    core_start.first_workflow_task(run)
    # In Temporal, a separate call schedules a child's first workflow task after its parent has recorded the start.
    run.transitions = 2
    return run


async def _after_resets(engine: Engine, key: ExecutionKey) -> ExecutionKey:
    """Return the run in which a parent continues after resets, with the children that it had at that point."""
    state: MutableState | None = None
    for _ in range(MAX_RESETS):
        state = await _state_of(engine, key)
        if state is None or not state.close_ns:
            return key
        if not state.reset_run_id:
            break
        key = ExecutionKey(key.namespace_id, key.workflow_id, state.reset_run_id)
    if state is not None and state.original_run_id != state.run_id:
        # A run that was reset twice names only its last reset: the open run may come from another run of the family.
        current = await engine.store.get_current(key.namespace_id, key.workflow_id)
        other = key if current is None else ExecutionKey(key.namespace_id, key.workflow_id, current.run_id)
        found = await _state_of(engine, other) if other != key else None
        if found is not None and found.original_run_id == state.original_run_id:
            return other
    return key


async def _state_of(engine: Engine, key: ExecutionKey) -> MutableState | None:
    """Return the run's mutable state; None when it is gone."""
    entry = await engine.read_if_any(key)
    return None if entry is None else entry.state


async def _child_closed(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    """Record in the parent's history how its child ended."""
    key = ExecutionKey(data.target_namespace_id, data.target_workflow_id, data.target_run_id)
    parent = await change.get(await _after_resets(ports.engine, key))
    if parent is None:
        return
    if not parent.is_open and parent.state.reset_run_id:
        raise Overtaken
    child = parent.state.children.get(data.initiated_event_id)
    if parent.is_open and child is not None and _is_that_child(child, task, data):
        children.record_closed(parent, child, task.key.run_id, data.close_event)


def _is_that_child(child: Child, task: TransferTask, data: TransferData) -> bool:
    """Return whether the closed chain is the child that the parent waits for; a reset may have started another."""
    if child.workflow_id != task.key.workflow_id:
        return False
    return not (child.run_id and data.request_id) or child.run_id == data.request_id


async def _parent_closed(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    """Apply the parent close policy to the current run of a child's chain."""
    from whistlestop.history.core.workflow import cancel

    run = await change.current(data.target_namespace_id, data.target_workflow_id)
    if run is None or not run.is_open:
        return
    if run.state.parent.run_id != task.key.run_id or run.state.first_run_id != data.target_run_id:
        return
    if data.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_TERMINATE:
        close.terminate(run, reason=children.CLOSE_POLICY_REASON, identity=HISTORY_SERVICE)
    else:
        external_parent = (0, task.key.workflow_id, task.key.run_id)
        cancel.request(run, cause="", identity=HISTORY_SERVICE, request_id="", external=external_parent)


# ---- signals and cancel requests -------------------------------------------------------------------------------------


async def _to_other(
    change: Changes,
    task: TransferTask,
    data: TransferData,
    apply: Callable[[Run, Run, history_pb.HistoryEvent], None],
    fail: Callable[[Run, history_pb.HistoryEvent, Code], None],
) -> None:
    """Change the target and record it for the sender in one transaction, or only record the failure."""
    target = await _target(change, task, data)
    sender = await change.get(task.key)
    if sender is None or not sender.is_open:
        return
    pending = sender.state.external_signals if task.kind == "signal_external" else sender.state.external_cancels
    if data.initiated_event_id not in pending:
        return
    initiated = await _initiated(change, sender, data)
    if target is None:
        fail(sender, initiated, Code.NOT_FOUND)
        return
    try:
        apply(sender, target, initiated)
    except ServiceError as error:
        # Other errors (such as a target that is about to close) are temporary, so the delivery is retried.
        if error.code not in (Code.NOT_FOUND, Code.INVALID_ARGUMENT):
            raise
        change.discard(target)
        fail(sender, initiated, error.code)


async def _target(change: Changes, task: TransferTask, data: TransferData) -> Run | None:
    """Return the run to signal or to cancel; None when it is gone, or may not be reached by a workflow."""
    itself = (data.target_namespace_id, data.target_workflow_id) == (task.key.namespace_id, task.key.workflow_id)
    if itself or data.target_workflow_id.startswith(RESERVED_ID_PREFIXES):
        return None
    if not data.target_run_id:
        return await change.current(data.target_namespace_id, data.target_workflow_id, task.key)
    key = ExecutionKey(data.target_namespace_id, data.target_workflow_id, data.target_run_id)
    await change.hold({key, task.key})
    return await change.get(key)


async def _signal_external(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    def apply(sender: Run, target: Run, initiated: history_pb.HistoryEvent) -> None:
        a = initiated.signal_external_workflow_execution_initiated_event_attributes
        from whistlestop.history.core.signal import decide as signal

        signal.from_workflow(target, a, initiated.event_id, sender)
        external.record_signaled(sender, initiated)

    def fail(sender: Run, initiated: history_pb.HistoryEvent, code: Code) -> None:
        cause = fc.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
        if code is Code.INVALID_ARGUMENT:
            cause = fc.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
        external.record_signal_failed(sender, initiated, cause)

    await _to_other(change, task, data, apply, fail)


async def _cancel_external(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    def apply(sender: Run, target: Run, initiated: history_pb.HistoryEvent) -> None:
        a = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
        from whistlestop.history.core.workflow import cancel

        cancel.from_workflow(target, a, initiated.event_id, sender)
        external.record_cancel_requested(sender, initiated)

    def fail(sender: Run, initiated: history_pb.HistoryEvent, code: Code) -> None:
        cause = fc.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
        external.record_cancel_failed(sender, initiated, cause)

    await _to_other(change, task, data, apply, fail)


# ---- schedules ------------------------------------------------------------------------------------------------------


async def _schedule_action_closed(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    from whistlestop.history.schedule import driver

    await driver.action_closed(ports, change, task, data)


async def _stop_schedule_action(ports: HistoryPorts, change: Changes, task: TransferTask, data: TransferData) -> None:
    from whistlestop.history.schedule import driver

    await driver.stop_action(ports, change, task, data)


_KINDS: dict[str, Callable[[HistoryPorts, Changes, TransferTask, TransferData], Awaitable[None]]] = {
    "start_child": _start_child,
    "child_closed": _child_closed,
    "parent_closed": _parent_closed,
    "signal_external": _signal_external,
    "cancel_external": _cancel_external,
    "schedule_action_closed": _schedule_action_closed,
    "schedule_cancel": _stop_schedule_action,
    "schedule_terminate": _stop_schedule_action,
}
