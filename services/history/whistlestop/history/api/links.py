"""Links in replies to what a request did, as in Temporal's."""

from __future__ import annotations

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et


def to_started_event(namespace: str, workflow_id: str, run_id: str) -> common_pb.Link:
    """Return a link to the first event (id 1) of a run."""
    link = common_pb.Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, workflow_id, run_id
    event.event_ref.event_id = 1
    event.event_ref.event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return link


def to_request(
    namespace: str, workflow_id: str, run_id: str, request_id: str, event_type: et.EventType.ValueType
) -> common_pb.Link:
    """Return a link to the event that a request caused, whose id may not be known yet."""
    link = common_pb.Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, workflow_id, run_id
    event.request_id_ref.request_id = request_id
    event.request_id_ref.event_type = event_type
    return link
