"""Long polls of clients: for new events of a history, the end of a run, or the outcome of an update.

If waiting at the target is free, such a call is passed on. A function would be billed for the wait, so the bridge
sends short requests instead, at growing intervals, or at once when something was completed through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import workflow_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.bridge.counters import WAIT
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.bridge.progress import Progress
    from whistlestop.bridge.target import Target
    from whistlestop.common.clock import Clock

_SERVICE: Final = "/temporal.api.workflowservice.v1.WorkflowService/"
HISTORY: Final = _SERVICE + "GetWorkflowExecutionHistory"
UPDATE: Final = _SERVICE + "PollWorkflowExecutionUpdate"

_CLOSE_EVENT: Final = enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT

SHORT_REQUEST_S = 1.02
"""Deadline of a short request. History answers one second before a deadline, so nothing is held and billed."""
MARGIN_S = 2.0
LONG_POLL_S = 20.0
_FIRST_S, _MAX_S, _SHARE = 0.05, 5.0, 0.5


def long_poll_namespace(path: str, data: bytes) -> str | None:
    """Return the namespace of a client's long poll; None for any other call."""
    try:
        if path == HISTORY:
            request = rr.GetWorkflowExecutionHistoryRequest.FromString(data)
            return request.namespace if request.wait_new_event else None
        if path == UPDATE:
            return rr.PollWorkflowExecutionUpdateRequest.FromString(data).namespace
    except DecodeError:
        pass  # the target reports the error
    return None


async def wait(
    target: Target,
    clock: Clock,
    progress: Progress,
    path: str,
    data: bytes,
    headers: Mapping[str, str],
    deadline_ns: int | None,
) -> bytes:
    """Send short requests until there is news or the time is up; return the last reply. Raises ServiceError."""
    has_news = _has_history if path == HISTORY else _update_watcher(data)
    workflow_id, only_end = _awaited(path, data)
    began_ns = clock.steady_ns()
    end_ns = began_ns + int(LONG_POLL_S * SECOND_NS)
    if deadline_ns is not None:
        end_ns = min(end_ns, deadline_ns - int(MARGIN_S * SECOND_NS))
    while True:
        try:
            answer = await target.call(path, data, headers, SHORT_REQUEST_S, WAIT)
        except ServiceError as error:
            if error.code is not Code.DEADLINE_EXCEEDED:
                raise
            answer = None  # for example because of a cold start
        if answer is not None and has_news(answer):
            return answer
        now_ns = clock.steady_ns()
        if now_ns >= end_ns:
            if answer is None:
                raise ServiceError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
            return answer
        pause_s = min(max((now_ns - began_ns) / SECOND_NS * _SHARE, _FIRST_S), _MAX_S)
        until_ns = min(end_ns, now_ns + int(pause_s * SECOND_NS))
        if await progress.wait(clock, until_ns, workflow_id, only_end=only_end):
            began_ns = clock.steady_ns()


def _awaited(path: str, data: bytes) -> tuple[str, bool]:
    """Return the workflow id that is waited for, and whether the wait is for its end only."""
    if path == UPDATE:
        return rr.PollWorkflowExecutionUpdateRequest.FromString(data).update_ref.workflow_execution.workflow_id, False
    request = rr.GetWorkflowExecutionHistoryRequest.FromString(data)
    return request.execution.workflow_id, request.history_event_filter_type == _CLOSE_EVENT


def _has_history(answer: bytes) -> bool:
    reply = rr.GetWorkflowExecutionHistoryResponse.FromString(answer)
    return bool(reply.history.events or reply.raw_history or not reply.next_page_token)


def _update_watcher(data: bytes) -> Callable[[bytes], bool]:
    wanted = rr.PollWorkflowExecutionUpdateRequest.FromString(data).wait_policy.lifecycle_stage

    def has_news(answer: bytes) -> bool:
        reply = rr.PollWorkflowExecutionUpdateResponse.FromString(answer)
        return reply.HasField("outcome") or reply.stage >= wanted

    return has_news
