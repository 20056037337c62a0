"""PollWorkflowExecutionTimeSkipping: wait for the end of a fast-forward, along the runs of a chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import time_skipping_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.notify import execution_topic
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.api.updates import deadline
from whistlestop.history.core.timeskip.state import fast_forward_info, is_enabled
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.ports import HistoryPorts

    Response = service_pb.PollWorkflowExecutionTimeSkippingResponse

_COMPLETED = enums.FAST_FORWARD_POLLING_RESULT_FAST_FORWARD_COMPLETED
_FAILED = enums.FAST_FORWARD_POLLING_RESULT_FAST_FORWARD_FAILED
_TIMEOUT = enums.FAST_FORWARD_POLLING_RESULT_POLL_TIMEOUT
OTHER_ID = "the requested fast_forward_id does not match the execution's current fast-forward"
RESET = "the fast-forward was reset"
ENDED = "the execution ended before the fast-forward completed"
DISABLED = "time skipping was disabled before the fast-forward completed"


@handles(HistoryService.PollWorkflowExecutionTimeSkipping)
async def poll_workflow_execution_time_skipping(
    ports: HistoryPorts, request: service_pb.PollWorkflowExecutionTimeSkippingRequest, context: CallContext
) -> service_pb.PollWorkflowExecutionTimeSkippingResponse:
    """Return how the fast-forward ended; POLL_TIMEOUT when it has not by the deadline. Raise NOT_FOUND."""
    engine = ports.engine
    execution = request.workflow_execution
    key = await engine.resolve(context.namespace_id, execution.workflow_id, execution.run_id)
    deadline_ns = deadline(ports, context)
    target: common_pb.TimeSkippingFastForwardInfo | None = None
    while True:
        with ports.notifier.subscribe(execution_topic(key.namespace_id, key.workflow_id, key.run_id)) as audience:
            while True:
                state = (await engine.read(key, audience)).state
                reply = _judge(state, request.fast_forward_id, target)
                if reply is not None:
                    return reply
                target = target or fast_forward_info(state)
                if state.new_run_id and not _is_open(state):
                    break
                if ports.is_closing() or not await audience.wait(deadline_ns):
                    return _reply(fast_forward_info(state), _TIMEOUT)
        key = ExecutionKey(key.namespace_id, key.workflow_id, state.new_run_id)


def _is_open(state: MutableState) -> bool:
    return state.status in (RUNNING, PAUSED)


def _judge(state: MutableState, wanted: str, before: common_pb.TimeSkippingFastForwardInfo | None) -> Response | None:
    """Return the answer if the fast-forward has ended, otherwise None; `before` is what the poll saw first."""
    info = fast_forward_info(state)
    if info is None or info.fast_forward_id != wanted:
        return _reply(info, _FAILED, OTHER_ID)
    if before is not None and info.target_time != before.target_time:
        return _reply(info, _FAILED, RESET)
    if info.has_completed:
        return _reply(info, _COMPLETED)
    if not _is_open(state) and not state.new_run_id:
        return _reply(info, _FAILED, ENDED)
    if not is_enabled(state):
        return _reply(info, _FAILED, DISABLED)
    return None


def _reply(
    info: common_pb.TimeSkippingFastForwardInfo | None, result: enums.FastForwardPollingResult.ValueType, why: str = ""
) -> Response:
    return service_pb.PollWorkflowExecutionTimeSkippingResponse(
        fast_forward_info=info, fast_forward_polling_result=result, failed_reason=why
    )
