"""CreateSchedule, DescribeSchedule, UpdateSchedule, PatchSchedule, DeleteSchedule, ListScheduleMatchingTimes.

The frontend serves lists and counts from visibility.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import (
    Code,
    ServiceError,
    already_started,
    failed_precondition,
    invalid_argument,
    not_found,
)
from whistlestop.common.messages import nesting
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.api.start import Start, start
from whistlestop.history.core.times import timestamp_ns
from whistlestop.history.core.workflow import close
from whistlestop.history.schedule import driver, policy
from whistlestop.history.schedule import spec as times
from whistlestop.history.schedule.ranges import SpecError
from whistlestop.history.schedule.schedule_pb2 import ScheduleData
from whistlestop.net.tasks.offload import off_loop
from whistlestop.storage.visibility import AttributeType

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import ExecutionKey

TOO_MANY_EXCLUSIONS = "the schedule calendar specification has too many exclusions. Please modify the specification."


@handles(HistoryService.CreateSchedule)
async def create_schedule(
    ports: HistoryPorts, request: service_pb.CreateScheduleRequest, context: CallContext
) -> service_pb.CreateScheduleResponse:
    """Create a schedule. Raise ALREADY_EXISTS when there is one of that id."""
    await _make_canonical(request.schedule)
    patch = request.initial_patch if request.HasField("initial_patch") else None
    now_ns = ports.clock.now_ns()
    data = policy.create(request.schedule_id, request.schedule, patch, now_ns)
    if patch is not None:
        policy.check_room(data, patch)
    spec = await off_loop(policy.compiled, data, context.namespace_id)
    outlook = await driver.off_loop_if(spec, driver.outlook, data, spec, now_ns)

    def prepare(run: Run) -> None:
        fresh = ScheduleData()
        fresh.CopyFrom(data)
        driver.write(run, fresh, outlook)

    try:
        _, run = await start(Start(ports, _start_request(request), context, prepare))
    except ServiceError as error:
        if error.code is not Code.ALREADY_EXISTS:
            raise
        raise already_started(f'schedule "{request.schedule_id}" is already registered', "", "") from None
    if run is not None and patch is not None:
        # It is part of the committed schedule already; this only makes it take effect at once.
        await driver.work(ports, run.key)
    return service_pb.CreateScheduleResponse(conflict_token=_token(1))


def _start_request(request: service_pb.CreateScheduleRequest) -> service_pb.StartWorkflowExecutionRequest:
    """Return the start request of the schedule's run."""
    begin = service_pb.StartWorkflowExecutionRequest(
        workflow_id=driver.workflow_id_of(request.schedule_id),
        identity=request.identity,
        request_id=request.request_id,
        workflow_id_reuse_policy=wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
        workflow_id_conflict_policy=wf_enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
    )
    begin.workflow_type.name = driver.WORKFLOW_TYPE
    begin.task_queue.name = driver.TASK_QUEUE
    begin.memo.CopyFrom(request.memo)
    begin.search_attributes.CopyFrom(request.search_attributes)
    begin.search_attributes.indexed_fields[driver.DIVISION_ATTRIBUTE].CopyFrom(
        driver.attribute(f'"{driver.DIVISION}"'.encode(), AttributeType.Keyword)
    )
    return begin


@handles(HistoryService.DescribeSchedule)
async def describe_schedule(
    ports: HistoryPorts, request: service_pb.DescribeScheduleRequest, context: CallContext
) -> service_pb.DescribeScheduleResponse:
    """Describe a schedule, and return its conflict token. Raise NOT_FOUND."""
    key = await _key(ports, request.schedule_id, context)
    entry = await ports.engine.read(key)
    if not entry.state.schedule or entry.state.close_ns:
        raise not_found("schedule not found")
    data = nesting.parse(ScheduleData, entry.state.schedule)
    spec = policy.compiled(data, context.namespace_id)
    schedule, info = await driver.off_loop_if(spec, policy.describe, data, spec)
    running = [each for each in info.running_workflows if await driver.is_running(ports, context.namespace_id, each)]
    del info.running_workflows[len(running) :]
    for target, source in zip(info.running_workflows, running, strict=True):
        target.CopyFrom(source)
    response = service_pb.DescribeScheduleResponse(
        schedule=schedule, info=info, conflict_token=_token(data.conflict_token)
    )
    response.info.state_size_bytes = entry.size
    for name, payload in entry.state.memo.items():
        if name != driver.MEMO_INFO:
            response.memo.fields[name].CopyFrom(payload)
    for name, payload in entry.state.search_attributes.items():
        if name not in driver.OWN_ATTRIBUTES:
            response.search_attributes.indexed_fields[name].CopyFrom(payload)
    return response


@handles(HistoryService.UpdateSchedule)
async def update_schedule(
    ports: HistoryPorts, request: service_pb.UpdateScheduleRequest, context: CallContext
) -> service_pb.UpdateScheduleResponse:
    """Replace the schedule, and its search attributes and memo if they are given.

    Raise FAILED_PRECONDITION when the conflict token does not match.
    """
    await _make_canonical(request.schedule)

    def decide(run: Run, data: ScheduleData) -> None:
        if policy.is_repeated(data, request.request_id):
            return
        if request.conflict_token not in (b"", _token(data.conflict_token)):
            raise failed_precondition("mismatched conflict token")
        policy.update(data, request.schedule, run.now_ns)
        if request.HasField("search_attributes"):
            _replace_attributes(run, request.search_attributes)
        if request.HasField("memo"):
            _replace_memo(run, request.memo)

    await driver.work(ports, await _key(ports, request.schedule_id, context), decide)
    return service_pb.UpdateScheduleResponse()


def _replace_attributes(run: Run, attributes: common_pb.SearchAttributes) -> None:
    kept = run.state.search_attributes
    for name in [name for name in kept if name not in driver.OWN_ATTRIBUTES]:
        del kept[name]
    for name, payload in attributes.indexed_fields.items():
        if name not in driver.OWN_ATTRIBUTES and payload.data not in (b"null", b"[]", b""):
            kept[name].CopyFrom(payload)
    run.visibility_changed = True


def _replace_memo(run: Run, memo: common_pb.Memo) -> None:
    kept = run.state.memo
    for name in [name for name in kept if name != driver.MEMO_INFO]:
        del kept[name]
    for name, payload in memo.fields.items():
        kept[name].CopyFrom(payload)
    run.visibility_changed = True


@handles(HistoryService.PatchSchedule)
async def patch_schedule(
    ports: HistoryPorts, request: service_pb.PatchScheduleRequest, context: CallContext
) -> service_pb.PatchScheduleResponse:
    """Trigger, backfill, pause or unpause the schedule.

    Raise NOT_FOUND, or FAILED_PRECONDITION for too many backfills.
    """

    def decide(run: Run, data: ScheduleData) -> None:
        if policy.is_repeated(data, request.request_id):
            return
        policy.check_room(data, request.patch)
        policy.patch(data, request.patch, run.now_ns)

    await driver.work(ports, await _key(ports, request.schedule_id, context), decide)
    return service_pb.PatchScheduleResponse()


@handles(HistoryService.DeleteSchedule)
async def delete_schedule(
    ports: HistoryPorts, request: service_pb.DeleteScheduleRequest, context: CallContext
) -> service_pb.DeleteScheduleResponse:
    """Delete the schedule; the runs that it started continue. Raise NOT_FOUND."""

    def decide(run: Run) -> None:
        if not run.is_open or not run.state.schedule:
            raise not_found("workflow execution already completed")
        close.terminate(run, reason="terminated by DeleteSchedule", identity=request.identity)

    await ports.engine.change(context.namespace_id, driver.workflow_id_of(request.schedule_id), "", decide)
    return service_pb.DeleteScheduleResponse()


@handles(HistoryService.ListScheduleMatchingTimes)
async def list_schedule_matching_times(
    ports: HistoryPorts, request: service_pb.ListScheduleMatchingTimesRequest, context: CallContext
) -> service_pb.ListScheduleMatchingTimesResponse:
    """Return the schedule's times within a range, even of a closed schedule.

    Raise NOT_FOUND, or INVALID_ARGUMENT without a range, for an unreadable spec, or with too many exclusions.
    """
    key = await _key(ports, request.schedule_id, context)
    entry = await ports.engine.read(key)
    if not entry.state.schedule:
        raise not_found("schedule not found")
    if not (request.HasField("start_time") and request.HasField("end_time")):
        raise invalid_argument("missing or invalid query")
    data = nesting.parse(ScheduleData, entry.state.schedule)
    spec = policy.compiled(data, context.namespace_id)
    if spec is None:
        raise invalid_argument("invalid schedule")
    response = service_pb.ListScheduleMatchingTimesResponse()
    try:
        found = await off_loop(
            policy.matching_times, spec, timestamp_ns(request.start_time), timestamp_ns(request.end_time)
        )
    except times.TooManyExclusions:
        raise invalid_argument(TOO_MANY_EXCLUSIONS) from None
    for instant_ns in found:
        response.start_time.add().FromNanoseconds(instant_ns)
    return response


async def _make_canonical(schedule: schedule_pb.Schedule) -> None:
    spec = schedule.spec
    is_long = len(spec.calendar) + len(spec.structured_calendar) + len(spec.cron_string) > 10
    try:
        spec.CopyFrom(await off_loop(times.canonical, spec) if is_long else times.canonical(spec))
    except SpecError as error:
        raise invalid_argument(f"Invalid schedule spec: {error}") from None


async def _key(ports: HistoryPorts, schedule_id: str, context: CallContext) -> ExecutionKey:
    return await ports.engine.resolve(context.namespace_id, driver.workflow_id_of(schedule_id))


def _token(number: int) -> bytes:
    return number.to_bytes(8, "big")
