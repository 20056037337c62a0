"""Give up effects that can never be delivered: the sender gets an event, and the row is deleted.

The store can never hold what the target would become: an id of an older release with U+0000, or a value that is too
large. With endless retries the sender would wait for ever.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.history.v1 import message_pb2 as history_pb

from whistlestop.common.errors import ServiceError
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.engine import changes
from whistlestop.history.transfers.outcomes import is_final
from whistlestop.storage.errors import Refused
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.changes import Changes
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import TransferTask

_log = logging.getLogger(__name__)
_NEXUS = {"nexus_start": False, "nexus_cancel": True}


async def give_up(ports: HistoryPorts, task: TransferTask, error: Exception) -> None:
    """Notify the sender, if it waits for an answer, and delete the row. Raise as a delivery does."""
    _log.error(
        "transfer task %s of workflow %s, run %s can never be delivered (%s): it ends as failed",
        task.kind, task.key.workflow_id, task.key.run_id, error,
    )  # fmt: skip
    data = TransferData.FromString(task.data) if task.kind in _ANSWERED else TransferData()
    try:
        attempt = partial(_answer, task=task, data=data, why=str(error))
        await changes.change_together(ports.engine, attempt, workflow_id=task.key.workflow_id, done=task)
    except (Refused, ServiceError) as second:
        if not is_final(second):
            raise
        _log.exception("the failed task's sender %s/%s can't be notified either", task.key.workflow_id, task.key.run_id)
        await ports.store.delete_transfer_task(task)


async def _answer(change: Changes, task: TransferTask, data: TransferData, why: str) -> None:
    """Notify the run that waits for the effect, if any does; the transfer task is deleted in any case."""
    write = _ANSWERED.get(task.kind)
    if write is None:
        return
    key = task.key
    if task.kind == "child_closed":  # the sender is the child, and its parent waits
        key = ExecutionKey(data.target_namespace_id, data.target_workflow_id, data.target_run_id)
    run = await change.get(key)
    if run is None:
        return
    initiated = history_pb.HistoryEvent()
    if task.kind in _BY_INITIATED:
        initiated = await change.event(run, data.initiated_event_batch_id, data.initiated_event_id)
    write(run, task, data, initiated, why)


# ---- events by kind --------------------------------------------------------------------------------------------------


def _child_not_started(
    run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str
) -> None:
    child = run.state.children.get(data.initiated_event_id)
    if run.is_open and child is not None and not child.started_event_id:
        # The only cause that every SDK handles: the Python SDK can't continue after any other.
        cause = fc.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
        children.record_start_failed(run, initiated, cause)


def _child_lost(run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str) -> None:
    child = run.state.children.get(data.initiated_event_id)
    if run.is_open and child is not None and child.workflow_id == task.key.workflow_id:
        closing = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
        failure = closing.workflow_execution_failed_event_attributes.failure
        failure.message = f"how the child ended can't be told: {why}"
        failure.server_failure_info.non_retryable = True
        children.record_closed(run, child, task.key.run_id, closing)


def _not_signaled(
    run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str
) -> None:
    if run.is_open and data.initiated_event_id in run.state.external_signals:
        cause = fc.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_UNSPECIFIED
        external.record_signal_failed(run, initiated, cause)


def _not_cancelled(
    run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str
) -> None:
    if run.is_open and data.initiated_event_id in run.state.external_cancels:
        external.record_cancel_failed(run, initiated, fc.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_UNSPECIFIED)


def _operation_refused(
    run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str
) -> None:
    cancel = _NEXUS[task.kind]
    operation = run.state.nexus_operations.get(data.initiated_event_id)
    if run.is_open and operation is not None and nexus_operations.is_wanted(operation, cancel=cancel):
        nexus_operations.refused(run, operation, nexus_failures.handler_failure("BAD_REQUEST", why), cancel=cancel)


def _callback_failed(
    run: Run, task: TransferTask, data: TransferData, initiated: history_pb.HistoryEvent, why: str
) -> None:
    if callbacks.is_owed(run.state, data.callback_index):
        callbacks.failed(run, data.callback_index, why)


_ANSWERED: dict[str, Callable[[Run, TransferTask, TransferData, history_pb.HistoryEvent, str], None]] = {
    "start_child": _child_not_started,
    "child_closed": _child_lost,
    "signal_external": _not_signaled,
    "cancel_external": _not_cancelled,
    "nexus_start": _operation_refused,
    "nexus_cancel": _operation_refused,
    "nexus_callback": _callback_failed,
}
_BY_INITIATED = frozenset(("start_child", "signal_external", "cancel_external"))
