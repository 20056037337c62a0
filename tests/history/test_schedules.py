"""Schedules over a real store and a clock that is moved: starts happen once, ends are handed on, nothing is forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import timestamp_pb2
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import schedule_pb2 as sched
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import NAMESPACE_ID, Bench
from tests.support.history_ports import replace_ports
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.schedule import driver, policy
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.records import SLOTS, ExecutionKey
from whistlestop.storage.sqlite.store import SqliteStore
from whistlestop.storage.visibility import AttributeType, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOURLY = {"cron_string": ["0 * * * *"]}
HOUR_NS = 3600 * SECOND_NS
RUNNING = wf.WORKFLOW_EXECUTION_STATUS_RUNNING
COMPLETED = wf.WORKFLOW_EXECUTION_STATUS_COMPLETED
FAILED = wf.WORKFLOW_EXECUTION_STATUS_FAILED


class Line(Bench):
    """A bench with a schedule named "s" on it."""

    async def create(self, **fields: Any) -> None:
        schedule: dict[str, Any] = {"spec": HOURLY, "action": {"start_workflow": ACTION}}
        schedule |= fields.pop("schedule", {})
        wanted: dict[str, Any] = {"schedule_id": "s", "request_id": "create", "schedule": schedule}
        await self.call("CreateSchedule", **(wanted | fields))

    async def describe(self) -> Any:
        return await self.call("DescribeSchedule", schedule_id="s")

    async def patch(self, **patch: Any) -> None:
        await self.call("PatchSchedule", schedule_id="s", patch=patch)
        await self.history.transfers.drain()

    async def trigger(self, at_s: int) -> str:
        """The workflow id that the trigger started or would start."""
        await self.patch(trigger_immediately={"scheduled_time": {"seconds": at_s}})
        return f"w-1970-01-01T00:{at_s // 60:02}:{at_s % 60:02}Z"

    async def pass_time(self, span_ns: int) -> None:
        await self.clock.advance(span_ns / SECOND_NS)
        while await self.history.timers.fire_page(100):
            await self.history.transfers.drain()
        await self.history.transfers.drain()

    async def actions(self) -> list[tuple[str, int]]:
        """Hour of the nominal time and status of the recent ones."""
        return [
            (each.start_workflow_result.workflow_id, each.start_workflow_status)
            for each in (await self.describe()).info.recent_actions
        ]

    async def close(self, workflow_id: str, *, result: str = "", failure: str = "") -> None:
        """The workflow's worker completes or fails it."""
        [task] = [
            each
            for each in await self.store.list_tasks(NAMESPACE_ID, "q", 1, None, 100)
            if each.workflow_id == workflow_id
        ]
        request = internal_pb2.RecordWorkflowTaskStartedRequest(
            execution=common_pb.WorkflowExecution(workflow_id=workflow_id, run_id=task.run_id),
            scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id="poll", task_queue="q",
        )  # fmt: skip
        started: Any = decoded(
            await self.history.call(HistoryService.RecordWorkflowTaskStarted, request, self.context),
            rr.PollWorkflowTaskQueueResponse,
        )
        command = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
        if failure:
            command.command_type = ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION
            command.fail_workflow_execution_command_attributes.failure.CopyFrom(failure_pb.Failure(message=failure))
        else:
            command.complete_workflow_execution_command_attributes.result.payloads.add(data=result.encode())
        await self.call("RespondWorkflowTaskCompleted", task_token=started.task_token, commands=[command])
        await self.history.transfers.drain()

    async def first_event(self, workflow_id: str) -> Any:
        reply = await self.call("GetWorkflowExecutionHistory", execution={"workflow_id": workflow_id})
        return reply.history.events[0].workflow_execution_started_event_attributes

    def hour(self, number: int) -> str:
        return f"w-2026-01-01T{number:02}:00:00Z"


ACTION = {"workflow_id": "w", "workflow_type": {"name": "T"}, "task_queue": {"name": "q"}}
BEGIN_S = 1_767_225_600  # 2026-01-01T00:00:00Z


@pytest.fixture(params=[True, False], ids=["alone", "among_others"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    bench = Line(store, exclusive=request.param)
    await bench.clock.advance(BEGIN_S + 1 - bench.clock.now_ns() / SECOND_NS)
    yield bench
    await bench.history.close()
    await store.close()


async def test_an_action_is_taken_when_its_time_has_come(line: Line) -> None:
    await line.create(schedule={"policies": {"overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL}})
    await line.pass_time(HOUR_NS - 2 * SECOND_NS)
    assert await line.actions() == []
    await line.pass_time(2 * SECOND_NS)
    assert await line.actions() == [(line.hour(1), RUNNING)]
    await line.pass_time(2 * HOUR_NS)
    assert await line.actions() == [(line.hour(number), RUNNING) for number in (1, 2, 3)]


async def test_two_processes_that_fire_the_same_row_take_one_action(line: Line) -> None:
    await line.create()
    line.history.engine.exclusive = False
    other = Line(line.store, exclusive=False)
    other.clock, other.history.engine.clock = line.clock, line.clock
    replace_ports(other.history, clock=line.clock)
    other.ids._n = 1000
    await line.clock.advance(3600)
    rows = await line.store.scan_timers(0, SLOTS, line.clock.now_ns(), 10)
    assert [row.kind for row in rows] == ["schedule"]
    await asyncio.gather(*(each.history.timers.fire(rows[0]) for each in (line, other, line, other)))
    described = await line.describe()
    assert (described.info.action_count, len(described.info.running_workflows)) == (1, 1)
    assert len(await line.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)) == 1
    await other.history.close()


async def test_a_lost_commit_or_answer_is_compensated(line: Line) -> None:
    await line.create()
    commit = line.store.commit

    async def lost(transition: Any) -> None:
        raise Unavailable("gone")

    async def answer_lost(transition: Any) -> None:
        await commit(transition)
        raise Unavailable("gone")

    await line.clock.advance(3600)
    for broken in (lost, answer_lost):
        line.store.commit = broken  # type: ignore[method-assign]
        await line.history.timers.fire_page(10)
    line.store.commit = commit  # type: ignore[method-assign]
    await line.history.timers.fire_page(10)
    assert await line.actions() == [(line.hour(1), RUNNING)]
    assert len(await line.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10)) == 1


async def test_a_result_and_a_failure_are_handed_to_the_next_run(line: Line) -> None:
    await line.create()
    await line.close(await line.trigger(1), result="one")
    second = await line.trigger(2)
    first_event = await line.first_event(second)
    assert first_event.last_completion_result.payloads[0].data == b"one"
    assert not first_event.HasField("continued_failure")
    await line.close(second, failure="two")
    third = await line.first_event(await line.trigger(3))
    assert third.last_completion_result.payloads[0].data == b"one"
    assert third.continued_failure.message == "two"
    assert [status for _, status in await line.actions()] == [COMPLETED, FAILED, RUNNING]


async def test_a_buffered_action_is_taken_when_the_one_before_has_ended(line: Line) -> None:
    await line.create(schedule={"policies": {"overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE}})
    await line.pass_time(3 * HOUR_NS)
    described = await line.describe()
    info = described.info
    assert (info.action_count, info.buffer_size, info.overlap_skipped) == (1, 1, 1)
    await line.close(line.hour(1), result="x")
    assert await line.actions() == [(line.hour(1), COMPLETED), (line.hour(2), RUNNING)]


async def test_the_end_of_a_chain_is_what_counts(line: Line) -> None:
    """A run that is retried goes on."""
    retried = ACTION | {"retry_policy": {"maximum_attempts": 2}}
    await line.create(schedule={"action": {"start_workflow": retried}})
    workflow_id = await line.trigger(1)
    await line.close(workflow_id, failure="once")
    assert [each.workflow_id for each in (await line.describe()).info.running_workflows] == [workflow_id]
    await line.pass_time(5 * SECOND_NS)
    await line.close(workflow_id, failure="twice")
    described = await line.describe()
    assert not described.info.running_workflows
    assert described.info.recent_actions[0].start_workflow_status == FAILED


async def test_a_deleted_run_does_not_block_a_schedule(line: Line) -> None:
    await line.create()
    workflow_id = await line.trigger(1)
    key = await line.history.engine.resolve(NAMESPACE_ID, workflow_id)
    await line.store.delete_execution(key)
    line.history.engine.forget(key)
    await line.trigger(2)
    assert (await line.describe()).info.action_count == 2


async def test_the_running_workflow_is_terminated_or_cancelled(line: Line) -> None:
    await line.create(schedule={"policies": {"overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER}})
    first, second = await line.trigger(1), await line.trigger(2)
    terminated = wf.WORKFLOW_EXECUTION_STATUS_TERMINATED
    assert await line.actions() == [(first, terminated), (second, RUNNING)]
    await line.patch(
        trigger_immediately={
            "scheduled_time": {"seconds": 3}, "overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER,
        }
    )  # fmt: skip
    reply = await line.call("GetWorkflowExecutionHistory", execution={"workflow_id": second})
    [event] = [e for e in reply.history.events if e.HasField("workflow_execution_cancel_requested_event_attributes")]
    asked = event.workflow_execution_cancel_requested_event_attributes
    assert (asked.cause, asked.identity) == ("cancelled by schedule overlap policy", "temporal-scheduler-default-s")
    assert (await line.describe()).info.buffer_size == 1


async def test_a_backfill_of_many_goes_on_by_itself(line: Line) -> None:
    await line.create(schedule={"policies": {"overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL}})
    await line.patch(
        backfill_request=[{"start_time": {"seconds": BEGIN_S - 3600 * 35}, "end_time": {"seconds": BEGIN_S - 3600}}]
    )
    assert (await line.describe()).info.action_count == 10
    for _ in range(5):
        await line.pass_time(SECOND_NS)
    assert (await line.describe()).info.action_count == 35


async def test_an_id_that_is_taken_costs_no_action(line: Line) -> None:
    await line.create(schedule={"policies": {"keep_original_workflow_id": True}})
    await line.start("w")
    await line.trigger(1)
    assert (await line.describe()).info.action_count == 0
    await line.close("w", result="x")
    await line.trigger(2)
    assert [workflow_id for workflow_id, _ in await line.actions()] == ["w"]


async def test_the_conflict_token_guards_an_update(line: Line) -> None:
    await line.create()
    token = (await line.describe()).conflict_token
    await line.patch(pause="x")
    schedule = {"action": {"start_workflow": ACTION}, "spec": HOURLY}
    with pytest.raises(ServiceError) as refusal:
        await line.call("UpdateSchedule", schedule_id="s", schedule=schedule, conflict_token=token)
    assert refusal.value.code is Code.FAILED_PRECONDITION
    await line.call("UpdateSchedule", schedule_id="s", schedule=schedule)
    assert (await line.describe()).schedule.state.paused is False


async def test_a_request_that_is_repeated_takes_effect_once(line: Line) -> None:
    await line.create()
    for _ in range(2):
        await line.create()
        await line.call(
            "PatchSchedule", schedule_id="s", request_id="again",
            patch={"trigger_immediately": {"scheduled_time": {"seconds": 1}}},
        )  # fmt: skip
    assert (await line.describe()).info.action_count == 1


async def test_a_schedule_that_has_nothing_more_to_do_goes(line: Line) -> None:
    await line.create(schedule={"state": {"limited_actions": True, "remaining_actions": 1}})
    await line.pass_time(HOUR_NS)
    await line.close(line.hour(1), result="x")
    await line.pass_time(policy.RETENTION_NS - HOUR_NS)
    assert (await line.describe()).info.action_count == 1
    await line.pass_time(2 * HOUR_NS)
    with pytest.raises(ServiceError) as refusal:
        await line.describe()
    assert refusal.value.code is Code.NOT_FOUND


async def test_a_schedule_stays_while_its_last_run_does(line: Line) -> None:
    """And is not looked at all the time meanwhile."""
    await line.create(schedule={"state": {"limited_actions": True, "remaining_actions": 1}})
    await line.pass_time(HOUR_NS)
    await line.pass_time(2 * policy.RETENTION_NS)
    assert await line.store.scan_timers(0, SLOTS, line.clock.now_ns(), 10) == []
    assert (await line.describe()).info.action_count == 1
    await line.close(line.hour(1), result="x")
    with pytest.raises(ServiceError):
        await line.describe()


async def test_a_deleted_schedule_starts_nothing_and_its_id_is_free(line: Line) -> None:
    await line.create()
    await line.call("DeleteSchedule", schedule_id="s")
    await line.pass_time(2 * HOUR_NS)
    assert await line.store.list_tasks(NAMESPACE_ID, "q", 1, None, 10) == []
    await line.create(request_id="again")
    assert (await line.describe()).info.action_count == 0


async def test_a_patch_at_creation_survives_a_crash_right_after(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise ServiceError(Code.UNAVAILABLE, "crash")

    with monkeypatch.context() as broken:
        broken.setattr(driver, "work", crash)
        with pytest.raises(ServiceError):
            await line.create(initial_patch={"trigger_immediately": {"scheduled_time": {"seconds": 1}}})
    await line.pass_time(SECOND_NS)
    assert (await line.describe()).info.action_count == 1


async def test_lists_of_workflows_do_not_show_schedules_but_what_they_started(line: Line) -> None:
    await line.create()
    workflow_id = await line.trigger(1)
    rows, _ = await line.store.list_visibility(NAMESPACE_ID, parse("", {}), 10, b"")
    assert [row.key.workflow_id for row in rows] == [workflow_id]
    by_id = parse("TemporalScheduledById = 's' AND TemporalScheduledStartTime = '1970-01-01T00:00:01Z'", {})
    assert await line.store.count_visibility(NAMESPACE_ID, by_id) == 1
    paused = parse("TemporalSchedulePaused = true AND TemporalNamespaceDivision = 'TemporalScheduler'", {})
    assert await line.store.count_visibility(NAMESPACE_ID, paused) == 0
    await line.patch(pause="x")
    assert await line.store.count_visibility(NAMESPACE_ID, paused) == 1


async def test_the_store_is_sound_afterwards(line: Line) -> None:
    await line.create()
    await line.pass_time(3 * HOUR_NS)
    await line.close(line.hour(1), result="x")
    await line.call("DeleteSchedule", schedule_id="s")
    await line.pass_time(HOUR_NS)
    assert await line.store.check(10) == []
    key = ExecutionKey(NAMESPACE_ID, driver.workflow_id_of("s"), "")
    assert await line.store.get_current(key.namespace_id, key.workflow_id) is not None


async def test_concurrent_backfills_are_limited(line: Line) -> None:
    await line.create(schedule={"state": {"paused": True}})
    many = [{"start_time": {"seconds": 0}, "end_time": {"seconds": 1}}] * 100
    with pytest.raises(ServiceError, match="too many concurrent backfillers") as refused:
        await line.patch(backfill_request=many, trigger_immediately={})
    assert refused.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(ServiceError, match="too many concurrent backfillers"):
        await line.create(schedule_id="other", initial_patch={"backfill_request": [*many, many[0]]})
    await line.patch(backfill_request=many)


async def test_a_schedule_reports_its_size(line: Line) -> None:
    await line.create()
    small = (await line.describe()).info.state_size_bytes
    await line.create(schedule_id="large", memo={"fields": {"m": {"data": b"x" * 10_000}}})
    large = await line.call("DescribeSchedule", schedule_id="large")
    assert 0 < small < 10_000 < large.info.state_size_bytes


async def test_lists_find_schedules_by_their_next_action_and_what_is_running(line: Line) -> None:
    await line.create()

    async def found(query: str) -> int:
        types = {
            "TemporalScheduleNextActionTime": AttributeType.Datetime,
            "TemporalScheduleRunningWorkflowCount": AttributeType.Int,
        }
        division = "TemporalNamespaceDivision = 'TemporalScheduler'"
        return await line.store.count_visibility(NAMESPACE_ID, parse(f"{division} AND {query}", types))

    next_action = (await line.describe()).info.future_action_times[0].ToJsonString()
    assert await found(f"TemporalScheduleNextActionTime = '{next_action}'") == 1
    assert await found("TemporalScheduleRunningWorkflowCount = 0") == 1
    await line.trigger(60)
    assert await found("TemporalScheduleRunningWorkflowCount = 1") == 1
    await line.pass_time(HOUR_NS)
    assert await found(f"TemporalScheduleNextActionTime = '{next_action}'") == 0
    assert await found(f"TemporalScheduleNextActionTime > '{next_action}'") == 1


async def test_lists_find_schedules_by_what_waits_and_when_they_are_closed_for_idleness(line: Line) -> None:
    types = {
        "TemporalScheduleBufferedStartsCount": AttributeType.Int,
        "TemporalScheduleIdleCloseTime": AttributeType.Datetime,
    }

    async def found(query: str) -> int:
        division = "TemporalNamespaceDivision = 'TemporalScheduler'"
        return await line.store.count_visibility(NAMESPACE_ID, parse(f"{division} AND {query}", types))

    await line.create(schedule={"policies": {"overlap_policy": sched.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE}})
    assert await found("TemporalScheduleBufferedStartsCount = 0") == 1
    await line.pass_time(2 * HOUR_NS)
    assert await found("TemporalScheduleBufferedStartsCount = 1") == 1
    assert await found("TemporalScheduleIdleCloseTime IS NOT NULL") == 0
    await line.create(schedule_id="idle", schedule={"spec": {}})
    created_ns = line.clock.now_ns()
    closes = timestamp_pb2.Timestamp()
    closes.FromNanoseconds(created_ns + policy.RETENTION_NS)
    assert await found(f"TemporalScheduleIdleCloseTime = '{closes.ToJsonString()}'") == 1
