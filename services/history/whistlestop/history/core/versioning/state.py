"""The worker deployment version of a run in its state: which it is, how events change it, and how lists find it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.versioning.deployments import Version, named_version, version_string
from whistlestop.history.core.versioning import reset_points
from whistlestop.history.core.versioning.reset_points import BEHAVIOR

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

_PINNED = wf_enums.VERSIONING_BEHAVIOR_PINNED
_AUTO_UPGRADE = wf_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE
_UNSPECIFIED = wf_enums.VERSIONING_BEHAVIOR_UNSPECIFIED


def pinned_version(state: MutableState) -> Version | None:
    """Return the version to which the run is pinned, by its override or its behavior; None if it is not pinned."""
    info = state.versioning_info
    override = info.versioning_override
    named = named_version(override)
    if named is not None:
        return named
    if override.auto_upgrade or override.behavior == _AUTO_UPGRADE:
        return None
    if info.behavior == _PINNED and info.HasField("deployment_version"):
        return info.deployment_version
    return None


def behavior_of(state: MutableState) -> int:
    """Return the run's versioning behavior, by its override or its own."""
    info = state.versioning_info
    override = info.versioning_override
    if override.auto_upgrade:
        return _AUTO_UPGRADE
    if named_version(override) is not None:
        return _PINNED
    return override.behavior or info.behavior


def own_version(state: MutableState) -> Version | None:
    """Return the version of a run that is not pinned: the one it is moving to, or its own; None without one."""
    info = state.versioning_info
    if info.HasField("version_transition"):
        moving_to = info.version_transition
        return moving_to.deployment_version if moving_to.HasField("deployment_version") else None
    return info.deployment_version if info.HasField("deployment_version") and behavior_of(state) else None


def note_start(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Take over what the run inherits from its parent or its predecessor."""
    if a.HasField("inherited_pinned_version"):
        state.versioning_info.behavior = _PINNED
        state.versioning_info.deployment_version.CopyFrom(a.inherited_pinned_version)
    elif a.HasField("inherited_auto_upgrade_info"):
        inherited = a.inherited_auto_upgrade_info
        state.versioning_info.behavior = _AUTO_UPGRADE
        if inherited.HasField("source_deployment_version"):
            state.versioning_info.deployment_version.CopyFrom(inherited.source_deployment_version)
        # The first of the two is cleared when a task is completed: release 0.1.0 routes by it as long as it is set.
        state.versioning_info.continue_as_new_initial_versioning_behavior = (
            inherited.continue_as_new_initial_versioning_behavior
        )
        state.initial_versioning_behavior = inherited.continue_as_new_initial_versioning_behavior
        state.versioning_info.revision_number = inherited.source_deployment_revision_number
    continues = a.continued_execution_run_id and a.HasField("inherited_pinned_version")
    if continues and a.HasField("declined_target_version_upgrade"):
        state.declined_target.CopyFrom(a.declined_target_version_upgrade)
    if state.HasField("versioning_info"):
        index(state)
        effective = pinned_version(state) or own_version(state)
        state.worker_deployment_name = effective.deployment_name if effective is not None else ""


def note_completion(state: MutableState, a: history_pb.WorkflowTaskCompletedEventAttributes) -> None:
    """Set the run's version and behavior to those of the completed task."""
    used = a.deployment_version if a.HasField("deployment_version") else None
    if state.versioning_info.HasField("version_transition"):
        moving_to = state.versioning_info.version_transition
        if (moving_to.deployment_version if moving_to.HasField("deployment_version") else None) == used:
            state.versioning_info.ClearField("version_transition")
    if a.versioning_behavior == _UNSPECIFIED:
        if state.HasField("versioning_info"):
            info = state.versioning_info
            info.behavior = _UNSPECIFIED
            for name in ("deployment_version", "version", "continue_as_new_initial_versioning_behavior"):
                info.ClearField(name)
            index(state)
        return
    info = state.versioning_info
    info.behavior = a.versioning_behavior
    info.deployment_version.CopyFrom(a.deployment_version)
    info.version = f"{a.deployment_version.deployment_name}.{a.deployment_version.build_id}"
    info.ClearField("continue_as_new_initial_versioning_behavior")
    override = info.versioning_override
    if override.HasField("one_time") and override.one_time.target_deployment_version == a.deployment_version:
        info.ClearField("versioning_override")
    index(state, used)


def index_override(state: MutableState) -> None:
    """Update the indexed version after an override was set or removed; during a transition this waits for its end."""
    info = state.versioning_info
    named = named_version(info.versioning_override)
    if named is not None:
        state.worker_deployment_name = named.deployment_name
    elif not info.HasField("versioning_override"):
        state.worker_deployment_name = info.deployment_version.deployment_name
    if not state.versioning_info.HasField("version_transition"):
        index(state)


def index(state: MutableState, used: Version | None = None) -> None:
    """Set the search attributes for the run's version. `used` is the version that has completed a task."""
    info = state.versioning_info
    pinned = pinned_version(state)
    version = pinned or (info.deployment_version if info.HasField("deployment_version") else None)
    behavior = "Pinned" if pinned is not None else "AutoUpgrade"
    if info.behavior == _UNSPECIFIED and not info.HasField("versioning_override"):
        for name in ("TemporalWorkerDeployment", "TemporalWorkerDeploymentVersion", BEHAVIOR):
            if name in state.search_attributes:
                del state.search_attributes[name]
        reset_points.note_unversioned(state)
        return
    if version is None:
        for name in ("TemporalWorkerDeployment", "TemporalWorkerDeploymentVersion"):
            if name in state.search_attributes:
                del state.search_attributes[name]
    else:
        _set(state, "TemporalWorkerDeployment", version.deployment_name)
        _set(state, "TemporalWorkerDeploymentVersion", version_string(version))
    if used is not None:
        known: list[str] = []
        if "TemporalUsedWorkerDeploymentVersions" in state.search_attributes:
            known = json.loads(state.search_attributes["TemporalUsedWorkerDeploymentVersions"].data)
        if version_string(used) not in known:
            _set(state, "TemporalUsedWorkerDeploymentVersions", [*known, version_string(used)][-20:])
    _set(state, BEHAVIOR, behavior)
    builds: list[str] = []
    if "BuildIds" in state.search_attributes:
        builds = json.loads(state.search_attributes["BuildIds"].data)
    if pinned is not None:
        others = [build for build in builds if build != "unversioned" and not build.startswith("pinned:")]
        _set(state, "BuildIds", [f"pinned:{version_string(pinned)}", *others])
    elif any(build.startswith("pinned:") for build in builds):
        _set(state, "BuildIds", [build for build in builds if not build.startswith("pinned:")])


def _set(state: MutableState, name: str, value: str | list[str]) -> None:
    payload = state.search_attributes[name]
    payload.metadata["encoding"] = b"json/plain"
    payload.metadata["type"] = b"KeywordList" if isinstance(value, list) else b"Keyword"
    payload.data = json.dumps(value, separators=(",", ":")).encode()
