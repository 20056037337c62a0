"""Standalone activities: checks for the RPCs that history serves; lists and counts over visibility.

One is stored in visibility as a run in the namespace division of activities. In a list filter its id is `ActivityId`
and its type `ActivityType`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.activity.v1 import message_pb2 as activity_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import activity_pb2 as enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError, invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks, standalone
from whistlestop.frontend.api.callbacks import check_callbacks
from whistlestop.frontend.api.listing import Division, show_attributes
from whistlestop.frontend.api.rules import handles, validates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.duration_pb2 import Duration

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace
    from whistlestop.storage.records import VisibilityRow
    from whistlestop.storage.visibility import AttributeType

ID_PREFIX = checks.ACTIVITY_PREFIX
DIVISION = Division(
    base="TemporalNamespaceDivision = '3332429922'",
    id_prefix=ID_PREFIX,
    id_alias="ActivityId",
    columns={"ActivityId": "WorkflowId", "ActivityType": "WorkflowType"},
)
_STATUS: dict[int, int] = {
    wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT,
    wf_enums.WORKFLOW_EXECUTION_STATUS_PAUSED: enums.ACTIVITY_EXECUTION_STATUS_PAUSED,
}
"""Statuses whose numbers differ from those of workflows."""
_TIMEOUTS = (
    ("schedule_to_close_timeout", "ScheduleToCloseTimeout"),
    ("schedule_to_start_timeout", "ScheduleToStartTimeout"),
    ("start_to_close_timeout", "StartToCloseTimeout"),
    ("heartbeat_timeout", "HeartbeatTimeout"),
)
_PATHS = frozenset({
    "task_queue.name", "schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout",
    "heartbeat_timeout", "priority", "priority.priority_key", "priority.fairness_key", "priority.fairness_weight",
    "retry_policy", "retry_policy.initial_interval", "retry_policy.backoff_coefficient",
    "retry_policy.maximum_interval", "retry_policy.maximum_attempts", "start_delay",
})  # fmt: skip


NAMES = standalone.Names(
    id_field="activity_id", id="activity ID", request_id="request ID",
    bad_run_id="invalid run id: must be a valid UUID",
    no_run_id="run id is required when long poll token is provided",
)  # fmt: skip
_ENDS = (service_pb.RequestCancelActivityExecutionRequest, service_pb.TerminateActivityExecutionRequest)


# ---- checks ---------------------------------------------------------------------------------------------------------


@validates(WorkflowService.StartActivityExecution)
def check_start(request: service_pb.StartActivityExecutionRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check a start: ids, type, queue, timeouts. Timeouts that are not set are derived from the others.

    Raise INVALID_ARGUMENT.
    """
    assert namespace is not None
    most = rules.config.max_id_length
    if not request.request_id:
        request.request_id = rules.ids.uuid()
    request.retry_policy.SetInParent()
    _check_span(request.start_delay, "StartDelay")
    checks.check_task_queue(request, rules, user_defined=True)
    if not request.activity_id:
        raise invalid_argument("activityId is not set")
    if not request.activity_type.name:
        raise invalid_argument("activityType is not set")
    checks.check_retry_policy(request.retry_policy, rules.config.activity_retry)
    standalone.check_length("activityId", request.activity_id, most)
    standalone.check_length("activityType", request.activity_type.name, most)
    _check_priority(request.priority)
    _fill_timeouts(request)
    standalone.check_length("request ID", request.request_id, most)
    standalone.check_length("identity", request.identity, most)
    request.id_reuse_policy = request.id_reuse_policy or enums.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE
    request.id_conflict_policy = request.id_conflict_policy or enums.ACTIVITY_ID_CONFLICT_POLICY_FAIL
    if request.input.ByteSize() > rules.config.blob_size_limit_error:
        raise invalid_argument("input exceeds length limit")
    checks.check_user_metadata(request.user_metadata, rules)
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    if request.completion_callbacks:
        check_callbacks(request.completion_callbacks, rules)
    links = [*request.links, *(link for callback in request.completion_callbacks for link in callback.links)]
    if links:
        checks.check_links(links, rules)
    _check_on_conflict(request)
    if request.id_reuse_policy not in enums.ActivityIdReusePolicy.values():
        raise invalid_argument(f"unsupported ID reuse policy: {request.id_reuse_policy}")
    if request.id_conflict_policy not in enums.ActivityIdConflictPolicy.values():
        raise invalid_argument(f"unsupported ID conflict policy: {request.id_conflict_policy}")


def _check_on_conflict(request: service_pb.StartActivityExecutionRequest) -> None:
    options = request.on_conflict_options
    if options.attach_completion_callbacks and not options.attach_request_id:
        raise invalid_argument("on_conflict_options: attach_completion_callbacks requires attach_request_id to be set")
    if options.attach_request_id and not request.completion_callbacks and not request.links:
        raise invalid_argument(
            "on_conflict_options: attach_request_id requires at least one completion callback or link"
        )


def _check_priority(priority: common_pb.Priority) -> None:
    try:
        checks.check_priority(priority)
    except ServiceError as error:
        raise invalid_argument(f"invalid priorities: {error}") from None


def _check_span(span: Duration, name: str) -> None:
    problem = checks.duration_problem(span)
    if problem:
        raise invalid_argument(f"invalid {name}: {problem}")


def _fill_timeouts(request: service_pb.StartActivityExecutionRequest) -> None:
    for field, name in _TIMEOUTS:
        _check_span(getattr(request, field), name)

    def is_set(span: Duration) -> bool:
        return span.seconds > 0 or span.nanos > 0

    def shorten(inner: Duration, outer: Duration) -> None:
        if (outer.seconds, outer.nanos) < (inner.seconds, inner.nanos):
            inner.CopyFrom(outer)

    whole = request.schedule_to_close_timeout
    if is_set(whole):
        for inner in (request.schedule_to_start_timeout, request.start_to_close_timeout):
            if is_set(inner):
                shorten(inner, whole)
            else:
                inner.CopyFrom(whole)
    elif is_set(request.start_to_close_timeout):
        whole.SetInParent()
        request.schedule_to_start_timeout.SetInParent()
    else:
        raise invalid_argument(
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. "
            f"ActivityId={request.activity_id} ActivityType={request.activity_type.name}"
        )
    shorten(request.heartbeat_timeout, request.start_to_close_timeout)
    request.heartbeat_timeout.SetInParent()


@validates(
    WorkflowService.RequestCancelActivityExecution,
    WorkflowService.TerminateActivityExecution,
    WorkflowService.PauseActivityExecution,
    WorkflowService.UnpauseActivityExecution,
    WorkflowService.ResetActivityExecution,
)
def check_change(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the activity's name, the request id, the identity and the reason. Raise INVALID_ARGUMENT."""
    if isinstance(request, _ENDS):
        NAMES.check_id(request, rules)
    NAMES.check_request_id(request, rules)
    NAMES.check_id(request, rules)
    standalone.check_length("identity", request.identity, rules.config.max_id_length)
    NAMES.check_run_id(request)
    has_reason = "reason" in request.DESCRIPTOR.fields_by_name
    if has_reason and checks.length(request.reason) > rules.config.blob_size_limit_error:
        raise invalid_argument("reason exceeds length limit")
    if "jitter" in request.DESCRIPTOR.fields_by_name:
        _check_span(request.jitter, "jitter")


@validates(WorkflowService.UpdateActivityExecutionOptions)
def check_update_options(
    request: service_pb.UpdateActivityExecutionOptionsRequest, namespace: Namespace | None, rules: Rules
) -> None:
    """Check the update mask and the new options. Raise INVALID_ARGUMENT."""
    check_change(request, namespace, rules)
    if request.update_mask.paths and request.restore_original:
        raise invalid_argument("Both UpdateMask and RestoreOriginal are provided")
    if request.restore_original:
        return
    if not request.HasField("activity_options"):
        raise invalid_argument("ActivityOptions are not provided")
    if not request.HasField("update_mask"):
        raise invalid_argument("UpdateMask is not provided")
    if not request.update_mask.paths:
        raise invalid_argument("UpdateMask must specify at least one path")
    wanted = set()
    for path in request.update_mask.paths:
        plain = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in path)
        if plain not in _PATHS:
            raise invalid_argument(f'unsupported update_mask path: "{path}"')
        wanted.add(plain)
    _check_options(request.activity_options, wanted, rules)


def _check_options(options: activity_pb.ActivityOptions, wanted: set[str], rules: Rules) -> None:
    if "task_queue.name" in wanted:
        checks.check_task_queue(options, rules, user_defined=True)
    for field, name in (*_TIMEOUTS, ("start_delay", "StartDelay")):
        if field in wanted:
            _check_span(getattr(options, field), name)
    if any(path.partition(".")[0] == "priority" for path in wanted):
        checks.check_priority(options.priority)
    if "retry_policy" in wanted:
        options.retry_policy.SetInParent()
        checks.check_retry_policy(options.retry_policy, rules.config.activity_retry)


# ---- lists ----------------------------------------------------------------------------------------------------------


@handles(WorkflowService.ListActivityExecutions)
async def list_activity_executions(
    frontend: FrontendPorts, request: service_pb.ListActivityExecutionsRequest, context: CallContext
) -> service_pb.ListActivityExecutionsResponse:
    """Return a page of activities, newest first. Raise INVALID_ARGUMENT for a bad filter or page token."""
    listed, token = await standalone.list_page(frontend, request, context, DIVISION, _entry)
    return service_pb.ListActivityExecutionsResponse(executions=listed, next_page_token=token)


@handles(WorkflowService.CountActivityExecutions)
async def count_activity_executions(
    frontend: FrontendPorts, request: service_pb.CountActivityExecutionsRequest, context: CallContext
) -> service_pb.CountActivityExecutionsResponse:
    """Count activities, also per group if the filter groups. Raise INVALID_ARGUMENT for a bad filter."""
    return await standalone.count(frontend, request, context, DIVISION, service_pb.CountActivityExecutionsResponse())


def _entry(row: VisibilityRow, custom: Mapping[str, AttributeType]) -> activity_pb.ActivityExecutionListInfo:
    entry = activity_pb.ActivityExecutionListInfo(
        activity_id=DIVISION.user_id(row),
        run_id=row.key.run_id,
        activity_type=common_pb.ActivityType(name=row.workflow_type),
        status=_STATUS.get(row.status, row.status),  # type: ignore[arg-type]  # stored as its number
        task_queue=row.task_queue,
        state_transition_count=row.state_transition_count,
    )
    entry.schedule_time.FromMicroseconds(row.start_time_us)
    entry.execution_time.FromMicroseconds(row.execution_time_us or row.start_time_us)
    if row.close_time_us is not None:
        entry.close_time.FromMicroseconds(row.close_time_us)
        entry.execution_duration.FromMicroseconds(row.close_time_us - row.start_time_us)
    show_attributes(entry.search_attributes, row, custom)
    return entry


@validates(
    WorkflowService.DescribeActivityExecution,
    WorkflowService.PollActivityExecution,
    WorkflowService.DeleteActivityExecution,
)
def check_reference(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check that the activity is named correctly. Raise INVALID_ARGUMENT."""
    NAMES.check_reference(request, namespace, rules)
