"""A run moves to another version: from when a worker of that version takes a task until it completes one.

Rules of this file, which are Temporal's:
- Only a run that is pinned to nothing moves. A workflow task that a worker of another version takes begins it; so does
  an activity, if the workflow's own tasks go to that version, too.
- Until the move is over, a workflow task is always pending or under way, and no activity starts: what was taken off its
  queue meanwhile is offered again afterwards.
- History does not tell of it. A run that is rebuilt moves anew with its next task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core import versioning, workflow_task

if TYPE_CHECKING:
    from whistlestop.common.deployments import Version
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import MutableState


class Standing(NamedTuple):
    """Where a run is, and whether it is about to leave."""

    version: Version | None
    behavior: int
    moving: bool


def standing(state: MutableState) -> Standing:
    """The version that the run is on by now: the one it moves to, its override's, or its own."""
    if state.versioning_info.HasField("version_transition"):
        return Standing(versioning.own_version(state), wf_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE, moving=True)
    version = versioning.pinned_version(state) or versioning.own_version(state)
    return Standing(version, versioning.behavior_of(state), moving=False)


def begin_with_workflow_task(run: Run, version: Version | None) -> None:
    """A worker of `version` has just taken the workflow task (one that is not sure to leave a trace moves nothing)."""
    now = standing(run.state)
    if run.state.workflow_task.speculative or now.version == version:
        return
    if now.behavior != wf_enums.VERSIONING_BEHAVIOR_PINNED:
        _begin(run, version, versioning.routed(run)[1])


def holds_activity(run: Run, scheduled_event_id: int, stamp: int, version: Version | None) -> bool:
    """Whether an activity that a worker of `version` was about to take has to wait for the workflow to move."""
    activity = run.state.activities.get(scheduled_event_id) if run.is_open else None
    if activity is None or activity.started_ns or activity.stamp != stamp:
        return False
    now = standing(run.state)
    if not now.moving:
        if now.version == version or now.behavior == wf_enums.VERSIONING_BEHAVIOR_PINNED:
            return False
        target, revision = versioning.routed(run)
        if target != version:
            # The activity's own queue is routed elsewhere than the workflow's: no reason for the workflow to move.
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
    # Of a move to unversioned workers none is shown.
    info.revision_number = revision if version is not None else 0
    run.state.sticky_task_queue = ""
    run.changed = True
