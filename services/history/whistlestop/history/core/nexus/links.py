"""Convert links between Temporal and Nexus, where a link is a URL and a type.

A link that can't be parsed is skipped, since links are only informative.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.common.messages.enum_names import enum_name
from whistlestop.history.core.nexus import standalone as nexus_execution

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

WORKFLOW_EVENT = common_pb.Link.WorkflowEvent.DESCRIPTOR.full_name
WORKFLOW = common_pb.Link.Workflow.DESCRIPTOR.full_name
ACTIVITY = common_pb.Link.Activity.DESCRIPTOR.full_name
OPERATION = common_pb.Link.NexusOperation.DESCRIPTOR.full_name
_PATH = re.compile(r"/namespaces/([^/]+)/workflows/([^/]+)/([^/]+)/history")
_WORKFLOW_PATH = re.compile(r"/namespaces/([^/]+)/workflows/([^/]+)/([^/]+)")
_ACTIVITY_PATH = re.compile(r"/namespaces/([^/]+)/activities/([^/]+)/([^/]+)/details")
_EVENT_REFERENCE = "EventReference"
_REQUEST_ID_REFERENCE = "RequestIdReference"


def to_nexus(link: common_pb.Link) -> nexus_pb.Link:
    """Return a link to an event of a workflow, a workflow, a standalone activity or a standalone operation."""
    if link.HasField("workflow_event"):
        event = link.workflow_event
        url = _url(event.namespace, "workflows", event.workflow_id, event.run_id, "/history", _event_query(event))
        return nexus_pb.Link(url=url, type=WORKFLOW_EVENT)
    if link.HasField("workflow"):
        workflow = link.workflow
        query = {"reason": workflow.reason} if workflow.reason else {}
        url = _url(workflow.namespace, "workflows", workflow.workflow_id, workflow.run_id, "", query)
        return nexus_pb.Link(url=url, type=WORKFLOW)
    if link.HasField("activity"):
        activity = link.activity
        url = _url(activity.namespace, "activities", activity.activity_id, activity.run_id, "/details", {})
        return nexus_pb.Link(url=url, type=ACTIVITY)
    operation = link.nexus_operation
    url = _url(operation.namespace, "nexus-operations", operation.operation_id, operation.run_id, "/details", {})
    return nexus_pb.Link(url=url, type=OPERATION)


def _url(namespace: str, kind: str, name: str, run_id: str, rest: str, query: Mapping[str, str | int]) -> str:
    parts = [quote(part, safe="$&+=:@") for part in (namespace, name, run_id)]
    url = f"temporal:///namespaces/{parts[0]}/{kind}/{parts[1]}/{parts[2]}{rest}"
    return f"{url}?{urlencode(query)}" if query else url


def _event_query(event: common_pb.Link.WorkflowEvent) -> dict[str, str | int]:
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
    return query


def caller(state: MutableState, scheduled: history_pb.HistoryEvent) -> nexus_pb.Link:
    """Return the operation's caller: the event that scheduled it, or the standalone operation itself."""
    if nexus_execution.is_standalone(state):
        return to_nexus(nexus_execution.self_link(state))
    link = common_pb.Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = state.namespace, state.workflow_id, state.run_id
    event.event_ref.event_id, event.event_ref.event_type = scheduled.event_id, scheduled.event_type
    return to_nexus(link)


def header_value(link: nexus_pb.Link) -> str:
    """Return the link as a value of the header `nexus-link`."""
    return f'<{link.url}>; type="{link.type}"'


def from_nexus(links: Iterable[nexus_pb.Link]) -> list[common_pb.Link]:
    """Return the links to an event of a workflow, to a workflow or to a standalone activity; others are skipped."""
    found = []
    for link in links:
        read = _READERS.get(link.type)
        with suppress(ValueError, KeyError):
            if read is not None:
                found.append(read(link.url))
    return found


def _parts(url: str, pattern: re.Pattern[str]) -> tuple[list[str], dict[str, str]]:
    """Return the path's names and the query. Raise ValueError for any other URL."""
    parts = urlsplit(url)
    match = pattern.fullmatch(parts.path)
    if parts.scheme != "temporal" or match is None:
        raise ValueError(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return [unquote(part) for part in match.groups()], query


def _event(url: str) -> common_pb.Link:
    result = common_pb.Link()
    event = result.workflow_event
    (event.namespace, event.workflow_id, event.run_id), query = _parts(url, _PATH)
    if query.get("referenceType") == _EVENT_REFERENCE:
        event.event_ref.event_id = int(query.get("eventID", "0"))
        event.event_ref.event_type = _long(query["eventType"])
    elif query.get("referenceType") == _REQUEST_ID_REFERENCE:
        event.request_id_ref.request_id = query.get("requestID", "")
        event.request_id_ref.event_type = _long(query["eventType"])
    else:
        raise ValueError(url)
    return result


def _workflow(url: str) -> common_pb.Link:
    result = common_pb.Link()
    workflow = result.workflow
    (workflow.namespace, workflow.workflow_id, workflow.run_id), query = _parts(url, _WORKFLOW_PATH)
    workflow.reason = query.get("reason", "")
    return result


def _activity(url: str) -> common_pb.Link:
    result = common_pb.Link()
    activity = result.activity
    (activity.namespace, activity.activity_id, activity.run_id), _ = _parts(url, _ACTIVITY_PATH)
    return result


_READERS = {WORKFLOW_EVENT: _event, WORKFLOW: _workflow, ACTIVITY: _activity}


def _short(event_type: et.EventType.ValueType) -> str:
    """Return the short name of an event type: `EVENT_TYPE_TIMER_FIRED` is `TimerFired`."""
    name = enum_name(et.EventType, event_type).removeprefix("EVENT_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


_BY_SHORT_NAME = {_short(number): number for number in et.EventType.values()}


def _long(name: str) -> et.EventType.ValueType:
    """Return the event type of a short or full name. Raise ValueError."""
    found = _BY_SHORT_NAME.get(name)
    return found if found is not None else et.EventType.Value(name)
