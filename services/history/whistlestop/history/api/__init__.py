"""The RPCs of the history service, one module for each small group.

A module adds coroutines `(service, request, context) -> reply` to `METHODS`, and is imported when one of its methods is
first called: most test servers, and most calls of a function, need few of them. The frontend validates the form of
requests; what depends on state is decided by the core.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.service import History

    Handler: TypeAlias = Callable[[History, Any, CallContext], Awaitable[Reply]]

METHODS: dict[str, Handler] = {}
"""The methods of the modules imported so far."""

_METHODS_OF = {
    "activity.executions": (
        "StartActivityExecution", "DescribeActivityExecution", "PollActivityExecution",
        "RequestCancelActivityExecution", "TerminateActivityExecution", "DeleteActivityExecution",
        "PauseActivityExecution", "UnpauseActivityExecution", "ResetActivityExecution",
        "UpdateActivityExecutionOptions",
    ),
    "activity.operations": (
        "PauseActivity", "UnpauseActivity", "ResetActivity", "UpdateActivityOptions",
    ),
    "activity.tasks": (
        "RecordActivityTaskStarted", "RespondActivityTaskCompleted", "RespondActivityTaskCompletedById",
        "RespondActivityTaskFailed", "RespondActivityTaskFailedById", "RespondActivityTaskCanceled",
        "RespondActivityTaskCanceledById", "RecordActivityTaskHeartbeat", "RecordActivityTaskHeartbeatById",
    ),
    "deployments": (
        "RefreshDrainage", "RerouteTasks",
    ),
    "fire_timers": (
        "FireTimers",
    ),
    "executions": (
        "RequestCancelWorkflowExecution", "TerminateWorkflowExecution", "DeleteWorkflowExecution",
        "DescribeWorkflowExecution", "UpdateWorkflowExecutionOptions",
    ),
    "histories": (
        "GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse",
    ),
    "multi_operation": (
        "ExecuteMultiOperation",
    ),
    "nexus.completions": (
        "CompleteNexusOperation",
    ),
    "nexus.executions": (
        "StartNexusOperationExecution", "DescribeNexusOperationExecution", "PollNexusOperationExecution",
        "RequestCancelNexusOperationExecution", "TerminateNexusOperationExecution", "DeleteNexusOperationExecution",
    ),
    "nexus.requests": (
        "DispatchNexusTask", "RecordNexusRequestStarted",
    ),
    "nexus.tasks": (
        "RecordNexusTaskStarted", "RespondNexusTaskCompleted", "RespondNexusTaskFailed",
    ),
    "pause": (
        "PauseWorkflowExecution", "UnpauseWorkflowExecution",
    ),
    "queries": (
        "QueryWorkflow", "RecordQueryTaskStarted", "RespondQueryTaskCompleted",
    ),
    "reset": (
        "ResetWorkflowExecution",
    ),
    "schedules": (
        "CreateSchedule", "DescribeSchedule", "UpdateSchedule", "PatchSchedule", "DeleteSchedule",
        "ListScheduleMatchingTimes",
    ),
    "signals": (
        "SignalWorkflowExecution", "SignalWithStartWorkflowExecution",
    ),
    "start": (
        "StartWorkflowExecution",
    ),
    "time_skipping": (
        "PollWorkflowExecutionTimeSkipping",
    ),
    "updates": (
        "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate",
    ),
    "workflow_tasks": (
        "ResetStickyTask", "ResetStickyTaskQueue", "RecordWorkflowTaskStarted", "RespondWorkflowTaskCompleted",
        "RespondWorkflowTaskFailed",
    ),
}  # fmt: skip
MODULE_OF = {method: module for module, methods in _METHODS_OF.items() for method in methods}


def handler_of(method: str) -> Handler | None:
    """Return the handler of a method, or None for an unknown one."""
    handler = METHODS.get(method)
    if handler is None and method in MODULE_OF:
        import_module(f"{__name__}.{MODULE_OF[method]}")
        handler = METHODS[method]
    return handler
