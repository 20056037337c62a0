"""GetWorkflowExecutionHistory and its reverse, and the further pages of a history that is too long for a poll's reply.

A page consists of whole batches, at most `histories.MAX_BATCHES` of them, and ends early when it is large. The token of
the next page is opaque to clients: it holds the run, the next event and, for a worker, where its workflow task's
history ends and the events after it that are not written (yet).

Waiting follows Temporal: only a call that has seen everything waits, and a wait without new events is answered with no
events and a token. With the close-event filter, the first call already waits.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded
from whistlestop.common.errors import invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages import nesting
from whistlestop.common.notify import closed_topic, execution_topic
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.core.workflow import close
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.engine import histories
from whistlestop.history.nexus import callback_order

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import ExecutionKey, HistoryBatch

_HISTORY_FIELD = service_pb.GetWorkflowExecutionHistoryResponse.DESCRIPTOR.fields_by_name["history"].number
FOLLOWS_RUNS = "follows-next-run-id"
_MAY_GO_ON = frozenset(
    {
        "workflow_execution_completed_event_attributes",
        "workflow_execution_failed_event_attributes",
        "workflow_execution_timed_out_event_attributes",
    }
)
_MARGIN_NS = SECOND_NS
"""How long before the caller's deadline it is answered."""
_MOST_EVENT_ID = 2**62
CLOSE_EVENT = wf_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
CLIENTS_WITHOUT_UNWRITTEN_EVENTS = frozenset({"temporal-cli", "temporal-ui"})
"""Clients that are shown stored events only, none of a task in progress: those may still disappear."""


@dataclass(frozen=True, slots=True)
class PageToken:
    """The position of the next page."""

    run_id: str
    next_event_id: int
    end_event_id: int = 0
    """The end (exclusive) of a workflow task's history. 0: all there is."""
    suffix: bytes = b""
    """A serialised History to append to the last page."""
    is_open: bool = True
    """Whether the run was open when the token was made, so that a caller may wait for more."""

    def encode(self) -> bytes:
        """Return the token as opaque bytes."""
        fields: dict[str, Any] = {"run": self.run_id, "next": self.next_event_id}
        if self.end_event_id:
            fields["end"] = self.end_event_id
        if self.suffix:
            fields["suffix"] = base64.b64encode(self.suffix).decode()
        if not self.is_open:
            fields["closed"] = True
        return json.dumps(fields, separators=(",", ":")).encode()


def parse_token(data: bytes, run_id: str) -> PageToken:
    """Parse a token; if the request names a run, it must be the token's. Raise INVALID_ARGUMENT."""
    try:
        fields = json.loads(data)
        suffix = base64.b64decode(fields.get("suffix", ""))
        if suffix:
            history_pb.History.FromString(suffix)
        token = PageToken(
            str(fields["run"]), fields["next"], fields.get("end", 0), suffix, not fields.get("closed", False)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, DecodeError) as error:
        raise invalid_argument("Invalid NextPageToken.") from error
    if not all(type(each) is int and 0 <= each <= _MOST_EVENT_ID for each in (token.next_event_id, token.end_event_id)):
        raise invalid_argument("Invalid NextPageToken.")
    if run_id and run_id != token.run_id:
        raise invalid_argument("RunId in the request does not match the NextPageToken.")
    return token


@handles(HistoryService.GetWorkflowExecutionHistory)
async def get_workflow_execution_history(
    ports: HistoryPorts, request: service_pb.GetWorkflowExecutionHistoryRequest, context: CallContext
) -> service_pb.GetWorkflowExecutionHistoryResponse | Encoded:
    """Return events of a run from the start or from the token on; wait for new ones if requested.

    Raise NOT_FOUND, or INVALID_ARGUMENT for an invalid token.
    """
    engine = ports.engine
    token = parse_token(request.next_page_token, request.execution.run_id) if request.next_page_token else None
    run_id = token.run_id if token is not None else request.execution.run_id
    key = await engine.resolve(context.namespace_id, request.execution.workflow_id, run_id)
    if request.history_event_filter_type == CLOSE_EVENT:
        return await _close_event(ports, request, context, key, first_call=token is None)
    if token is not None and request.wait_new_event and token.is_open and not token.end_event_id:
        entry = await _wait(ports, key, context, token.next_event_id, only_close=False)
    else:
        entry = await engine.read(key)
        token = token or PageToken(key.run_id, 1)
    reply = service_pb.GetWorkflowExecutionHistoryResponse()
    batches, following = await _page(engine, entry, token, request.maximum_page_size)
    is_open = _is_open(entry)
    if following is not None:
        reply.next_page_token = following.encode()
    elif not token.end_event_id:
        if context.headers.get("client-name", "") not in CLIENTS_WITHOUT_UNWRITTEN_EVENTS:
            batches.append(_unwritten(engine, entry))
        if request.wait_new_event and is_open:
            reply.next_page_token = PageToken(key.run_id, entry.state.next_event_id).encode()
    return _answered(ports, context, reply, batches)


def _answered(
    ports: HistoryPorts,
    context: CallContext,
    reply: service_pb.GetWorkflowExecutionHistoryResponse,
    batches: list[bytes],
) -> service_pb.GetWorkflowExecutionHistoryResponse | Encoded:
    """Return the reply with these batches of events: concatenated, or each as it is stored."""
    if not ports.limits.of(context.namespace).send_raw_history:
        return Encoded(reply.SerializeToString() + histories.spliced(_HISTORY_FIELD, b"".join(batches)))
    reply.history.SetInParent()
    for data in batches:
        if data:
            reply.raw_history.add(encoding_type=common_enums.ENCODING_TYPE_PROTO3, data=data)
    return reply


async def _page(engine: Engine, entry: Entry, token: PageToken, wanted: int) -> tuple[list[bytes], PageToken | None]:
    """Return the batches of one page, and the token of the next page, or None for the last."""
    end = token.end_event_id or entry.state.next_event_id
    first = token.next_event_id
    batches = await histories.read_batches(engine, entry, first, end, _page_size(wanted))
    batches = _limited(batches)
    data = [histories.trimmed(batch, first, end) for batch in batches]
    reached = min(batches[-1].next_event_id, end) if batches else max(first, end)
    if reached < end:
        return data, replace(token, next_event_id=reached)
    data.append(token.suffix)
    return data, None


def _page_size(wanted: int) -> int:
    return min(wanted, histories.MAX_BATCHES) if wanted > 0 else histories.MAX_BATCHES


def _limited(batches: list[HistoryBatch]) -> list[HistoryBatch]:
    """Return as many batches as make a page of acceptable size, at least one."""
    size = 0
    for index, batch in enumerate(batches):
        size += len(batch.data)
        if size > histories.MAX_PAGE_BYTES and index:
            return batches[:index]
    return batches


async def first_page(
    engine: Engine, entry: Entry, first_event_id: int, end_event_id: int, suffix: bytes, *, batches: int
) -> tuple[bytes, bytes]:
    """Return a task's history, up to so many batches, and the token of its next page (empty if this is all).

    Raise StorageError.
    """
    token = PageToken(entry.key.run_id, first_event_id, end_event_id, suffix)
    data, following = await _page(engine, entry, token, batches)
    return b"".join(data), b"" if following is None else following.encode()


def _is_open(entry: Entry) -> bool:
    return entry.state.status in (RUNNING, PAUSED)


def _unwritten(engine: Engine, entry: Entry) -> bytes:
    """Return the events of a pending workflow task that are not in history."""
    task = entry.state.workflow_task
    if task.write_events or task.scheduled_event_id != entry.state.next_event_id or not _is_open(entry):
        return b""
    events = workflow_task.unwritten_events(engine.run_of(entry))
    for event in events:
        if event.HasField("workflow_task_started_event_attributes"):
            # The worker's identity is told to that worker only.
            event.workflow_task_started_event_attributes.identity = ""
    return history_pb.History(events=events).SerializeToString()


async def _close_event(
    ports: HistoryPorts,
    request: service_pb.GetWorkflowExecutionHistoryRequest,
    context: CallContext,
    key: ExecutionKey,
    *,
    first_call: bool,
) -> service_pb.GetWorkflowExecutionHistoryResponse | Encoded:
    """Return the last event of a closed run; for an open one only a token to ask again.

    A caller that does not wait gets the last event of a paused run, too, as from Temporal: its command line asks for
    it.
    """
    sends_paused_event = not request.wait_new_event and (await ports.engine.read(key)).state.status == PAUSED
    if (first_call and not sends_paused_event) or request.wait_new_event:
        entry = await _wait(ports, key, context, 1, only_close=True)
    else:
        entry = await ports.engine.read(key)
    reply = service_pb.GetWorkflowExecutionHistoryResponse()
    data = b""
    if not _is_open(entry) or sends_paused_event:
        data = await _last_event(ports, entry)
        if FOLLOWS_RUNS not in context.headers.get("supported-features", "").split(","):
            data = _as_continued(data)
    elif request.wait_new_event:
        reply.next_page_token = PageToken(entry.key.run_id, entry.state.next_event_id).encode()
    return _answered(ports, context, reply, [data])


def _as_continued(data: bytes) -> bytes:
    """Replace a close event that names a next run by continue-as-new, for clients that follow no other kind."""
    history = nesting.parse(history_pb.History, data)
    for event in history.events:
        kind = event.WhichOneof("attributes") or ""
        attributes = getattr(event, kind)
        if kind not in _MAY_GO_ON or not attributes.new_execution_run_id:
            continue
        continued = history_pb.WorkflowExecutionContinuedAsNewEventAttributes(
            new_execution_run_id=attributes.new_execution_run_id
        )
        if kind == "workflow_execution_completed_event_attributes" and attributes.HasField("result"):
            continued.last_completion_result.CopyFrom(attributes.result)
        elif kind == "workflow_execution_failed_event_attributes":
            continued.failure.CopyFrom(attributes.failure)
        elif kind == "workflow_execution_timed_out_event_attributes":
            continued.failure.CopyFrom(close.RUN_TIMED_OUT)
        event.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
        event.workflow_execution_continued_as_new_event_attributes.CopyFrom(continued)
    return history.SerializeToString()


async def _last_event(ports: HistoryPorts, entry: Entry) -> bytes:
    last = entry.state.next_event_id - 1
    batches = await histories.read_batches(ports.engine, entry, last, last + 1, 1)
    return b"".join(histories.trimmed(batch, last, last + 1) for batch in batches)


async def _wait(ports: HistoryPorts, key: ExecutionKey, context: CallContext, first: int, *, only_close: bool) -> Entry:
    """Wait until there are events from `first` on (or the run has closed), or until the deadline; return the run."""
    deadline_ns = ports.clock.steady_ns() + ports.limits.of(context.namespace).long_poll_ns
    if context.deadline_ns is not None:
        deadline_ns = min(deadline_ns, context.deadline_ns - _MARGIN_NS)
    if only_close:
        topic = closed_topic(key.namespace_id, key.run_id)
    else:
        topic = execution_topic(key.namespace_id, key.workflow_id, key.run_id)
    with ports.notifier.subscribe(topic) as audience:
        while True:
            entry = await ports.engine.read(key, audience)
            if not _is_open(entry):
                await callback_order.called(ports, entry, deadline_ns)
                return entry
            if ports.is_closing() or (not only_close and entry.state.next_event_id > first):
                return entry
            if not await audience.wait(deadline_ns):
                return entry


@handles(HistoryService.GetWorkflowExecutionHistoryReverse)
async def get_workflow_execution_history_reverse(
    ports: HistoryPorts, request: service_pb.GetWorkflowExecutionHistoryReverseRequest, context: CallContext
) -> service_pb.GetWorkflowExecutionHistoryReverseResponse:
    """Return events of a run from the newest back. Raise NOT_FOUND, or INVALID_ARGUMENT for an invalid token."""
    engine = ports.engine
    token = parse_token(request.next_page_token, request.execution.run_id) if request.next_page_token else None
    run_id = token.run_id if token is not None else request.execution.run_id
    key = await engine.resolve(context.namespace_id, request.execution.workflow_id, run_id)
    entry = await engine.read(key)
    end = token.next_event_id if token is not None else entry.state.next_event_id
    batches = await histories.read_batches(engine, entry, 1, end, _page_size(request.maximum_page_size), reverse=True)
    batches = _limited(batches)
    reply = service_pb.GetWorkflowExecutionHistoryReverseResponse()
    reply.history.SetInParent()
    for batch in batches:
        events = nesting.parse(history_pb.History, histories.trimmed(batch, 1, end)).events
        reply.history.events.extend(reversed(events))
    if batches and batches[-1].first_event_id > 1:
        reply.next_page_token = PageToken(key.run_id, batches[-1].first_event_id).encode()
    return reply
