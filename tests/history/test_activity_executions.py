"""Standalone activities over a real store and a clock that is moved: attempts, timeouts, races, what is left in the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import activity_pb2 as enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import DAY_NS, NAMESPACE_ID, Bench
from tests.patience import PATIENCE_S
from tests.support.history_ports import replace_ports
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.records import SLOTS
from whistlestop.storage.sqlite.store import SqliteStore
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ACTIVITY = 2
BOOM = {"message": "boom", "application_failure_info": {"type": "Boom"}}
DIVISION = "TemporalNamespaceDivision = '3332429922'"


class Shop(Bench):
    """A bench with a standalone activity named "a" on it, which lasts a minute at most, and its worker."""

    async def begin(self, **fields: Any) -> Any:
        wanted: dict[str, Any] = {
            "activity_id": "a", "request_id": "start", "activity_type": {"name": "T"}, "task_queue": {"name": "q"},
            "start_to_close_timeout": {"seconds": 60},
            "retry_policy": {"initial_interval": {"seconds": 10}, "backoff_coefficient": 2.0},
            "id_reuse_policy": enums.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE,
            "id_conflict_policy": enums.ACTIVITY_ID_CONFLICT_POLICY_FAIL,
        }  # fmt: skip
        return await self.call("StartActivityExecution", **(wanted | fields))

    async def describe(self, **fields: Any) -> Any:
        every = {f"include_{what}": True for what in ("input", "outcome", "heartbeat_details", "last_failure")}
        return await self.call("DescribeActivityExecution", activity_id="a", **(every | fields))

    async def status(self) -> str:
        described: rr.DescribeActivityExecutionResponse = await self.describe()
        return enums.ActivityExecutionStatus.Name(described.info.status).removeprefix("ACTIVITY_EXECUTION_STATUS_")

    async def offered(self) -> list[Any]:
        return await self.store.list_tasks(NAMESPACE_ID, "q", ACTIVITY, None, 10)

    async def take(self, request_id: str = "poll") -> Any:
        """A worker polls."""
        [task] = await self.offered()
        return await self.start_task(task, request_id)

    async def start_task(self, task: Any, request_id: str) -> Any:
        request = internal_pb2.RecordActivityTaskStartedRequest(
            execution=common_pb.WorkflowExecution(workflow_id=task.workflow_id, run_id=task.run_id),
            scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id=request_id,
            poll=rr.PollActivityTaskQueueRequest(identity="worker"),
        )  # fmt: skip
        reply = await self.history.call(HistoryService.RecordActivityTaskStarted, request, self.context)
        return decoded(reply, rr.PollActivityTaskQueueResponse)

    async def pass_time(self, span_s: float) -> None:
        await self.clock.advance(span_s)
        while await self.history.timers.fire_page(100):
            pass

    async def fail(self, task: Any, failure: Any = BOOM) -> None:
        await self.call("RespondActivityTaskFailed", task_token=task.task_token, failure=failure, identity="worker")

    async def complete(self, task: Any) -> None:
        await self.call("RespondActivityTaskCompleted", task_token=task.task_token, identity="worker")


@pytest.fixture(params=[True, False], ids=["alone", "among_others"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    bench = Shop(store, exclusive=request.param)
    yield bench
    await bench.history.close()
    await store.close()


async def test_each_retry_waits_for_its_back_off(shop: Shop) -> None:
    await shop.begin()
    for attempt, back_off_s in ((1, 10), (2, 20), (3, 40)):
        task = await shop.take()
        assert task.attempt == attempt
        await shop.fail(task)
        await shop.pass_time(back_off_s - 1)
        assert await shop.offered() == []
        assert (await shop.describe()).info.current_retry_interval.seconds == back_off_s
        await shop.pass_time(1)
    await shop.complete(await shop.take())
    assert await shop.status() == "COMPLETED"


async def test_an_attempt_that_takes_too_long_is_followed_by_another(shop: Shop) -> None:
    await shop.begin()
    late = await shop.take()
    await shop.pass_time(60)
    described = await shop.describe()
    assert described.info.last_failure.timeout_failure_info.timeout_type == wf.TIMEOUT_TYPE_START_TO_CLOSE
    with pytest.raises(ServiceError) as refused:
        await shop.complete(late)
    assert refused.value.code is Code.NOT_FOUND
    await shop.pass_time(10)
    assert (await shop.take("second")).attempt == 2


async def test_heartbeats_keep_an_attempt_alive(shop: Shop) -> None:
    await shop.begin(heartbeat_timeout={"seconds": 5}, retry_policy={"maximum_attempts": 1})
    task = await shop.take()
    for _ in range(4):
        await shop.pass_time(4)
        await shop.call("RecordActivityTaskHeartbeat", task_token=task.task_token)
    assert await shop.status() == "RUNNING"
    await shop.pass_time(5)
    described = await shop.describe()
    assert described.outcome.failure.timeout_failure_info.timeout_type == wf.TIMEOUT_TYPE_HEARTBEAT
    assert described.info.total_heartbeat_count == 4


async def test_its_start_delay_counts_in_no_timeout(shop: Shop) -> None:
    await shop.begin(start_delay={"seconds": 100}, schedule_to_close_timeout={"seconds": 50})
    await shop.pass_time(99)
    assert await shop.offered() == []
    await shop.pass_time(1)
    assert len(await shop.offered()) == 1
    await shop.pass_time(49)
    assert await shop.status() == "RUNNING"
    await shop.pass_time(1)
    assert await shop.status() == "TIMED_OUT"
    assert await shop.offered() == []


async def test_exactly_one_of_racing_pollers_gets_the_task(shop: Shop) -> None:
    await shop.begin()
    [task] = await shop.offered()
    results = await asyncio.gather(
        *(shop.start_task(task, f"poll-{number}") for number in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results].count(ServiceError) == 4


async def test_a_poll_that_is_repeated_gets_the_same_attempt(shop: Shop) -> None:
    await shop.begin()
    [task] = await shop.offered()
    first, second = await shop.start_task(task, "poll"), await shop.start_task(task, "poll")
    assert first == second


async def test_exactly_one_of_racing_starts_wins(shop: Shop) -> None:
    results = await asyncio.gather(*(shop.begin(request_id=str(number)) for number in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, ServiceError)]
    assert [error.code for error in refused] == [Code.ALREADY_EXISTS] * 4
    assert len(await shop.offered()) == 1


async def test_a_timeout_with_a_lost_commit_is_compensated(shop: Shop) -> None:
    await shop.begin(retry_policy={"maximum_attempts": 1})
    await shop.take()
    commit = shop.store.commit

    async def lost(transition: Any) -> None:
        raise Unavailable("gone")

    await shop.clock.advance(60)
    shop.store.commit = lost  # type: ignore[method-assign]
    await shop.history.timers.fire_page(10)
    shop.store.commit = commit  # type: ignore[method-assign]
    assert await shop.status() == "RUNNING"
    await shop.history.timers.fire_page(10)
    assert await shop.status() == "TIMED_OUT"


async def test_callers_that_wait_for_the_outcome_get_it(shop: Shop) -> None:
    await shop.begin()
    waiting = asyncio.ensure_future(shop.call("PollActivityExecution", activity_id="a"))
    await shop.complete(await shop.take())
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).outcome.HasField("result")


async def test_a_paused_one_is_not_offered_until_it_goes_on(shop: Shop) -> None:
    await shop.begin()
    await shop.call("PauseActivityExecution", activity_id="a", request_id="p")
    assert await shop.offered() == []
    assert await shop.status() == "PAUSED"
    paused = parse(f"{DIVISION} AND ExecutionStatus = 'Paused'", {})
    assert await shop.store.count_visibility(NAMESPACE_ID, paused) == 1
    await shop.pass_time(1000)
    await shop.call("UnpauseActivityExecution", activity_id="a", request_id="u")
    assert await shop.store.count_visibility(NAMESPACE_ID, paused) == 0
    await shop.complete(await shop.take())
    assert await shop.status() == "COMPLETED"


async def test_lists_of_workflows_do_not_show_it(shop: Shop) -> None:
    await shop.begin()
    assert await shop.store.count_visibility(NAMESPACE_ID, parse("", {})) == 0
    assert await shop.store.count_visibility(NAMESPACE_ID, parse(DIVISION, {})) == 1


async def test_nothing_remains_after_retention_or_deletion(shop: Shop) -> None:
    await shop.begin()
    await shop.complete(await shop.take())
    await shop.begin(activity_id="b")
    await shop.call("DeleteActivityExecution", activity_id="b")
    assert await shop.store.check(10) == []
    await shop.pass_time(DAY_NS / SECOND_NS)
    assert await shop.store.check(10) == []
    assert await shop.store.count_visibility(NAMESPACE_ID, parse(DIVISION, {})) == 0
    with pytest.raises(ServiceError) as refused:
        await shop.describe()
    assert refused.value.message == "activity not found for ID: a"


async def test_a_callback_is_scheduled_when_the_activity_has_ended(shop: Shop) -> None:
    await shop.begin(completion_callbacks=[{"nexus": {"url": "http://localhost/done"}}])
    [callback] = (await shop.describe()).callbacks
    assert callback.info.callback.nexus.url == "http://localhost/done"
    await shop.call("TerminateActivityExecution", activity_id="a", request_id="t", reason="enough")
    [task] = await shop.store.scan_transfer_tasks(0, SLOTS, shop.clock.now_ns() + SECOND_NS, 10)
    assert task.kind == "nexus_callback"


async def test_a_start_that_finds_it_running_attaches_its_links_and_callbacks(shop: Shop) -> None:
    link = {"workflow_event": {"namespace": "default", "workflow_id": "w", "run_id": "r"}}
    begun = await shop.begin()
    again: dict[str, Any] = {
        "request_id": "again", "id_conflict_policy": enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING, "links": [link],
        "completion_callbacks": [{"nexus": {"url": "http://localhost/done"}}],
        "on_conflict_options": {"attach_request_id": True, "attach_links": True, "attach_completion_callbacks": True},
    }  # fmt: skip
    for _ in range(2):
        used = await shop.begin(**again)
        assert (used.run_id, used.started) == (begun.run_id, False)
    described = await shop.describe()
    assert [each.workflow_event.workflow_id for each in described.info.links] == ["w"]
    assert len(described.callbacks) == 1


def _link(workflow_id: str) -> dict[str, Any]:
    return {"workflow_event": {"namespace": "default", "workflow_id": workflow_id, "run_id": "r"}}


async def _links(shop: Shop) -> list[str]:
    return [each.workflow_event.workflow_id for each in (await shop.describe()).info.links]


async def test_a_repeated_start_attaches_no_links_even_once_it_is_over(shop: Shop) -> None:
    await shop.begin()
    wanted: dict[str, Any] = {
        "id_conflict_policy": enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING,
        "on_conflict_options": {"attach_request_id": True, "attach_links": True},
    }
    await shop.begin(links=[_link("of the start")], **wanted)
    await shop.begin(request_id="again", links=[_link("first")], **wanted)
    await shop.begin(request_id="again", links=[_link("repeated")], **wanted)
    assert await _links(shop) == ["first"]
    await shop.call("TerminateActivityExecution", activity_id="a", request_id="t", reason="enough")
    await shop.begin(request_id="again", links=[_link("late")], **wanted)
    assert await _links(shop) == ["first"]


async def test_links_are_counted_over_all_starts(shop: Shop) -> None:
    limits = shop.history.engine.limits = replace(shop.history.ports.limits, links_per_execution=2)
    replace_ports(shop.history, limits=limits)
    with pytest.raises(ServiceError, match="cannot attach more than 2 links to an activity") as refused:
        await shop.begin(links=[_link("a"), _link("b"), _link("c")])
    assert refused.value.code is Code.FAILED_PRECONDITION
    await shop.begin(links=[_link("a")])
    wanted: dict[str, Any] = {
        "id_conflict_policy": enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING,
        "on_conflict_options": {"attach_links": True},
    }
    await shop.begin(request_id="b", links=[_link("b")], **wanted)
    with pytest.raises(ServiceError, match="2 links already attached"):
        await shop.begin(request_id="c", links=[_link("c")], **wanted)
    assert await _links(shop) == ["a", "b"]


async def test_callbacks_are_counted_over_all_starts(shop: Shop) -> None:
    limits = shop.history.engine.limits = replace(shop.history.ports.limits, callbacks_per_execution=2)
    replace_ports(shop.history, limits=limits)
    callback = {"nexus": {"url": "http://localhost/done"}}
    wanted: dict[str, Any] = {
        "id_conflict_policy": enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING,
        "on_conflict_options": {"attach_request_id": True, "attach_completion_callbacks": True},
    }
    await shop.begin(completion_callbacks=[callback])
    await shop.begin(request_id="b", completion_callbacks=[callback], **wanted)
    with pytest.raises(ServiceError, match="cannot attach more than 2 callbacks to an activity") as refused:
        await shop.begin(request_id="c", completion_callbacks=[callback], **wanted)
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert len((await shop.describe()).callbacks) == 2


async def test_lists_show_the_execution_time_by_the_present_start_delay(shop: Shop) -> None:
    begun_ns = shop.clock.now_ns()
    await shop.begin(start_delay={"seconds": 480})

    async def delay() -> int:
        [row], _ = await shop.store.list_visibility(NAMESPACE_ID, parse(DIVISION, {}), 10, b"")
        assert row.execution_time_us is not None
        return (row.execution_time_us - begun_ns // 1000) // 1_000_000

    assert await delay() == 480
    await shop.call(
        "UpdateActivityExecutionOptions", activity_id="a", activity_options={"start_delay": {"seconds": 240}},
        update_mask={"paths": ["start_delay"]}, request_id="update",
    )  # fmt: skip
    assert await delay() == 240
    await shop.call("UpdateActivityExecutionOptions", activity_id="a", restore_original=True, request_id="restore")
    assert await delay() == 480
