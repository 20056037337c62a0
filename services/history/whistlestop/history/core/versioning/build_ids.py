"""The build ids of a run and its activities, in the worker versioning before deployments.

Rules of this file, which are Temporal's:
- With compatible sets, a run has the build id that completed its last workflow task; history records it in the stamps
  of completed events.
- With rules, a run is assigned a build id by its first workflow task, and changes it when redirect rules say so and one
  of its tasks starts at another build id. The started events record it, with a counter of the redirects.
- A run that has completed a task at an unversioned worker stays unversioned.
- Worker deployments take precedence: a run in a deployment has no build id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1.message_pb2 import WorkerVersionStamp
from temporalio.api.enums.v1.deployment_pb2 import WORKER_VERSIONING_MODE_VERSIONED

from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.common.versioning.build_ids import NEW_WORK
from whistlestop.history.core.versioning import reset_points

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.history.core.state_pb2 import Activity, MutableState
    from whistlestop.history.core.transition.run import Run


def stamped(stamp: WorkerVersionStamp | None) -> str:
    """Return the build id of a versioned worker's stamp; empty for any other worker."""
    return stamp.build_id if stamp is not None and stamp.use_versioning else ""


def stamp_of(
    poll: service_pb.PollWorkflowTaskQueueRequest | service_pb.PollActivityTaskQueueRequest,
) -> WorkerVersionStamp | None:
    """Return the stamp of a polling worker; None when it has no build id or belongs to a worker deployment."""
    options, build = poll.deployment_options, poll.worker_version_capabilities
    versioned = options.worker_versioning_mode == WORKER_VERSIONING_MODE_VERSIONED and options.deployment_name
    if versioned or not build.build_id or (build.use_versioning and build.deployment_series_name):
        return None
    return WorkerVersionStamp(build_id=build.build_id, use_versioning=build.use_versioning)


def of_workflow_task(state: MutableState) -> str | None:
    """Return the build id for the run's workflow tasks when no deployment decides; None: unversioned workers."""
    assigned = state.assigned_build_id
    if not assigned and (build_id := stamped(state.most_recent_worker_version_stamp)):
        return build_id
    if not state.last_completed_started_event_id and not state.inherited_build_id:
        return NEW_WORK
    return assigned or None


def of_activity(state: MutableState, activity: Activity) -> str | None:
    """Return the build id for the activity when no deployment decides; None: unversioned workers."""
    if not activity.use_workflow_build_id:
        return NEW_WORK
    return state.assigned_build_id or stamped(state.most_recent_worker_version_stamp) or None


# ---- events and their effects ----------------------------------------------------------------------------------------


def assign(state: MutableState, build_id: str) -> None:
    """Assign the build id to the run; workflow caches of other workers become useless, so the sticky queue is left."""
    if state.assigned_build_id == build_id:
        return
    state.assigned_build_id = build_id
    state.sticky_task_queue = ""
    reset_points.note_build(state, build_id, use_versioning=True)


def note_start(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Take over what the run inherits from its parent or its predecessor."""
    state.inherited_build_id = a.inherited_build_id
    if a.inherited_build_id:
        assign(state, a.inherited_build_id)
    elif stamped(a.source_version_stamp):
        reset_points.note_build(state, a.source_version_stamp.build_id, use_versioning=True)
    if a.HasField("source_version_stamp"):
        state.most_recent_worker_version_stamp.CopyFrom(a.source_version_stamp)


def note_task_started(state: MutableState, build_id: str, redirect_counter: int) -> None:
    """Record that a versioned worker (or, with an empty build id, any other) has taken the workflow task."""
    task = state.workflow_task
    task.build_id = build_id
    task.build_id_redirect_counter = 0
    if build_id:
        if not redirect_counter:
            assign(state, build_id)
        else:
            redirect(state, build_id, redirect_counter)
        task.build_id_redirect_counter = state.build_id_redirect_counter


def redirect(state: MutableState, build_id: str, redirect_counter: int) -> None:
    """Redirect the run, unless it was redirected since: started events of activities are written late."""
    if redirect_counter > state.build_id_redirect_counter:
        assign(state, build_id)
        state.build_id_redirect_counter = redirect_counter


def next_redirect_counter(state: MutableState, build_id: str) -> int:
    """Return the redirect counter for the started event of a task that goes to a worker of that build id."""
    first = not state.assigned_build_id and not state.last_completed_started_event_id
    stays = build_id == state.assigned_build_id
    return state.build_id_redirect_counter + (0 if first or stays else 1)


def note_activity_started(run: Run, activity: Activity, build_id: str) -> None:
    """Record that a versioned worker has taken the activity, which may redirect its workflow.

    An empty build id changes nothing.
    """
    if not build_id:
        return
    state = run.state
    if activity.follows_assigned_build_id:
        before = state.assigned_build_id
        activity.last_redirect_counter = next_redirect_counter(state, build_id)
        redirect(state, build_id, activity.last_redirect_counter)
        run.visibility_changed |= state.assigned_build_id != before
    activity.last_build_id = build_id


def activity_stamp(activity: Activity, given: WorkerVersionStamp | None) -> WorkerVersionStamp | None:
    """Return the stamp for the late started event: the worker's own, or one with the build id of the dispatch.

    None if there is neither.
    """
    if given is None and activity.last_build_id:
        return WorkerVersionStamp(build_id=activity.last_build_id, use_versioning=True)
    return given


def own_stamp(state: MutableState, stamp: WorkerVersionStamp | None) -> WorkerVersionStamp | None:
    """Return the stamp that started events record. Return None for a worker of a set, which completed events name."""
    return None if stamped(stamp) and not state.assigned_build_id else stamp


def hand_on(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Pass the build id on to the next run or a child, which then has the same or a compatible one."""
    if state.assigned_build_id:
        a.inherited_build_id = state.assigned_build_id
    else:
        hand_on_stamp(state, a)


def hand_on_stamp(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Pass on the stamp of a run whose build id belongs to a set."""
    if not state.assigned_build_id and stamped(state.most_recent_worker_version_stamp):
        a.source_version_stamp.CopyFrom(state.most_recent_worker_version_stamp)


def check_completion(
    state: MutableState, request: service_pb.RespondWorkflowTaskCompletedRequest, *, deployed: bool
) -> None:
    """Raise NOT_FOUND for a worker that the task did not go to, INVALID_ARGUMENT for one that leaves versioning.

    `deployed` is True when a worker deployment decides.
    """
    task, stamp = state.workflow_task, request.worker_version_stamp
    if state.assigned_build_id and not state.sticky_task_queue and stamp.build_id != task.build_id:
        raise not_found(f"this workflow task was dispatched to Build ID {task.build_id}, not {stamp.build_id}")
    if stamped(state.most_recent_worker_version_stamp) and not (stamp.use_versioning or deployed):
        raise invalid_argument("Workflow using versioning must continue to use versioning.")
