"""Standalone activities: their ends, id policies, timeouts, retries, answers by token and by id, lists."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused, attribute, cases, failure, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

ONCE = {"maximum_attempts": 1}
QUICK = {"initial_interval": seconds(0.05), "backoff_coefficient": 1}


def _fields(p: Puppet, name: str = "a", **fields: Any) -> dict[str, Any]:
    return {
        "activity_id": p.id(name),
        "activity_type": {"name": "Act"},
        "task_queue": {"name": p.task_queue},
        "start_to_close_timeout": seconds(30),
        "request_id": p.id(f"start-{name}"),
        "identity": "client",
        **fields,
    }


async def _start(p: Puppet, name: str = "a", **fields: Any) -> Any:
    return await p.call("StartActivityExecution", **_fields(p, name, **fields))


async def _describe(p: Puppet, name: str = "a", **fields: Any) -> Any:
    every = {f"include_{what}": True for what in ("input", "outcome", "heartbeat_details", "last_failure")}
    return await p.call("DescribeActivityExecution", activity_id=p.id(name), **(every | fields))


async def _outcome(p: Puppet, name: str = "a") -> Any:
    return await p.call("PollActivityExecution", activity_id=p.id(name))


async def _fail(p: Puppet, task: Any, message: str = "failed", **fields: Any) -> None:
    await p.call(
        "RespondActivityTaskFailed", task_token=task.task_token, identity="worker", failure=failure(message, **fields)
    )


@scenario
async def completes(p: Puppet) -> None:
    await _start(p, input=payloads("in"), header={"fields": {"h": payload("h")}}, heartbeat_timeout=seconds(60))
    await _describe(p)
    task = await p.activity_task()
    await _describe(p)
    await p.complete_activity(task)
    await _outcome(p)
    await _describe(p)
    await p.refused("RespondActivityTaskCompleted", task_token=task.task_token, identity="worker")


@scenario
async def all_its_timeouts(p: Puppet) -> None:
    spans = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")
    for number, given in enumerate(
        cases(
            {"schedule_to_close_timeout": seconds(9), "start_to_close_timeout": None},
            {"schedule_to_close_timeout": seconds(9), "start_to_close_timeout": seconds(20)},
            {"heartbeat_timeout": seconds(50)},
            {"schedule_to_start_timeout": seconds(7)},
        )
    ):
        await _start(p, f"a{number}", **given)
        await _describe(p, f"a{number}")
        await p.activity_task()
    assert spans


@scenario
async def completion_without_result(p: Puppet) -> None:
    await _start(p)
    task = await p.activity_task()
    await p.call("RespondActivityTaskCompleted", task_token=task.task_token, identity="worker")
    await _outcome(p)


@scenario
async def fails_for_good(p: Puppet) -> None:
    await _start(p, retry_policy=ONCE)
    await _fail(p, await p.activity_task())
    await _outcome(p)
    await _describe(p)


@scenario
async def fails_non_retryable(p: Puppet) -> None:
    await _start(p)
    await _fail(p, await p.activity_task(), non_retryable=True)
    await _outcome(p)


@scenario
async def fails_without_a_failure(p: Puppet) -> None:
    await _start(p, retry_policy=ONCE)
    task = await p.activity_task()
    await p.call("RespondActivityTaskFailed", task_token=task.task_token, identity="worker")
    await _outcome(p)


@scenario
async def is_retried(p: Puppet) -> None:
    await _start(p, retry_policy=QUICK)
    await _fail(p, await p.activity_task(), "one")
    task = await p.activity_task()
    await _describe(p)
    await _fail(p, task, "two")
    task = await p.activity_task()
    await p.complete_activity(task)
    await _outcome(p)
    await _describe(p)


@scenario
async def waits_for_its_retry(p: Puppet) -> None:
    await _start(p, retry_policy={"initial_interval": seconds(30)})
    await _fail(p, await p.activity_task(), "one")
    await _describe(p)
    await p.call("RequestCancelActivityExecution", activity_id=p.id("a"), request_id="c", identity="me", reason="why")
    await _outcome(p)
    await _describe(p)


@scenario
async def has_no_time_for_a_retry(p: Puppet) -> None:
    await _start(p, schedule_to_close_timeout=seconds(10), retry_policy={"initial_interval": seconds(30)})
    await _fail(p, await p.activity_task(), "one")
    await _outcome(p)


@scenario
async def the_failure_asks_for_its_retry(p: Puppet) -> None:
    await _start(p)
    await _fail(p, await p.activity_task(), "one", next_retry_delay=seconds(40))
    await _describe(p)


@scenario
async def is_cancelled_before_it_starts(p: Puppet) -> None:
    await _start(p)
    asked: dict[str, Any] = {"activity_id": p.id("a"), "request_id": "c", "identity": "me", "reason": "enough"}
    await p.call("RequestCancelActivityExecution", **asked)
    await _outcome(p)
    await _describe(p)
    await p.call("RequestCancelActivityExecution", **asked)
    await p.refused("RequestCancelActivityExecution", **(asked | {"request_id": "other"}))


@scenario
async def is_cancelled_while_it_runs(p: Puppet) -> None:
    await _start(p)
    task = await p.activity_task()
    await p.refused("RespondActivityTaskCanceled", task_token=task.task_token, identity="worker")
    asked: dict[str, Any] = {"activity_id": p.id("a"), "request_id": "c", "identity": "me", "reason": "enough"}
    await p.call("RequestCancelActivityExecution", **asked)
    await p.refused("RequestCancelActivityExecution", **(asked | {"request_id": "other"}))
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"))
    await _describe(p)
    await p.call("RespondActivityTaskCanceled", task_token=task.task_token, identity="worker", details=payloads("gone"))
    await _outcome(p)
    await _describe(p)


@scenario
async def a_failure_after_the_request_to_cancel(p: Puppet) -> None:
    await _start(p)
    task = await p.activity_task()
    await p.call("RequestCancelActivityExecution", activity_id=p.id("a"), request_id="c")
    await _fail(p, task)
    await _outcome(p)


@scenario
async def is_terminated(p: Puppet) -> None:
    await _start(p)
    task = await p.activity_task()
    asked: dict[str, Any] = {"activity_id": p.id("a"), "request_id": "t", "identity": "me", "reason": "enough"}
    await p.call("TerminateActivityExecution", **asked)
    await p.call("TerminateActivityExecution", **asked)
    await p.refused("TerminateActivityExecution", **(asked | {"request_id": "other"}))
    await p.refused("RequestCancelActivityExecution", **asked)
    await p.refused("RecordActivityTaskHeartbeat", task_token=task.task_token)
    await _outcome(p)
    await _describe(p)


@scenario
async def a_closed_one_can_not_be_terminated(p: Puppet) -> None:
    await _start(p)
    await p.complete_activity(await p.activity_task())
    await p.refused("TerminateActivityExecution", activity_id=p.id("a"), request_id="t")
    await p.refused("RequestCancelActivityExecution", activity_id=p.id("a"), request_id="t")


@scenario
async def heartbeats(p: Puppet) -> None:
    await _start(p, heartbeat_timeout=seconds(20), retry_policy=QUICK)
    task = await p.activity_task()
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("one"))
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("two"))
    await _describe(p)
    await _fail(p, task)
    await p.activity_task()
    await _describe(p)


@scenario
async def by_id(p: Puppet) -> None:
    me: dict[str, Any] = {"activity_id": p.id("a"), "identity": "worker"}
    await p.refused("RespondActivityTaskCompletedById", **me)
    await _start(p, retry_policy=QUICK)
    await p.refused("RecordActivityTaskHeartbeatById", **me)
    await p.refused("RespondActivityTaskFailedById", failure=failure("no"), **me)
    await p.activity_task()
    await p.call("RecordActivityTaskHeartbeatById", details=payloads("one"), **me)
    await p.refused("RespondActivityTaskCanceledById", **me)
    await p.call("RespondActivityTaskFailedById", failure=failure("no"), **me)
    await p.activity_task()
    await p.call("RespondActivityTaskCompletedById", result=payloads("done"), **me)
    await _outcome(p)
    await p.refused("RespondActivityTaskCompletedById", **me)


@scenario
async def completed_by_id_before_it_starts(p: Puppet) -> None:
    await _start(p)
    await p.call("RespondActivityTaskCompletedById", activity_id=p.id("a"), identity="x", result=payloads("done"))
    await _outcome(p)
    await _describe(p)


@scenario
async def id_policies(p: Puppet) -> None:
    first = await _start(p)
    await _start(p)
    again = {"request_id": "other"}
    await p.refused("StartActivityExecution", **_fields(p, **again))
    await _start(p, id_conflict_policy="ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING", **again)
    await p.complete_activity(await p.activity_task())
    await _start(p)
    for policy in ("REJECT_DUPLICATE", "ALLOW_DUPLICATE_FAILED_ONLY"):
        await p.refused(
            "StartActivityExecution", **_fields(p, id_reuse_policy=f"ACTIVITY_ID_REUSE_POLICY_{policy}", **again)
        )
    await _start(p, **again)
    await p.call("TerminateActivityExecution", activity_id=p.id("a"), request_id="t")
    await _start(p, id_reuse_policy="ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY", request_id="third")
    await _describe(p, run_id=first.run_id)


@scenario
async def is_deleted(p: Puppet) -> None:
    run = await _start(p)
    await p.call("DeleteActivityExecution", activity_id=p.id("a"), run_id=run.run_id)
    with suppress(Refused):
        for _ in range(100):
            await p.call("DescribeActivityExecution", record=False, activity_id=p.id("a"))
            await asyncio.sleep(0.05)
    await p.refused("DescribeActivityExecution", activity_id=p.id("a"))


@scenario
async def nothing_is_there(p: Puppet) -> None:
    for rpc in (
        "DescribeActivityExecution", "PollActivityExecution", "RequestCancelActivityExecution",
        "TerminateActivityExecution", "DeleteActivityExecution",
    ):  # fmt: skip
        await p.refused(rpc, activity_id=p.id("none"))
        await p.refused(rpc)
        await p.refused(rpc, activity_id="x" * 1001)
        await p.refused(rpc, activity_id=p.id("none"), run_id="nonsense")
        await p.refused(rpc, activity_id=p.id("none"), run_id="4b0e6a5e-7d0f-4c1b-9f53-0c1d6a3f3a10")


@scenario
async def starts_that_are_refused(p: Puppet) -> None:
    for given in cases(
        {"activity_id": ""},
        {"activity_id": "x" * 1001},
        {"activity_type": {}},
        {"task_queue": {}},
        {"task_queue": None},
        {"start_to_close_timeout": None},
        {"start_to_close_timeout": seconds(-1)},
        {"start_delay": seconds(-1)},
        {"retry_policy": {"maximum_attempts": -1}},
        {"retry_policy": {"backoff_coefficient": 0.5}},
        {"request_id": "x" * 1001},
        {"identity": "x" * 1001},
        {"search_attributes": {"indexed_fields": {"Unheard": attribute('"x"')}}},
        {"priority": {"priority_key": -1}},
        {"user_metadata": {"summary": payload("x" * 500)}},
        {"on_conflict_options": {"attach_request_id": True}},
    ):
        await p.refused("StartActivityExecution", **(_fields(p) | given))


@scenario
async def is_found_in_lists(p: Puppet) -> None:
    for name in ("a", "b", "c"):
        await _start(p, name, task_queue={"name": p.id(name)})
    await p.call("TerminateActivityExecution", activity_id=p.id("c"), request_id="t")
    mine = f"ActivityId STARTS_WITH '{p.prefix}'"
    for query in (
        mine,
        f"{mine} AND ExecutionStatus = 'Running'",
        f"ActivityId IN ('{p.id('a')}', '{p.id('c')}') AND ActivityType = 'Act'",
        f"TaskQueue = '{p.id('b')}'",
        f"{mine} AND ActivityType != 'Act'",
    ):
        for _ in range(6000):
            found = await p.call(
                "CountActivityExecutions", record=False, query=f"{mine} AND ExecutionStatus = 'Terminated'"
            )
            whole = await p.call("CountActivityExecutions", record=False, query=mine)
            if (found.count, whole.count) == (1, 3):
                break
            await asyncio.sleep(0.05)
        listed = await p.call("ListActivityExecutions", record=False, query=query)
        for each in sorted(listed.executions, key=lambda each: str(each.activity_id)):
            p.note(query, p.normalised(each))
        await p.call("CountActivityExecutions", query=query)
    counted = await p.call("CountActivityExecutions", record=False, query=f"{mine} GROUP BY ExecutionStatus")
    p.note("groups", sorted((group.group_values[0].data.decode(), group.count) for group in counted.groups))
    for query in ("Unheard = 1", "ActivityId", f"{mine} ORDER BY StartTime"):
        await p.refused("ListActivityExecutions", query=query)
    for query in (f"WorkflowId STARTS_WITH '{p.prefix}'",):
        await p.call("CountWorkflowExecutions", query=query)


@scenario
async def a_description_is_waited_for(p: Puppet) -> None:
    await _start(p)
    seen = await _describe(p)
    waiting = p.begin(
        "DescribeActivityExecution", activity_id=p.id("a"), run_id=seen.run_id, long_poll_token=seen.long_poll_token
    )
    await p.activity_task()
    await waiting.answer()
    await p.refused("DescribeActivityExecution", activity_id=p.id("a"), long_poll_token=seen.long_poll_token)
    await p.refused("DescribeActivityExecution", activity_id=p.id("a"), run_id=seen.run_id, long_poll_token=b"nonsense")


@slow_scenario
async def times_out(p: Puppet) -> None:
    short = seconds(0.5)
    await _start(p, "schedule-to-start", schedule_to_start_timeout=short)
    await _start(p, "schedule-to-close", schedule_to_close_timeout=short)
    await _outcome(p, "schedule-to-start")
    await _outcome(p, "schedule-to-close")
    await _start(p, "start-to-close", start_to_close_timeout=short, retry_policy=ONCE)
    await p.activity_task()
    await _outcome(p, "start-to-close")
    await _describe(p, "start-to-close")
    await _start(p, "heartbeat", heartbeat_timeout=short, retry_policy={**QUICK, "maximum_attempts": 2})
    for _ in range(2):
        task = await p.activity_task()
        await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("one"))
    await _outcome(p, "heartbeat")
    await _describe(p, "heartbeat")
    await _start(p, "no-time", start_to_close_timeout=short, schedule_to_close_timeout=seconds(1),
                 retry_policy={"initial_interval": seconds(10)})  # fmt: skip
    await p.activity_task()
    await _outcome(p, "no-time")


@slow_scenario
async def start_delay(p: Puppet) -> None:
    await _start(p, start_delay=seconds(1), schedule_to_close_timeout=seconds(30))
    await _describe(p)
    await p.complete_activity(await p.activity_task())
    await _outcome(p)
    await _describe(p)


@scenario
async def pause_and_unpause(p: Puppet) -> None:
    me: dict[str, Any] = {"activity_id": p.id("a"), "identity": "me"}
    await _start(p, retry_policy=QUICK)
    await p.call("PauseActivityExecution", request_id="p1", reason="why", **me)
    await p.call("PauseActivityExecution", request_id="p1", **me)
    await p.refused("PauseActivityExecution", request_id="p2", **me)
    await _describe(p)
    await p.call("UnpauseActivityExecution", request_id="u1", **me)
    task = await p.activity_task()
    await p.refused("UnpauseActivityExecution", request_id="u2", **me)
    await p.call("PauseActivityExecution", request_id="p3", **me)
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token)
    await _describe(p)
    await _fail(p, task)
    await _describe(p)
    await p.call("UnpauseActivityExecution", request_id="u3", **me)
    await p.complete_activity(await p.activity_task())
    await p.refused("PauseActivityExecution", request_id="p4", **me)
    await p.refused("UnpauseActivityExecution", request_id="u4", **me)
    await p.refused("ResetActivityExecution", request_id="r", **me)


@scenario
async def reset(p: Puppet) -> None:
    me: dict[str, Any] = {"activity_id": p.id("a"), "identity": "me"}
    await _start(p, retry_policy={"initial_interval": seconds(60)})
    await _fail(p, await p.activity_task())
    await p.call("ResetActivityExecution", request_id="r1", **me)
    task = await p.activity_task()
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"))
    await p.call("ResetActivityExecution", request_id="r2", reset_heartbeat=True, **me)
    await p.refused("ResetActivityExecution", request_id="r3", **me)
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"))
    await _fail(p, task)
    await p.activity_task()
    await _describe(p)


@scenario
async def options_are_updated(p: Puppet) -> None:
    me: dict[str, Any] = {"activity_id": p.id("a"), "identity": "me"}
    await _start(p, schedule_to_close_timeout=seconds(100))
    other = {
        "task_queue": {"name": p.id("elsewhere")},
        "start_to_close_timeout": seconds(12),
        "heartbeat_timeout": seconds(20),
        "retry_policy": {"maximum_attempts": 3},
    }
    await p.call(
        "UpdateActivityExecutionOptions", request_id="1", activity_options=other,
        update_mask={"paths": ["task_queue.name", "start_to_close_timeout", "heartbeat_timeout",
                               "retry_policy.maximum_attempts"]}, **me,
    )  # fmt: skip
    await _describe(p)
    await p.call("UpdateActivityExecutionOptions", request_id="2", restore_original=True, **me)
    for given in cases(
        {},
        {"activity_options": other},
        {"activity_options": other, "update_mask": {}},
        {"activity_options": other, "update_mask": {"paths": ["nonsense"]}},
        {"activity_options": other, "update_mask": {"paths": ["startDelay"]}},
        {"restore_original": True, "update_mask": {"paths": ["priority"]}},
    ):
        await p.refused("UpdateActivityExecutionOptions", request_id="3", **me, **given)


@scenario
async def links_and_callbacks(p: Puppet) -> None:
    link = {"workflow_event": {"namespace": "default", "workflow_id": p.id("w"), "run_id": p.id("r")}}
    other = {"workflow_event": {"namespace": "default", "workflow_id": p.id("v"), "run_id": p.id("r")}}
    await _start(p, links=[link])
    await _start(
        p, request_id="2", links=[other], id_conflict_policy="ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING",
        on_conflict_options={"attach_request_id": True, "attach_links": True},
    )  # fmt: skip
    described = await _describe(p, record=False)
    p.note("links", sorted(each.workflow_event.workflow_id for each in described.info.links))
    await p.activity_task()
    callback = {"nexus": {"url": "temporal://system", "header": {"Temporal-Callback-Token": "x"}}}
    await _start(p, "b", completion_callbacks=[callback])
    await _describe(p, "b")


@scenario
async def no_workflow_stands_behind_an_activity(p: Puppet) -> None:
    """The RPCs of workflows do not reach what an activity is made of."""
    await _start(p)
    behind = {"workflow_id": f"temporal-sys-activity:{p.id('a')}"}
    await p.refused("TerminateWorkflowExecution", workflow_execution=behind)
    await p.refused("RequestCancelWorkflowExecution", workflow_execution=behind)
    await p.refused("SignalWorkflowExecution", workflow_execution=behind, signal_name="s")
    await p.refused("DescribeWorkflowExecution", execution=behind)
    await p.refused("GetWorkflowExecutionHistory", execution=behind)
    await p.refused("DeleteWorkflowExecution", workflow_execution=behind)
    await p.refused("QueryWorkflow", execution=behind, query={"query_type": "q"})
