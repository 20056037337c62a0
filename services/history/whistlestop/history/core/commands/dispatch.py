"""Carry out the commands of a worker's answer, each by its handler.

The handlers are an argument (`core/command_handlers.py` has them all), so this file imports none of them; and none of
them may import it: what a handler needs is in `context` and `errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.errors import invalid_argument
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.common.messages.storable import nul_field
from whistlestop.history.core.commands.errors import BadCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.history.core.commands.context import Completion, Handler

CLOSING = frozenset(
    {
        ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    }
)
_BAD_ATTRIBUTES = {
    ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES,
    ct.COMMAND_TYPE_START_TIMER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES,
    ct.COMMAND_TYPE_CANCEL_TIMER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES,
    ct.COMMAND_TYPE_RECORD_MARKER: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES,
    ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES,
    ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ct.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES,
    ct.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES,
    ct.COMMAND_TYPE_PROTOCOL_MESSAGE: fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE,
    ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES,
    ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION:
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES,
}  # fmt: skip

_FIELDS = {
    command_type: f"{ct.CommandType.Name(command_type).removeprefix('COMMAND_TYPE_').lower()}_command_attributes"
    for command_type in _BAD_ATTRIBUTES
}
"""The field of a command's attributes, by the command's type."""
_UNSET = {
    ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION: "empty ScheduleNexusOperationCommandAttributes",
    ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION: "empty CancelNexusOperationCommandAttributes",
}
"""Temporal's texts for unset attributes, where they differ from its text for all others."""


def carry_out(completion: Completion, handlers: Mapping[int, Handler]) -> None:
    """Execute the answer's commands in order. A handler may rely on the attributes of its command being set.

    Raise BadCommand for an invalid command, or one that closes the workflow before it has seen the events that arrived
    during its task; and INVALID_ARGUMENT for an invalid sequence of commands.
    """
    _check_sequence(completion.request, handlers)
    for command in completion.request.commands:
        if completion.had_buffered_events and command.command_type in CLOSING:
            raise BadCommand(fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND)
        _check_attributes(command)
        written = handlers[command.command_type](completion, command)
        if written is not None and command.HasField("user_metadata"):
            written.user_metadata.CopyFrom(command.user_metadata)
        if written is not None and command.event_group_markers:
            written.event_group_markers.extend(command.event_group_markers)


def _check_attributes(command: command_pb.Command) -> None:
    """Raise BadCommand for attributes of another type or none, or a name or id with U+0000, which no store holds."""
    chosen = command.WhichOneof("attributes")
    if chosen is None or chosen != _FIELDS[command.command_type]:
        name = command_name(command.command_type)
        text = _UNSET.get(command.command_type) or f"{name}CommandAttributes is not set on {name}Command."
        raise BadCommand(_BAD_ATTRIBUTES[command.command_type], text)
    field = nul_field(getattr(command, chosen))
    if field:
        cause = _BAD_ATTRIBUTES[command.command_type]
        raise BadCommand(cause, f"{field} must not contain U+0000: no store holds a name or an id with it")


def command_name(command_type: int) -> str:
    """Return the command's name: `COMMAND_TYPE_START_TIMER` is `StartTimer`; an unknown number stays a number."""
    name = enum_name(ct.CommandType, command_type)
    return "".join(part.capitalize() for part in name.removeprefix("COMMAND_TYPE_").split("_"))


def _check_sequence(request: service_pb.RespondWorkflowTaskCompletedRequest, handlers: Mapping[int, Handler]) -> None:
    """Raise INVALID_ARGUMENT for an unknown command, or one that follows a command which closes the workflow."""
    closing = ""
    for command in request.commands:
        if closing:
            raise invalid_argument(
                f"invalid command sequence: [{', '.join(command_name(c.command_type) for c in request.commands)}], "
                f"command {closing} must be the last command."
            )
        if command.command_type not in handlers:
            raise invalid_argument(f"unknown command type: {command_name(command.command_type)}")
        if command.command_type in CLOSING:
            closing = command_name(command.command_type)
