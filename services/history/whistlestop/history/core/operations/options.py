"""Change the options of an open run from outside: attached callbacks, versioning override, priority, time skipping."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

from whistlestop.common.errors import failed_precondition, invalid_argument, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.common.versioning.deployments import named_version
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.signal.decide import ALREADY_COMPLETED
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.errors import ServiceError
    from whistlestop.history.core.transition.run import Run

    UpdateOptions = history_pb.WorkflowExecutionOptionsUpdatedEventAttributes.WorkflowUpdateOptionsUpdate


@dataclass(frozen=True, slots=True)
class Change:
    """The changes of one event."""

    versioning_override: workflow_pb.VersioningOverride | None = None
    unset_versioning_override: bool = False
    priority: common_pb.Priority | None = None
    time_skipping_config: common_pb.TimeSkippingConfig | None = None
    time_skipping_updated: bool = False
    """True: `time_skipping_config` is new (None: removed). False: it is only repeated."""
    attached_request_id: str = ""
    attached_callbacks: Sequence[common_pb.Callback] = field(default=())
    update_options: Sequence[UpdateOptions] = field(default=())
    links: Sequence[common_pb.Link] = field(default=())
    identity: str = ""


def update(run: Run, change: Change) -> None:
    """Record the change without a workflow task, since the workflow need not know. Raise NOT_FOUND for a closed run."""
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
    if change.time_skipping_config is not None:
        a.time_skipping_config.CopyFrom(change.time_skipping_config)
    a.time_skipping_config_updated = change.time_skipping_updated
    a.attached_request_id = change.attached_request_id
    callbacks.check_number(run, len(change.attached_callbacks))
    a.attached_completion_callbacks.extend(change.attached_callbacks)
    a.workflow_update_options.extend(change.update_options)
    a.identity = change.identity
    run.append(event)
    if change.versioning_override is not None:
        run.pinned_to = named_version(change.versioning_override)
    if change.versioning_override is not None or change.unset_versioning_override:
        run.visibility_changed = True
        task = run.state.workflow_task
        # A run in a version transition completes that first.
        moves = run.state.versioning_info.HasField("version_transition")
        if task.row.task_id and not task.started_event_id and not moves:
            # The pending task may be for workers of another version now.
            run.state.sticky_task_queue = ""
            workflow_task.move_to_normal_queue(run)
        activity.offer_again(run)


def merge(run: Run, wanted: workflow_pb.WorkflowExecutionOptions, paths: Iterable[str], identity: str) -> None:
    """Change the options named by the mask; nothing is written if nothing changes.

    Raise INVALID_ARGUMENT, or NOT_FOUND for a closed run.
    """
    if not run.is_open:
        raise not_found(ALREADY_COMPLETED)
    present, merged = of_run(run), of_run(run)
    names = set(paths)
    if any(name.startswith("time_skipping_config.") for name in names):
        raise _bad_mask("time_skipping_config doesn't support partial update")
    nested = {name for name in names if name.startswith("versioning_override.")}
    pair = {"versioning_override.deployment", "versioning_override.behavior"}
    if nested - pair:
        raise _bad_mask("versioning_override doesn't support partial updates")
    if nested and nested != pair:
        raise _bad_mask("versioning_override fields must be updated together")
    if nested or "versioning_override" in names:
        merged.ClearField("versioning_override")
        if wanted.HasField("versioning_override"):
            merged.versioning_override.CopyFrom(wanted.versioning_override)
            _pin_where_it_is(run, merged.versioning_override)
    if "priority" in names:
        merged.ClearField("priority")
        if wanted.HasField("priority"):
            merged.priority.CopyFrom(wanted.priority)
    for name in ("priority_key", "fairness_key", "fairness_weight"):
        if f"priority.{name}" in names:
            setattr(merged.priority, name, getattr(wanted.priority, name))
    if "time_skipping_config" in names:
        merged.ClearField("time_skipping_config")
        if wanted.HasField("time_skipping_config"):
            merged.time_skipping_config.CopyFrom(wanted.time_skipping_config)
    # A fast-forward starts again from now, even if the same one is requested.
    skips_anew = "time_skipping_config" in names and wanted.time_skipping_config.HasField("fast_forward_config")
    if merged == present and not skips_anew:
        return
    has_override = merged.HasField("versioning_override")
    update(
        run,
        Change(
            versioning_override=merged.versioning_override if has_override else None,
            unset_versioning_override=not has_override,
            priority=merged.priority if merged.HasField("priority") else None,
            time_skipping_config=merged.time_skipping_config if merged.HasField("time_skipping_config") else None,
            time_skipping_updated=skips_anew
            or merged.time_skipping_config != present.time_skipping_config
            or merged.HasField("time_skipping_config") != present.HasField("time_skipping_config"),
            identity=identity,
        ),
    )


def _pin_where_it_is(run: Run, override: workflow_pb.VersioningOverride) -> None:
    """Complete a pinned override without a version with the run's own. Raise FAILED_PRECONDITION when it has none."""
    if not override.pinned.behavior or override.pinned.HasField("version"):
        return
    version = versioning_state.pinned_version(run.state)
    if version is None:
        behavior = enum_name(wf_enums.VersioningBehavior, run.state.versioning_info.behavior)
        name = "".join(word.capitalize() for word in behavior.removeprefix("VERSIONING_BEHAVIOR_").split("_"))
        raise failed_precondition(
            f"must specify a specific pinned override version because workflow with id {run.state.workflow_id} has "
            f"behavior {name} and is not yet pinned to any version"
        )
    override.pinned.version.CopyFrom(version)


def _bad_mask(reason: str) -> ServiceError:
    return invalid_argument(f"error applying update_options: {reason}")


def of_run(run: Run) -> workflow_pb.WorkflowExecutionOptions:
    """Return the run's current options; those that were never set are absent."""
    state = run.state
    options = workflow_pb.WorkflowExecutionOptions()
    if state.versioning_info.HasField("versioning_override"):
        options.versioning_override.CopyFrom(state.versioning_info.versioning_override)
    if state.HasField("priority"):
        options.priority.CopyFrom(state.priority)
    if state.time_skipping.HasField("config"):
        options.time_skipping_config.CopyFrom(state.time_skipping.config)
    return options
