"""GetWorkflowExecutionHistory and its reverse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded
from whistlestop.common.errors import invalid_argument
from whistlestop.common.notify import execution_topic
from whistlestop.history import histories
from whistlestop.history.api import METHODS
from whistlestop.history.core.run import PAUSED, RUNNING

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.engine import Entry
    from whistlestop.history.service import History

_HISTORY_FIELD = service_pb.GetWorkflowExecutionHistoryResponse.DESCRIPTOR.fields_by_name["history"].number
LONG_POLL_S = 20.0
CLOSE_EVENT = wf_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


async def get_workflow_execution_history(
    service: History, request: service_pb.GetWorkflowExecutionHistoryRequest, context: CallContext
) -> Reply:
    """Events of a run from the start or from the token on; waits for new ones when asked to."""
    engine = service.engine
    token = _parse_token(request.next_page_token)
    run_id = token.get("run_id", request.execution.run_id)
    key = await engine.resolve(context.namespace_id, request.execution.workflow_id, run_id, fresh=not engine.exclusive)
    entry = await engine.read(key)
    first = int(token.get("next", 1))
    only_close = request.history_event_filter_type == CLOSE_EVENT
    if request.wait_new_event:
        entry = await _wait(service, entry, context, first, only_close=only_close)
    is_open = entry.state.status in (RUNNING, PAUSED)
    limit = min(request.maximum_page_size or histories.MAX_BATCHES, histories.MAX_BATCHES)
    reply = service_pb.GetWorkflowExecutionHistoryResponse()
    if only_close:
        if is_open:
            if request.wait_new_event:
                reply.next_page_token = _token(key.run_id, 1)
            data = b"" if request.wait_new_event else await _last_event(service, entry)
        else:
            data = await _last_event(service, entry)
    else:
        next_event_id = entry.state.next_event_id
        batches = await histories.read_batches(engine, entry, first, next_event_id, limit)
        data = b"".join(histories.trimmed(batch, first, next_event_id) for batch in batches)
        reached = batches[-1].next_event_id if batches else first
        if reached < next_event_id or (is_open and request.wait_new_event):
            reply.next_page_token = _token(key.run_id, reached)
    return Encoded(reply.SerializeToString() + histories.spliced(_HISTORY_FIELD, data))


async def _last_event(service: History, entry: Entry) -> bytes:
    last = entry.state.next_event_id - 1
    batches = await histories.read_batches(service.engine, entry, last, last + 1, 1)
    return b"".join(histories.trimmed(batch, last, last + 1) for batch in batches)


async def _wait(service: History, entry: Entry, context: CallContext, first: int, *, only_close: bool) -> Entry:
    """Until there is something behind `first` (or the run closed), or the poll's time is over."""
    clock = service.clock
    deadline_ns = clock.now_ns() + int(min(context.remaining_s(clock, LONG_POLL_S) - 1.0, LONG_POLL_S) * 1e9)
    key = entry.key
    with service.notifier.subscribe(execution_topic(key.namespace_id, key.workflow_id, key.run_id)) as audience:
        while True:
            entry = await service.engine.read(key)
            is_open = entry.state.status in (RUNNING, PAUSED)
            if not is_open or service.closing or (not only_close and entry.state.next_event_id > first):
                return entry
            if not await audience.wait(deadline_ns):
                return entry


def _token(run_id: str, next_event_id: int) -> bytes:
    return json.dumps({"run_id": run_id, "next": next_event_id}).encode()


def _parse_token(data: bytes) -> dict[str, str]:
    if not data:
        return {}
    try:
        token: dict[str, str] = json.loads(data)
        if not isinstance(token, dict):
            raise TypeError
    except (ValueError, TypeError) as error:
        raise invalid_argument("Invalid NextPageToken.") from error
    return token


METHODS["GetWorkflowExecutionHistory"] = get_workflow_execution_history
