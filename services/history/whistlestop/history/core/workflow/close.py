"""The ways in which a run ends: completed, failed, cancelled, timed out or terminated (see also continue_as_new.py).

Rules of this file, which are Temporal's:
- A workflow may not close before it has seen the events that arrived during its last task.
- To close a run from outside, its started workflow task is failed first, and its buffered events enter history.
- A failed or timed-out run is followed by another one if its retry policy, or else its cron schedule, says so; a
  completed one if it has a cron schedule. The closing event names the next run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.chain import next_run as chain
from whistlestop.history.core.chain.id_policies import TERMINATE_REASON
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.times import MILLISECOND_NS
from whistlestop.history.core.transition import worker_commands
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.transition.run import Run

HISTORY_SERVICE = "history-service"
"""The identity in events that the server writes on its own account."""
RUN_TIMED_OUT = failure_pb.Failure(message="workflow timeout", source="Server")
RUN_TIMED_OUT.timeout_failure_info.timeout_type = wf_enums.TIMEOUT_TYPE_START_TO_CLOSE


def complete(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent | None:
    """Handle the command CompleteWorkflowExecution. Return the closing event, or None if the run is closed.

    Raise BadCommand.
    """
    run = completion.run
    attributes = command.complete_workflow_execution_command_attributes
    command_attributes.complete_workflow(run, attributes)
    if not run.is_open:
        return None
    result = attributes.result if attributes.HasField("result") else None
    following = chain.cron_only(run)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    a = event.workflow_execution_completed_event_attributes
    if result is not None:
        a.result.CopyFrom(result)
    a.workflow_task_completed_event_id = completion.completed_event_id
    if following is not None:
        a.new_execution_run_id = following.run_id
        chain.begin(run, following, last_completion_result=result, failure=None)
    return finish(run, event)


def fail(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent | None:
    """Handle the command FailWorkflowExecution. Return the closing event, or None if the run is closed.

    Raise BadCommand.
    """
    run = completion.run
    attributes = command.fail_workflow_execution_command_attributes
    command_attributes.fail_workflow(run, attributes)
    if not run.is_open:
        return None
    failure = attributes.failure
    retry_state, following = chain.retry_or_cron(run, failure)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
    a = event.workflow_execution_failed_event_attributes
    a.failure.CopyFrom(failure)
    a.retry_state = retry_state
    a.workflow_task_completed_event_id = completion.completed_event_id
    if following is not None:
        a.new_execution_run_id = following.run_id
        last_result = chain.last_completion_result(run) if following.is_cron else None
        chain.begin(run, following, last_completion_result=last_result, failure=failure)
    return finish(run, event)


def cancel(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent | None:
    """Handle the command CancelWorkflowExecution. Return the closing event, or None if the run is closed.

    Raise BadCommand.
    """
    run = completion.run
    attributes = command.cancel_workflow_execution_command_attributes
    if not run.is_open:
        return None
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED)
    a = event.workflow_execution_canceled_event_attributes
    a.workflow_task_completed_event_id = completion.completed_event_id
    if attributes.HasField("details"):
        a.details.CopyFrom(attributes.details)
    return finish(run, event)


def time_out(run: Run) -> None:
    """Close the run as timed out; nothing follows when its chain has timed out, too."""
    state = run.state
    failure = RUN_TIMED_OUT
    retry_state, following = wf_enums.RETRY_STATE_TIMEOUT, None
    # The chain's deadline is rounded to milliseconds, so a run that lasts as long as its chain may be due some
    # microseconds
    # earlier. Temporal's timers have millisecond resolution and find both due.
    if not state.execution_expiration_ns or state.execution_expiration_ns >= run.now_ns + MILLISECOND_NS:
        retry_state, following = chain.retry_or_cron(run, failure)
    last_result = chain.last_completion_result(run) if following is not None else None
    stop_workflow_task(run)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT)
    a = event.workflow_execution_timed_out_event_attributes
    a.retry_state = retry_state
    if following is not None:
        a.new_execution_run_id = following.run_id
        chain.begin(run, following, last_completion_result=last_result, failure=failure)
    finish(run, event)


def terminate(
    run: Run,
    *,
    reason: str,
    identity: str,
    details: common_pb.Payloads | None = None,
    links: Iterable[common_pb.Link] = (),
    by_reset: bool = False,
) -> None:
    """Terminate the run.

    `by_reset`: another run takes its place, so its parent is not notified. If that one is a continuation of this run,
    it takes over the callbacks, too.
    """
    stop_workflow_task(run)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED)
    a = event.workflow_execution_terminated_event_attributes
    a.reason = reason
    a.identity = identity
    if details is not None:
        a.details.CopyFrom(details)
    event.links.extend(links)
    finish(run, event, by_reset=by_reset)


def terminate_for(old: Run, new_run_id: str) -> None:
    """Terminate an open run whose workflow id goes to another run in the same commit."""
    text = json.dumps(f"terminated by new runID: {new_run_id}").encode()
    details = common_pb.Payloads(payloads=[common_pb.Payload(metadata={"encoding": b"json/plain"}, data=text)])
    terminate(old, reason=TERMINATE_REASON, identity=HISTORY_SERVICE, details=details)
    old.superseded = True


def stop_workflow_task(run: Run) -> None:
    """Fail a started workflow task, since its answer would come too late, and write buffered events into history."""
    if run.has_started_workflow_task:
        workflow_task.fail(run, fc.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, HISTORY_SERVICE)
    run.flush_buffer()


def finish(run: Run, event: history_pb.HistoryEvent, *, by_reset: bool = False) -> history_pb.HistoryEvent:
    """Append the closing event and do what every closing needs: notify children, parent, callbacks and schedule."""
    worker_commands.cancel_all(run)
    run.append(event)
    run.finished = True
    run.visibility_changed = True
    goes_on = bool(run.state.new_run_id) or by_reset
    if not by_reset:
        children.on_close(run, event, notify_parent=not goes_on)
    if not by_reset or not run.state.reset_run_id:
        callbacks.on_close(run, event)
    if run.state.scheduled_by and not goes_on:
        _notify_schedule(run, event)
    return event


def _notify_schedule(run: Run, event: history_pb.HistoryEvent) -> None:
    """Notify the schedule, whose next run and overlap policy depend on how this run ended."""
    state = run.state
    data = TransferData(
        target_namespace_id=state.namespace_id, target_workflow_id=state.scheduled_by, target_run_id=state.first_run_id
    )
    data.close_event.CopyFrom(event)
    run.add_transfer("schedule_action_closed", data)
