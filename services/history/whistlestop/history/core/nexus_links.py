"""Links as Nexus carries them: a URL and a type. What does not parse is passed over, since a link is only a hint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.common.enum_names import enum_name
from whistlestop.history.core import nexus_execution

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

WORKFLOW_EVENT = common_pb.Link.WorkflowEvent.DESCRIPTOR.full_name
OPERATION = common_pb.Link.NexusOperation.DESCRIPTOR.full_name
_PATH = re.compile(r"/namespaces/([^/]+)/workflows/([^/]+)/([^/]+)/history")
_OPERATION_PATH = re.compile(r"/namespaces/([^/]+)/nexus-operations/([^/]+)/([^/]+)/details")
_EVENT_REFERENCE = "EventReference"
_REQUEST_ID_REFERENCE = "RequestIdReference"


def to_nexus(event: common_pb.Link.WorkflowEvent) -> nexus_pb.Link:
    """A link to an event of a workflow."""
    namespace, workflow_id, run_id = (
        quote(part, safe="$&+=:@") for part in (event.namespace, event.workflow_id, event.run_id)
    )
    query: dict[str, str | int] = {}
    if event.HasField("event_ref"):
        if event.event_ref.event_id:
            query["eventID"] = event.event_ref.event_id
        query["eventType"] = _short(event.event_ref.event_type)
        query["referenceType"] = _EVENT_REFERENCE
    elif event.HasField("request_id_ref"):
        query["eventType"] = _short(event.request_id_ref.event_type)
        query["referenceType"] = _REQUEST_ID_REFERENCE
        query["requestID"] = event.request_id_ref.request_id
    url = f"temporal:///namespaces/{namespace}/workflows/{workflow_id}/{run_id}/history"
    return nexus_pb.Link(url=f"{url}?{urlencode(query)}" if query else url, type=WORKFLOW_EVENT)


def caller(state: MutableState, scheduled: history_pb.HistoryEvent) -> nexus_pb.Link:
    """Who calls the operation: the event that scheduled it, or the operation itself when no workflow did."""
    if nexus_execution.is_one(state):
        return _to_operation(nexus_execution.self_link(state).nexus_operation)
    event = common_pb.Link.WorkflowEvent(namespace=state.namespace, workflow_id=state.workflow_id, run_id=state.run_id)
    event.event_ref.event_id, event.event_ref.event_type = scheduled.event_id, scheduled.event_type
    return to_nexus(event)


def _to_operation(operation: common_pb.Link.NexusOperation) -> nexus_pb.Link:
    namespace, operation_id, run_id = (
        quote(part, safe="$&+=:@") for part in (operation.namespace, operation.operation_id, operation.run_id)
    )
    url = f"temporal:///namespaces/{namespace}/nexus-operations/{operation_id}/{run_id}/details"
    return nexus_pb.Link(url=url, type=OPERATION)


def header_value(link: nexus_pb.Link) -> str:
    """As the header `nexus-link` shows it."""
    return f'<{link.url}>; type="{link.type}"'


def from_nexus(links: Iterable[nexus_pb.Link]) -> list[common_pb.Link]:
    """Those that lead to an event of a workflow, or to a standalone operation."""
    found = []
    for link in links:
        parsed = _parsed(link)
        if parsed is not None:
            found.append(parsed)
    return found


def _parsed(link: nexus_pb.Link) -> common_pb.Link | None:
    if link.type == OPERATION:
        return _parsed_operation(link)
    if link.type != WORKFLOW_EVENT:
        return None
    try:
        parts = urlsplit(link.url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match = _PATH.fullmatch(parts.path)
        if parts.scheme != "temporal" or match is None:
            return None
        result = common_pb.Link()
        event = result.workflow_event
        event.namespace, event.workflow_id, event.run_id = (unquote(part) for part in match.groups())
        if query.get("referenceType") == _EVENT_REFERENCE:
            event.event_ref.event_id = int(query.get("eventID", "0"))
            event.event_ref.event_type = _long(query["eventType"])
        elif query.get("referenceType") == _REQUEST_ID_REFERENCE:
            event.request_id_ref.request_id = query.get("requestID", "")
            event.request_id_ref.event_type = _long(query["eventType"])
        else:
            return None
    except (ValueError, KeyError):
        return None
    return result


def _parsed_operation(link: nexus_pb.Link) -> common_pb.Link | None:
    try:
        parts = urlsplit(link.url)
    except ValueError:
        return None
    match = _OPERATION_PATH.fullmatch(parts.path)
    if parts.scheme != "temporal" or match is None:
        return None
    result = common_pb.Link()
    operation = result.nexus_operation
    operation.namespace, operation.operation_id, operation.run_id = (unquote(part) for part in match.groups())
    return result


def _short(event_type: et.EventType.ValueType) -> str:
    """`EVENT_TYPE_TIMER_FIRED` is `TimerFired`."""
    name = enum_name(et.EventType, event_type).removeprefix("EVENT_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


_BY_SHORT_NAME = {_short(number): number for number in et.EventType.values()}


def _long(name: str) -> et.EventType.ValueType:
    """Either way of naming an event type."""
    found = _BY_SHORT_NAME.get(name)
    return found if found is not None else et.EventType.Value(name)
