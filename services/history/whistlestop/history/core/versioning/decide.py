"""The worker deployment version of a run, and the queues of its tasks.

Rules of this file, which are Temporal's:
- A pinned run stays on its version, and so do its activities on queues that the version serves.
- Everything else follows the deployment's routing: current or ramping version, else unversioned.
- An override set by a client takes precedence over the workflow's own behavior.
- Without a deployment, a build id may decide (see core/versioning/build_ids.py).
- Nexus tasks do not follow the run but the handler's queue (see core/versioning/nexus.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.common.errors import invalid_argument
from whistlestop.common.versioning.build_ids import keeps_sticky, queue_of_task
from whistlestop.common.versioning.deployments import (
    Version,
    has_queue,
    is_versioned,
    target_of,
    version_of,
    versioned_queue,
    versioning_data,
)
from whistlestop.history.core.versioning import build_ids
from whistlestop.history.core.versioning import nexus as nexus_routing
from whistlestop.history.core.versioning.state import behavior_of, own_version, pinned_version
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.history.core.state_pb2 import MutableState, TaskRow
    from whistlestop.history.core.transition.run import Run

_PINNED = wf_enums.VERSIONING_BEHAVIOR_PINNED
_USE_RAMPING = 2
"""ContinueAsNewVersioningBehavior: the new run starts on the ramping version, whatever the percentage."""
_UNSPECIFIED = wf_enums.VERSIONING_BEHAVIOR_UNSPECIFIED
_WORKFLOW = int(queue_enums.TASK_QUEUE_TYPE_WORKFLOW)
_ACTIVITY = int(queue_enums.TASK_QUEUE_TYPE_ACTIVITY)


def routed(run: Run) -> tuple[Version | None, int]:
    """Return the version to which workflow tasks of an unpinned run are routed, and the routing's revision.

    The version is None for unversioned workers, or without routing.
    """
    return _routed(run.state, run.policy.deployments, run.state.task_queue, _WORKFLOW)


def _routed(
    state: MutableState, deployments: NamespaceDeployments, task_queue: str, task_type: int
) -> tuple[Version | None, int]:
    initial = state.versioning_info.continue_as_new_initial_versioning_behavior
    use_ramping = initial == _USE_RAMPING and not state.last_completed_started_event_id
    return target_of(deployments, task_queue, task_type, state.workflow_id, use_ramping=use_ramping)


def wanted_version(
    state: MutableState, deployments: NamespaceDeployments, task_queue: str, task_type: int
) -> Version | None:
    """Return the version whose workers get a task of the run on that queue; None: unversioned workers."""
    # A run in a version transition is not pinned any more, so its tasks are routed.
    pinned = None if state.versioning_info.HasField("version_transition") else pinned_version(state)
    if pinned is not None and (task_type == _WORKFLOW or has_queue(deployments, pinned, task_queue, task_type)):
        return pinned
    return _routed(state, deployments, task_queue, task_type)[0]


def place_of(
    state: MutableState, deployments: NamespaceDeployments, task_queue: str, task_type: int, build_id: str | None
) -> tuple[str, str]:
    """Return the queue for a task of the run, and the build id that rules assign to it (empty: none).

    `build_id` is what core/versioning/build_ids.py returns for the task; it counts if no deployment decides.
    """
    if not build_id or _is_deployed(state):
        version = wanted_version(state, deployments, task_queue, task_type)
        if version is not None or build_id is None or _is_deployed(state):
            return versioned_queue(task_queue, version), ""
    return queue_of_task(versioning_data(deployments, task_queue), task_queue, build_id, state.run_id)


def queue_of_workflow_task(state: MutableState, deployments: NamespaceDeployments) -> str:
    """Return the queue for the run's workflow tasks, apart from a worker's sticky queue."""
    build_id = build_ids.of_workflow_task(state)
    return place_of(state, deployments, state.task_queue, _WORKFLOW, build_id)[0]


def _is_deployed(state: MutableState) -> bool:
    return state.HasField("versioning_info") and (
        state.versioning_info.HasField("version_transition") or behavior_of(state) != _UNSPECIFIED
    )


def keeps_cache(state: MutableState, deployments: NamespaceDeployments) -> bool:
    """Return whether the next workflow task may go to the worker that has the run cached."""
    if changes_version(state, deployments):
        return False
    data = versioning_data(deployments, state.task_queue)
    return not data.clock_ns or _is_deployed(state) or keeps_sticky(data, build_ids.of_workflow_task(state))


def changes_version(state: MutableState, deployments: NamespaceDeployments) -> bool:
    """Return whether the next workflow task is for another version than the one that completed the last one."""
    if not _is_deployed(state) and build_ids.of_workflow_task(state):
        return False
    info = state.versioning_info
    last = info.deployment_version if info.HasField("deployment_version") and info.behavior != _UNSPECIFIED else None
    return wanted_version(state, deployments, state.task_queue, _WORKFLOW) != last


def leave_sticky_queue(run: Run) -> None:
    """Leave, before a decision, the sticky queue if its workers are of another version."""
    if changes_version(run.state, run.policy.deployments):
        run.state.sticky_task_queue = ""


def is_informed_of_target(state: MutableState) -> bool:
    """Return whether the started workflow task notifies a pinned run that new work goes to another version."""
    return state.HasField("notified_target") and not _moves(state) and behavior_of(state) == _PINNED


def note_target(run: Run) -> None:
    """Update, before a workflow task starts, the version of which the run is to be notified.

    A pinned run is notified until it is on the version that new work goes to; so is the run after it, unless it
    continued as new without following and the routing has not changed since. With an override there is no notification.
    """
    state = run.state
    if not state.HasField("versioning_info") or not run.limits.send_target_version_changed:
        return
    if state.versioning_info.HasField("versioning_override"):
        _forget_target(state)
        return
    if _moves(state) or behavior_of(state) != _PINNED:
        return
    target, revision = routed(run)
    declined = state.HasField("declined_target")
    seen = max(state.notified_target.revision_number, state.declined_target.revision_number)
    if revision < seen:
        return  # older than the routing of which the run was notified
    if target == pinned_version(state):
        _forget_target(state)
    elif not declined or revision > state.declined_target.revision_number:
        state.notified_target.Clear()
        state.notified_target.revision_number = revision
        if target is not None:
            state.notified_target.deployment_version.CopyFrom(target)
        state.notified_target.SetInParent()
        state.ClearField("declined_target")


def _forget_target(state: MutableState) -> None:
    state.ClearField("notified_target")
    state.ClearField("declined_target")


def _moves(state: MutableState) -> bool:
    return state.versioning_info.HasField("version_transition")


def route_tasks(run: Run, namespace_id: str, deployments: NamespaceDeployments) -> None:
    """Move new tasks of this namespace to the queues of their versions, before the commit."""
    for index, task in enumerate(run.tasks_added):
        if task.key.namespace_id != namespace_id:
            continue  # a Nexus task for workers of another namespace
        row = _row_of(run, task)
        if row is None or is_versioned(task.key.task_queue):
            continue
        task_type = task.key.task_type
        if task_type == nexus_routing.TASK_TYPE:
            name = nexus_routing.queue_of(run, task, deployments)
        elif task_type == _WORKFLOW and _stays_sticky(run.state, task, deployments):
            continue
        else:
            name = _place_new(run, task, deployments)
        if name != task.key.task_queue:
            row.task_queue = name
            key = TaskKey(task.key.namespace_id, name, task_type, task.key.priority, task.key.task_id)
            run.tasks_added[index] = MatchingTask(
                key, task.workflow_id, task.run_id, task.scheduled_event_id, task.stamp, task.created_ns, data=task.data
            )


def _stays_sticky(state: MutableState, task: MatchingTask, deployments: NamespaceDeployments) -> bool:
    return state.sticky_task_queue == task.key.task_queue and keeps_cache(state, deployments)


def _place_new(run: Run, task: MatchingTask, deployments: NamespaceDeployments) -> str:
    """Return the queue of a new workflow or activity task, and record the build id that rules assign to it."""
    state, queue = run.state, task.key.task_queue
    if task.key.task_type == _WORKFLOW:
        queue, build_id = state.task_queue, build_ids.of_workflow_task(state)
        if state.workflow_task.sticky:
            state.workflow_task.sticky = False
            state.workflow_task.schedule_to_start_deadline_ns = 0
    else:
        build_id = _build_of_activity(state, task)
    name, assigned = place_of(state, deployments, queue, task.key.task_type, build_id)
    if assigned:
        _note_assigned(run, task, assigned)
    return name


def _build_of_activity(state: MutableState, task: MatchingTask) -> str | None:
    activity = state.activities.get(task.scheduled_event_id)
    return build_ids.of_activity(state, activity) if activity is not None else None


def _note_assigned(run: Run, task: MatchingTask, build_id: str) -> None:
    """Record the build id that rules assigned to a new task, which is a state transition of its own in Temporal."""
    state = run.state
    if task.key.task_type == _ACTIVITY:
        activity = state.activities[task.scheduled_event_id]
        run.transitions += activity.last_build_id != build_id
        activity.last_build_id = build_id
    elif state.assigned_build_id != build_id:
        build_ids.assign(state, build_id)
        run.transitions += 1
        run.visibility_changed = True


def _row_of(run: Run, task: MatchingTask) -> TaskRow | None:
    state = run.state
    if task.key.task_type == _WORKFLOW:
        row = state.workflow_task.row
    elif task.key.task_type == nexus_routing.TASK_TYPE:
        found = nexus_routing.attempt_with(run, task)
        return None if found is None else found[1].row
    elif state.HasField("activity_execution"):
        row = state.activity_execution.row
    elif task.scheduled_event_id in state.activities:
        row = state.activities[task.scheduled_event_id].row
    else:
        return None
    return row if row.task_id == task.key.task_id else None


def redispatch(run: Run, task: MatchingTask, deployments: NamespaceDeployments) -> bool:
    """Move a waiting task to its queue after the routing has changed. Return False if it is there already."""
    row = _row_of(run, task)
    if not run.is_open or row is None or row.task_queue != task.key.task_queue:
        return False
    name = _queue_now(run, task, deployments)
    if name == row.task_queue:
        return False
    namespace_id, stamp = row.namespace_id, _next_stamp(run, task)
    run.drop_task(row)
    run.add_task(
        row, name, task.key.task_type, task.key.priority, task.scheduled_event_id, stamp,
        namespace_id=namespace_id, data=task.data,
    )  # fmt: skip
    run.changed = True
    return True


def _queue_now(run: Run, task: MatchingTask, deployments: NamespaceDeployments) -> str:
    """Return the queue of a waiting task by these deployments."""
    if task.key.task_type == nexus_routing.TASK_TYPE:
        return nexus_routing.queue_of(run, task, deployments)
    state = run.state
    build_id: str | None = None
    if task.key.task_type == _WORKFLOW:
        queue, build_id = state.task_queue, state.assigned_build_id or build_ids.of_workflow_task(state)
    elif state.HasField("activity_execution"):
        queue = state.activity_execution.options.task_queue.name
    else:
        activity = state.activities[task.scheduled_event_id]
        queue = activity.task_queue
        independent = "" if activity.use_workflow_build_id else activity.last_build_id
        build_id = independent or build_ids.of_activity(state, activity)
    return place_of(state, deployments, queue, task.key.task_type, build_id)[0]


def _next_stamp(run: Run, task: MatchingTask) -> int:
    """Return a new stamp, by which the task's old row is stale."""
    state = run.state
    if task.key.task_type == nexus_routing.TASK_TYPE:
        found = nexus_routing.attempt_with(run, task)
        assert found is not None
        found[1].stamp += 1
        return found[1].stamp
    if task.key.task_type == _WORKFLOW:
        state.workflow_task.stamp += 1
        return state.workflow_task.stamp
    if state.HasField("activity_execution"):
        state.activity_execution.stamp += 1
        return state.activity_execution.stamp
    state.activities[task.scheduled_event_id].stamp += 1
    return state.activities[task.scheduled_event_id].stamp


# ---- events and their effects ----------------------------------------------------------------------------------------


def check_completion(request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
    """Raise INVALID_ARGUMENT for a completion with a versioning behavior but without a version."""
    is_versioned = request.HasField("deployment") or version_of(request.deployment_options) is not None
    if request.versioning_behavior and not is_versioned:
        raise invalid_argument(
            "versioning behavior cannot be specified without deployment options being set with versioned mode"
        )


def describe_completion(
    a: history_pb.WorkflowTaskCompletedEventAttributes, request: service_pb.RespondWorkflowTaskCompletedRequest
) -> None:
    """Fill the fields by which a versioned worker describes itself and the workflow."""
    version = version_of(request.deployment_options)
    if version is None:
        a.worker_deployment_name = request.deployment_options.deployment_name or request.deployment.series_name
        return
    a.versioning_behavior = request.versioning_behavior
    a.worker_deployment_name = version.deployment_name
    a.deployment_version.CopyFrom(version)


def hand_on(
    state: MutableState,
    a: history_pb.WorkflowExecutionStartedEventAttributes,
    deployments: NamespaceDeployments,
    *,
    initial_behavior: int = 0,
) -> None:
    """Pass a pinned run's version on to the next run or a child, unless the next run is to start on a newer one.

    On another task queue than this run's, a version (and a pinning override) is only passed on if it serves that queue.
    """
    info, queue = state.versioning_info, a.task_queue.name

    def serves(version: Version) -> bool:
        return queue == state.task_queue or has_queue(deployments, version, queue, _WORKFLOW)

    pinned = None if info.HasField("version_transition") else pinned_version(state)
    if queue != state.task_queue and (pinned is None or initial_behavior or not serves(pinned)):
        a.ClearField("versioning_override")
    if pinned is not None and not initial_behavior:
        if serves(pinned):
            a.inherited_pinned_version.CopyFrom(pinned)
        return
    source = pinned or own_version(state)
    if source is None or not info.revision_number or not serves(source):
        return
    inherited = a.inherited_auto_upgrade_info
    inherited.source_deployment_version.CopyFrom(source)
    inherited.source_deployment_revision_number = info.revision_number
    inherited.continue_as_new_initial_versioning_behavior = initial_behavior  # type: ignore[assignment]


def hand_on_declined(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Pass on to the next run the version of which a pinned run was notified and which it did not adopt."""
    if not a.HasField("inherited_pinned_version"):
        return
    if state.HasField("notified_target"):
        a.declined_target_version_upgrade.CopyFrom(state.notified_target)
    elif state.HasField("declined_target"):
        a.declined_target_version_upgrade.CopyFrom(state.declined_target)


def hand_on_to_retry(
    state: MutableState,
    previous: history_pb.WorkflowExecutionStartedEventAttributes,
    a: history_pb.WorkflowExecutionStartedEventAttributes,
    deployments: NamespaceDeployments,
) -> None:
    """Pass on to a retry what the run inherited itself, or the current version of an auto-upgrade run."""
    if pinned_version(state) is None or previous.HasField("inherited_pinned_version"):
        hand_on(state, a, deployments)
        if a.HasField("inherited_auto_upgrade_info"):
            a.inherited_auto_upgrade_info.continue_as_new_initial_versioning_behavior = (
                state.initial_versioning_behavior  # type: ignore[assignment]
            )
    if previous.HasField("declined_target_version_upgrade"):
        a.declined_target_version_upgrade.CopyFrom(previous.declined_target_version_upgrade)
