"""Options of a running workflow that change from outside: what is attached to it, its versioning override, its priority."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.common.errors import not_found
from whistlestop.history.core.signal import ALREADY_COMPLETED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    from whistlestop.history.core.run import Run


@dataclass(frozen=True, slots=True)
class Change:
    """What one event changes."""

    versioning_override: workflow_pb.VersioningOverride | None = None
    unset_versioning_override: bool = False
    priority: common_pb.Priority | None = None
    attached_request_id: str = ""
    attached_callbacks: Sequence[common_pb.Callback] = field(default=())
    links: Sequence[common_pb.Link] = field(default=())
    identity: str = ""


def update(run: Run, change: Change) -> None:
    """Record the change. It makes no workflow task: the workflow need not know. Raises NOT_FOUND for a closed run."""
    if not run.is_open:
        raise not_found(ALREADY_COMPLETED)
    event = run.event(et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
    event.worker_may_ignore = True
    event.links.extend(change.links)
    a = event.workflow_execution_options_updated_event_attributes
    if change.versioning_override is not None:
        a.versioning_override.CopyFrom(change.versioning_override)
    a.unset_versioning_override = change.unset_versioning_override
    if change.priority is not None:
        a.priority.CopyFrom(change.priority)
    a.attached_request_id = change.attached_request_id
    a.attached_completion_callbacks.extend(change.attached_callbacks)
    a.identity = change.identity
    run.append(event)


def of_run(run: Run) -> workflow_pb.WorkflowExecutionOptions:
    """The options as they stand."""
    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    state = run.state
    options = workflow_pb.WorkflowExecutionOptions()
    if state.versioning_info.HasField("versioning_override"):
        options.versioning_override.CopyFrom(state.versioning_info.versioning_override)
    if state.HasField("priority"):
        options.priority.CopyFrom(state.priority)
    return options
