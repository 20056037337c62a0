"""Version transitions: from when a worker of another version takes a task of a run until it completes one.

Rules of this file, which are Temporal's:
- Only a run that is not pinned changes its version. The transition begins when a worker of another version takes a
  workflow task, or an activity if the workflow's own tasks are routed to that version, too.
- During the transition, a workflow task is always pending or started, and no activity is started: activities taken off
  their queue meanwhile are dispatched again afterwards.
- History does not record it. A rebuilt run makes the transition again with its next task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import decide as workflow_task

if TYPE_CHECKING:
    from whistlestop.common.versioning.deployments import Version
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run


class Standing(NamedTuple):
    """A run's version and behavior, and whether it is in a transition."""

    version: Version | None
    behavior: int
    moving: bool


_UNVERSIONED = Standing(None, 0, moving=False)


def standing(state: MutableState) -> Standing:
    """Return the run's current version: the one it is moving to, its override's, or its own.

    Without any of them, the version is None.
    """
    if not state.HasField("versioning_info"):
        return _UNVERSIONED
    if state.versioning_info.HasField("version_transition"):
        return Standing(versioning_state.own_version(state), wf_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE, moving=True)
    version = versioning_state.pinned_version(state) or versioning_state.own_version(state)
    return Standing(version, versioning_state.behavior_of(state), moving=False)


def begin_with_workflow_task(run: Run, version: Version | None) -> None:
    """Begin a transition if a worker of another version has taken the workflow task; a speculative task begins none."""
    now = standing(run.state)
    if run.state.workflow_task.speculative or now.version == version:
        return
    if now.behavior != wf_enums.VERSIONING_BEHAVIOR_PINNED:
        _begin(run, version, versioning.routed(run)[1])


def holds_activity(run: Run, scheduled_event_id: int, stamp: int, version: Version | None) -> bool:
    """Return whether an activity that a worker of `version` was about to take must wait for a transition.

    False for an activity that has gone or was dispatched again; `version` is None for an unversioned worker.
    """
    activity = run.state.activities.get(scheduled_event_id) if run.is_open else None
    if activity is None or activity.started_ns or activity.stamp != stamp:
        return False
    now = standing(run.state)
    if not now.moving:
        if now.version == version or now.behavior == wf_enums.VERSIONING_BEHAVIOR_PINNED:
            return False
        target, revision = versioning.routed(run)
        if target != version:
            # The activity's own queue is routed differently from the workflow's: no reason for a transition.
            return False
        _begin(run, version, revision)
        task = run.state.workflow_task
        if task.row.task_id and not task.speculative:
            workflow_task.move_to_normal_queue(run)
        workflow_task.schedule_if_none(run)
    run.drop_task(activity.row)
    activity.stamp += 1
    run.changed = True
    return True


def _begin(run: Run, version: Version | None, revision: int) -> None:
    info = run.state.versioning_info
    info.version_transition.Clear()
    info.version_transition.SetInParent()
    if version is not None:
        info.version_transition.deployment_version.CopyFrom(version)
    # A transition to unversioned workers has no revision.
    info.revision_number = revision if version is not None else 0
    run.state.sticky_task_queue = ""
    run.changed = True
