"""The handlers of all commands: who carries out which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import command_type_pb2 as ct

from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.child import decide as child
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.nexus import commands as nexus_commands
from whistlestop.history.core.timer import decide as timer
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow import close, continue_as_new, markers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.history.core.commands.context import Handler

HANDLERS: Final[Mapping[int, Handler]] = {
    ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: activity.schedule,
    ct.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: activity.request_cancel,
    ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: child.initiate,
    ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION: external.initiate_signal,
    ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION: external.initiate_cancel,
    ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION: nexus_commands.schedule,
    ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION: nexus_commands.request_cancel,
    ct.COMMAND_TYPE_START_TIMER: timer.start,
    ct.COMMAND_TYPE_CANCEL_TIMER: timer.cancel,
    ct.COMMAND_TYPE_PROTOCOL_MESSAGE: update.protocol_message,
    ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION: close.complete,
    ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: close.fail,
    ct.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: close.cancel,
    ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: continue_as_new.continue_as_new,
    ct.COMMAND_TYPE_RECORD_MARKER: markers.record_marker,
    ct.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: markers.upsert_search_attributes,
    ct.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES: markers.modify_properties,
}
