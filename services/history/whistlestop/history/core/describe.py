"""DescribeWorkflowExecution: build the reply from a run's state. Nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.history.core.activity import describe as activity_describe
from whistlestop.history.core.callback import describe as callback_describe
from whistlestop.history.core.child import describe as child_describe
from whistlestop.history.core.nexus import describe as nexus_describe
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.core.workflow import describe as workflow_describe
from whistlestop.history.core.workflow_task import describe as workflow_task_describe

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState


def workflow(
    state: MutableState, *, now_ns: int, signal_backlinks: bool = False
) -> service_pb.DescribeWorkflowExecutionResponse:
    """Return the whole reply. `now_ns` is the server's clock.

    With `signal_backlinks` the requests that signalled the run are included.
    """
    reply = service_pb.DescribeWorkflowExecutionResponse()
    now_ns += skipped_ns(state)
    workflow_describe.fill_config(reply.execution_config, state)
    workflow_describe.fill_info(reply.workflow_execution_info, state)
    workflow_describe.fill_extended(reply.workflow_extended_info, state)
    if signal_backlinks:
        workflow_describe.add_signals(reply.workflow_extended_info, state)
    if state.HasField("time_skipping"):
        time_skipping_state.show(reply.workflow_extended_info.time_skipping_info, state, now_ns)
    for event_id in sorted(state.activities):
        reply.pending_activities.append(activity_describe.pending_activity(state.activities[event_id], now_ns=now_ns))
    for event_id in sorted(state.children):
        reply.pending_children.append(child_describe.pending_child(state.children[event_id]))
    if state.workflow_task.scheduled_event_id:
        workflow_task_describe.fill_pending_task(reply.pending_workflow_task, state)
    for index in range(len(state.completion_callbacks)):
        reply.callbacks.append(callback_describe.callback(state, index))
    for event_id in sorted(state.nexus_operations):
        reply.pending_nexus_operations.append(nexus_describe.pending_operation(state.nexus_operations[event_id]))
    return reply
