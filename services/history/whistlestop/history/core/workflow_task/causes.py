"""The causes for which a workflow task fails, and their names."""

from __future__ import annotations

from typing import TypeAlias

from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.messages.enum_names import enum_name

Cause: TypeAlias = fc.WorkflowTaskFailedCause.ValueType


def cause_name(cause: int) -> str:
    """Return the cause's short name: `WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND` is `UnhandledCommand`."""
    name = enum_name(fc.WorkflowTaskFailedCause, cause)
    return "".join(part.capitalize() for part in name.removeprefix("WORKFLOW_TASK_FAILED_CAUSE_").split("_"))
