"""Parts of the API that an operator can switch off with Temporal's dynamic configuration.

All are on by default, and cost nothing then: `guards` returns what to run before the validator of an RPC, only for
the RPCs of parts that are off. Depending on the part, a guard refuses the request with Temporal's message, or removes
the part's fields from it, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument, unimplemented
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from whistlestop.frontend.config import FrontendConfig

    Guard: TypeAlias = Callable[[Any], None]

_SCHEDULES = (
    "CreateSchedule", "DescribeSchedule", "UpdateSchedule", "PatchSchedule", "ListScheduleMatchingTimes",
    "DeleteSchedule", "ListSchedules", "CountSchedules",
)  # fmt: skip
ON_ACTIVITIES = frozenset(
    {"terminate_activities_operation", "cancel_activities_operation", "delete_activities_operation"}
)
"""Batch operations on standalone activities; the others are on workflows."""
_BATCHES = ("StartBatchOperation", "StopBatchOperation", "DescribeBatchOperation", "ListBatchOperations")
_ACTIVITIES = (
    "StartActivityExecution", "DescribeActivityExecution", "PollActivityExecution", "ListActivityExecutions",
    "CountActivityExecutions", "RequestCancelActivityExecution", "TerminateActivityExecution",
    "DeleteActivityExecution",
)  # fmt: skip
_ACTIVITY_COMMANDS = (
    "PauseActivityExecution", "UnpauseActivityExecution", "ResetActivityExecution", "UpdateActivityExecutionOptions",
)  # fmt: skip
_NEXUS = (
    "StartNexusOperationExecution", "DescribeNexusOperationExecution", "PollNexusOperationExecution",
    "ListNexusOperationExecutions", "CountNexusOperationExecutions", "RequestCancelNexusOperationExecution",
    "TerminateNexusOperationExecution", "DeleteNexusOperationExecution",
)  # fmt: skip


_DEPLOYMENTS = (
    "CreateWorkerDeploymentVersion", "UpdateWorkerDeploymentVersionComputeConfig",
    "ValidateWorkerDeploymentVersionComputeConfig", "DescribeWorkerDeploymentVersion",
    "SetWorkerDeploymentCurrentVersion", "SetWorkerDeploymentRampingVersion", "ListWorkerDeployments",
    "DescribeWorkerDeployment", "CreateWorkerDeployment",
)  # fmt: skip
_WITH_HEARTBEATS = ("PollNexusTaskQueue", "RecordWorkerHeartbeat", "ShutdownWorker")
_FILTERED_LISTS = ("ListOpenWorkflowExecutions", "ListClosedWorkflowExecutions")
_OTHER_LISTS = ("ListSchedules", "CountSchedules", "ListWorkerDeployments")


@dataclass(frozen=True, slots=True)
class Switch:
    """A boolean field of FrontendConfig, and the guard to run for these RPCs when it is off."""

    field: str
    rpcs: tuple[str, ...]
    guard: Guard
    off: bool = False
    """The value of the field that switches the part off."""


def guards(config: FrontendConfig) -> Mapping[str, Guard]:
    """Return, by RPC, the guard to run before its validator. RPCs of parts that are on have none."""
    found: dict[str, list[Guard]] = {}
    for switch in SWITCHES:
        if getattr(config, switch.field) is switch.off:
            for rpc in switch.rpcs:
                found.setdefault(rpc, []).append(switch.guard)
    return {rpc: _all_of(of_rpc) for rpc, of_rpc in found.items()}


def _all_of(of_rpc: Iterable[Guard]) -> Guard:
    every = tuple(of_rpc)

    def check(request: Any) -> None:
        for guard in every:
            guard(request)

    return check


# ---- refusals --------------------------------------------------------------------------------------------------------


def _refuse(error: Callable[[], ServiceError], applies: Callable[[Any], bool] | None = None) -> Guard:
    """Return a guard that refuses every request, or those for which `applies` is true."""

    def check(request: Any) -> None:
        if applies is None or applies(request):
            raise error()

    return check


def _deny(message: str, applies: Callable[[Any], bool] | None = None) -> Guard:
    return _refuse(lambda: denied(message), applies)


def _not_there(message: str, applies: Callable[[Any], bool] | None = None) -> Guard:
    return _refuse(lambda: unimplemented(message), applies)


def _invalid(message: str, applies: Callable[[Any], bool] | None = None) -> Guard:
    return _refuse(lambda: invalid_argument(message), applies)


def denied(message: str) -> ServiceError:
    """Return a PERMISSION_DENIED error with this message, for the caller to raise."""
    return ServiceError(Code.PERMISSION_DENIED, message, details_pb.PermissionDeniedFailure())


def _check_pause(request: Any) -> None:
    raise unimplemented(f"workflow pause is not enabled for namespace: {request.namespace}")


def _check_batch_of_activities(request: Any) -> None:
    operation = request.WhichOneof("operation")
    if operation in ON_ACTIVITIES:
        go_name = "".join(part.capitalize() for part in operation.split("_"))
        raise invalid_argument(
            f"The operation type *workflowservice.StartBatchOperationRequest_{go_name} is not supported for this "
            "namespace"
        )


def _check_delay(request: Any) -> None:
    options = request if "start_delay" in request.DESCRIPTOR.fields_by_name else request.activity_options
    if options.start_delay.ToNanoseconds() > 0:
        raise invalid_argument("start_delay is not enabled for this namespace")


def _is_standalone(request: Any) -> bool:
    return not request.workflow_id


def _has_callbacks(request: Any) -> bool:
    return bool(request.completion_callbacks)


def _filters(request: Any) -> bool:
    return request.WhichOneof("filters") is not None


# ---- removed fields --------------------------------------------------------------------------------------------------


def _drop_heartbeats(request: Any) -> None:
    request.ClearField("worker_heartbeat")


def _drop_update_callbacks(request: Any) -> None:
    several = getattr(request, "operations", None)
    for update in (request,) if several is None else [operation.update_workflow for operation in several]:
        if update.request.completion_callbacks:
            update.request.ClearField("completion_callbacks")


def _leave_polls(request: Any) -> None:
    """Let the worker's polls end by themselves; only its sticky queue is given up."""
    request.ClearField("worker_instance_key")
    request.ClearField("task_queue")


UPDATES_DISABLED = "UpdateWorkflowExecution operation is disabled on this namespace."
_LIST_DISABLED = "List is disabled on this namespace."
_ACTIVITY_DISABLED = "Standalone activity is disabled"
_COMMANDS_DISABLED = "Standalone activity operator commands are disabled"
_NO_QUERY = "Namespace is not allowed to query, please contact temporal team to re-enable queries."
_NO_CALLBACKS = "completion callbacks are not enabled for this namespace"

SWITCHES: tuple[Switch, ...] = (
    Switch("schedules_enabled", _SCHEDULES, _deny("Schedules are disabled on this namespace.")),
    Switch("batch_enabled", _BATCHES, _deny("Batch operation feature are disabled on this namespace.")),
    Switch("batch_of_activities_enabled", ("StartBatchOperation",), _check_batch_of_activities),
    Switch("workflow_pause_enabled", ("PauseWorkflowExecution",), _check_pause),
    Switch("standalone_activities_enabled", ("StartBatchOperation",), _check_batch_of_activities),
    Switch("standalone_activities_enabled", _ACTIVITIES, _not_there(_ACTIVITY_DISABLED)),
    Switch("standalone_activities_enabled", _ACTIVITY_COMMANDS, _not_there(_ACTIVITY_DISABLED, _is_standalone)),
    Switch("activity_operator_commands_enabled", _ACTIVITY_COMMANDS, _not_there(_COMMANDS_DISABLED, _is_standalone)),
    Switch("activity_start_delay_enabled", ("StartActivityExecution", "UpdateActivityExecutionOptions"), _check_delay),
    Switch("activity_callbacks_enabled", ("StartActivityExecution",), _invalid(_NO_CALLBACKS, _has_callbacks)),
    Switch("standalone_nexus_enabled", _NEXUS, _not_there("Standalone Nexus operation is disabled")),
    Switch("deployments_enabled", _DEPLOYMENTS, _deny("Worker Deployment Versions are disabled on this namespace.")),
    Switch("updates_enabled", ("PollWorkflowExecutionUpdate",), _deny(UPDATES_DISABLED)),
    Switch("update_callbacks_enabled", ("UpdateWorkflowExecution", "ExecuteMultiOperation"), _drop_update_callbacks),
    Switch("worker_heartbeats_enabled", _WITH_HEARTBEATS, _drop_heartbeats),
    Switch("cancel_polls_on_shutdown", ("ShutdownWorker",), _leave_polls),
    Switch("queries_disallowed", ("QueryWorkflow",), _invalid(_NO_QUERY), off=True),
    Switch("list_by_filter_disabled", _FILTERED_LISTS, _deny(_LIST_DISABLED, _filters), off=True),
    Switch("list_by_filter_disabled", _OTHER_LISTS, _deny(_LIST_DISABLED), off=True),
)
