"""Schedules: checks for the RPCs that history serves; ListSchedules and CountSchedules over visibility.

A schedule is stored in visibility as a run in the namespace division of schedulers. A list filter may name anything
that the user can set; of the server's own attributes only TemporalSchedulePaused, and `ScheduleId`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1.workflow_pb2 import WorkflowIdReusePolicy
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError, invalid_argument
from whistlestop.common.messages.times import duration_problem
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api import checks
from whistlestop.frontend.api.listing import Division, entries, fill_count, page
from whistlestop.frontend.api.rules import handles, validates
from whistlestop.frontend.api.versioning.worker_deployment import check_override
from whistlestop.frontend.api.workflow.start_workflow import check_timeouts
from whistlestop.storage.visibility import AttributeType, row_payloads
from whistlestop.storage.visibility.attributes import SYSTEM_AND_PREDEFINED
from whistlestop.storage.visibility.query import And, Expression, Not, Or

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.api.rules import Rules
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace
    from whistlestop.storage.records import VisibilityRow

ID_PREFIX = checks.SCHEDULE_PREFIX
DIVISION = Division(
    base="TemporalNamespaceDivision = 'TemporalScheduler' AND ExecutionStatus = 'Running'",
    id_prefix=ID_PREFIX,
    id_alias="ScheduleId",
    columns={
        "ScheduleId": "WorkflowId",
        "ScheduleNextActionTime": "TemporalScheduleNextActionTime",
        "ScheduleRunningWorkflowCount": "TemporalScheduleRunningWorkflowCount",
        "ScheduleBufferedStartsCount": "TemporalScheduleBufferedStartsCount",
        "ScheduleIdleCloseTime": "TemporalScheduleIdleCloseTime",
    },
    types={
        "ScheduleNextActionTime": AttributeType.Datetime,
        "ScheduleRunningWorkflowCount": AttributeType.Int,
        "ScheduleBufferedStartsCount": AttributeType.Int,
        "ScheduleIdleCloseTime": AttributeType.Datetime,
    },
    yields_to_custom=True,
)
_APPENDED = "-2009-11-10T23:00:00Z"
_MEMO_INFO = "ScheduleInfo"
_PAUSED = "TemporalSchedulePaused"
_OWN_ATTRIBUTES = frozenset({
    _PAUSED, "TemporalNamespaceDivision", "BinaryChecksums", "BuildIds", "TemporalScheduleNextActionTime",
    "TemporalScheduleRunningWorkflowCount", "TemporalScheduleBufferedStartsCount", "TemporalScheduleIdleCloseTime",
})  # fmt: skip
_NOTES_LIMIT = 1000
_DURATIONS = "scheduler-duration"
_OVERRIDE = "versioning-override"
"""Names of validations in the key `frontend.disabledScheduleValidations`."""
_REUSE = (
    WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED,
    WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
)


# ---- checks ---------------------------------------------------------------------------------------------------------


@validates(WorkflowService.CreateSchedule)
def check_create(request: service_pb.CreateScheduleRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check ids, the action, search attributes and sizes. Raise INVALID_ARGUMENT."""
    assert namespace is not None
    if request.schedule_id:
        checks.check_workflow_id(ID_PREFIX + request.schedule_id, rules, internal=True)
    if not request.request_id:
        raise invalid_argument("RequestId is not set on request.")
    checks.fill_request_id(request, rules)
    check_schedule_id(request, namespace, rules)
    _check_schedule(request.schedule, namespace, rules)
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    _check_size(request.schedule, request.memo.ByteSize(), rules)
    checks.check_memo(request.memo, rules)


@validates(WorkflowService.DescribeSchedule, WorkflowService.DeleteSchedule, WorkflowService.ListScheduleMatchingTimes)
def check_schedule_id(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check that the schedule id is set. Raise INVALID_ARGUMENT."""
    if not request.schedule_id:
        raise invalid_argument("Can't load workflow execution. WorkflowId not set.")


@validates(WorkflowService.UpdateSchedule)
def check_update(request: service_pb.UpdateScheduleRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check the new schedule like `check_create`. Raise INVALID_ARGUMENT."""
    assert namespace is not None
    if checks.length(request.request_id) > rules.config.max_id_length:
        raise invalid_argument("RequestId length exceeds limit.")
    _check_schedule(request.schedule, namespace, rules)
    checks.check_search_attributes(request.search_attributes, namespace, rules)
    if not request.schedule.action.HasField("start_workflow"):
        raise invalid_argument("Only StartWorkflow action is supported for schedules")
    _check_size(request.schedule, request.memo.ByteSize(), rules)


@validates(WorkflowService.PatchSchedule)
def check_patch(request: service_pb.PatchScheduleRequest, namespace: Namespace | None, rules: Rules) -> None:
    """Check that there is a patch, and its sizes. Raise INVALID_ARGUMENT."""
    if not request.HasField("patch"):
        raise invalid_argument("Patch is not set on request.")
    if checks.length(request.request_id) > rules.config.max_id_length:
        raise invalid_argument("RequestId length exceeds limit.")
    if max(checks.length(request.patch.pause), checks.length(request.patch.unpause)) > _NOTES_LIMIT:
        raise invalid_argument("Schedule notes exceeds limit.")
    checks.check_blob(request.patch, rules)


def _check_schedule(schedule: schedule_pb.Schedule, namespace: Namespace, rules: Rules) -> None:
    _checked(_DURATIONS, namespace, rules, lambda: _check_durations(schedule.spec))
    if schedule.action.HasField("start_workflow"):
        _check_action(schedule.action.start_workflow, namespace, rules)


def _checked(validation: str, namespace: Namespace, rules: Rules, check: Callable[[], None]) -> None:
    """Run a check; log its refusal instead of raising it where the namespace has this validation disabled."""
    try:
        check()
    except ServiceError as refusal:
        if validation not in rules.config.disabled_schedule_validations:
            raise
        name = namespace.name
        rules.warn("ignored the disabled schedule validation %s in %s: %s", validation, name, refusal.message)


def _check_durations(spec: schedule_pb.ScheduleSpec) -> None:
    for interval in spec.interval:
        for name, span in (("interval", interval.interval), ("phase", interval.phase)):
            if problem := duration_problem(span):
                raise invalid_argument(f"Invalid schedule spec: {name} is not a valid duration: {problem}")


def _check_action(action: workflow_pb.NewWorkflowExecutionInfo, namespace: Namespace, rules: Rules) -> None:
    checks.check_workflow_id(action.workflow_id + _APPENDED, rules)
    if not action.workflow_type.name:
        raise invalid_argument("WorkflowType is not set on request.")
    if checks.length(action.workflow_type.name) > rules.config.max_id_length:
        raise invalid_argument("WorkflowType length exceeds limit.")
    checks.check_task_queue(action, rules, user_defined=True)
    check_timeouts(action)
    if action.cron_schedule:
        raise invalid_argument("Scheduled workflow must not contain CronSchedule")
    if action.workflow_id_reuse_policy not in _REUSE:
        raise invalid_argument("Scheduled workflow must not contain WorkflowIDReusePolicy")
    if action.HasField("versioning_override"):
        override, queue = action.versioning_override, action.task_queue.name
        _checked(_OVERRIDE, namespace, rules, lambda: check_override(override, queue))
    if action.HasField("retry_policy"):
        # Check a copy: the policy is stored as sent, and filled with defaults when it is used.
        policy = common_pb.RetryPolicy()
        policy.CopyFrom(action.retry_policy)
        checks.check_retry_policy(policy, rules.config.workflow_retry)
    checks.check_search_attributes(action.search_attributes, namespace, rules)


def _check_size(schedule: schedule_pb.Schedule, memo_bytes: int, rules: Rules) -> None:
    checks.check_blob_size(schedule.ByteSize() + memo_bytes, rules)


# ---- lists ----------------------------------------------------------------------------------------------------------


@handles(WorkflowService.ListSchedules)
async def list_schedules(
    frontend: FrontendPorts, request: service_pb.ListSchedulesRequest, context: CallContext
) -> service_pb.ListSchedulesResponse:
    """Return a page of schedules, newest first. Raise INVALID_ARGUMENT for a bad filter or page token."""
    query, custom = await DIVISION.parsed(frontend, context, request.query, _check_names)
    rows, token = await page(
        frontend, context, query, request.maximum_page_size, request.next_page_token, request.query, DIVISION.base
    )
    listed = await entries(frontend, rows, lambda row: _entry(row, custom))
    return service_pb.ListSchedulesResponse(schedules=listed, next_page_token=token)


@handles(WorkflowService.CountSchedules)
async def count_schedules(
    frontend: FrontendPorts, request: service_pb.CountSchedulesRequest, context: CallContext
) -> service_pb.CountSchedulesResponse:
    """Count schedules, also per group if the filter groups. Raise INVALID_ARGUMENT for a bad filter."""
    query, _ = await DIVISION.parsed(frontend, context, request.query, _check_names)
    return await fill_count(frontend, context, query, service_pb.CountSchedulesResponse())


def _check_names(where: Expression) -> None:
    for name in _names(where):
        if name in SYSTEM_AND_PREDEFINED and name != _PAUSED:
            raise invalid_argument(f'invalid query filter for schedules: cannot filter on "{name}"')


def _names(expression: Expression) -> Iterator[str]:
    match expression:
        case And(items=items) | Or(items=items):
            for item in items:
                yield from _names(item)
        case Not(item=item):
            yield from _names(item)
        case _:
            yield expression.attribute.name


def _entry(row: VisibilityRow, custom: Mapping[str, AttributeType]) -> schedule_pb.ScheduleListEntry:
    entry = schedule_pb.ScheduleListEntry(schedule_id=DIVISION.user_id(row))
    memo = common_pb.Memo.FromString(row.memo)
    info = memo.fields[_MEMO_INFO].data
    del memo.fields[_MEMO_INFO]
    entry.memo.CopyFrom(memo)
    for name, payload in row_payloads(row.search_attributes, custom).items():
        if name not in _OWN_ATTRIBUTES:
            entry.search_attributes.indexed_fields[name].CopyFrom(payload)
    if info:
        entry.info.MergeFromString(info)
    return entry
