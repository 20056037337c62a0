"""The RPCs of the history service, one module for each small group.

A module registers coroutines `(ports, request, context) -> reply` by the decorator `handles`. It is imported when one
of its RPCs is first called (`whistlestop.common.rpcs.handlers`). The frontend validates the form of requests; what
depends on state is decided by the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.rpcs.handlers import Handlers

if TYPE_CHECKING:
    from whistlestop.history.ports import HistoryPorts

_METHODS_OF = {
    "api.activity.executions": (
        "StartActivityExecution", "DescribeActivityExecution", "PollActivityExecution",
        "RequestCancelActivityExecution", "TerminateActivityExecution", "DeleteActivityExecution",
        "PauseActivityExecution", "UnpauseActivityExecution", "ResetActivityExecution",
        "UpdateActivityExecutionOptions",
    ),
    "api.activity.operations": (
        "PauseActivity", "UnpauseActivity", "ResetActivity", "UpdateActivityOptions",
    ),
    "api.activity.tasks": (
        "RecordActivityTaskStarted", "RespondActivityTaskCompleted", "RespondActivityTaskCompletedById",
        "RespondActivityTaskFailed", "RespondActivityTaskFailedById", "RespondActivityTaskCanceled",
        "RespondActivityTaskCanceledById", "RecordActivityTaskHeartbeat", "RecordActivityTaskHeartbeatById",
    ),
    "api.deployments": (
        "RefreshDrainage", "RerouteTasks",
    ),
    "api.fire_timers": (
        "FireTimers",
    ),
    "api.executions": (
        "RequestCancelWorkflowExecution", "TerminateWorkflowExecution", "DeleteWorkflowExecution",
        "DescribeWorkflowExecution", "UpdateWorkflowExecutionOptions",
    ),
    "api.histories": (
        "GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse",
    ),
    "api.multi_operation": (
        "ExecuteMultiOperation",
    ),
    "api.nexus.completions": (
        "CompleteNexusOperation",
    ),
    "api.nexus.executions": (
        "StartNexusOperationExecution", "DescribeNexusOperationExecution", "PollNexusOperationExecution",
        "RequestCancelNexusOperationExecution", "TerminateNexusOperationExecution", "DeleteNexusOperationExecution",
    ),
    "api.nexus.requests": (
        "DispatchNexusTask", "RecordNexusRequestStarted",
    ),
    "api.nexus.tasks": (
        "RecordNexusTaskStarted", "RespondNexusTaskCompleted", "RespondNexusTaskFailed",
    ),
    "api.pause": (
        "PauseWorkflowExecution", "UnpauseWorkflowExecution",
    ),
    "api.queries": (
        "QueryWorkflow", "RecordQueryTaskStarted", "RespondQueryTaskCompleted",
    ),
    "api.reset": (
        "ResetWorkflowExecution",
    ),
    "schedule.rpcs": (
        "CreateSchedule", "DescribeSchedule", "UpdateSchedule", "PatchSchedule", "DeleteSchedule",
        "ListScheduleMatchingTimes",
    ),
    "api.signals": (
        "SignalWorkflowExecution", "SignalWithStartWorkflowExecution",
    ),
    "api.start": (
        "StartWorkflowExecution",
    ),
    "api.time_skipping": (
        "PollWorkflowExecutionTimeSkipping",
    ),
    "api.updates": (
        "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate",
    ),
    "api.workflow_tasks": (
        "ResetStickyTask", "ResetStickyTaskQueue", "RecordWorkflowTaskStarted", "RespondWorkflowTaskCompleted",
        "RespondWorkflowTaskFailed",
    ),
}  # fmt: skip
HANDLERS: Handlers[HistoryPorts] = Handlers("whistlestop.history", _METHODS_OF)
handles = HANDLERS.register
