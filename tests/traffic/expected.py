"""Differences between the two servers' replies that are known, with the reason."""

from __future__ import annotations

EXPECTED: dict[str, str] = {
    "either: *poller_scaling_decision*": "a hint that depends on which poller a task met, and when",
    "either: *backlog_count_hint": "as above",
    "either: *poller_group*": "groups of pollers are how Temporal's frontends share polls; one group is all there is here",
    "either: *tasks_dispatch_rate": "a rate of the moment",
    "either: *tasks_add_rate": "a rate of the moment",
    "real: PollWorkflowTaskQueue !CANCELLED": "a poll of a worker that shuts down while the poll takes a task; ours are "
    "answered without one",
    "real: DescribeWorkerDeploymentVersion !NOT_FOUND": "a version is there some time after its first poll; here, at once",
    "ours: *.capabilities.worker_poll_complete_on_shutdown": "always on here",
    "ours: *.capabilities.workflow_update_callbacks": "on by default here: `history.enableUpdateCallbacks`",
    "ours: UpdateNexusEndpoint endpoint.created_time": "Temporal's endpoint forgets it when it is updated",
    "ours: DescribeNexusOperationExecution info.cancellation_info.requested_time": "Temporal does not report it",
    "ours: QueryWorkflow link*": "Temporal tells it since a later release",
    "ours: *.capabilities.workflow_pause": "on by default here: `frontend.WorkflowPauseEnabled`",
    "ours: DescribeSchedule info.state_size_bytes": "Temporal's newer scheduler tells it, which is off by default there",
}
"""By `who: pattern`: who alone has the path, `either` for both."""
