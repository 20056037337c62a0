"""ContinueAsNewWorkflowExecution: the run closes, and the next of its chain starts in the same commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.chain import next_run as chain
from whistlestop.history.core.chain.start import copy_memo_and_search_attributes
from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.times import duration_ns, set_duration
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow import close

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion
    from whistlestop.history.core.transition.run import Run


def continue_as_new(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent | None:
    """Handle the command ContinueAsNewWorkflowExecution. Raise BadCommand.

    Return the closing event, or None if the run is closed.
    """
    run = completion.run
    attributes = command.continue_as_new_workflow_execution_command_attributes
    command_attributes.continue_as_new(run, attributes)
    if not run.is_open:
        return None
    run_id = run.ids.uuid()
    event = _closing_event(run, attributes, run_id, completion.completed_event_id)
    _begin(run, attributes, run_id)
    return close.finish(run, event)


def _closing_event(
    run: Run,
    attributes: command_pb.ContinueAsNewWorkflowExecutionCommandAttributes,
    run_id: str,
    completed_event_id: int,
) -> history_pb.HistoryEvent:
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW)
    a = event.workflow_execution_continued_as_new_event_attributes
    a.new_execution_run_id = run_id
    for name in ("workflow_type", "task_queue", "input", "header", "failure", "last_completion_result"):
        if attributes.HasField(name):
            getattr(a, name).CopyFrom(getattr(attributes, name))
    for name in ("workflow_run_timeout", "workflow_task_timeout", "backoff_start_interval"):
        if attributes.HasField(name):  # type: ignore[arg-type]
            getattr(a, name).CopyFrom(getattr(attributes, name))
    copy_memo_and_search_attributes(a, attributes)
    a.initiator = attributes.initiator
    a.inherit_build_id = attributes.inherit_build_id
    a.workflow_task_completed_event_id = completed_event_id
    return event


def _begin(run: Run, attributes: command_pb.ContinueAsNewWorkflowExecutionCommandAttributes, run_id: str) -> None:
    state = run.state
    a = chain.inherited(run)
    a.workflow_type.CopyFrom(attributes.workflow_type)
    a.task_queue.name = attributes.task_queue.name
    a.task_queue.kind = task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    for name in ("header", "input", "retry_policy", "last_completion_result"):
        if attributes.HasField(name):
            getattr(a, name).CopyFrom(getattr(attributes, name))
    if attributes.HasField("failure"):
        a.continued_failure.CopyFrom(attributes.failure)
    copy_memo_and_search_attributes(a, attributes)
    if state.HasField("priority"):
        a.priority.CopyFrom(state.priority)
    a.cron_schedule = attributes.cron_schedule
    a.workflow_run_timeout.CopyFrom(attributes.workflow_run_timeout)
    a.workflow_task_timeout.CopyFrom(attributes.workflow_task_timeout)
    a.completion_callbacks.extend(callbacks.handed_on(state))
    if attributes.inherit_build_id and not versioning_state.behavior_of(state):
        build_ids.hand_on(state, a)
    versioning.hand_on(state, a, run.policy.deployments, initial_behavior=attributes.initial_versioning_behavior)
    versioning.hand_on_declined(state, a)
    a.initiator = attributes.initiator or wf_enums.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    is_retry = a.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_RETRY
    a.attempt = state.attempt + 1 if is_retry else 1
    wanted_ns = duration_ns(attributes.backoff_start_interval)
    backoff_ns = chain.throttled(run, wanted_ns)
    if backoff_ns or attributes.HasField("backoff_start_interval"):
        set_duration(a.first_workflow_task_backoff, backoff_ns)
    chain.attach(run, run_id, a, run.first_event().links)
