"""UpdateWorkflowExecution, PollWorkflowExecutionUpdate, UpdateWorkflowExecutionOptions: checks and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1.update_pb2 import UpdateWorkflowExecutionLifecycleStage

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.callbacks import check_callbacks, links_beside_callbacks
from whistlestop.frontend.api.rules import validates
from whistlestop.frontend.api.switches import UPDATES_DISABLED, denied
from whistlestop.frontend.api.workflow import time_skipping

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace

_Stage = UpdateWorkflowExecutionLifecycleStage
_COMPLETED = _Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
_ACCEPTED = _Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
_ADMITTED = _Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED


@validates(WorkflowService.UpdateWorkflowExecution)
def check_update(request: service_pb.UpdateWorkflowExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check an update, alone or within ExecuteMultiOperation. The default is a new id, and to wait for completion.

    Raise INVALID_ARGUMENT or PERMISSION_DENIED.
    """
    checks.check_execution(request, "workflow_execution")
    checks.check_no_schedule(request.workflow_execution.workflow_id)
    if not request.request.HasField("meta"):
        raise invalid_argument("Update meta is not set on request.")
    meta = request.request.meta
    if checks.length(meta.update_id) > rules.config.max_id_length:
        raise invalid_argument("UpdateId length exceeds limit.")
    if not meta.update_id:
        meta.update_id = rules.ids.uuid()
    if not request.request.HasField("input"):
        raise invalid_argument("Update input is not set on request.")
    if not request.request.input.name:
        raise invalid_argument("Update name is not set on request.")
    if not rules.config.updates_enabled:
        raise denied(UPDATES_DISABLED)
    if not request.wait_policy.lifecycle_stage:
        request.wait_policy.lifecycle_stage = _COMPLETED
    if request.wait_policy.lifecycle_stage == _ADMITTED:
        raise denied("UpdateWorkflowExecution issued asynchronously and waiting on update admitted is not supported.")
    if request.wait_policy.lifecycle_stage == _ACCEPTED and not rules.config.async_updates_enabled:
        raise denied(
            "UpdateWorkflowExecution issued asynchronously and waiting on update accepted is disabled on this "
            "namespace."
        )
    if request.request.completion_callbacks:
        check_callbacks(request.request.completion_callbacks, rules)
    # Unlike a start, an update keeps the links of its callbacks among its own. They count once.
    links = links_beside_callbacks(request.request.links, request.request.completion_callbacks)
    links += (link for callback in request.request.completion_callbacks for link in callback.links)
    if links:
        checks.check_links(links, rules)


@validates(WorkflowService.PollWorkflowExecutionUpdate)
def check_poll_update(
    request: service_pb.PollWorkflowExecutionUpdateRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the reference to the update. Raise INVALID_ARGUMENT."""
    if not request.HasField("update_ref"):
        raise invalid_argument("UpdateRef is not set on request.")
    execution = request.update_ref.workflow_execution
    if not execution.workflow_id:
        raise invalid_argument("Can't load workflow execution.  WorkflowId not set.")
    if not checks.is_run_id(execution.run_id):
        raise invalid_argument("RunId is not valid UUID.")
    if not request.HasField("wait_policy"):
        request.wait_policy.SetInParent()


@validates(WorkflowService.UpdateWorkflowExecutionOptions)
def check_update_options(
    request: service_pb.UpdateWorkflowExecutionOptionsRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the options and the mask of what to change. Raise INVALID_ARGUMENT."""
    if not request.workflow_execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if not request.HasField("update_mask"):
        raise invalid_argument("UpdateMask is required")
    if not request.HasField("workflow_execution_options"):
        raise invalid_argument("WorkflowExecutionOptions is required")
    options = request.workflow_execution_options
    for path in request.update_mask.paths:
        if not _is_path(options.DESCRIPTOR, path):
            raise invalid_argument(
                f'error parsing UpdateMask: proto: invalid path "{path}" for message "{options.DESCRIPTOR.full_name}"'
            )
    checks.check_priority(options.priority)
    time_skipping.check_config(options, rules)


def _is_path(descriptor: object, path: str) -> bool:
    current = descriptor
    for part in path.split("."):
        field = None if current is None else current.fields_by_name.get(part)  # type: ignore[attr-defined]
        if field is None:
            return False
        current = field.message_type
    return True
