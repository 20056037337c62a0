"""Commands by which a workflow records data about itself: markers, search attributes, and its memo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.commands import attributes as command_attributes

if TYPE_CHECKING:
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.commands.context import Completion


def record_marker(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command RecordMarker. Raise BadCommand."""
    run = completion.run
    attributes = command.record_marker_command_attributes
    command_attributes.record_marker(run, attributes)
    event = run.event(et.EVENT_TYPE_MARKER_RECORDED)
    a = event.marker_recorded_event_attributes
    a.marker_name = attributes.marker_name
    for key, payloads in attributes.details.items():
        a.details[key].CopyFrom(payloads)
    for field in ("header", "failure"):
        if attributes.HasField(field):
            getattr(a, field).CopyFrom(getattr(attributes, field))
    a.workflow_task_completed_event_id = completion.completed_event_id
    return run.append(event)


def upsert_search_attributes(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command UpsertWorkflowSearchAttributes. Raise BadCommand."""
    run = completion.run
    attributes = command.upsert_workflow_search_attributes_command_attributes
    command_attributes.upsert_search_attributes(run, attributes)
    event = run.event(et.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
    a = event.upsert_workflow_search_attributes_event_attributes
    a.search_attributes.CopyFrom(attributes.search_attributes)
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.visibility_changed = True
    return run.append(event)


def modify_properties(completion: Completion, command: command_pb.Command) -> history_pb.HistoryEvent:
    """Handle the command ModifyWorkflowProperties, an upsert of the memo. Raise BadCommand."""
    run = completion.run
    attributes = command.modify_workflow_properties_command_attributes
    command_attributes.modify_properties(run, attributes)
    event = run.event(et.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED)
    a = event.workflow_properties_modified_event_attributes
    a.upserted_memo.CopyFrom(attributes.upserted_memo)
    a.workflow_task_completed_event_id = completion.completed_event_id
    run.visibility_changed = True
    return run.append(event)
