"""Batch operations: what they do to those they mean, how they are described, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import activity, complete_workflow
from tests.parity.puppet import Refused, cases, payloads, seconds
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

_ENDED = 2


async def _batch(p: Puppet, name: str = "job", **fields: Any) -> Any:
    """Start a job, wait until it has ended, and write down how. One runs at a time in a namespace: others wait."""
    for _ in range(3000):
        try:
            await p.call("StartBatchOperation", record=False, job_id=p.id(name), **{"reason": "why", **fields})
            break
        except Refused as refusal:
            if refusal.code != "RESOURCE_EXHAUSTED":
                raise
            await asyncio.sleep(0.1)
    for _ in range(6000):
        described = await p.call("DescribeBatchOperation", record=False, job_id=p.id(name))
        if described.state >= _ENDED:
            break
        await asyncio.sleep(0.05)
    return await p.call("DescribeBatchOperation", job_id=p.id(name))


async def _two(p: Puppet, **fields: Any) -> list[str]:
    """Two running workflows that lists show."""
    ids = [p.id("a"), p.id("b")]
    for each in ids:
        await p.start(each, **fields)
    await p.listed(f"WorkflowId STARTS_WITH '{p.prefix}' AND ExecutionStatus = 'Running'", count=2)
    return ids


def _query(p: Puppet) -> str:
    return f"TaskQueue = '{p.task_queue}'"


@scenario
async def terminates_by_query(p: Puppet) -> None:
    ids = await _two(p)
    await _batch(p, visibility_query=_query(p), termination_operation={"identity": "client"})
    for each in ids:
        closed = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(each))
        p.note("status", closed.workflow_execution_info.status)


@scenario
async def signals_a_list(p: Puppet) -> None:
    ids = await _two(p)
    await _batch(
        p, executions=[p.execution(each) for each in (*ids, p.id("nobody"))],
        signal_operation={"signal": "s", "input": payloads("x"), "identity": "client"},
    )  # fmt: skip
    for each in ids:
        await p.history(each)
        await p.terminate(each)


@scenario
async def cancels_and_deletes(p: Puppet) -> None:
    ids = await _two(p)
    await _batch(p, "cancel", visibility_query=_query(p), cancellation_operation={"identity": "client"})
    for each in ids:
        await p.has_event("workflow_execution_cancel_requested", each)
        events = (await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(each))).history.events
        p.note("cause", events[-1].workflow_execution_cancel_requested_event_attributes.cause)
    await _batch(p, "delete", executions=[p.execution(each) for each in ids], deletion_operation={"identity": "client"})
    for each in ids:
        for _ in range(6000):
            try:
                await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(each))
            except Refused as refusal:
                p.note("gone", refusal.code)
                break
            await asyncio.sleep(0.05)


@scenario
async def resets_to_the_first_task(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow("r"))
    await _batch(
        p, executions=[p.execution()],
        reset_operation={"options": {"first_workflow_task": {}}, "identity": "client"},
    )  # fmt: skip
    await p.history()
    await p.step(complete_workflow("again"))


@scenario
async def resets_and_changes_options_of_the_new_run(p: Puppet) -> None:
    """A signal after the reset is in the API, and refused by the server: that batch ends with a failure."""
    await p.start()
    await p.step(complete_workflow("r"))
    options = {
        "workflow_execution_options": {"versioning_override": {"auto_upgrade": True}},
        "update_mask": {"paths": ["versioning_override"]},
    }
    operations: dict[str, dict[str, Any]] = {
        "signal": {"signal_workflow": {"signal_name": "after", "input": payloads("x")}},
        "options": {"update_workflow_options": options},
    }
    for name, operation in operations.items():
        reset = {
            "options": {"first_workflow_task": {}}, "identity": "client", "post_reset_operations": [operation],
        }  # fmt: skip
        await _batch(p, name, executions=[p.execution()], reset_operation=reset)
    await p.history()
    await p.terminate()


@scenario
async def updates_options_of_workflows(p: Puppet) -> None:
    ids = await _two(p)
    options = {"versioning_override": {"auto_upgrade": True}}
    await _batch(
        p, visibility_query=_query(p),
        update_workflow_options_operation={
            "identity": "client", "workflow_execution_options": options,
            "update_mask": {"paths": ["versioning_override"]},
        },
    )  # fmt: skip
    for each in ids:
        described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(each))
        p.note("override", p.normalised(described.workflow_execution_info.versioning_info))
        await p.history(each)
        await p.terminate(each)


async def _failed_once(p: Puppet) -> None:
    """A workflow with an activity whose second attempt waits for an hour."""
    await p.start()
    retry = {"initial_interval": seconds(3600), "backoff_coefficient": 1.0}
    await p.step(activity("a", p.task_queue, retry_policy=retry, schedule_to_close_timeout=seconds(36000)))
    await p.fail_activity(await p.activity_task(record=False))


@scenario
async def resets_activities(p: Puppet) -> None:
    await _failed_once(p)
    await _batch(p, executions=[p.execution()], reset_activities_operation={"type": "Act", "identity": "client"})
    task = await p.activity_task()
    p.note("attempt", task.attempt)
    await p.complete_activity(task)
    await p.terminate()


@scenario
async def updates_options_of_activities(p: Puppet) -> None:
    """Not with `restore_original`: the real server, version 1.32, does not survive that."""
    await _failed_once(p)
    await _batch(
        p, executions=[p.execution()],
        update_activity_options_operation={
            "match_all": True, "identity": "client",
            "activity_options": {"start_to_close_timeout": seconds(7), "retry_policy": {"maximum_attempts": 4}},
            "update_mask": {"paths": ["start_to_close_timeout", "retry_policy.maximum_attempts"]},
        },
    )  # fmt: skip
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    for each in described.pending_activities:
        p.note("options", p.normalised(each.activity_options))
    await p.terminate()


@scenario
async def unpauses_activities(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.call("PauseActivity", execution=p.execution(), id="a", identity="client")
    await _batch(p, executions=[p.execution()], unpause_activities_operation={"match_all": True, "identity": "client"})
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    p.note("paused", [each.paused for each in described.pending_activities])
    await p.terminate()


@scenario
async def a_job_id_is_used_once(p: Puppet) -> None:
    await p.start()
    await _batch(p, executions=[p.execution()], termination_operation={})
    again = {"job_id": p.id("job"), "reason": "why", "executions": [p.execution()], "termination_operation": {}}
    for _ in range(3000):
        # Until the real server's count of running jobs, which it takes from visibility, has noticed the end.
        if (await p.refused("StartBatchOperation", record=False, **again)).code != "RESOURCE_EXHAUSTED":
            break
        await asyncio.sleep(0.1)
    await p.refused("StartBatchOperation", **again)
    await p.refused("StopBatchOperation", job_id=p.id("job"), reason="too late")


@scenario
async def ends_standalone_activities(p: Puppet) -> None:
    for name in ("a", "b"):
        await p.call(
            "StartActivityExecution", record=False, activity_id=p.id(name), activity_type={"name": "Act"},
            task_queue={"name": p.task_queue}, start_to_close_timeout=seconds(30), request_id=p.id(name),
        )  # fmt: skip
    query = f"TaskQueue = '{p.task_queue}'"
    for _ in range(6000):
        if (await p.call("CountActivityExecutions", record=False, query=query)).count == len("ab"):
            break
        await asyncio.sleep(0.05)
    await _batch(
        p, "one", target_executions=[{"type": "EXECUTION_TYPE_ACTIVITY", "business_id": p.id("a")}],
        cancel_activities_operation={"identity": "client", "reason": "why"},
    )  # fmt: skip
    await _batch(p, "all", visibility_query=query, terminate_activities_operation={"reason": "why"})
    for name in ("a", "b"):
        described = await p.call("DescribeActivityExecution", record=False, activity_id=p.id(name))
        p.note(name, described.info.status)


@scenario
async def bad_requests(p: Puppet) -> None:
    good: dict[str, Any] = {
        "job_id": p.id("job"), "reason": "why", "visibility_query": "WorkflowId = 'x'", "termination_operation": {},
    }  # fmt: skip
    for fields in cases(
        {"job_id": ""},
        {"reason": ""},
        {"visibility_query": ""},
        {"executions": [p.execution()]},
        {"target_executions": [{"type": "EXECUTION_TYPE_WORKFLOW", "business_id": "x"}]},
        {"signal_operation": {}},
        {"reset_operation": {}},
        {"reset_operation": {"options": {}}},
        {"update_workflow_options_operation": {}},
        {"update_workflow_options_operation": {"workflow_execution_options": {}}},
        {"unpause_activities_operation": {}},
        {"unpause_activities_operation": {"type": ""}},
        {"unpause_activities_operation": {"match_all": False}},
        {"reset_activities_operation": {}},
        {"reset_activities_operation": {"type": ""}},
        {"update_activity_options_operation": {"match_all": True}},
        {"update_activity_options_operation": {"activity_options": {}, "restore_original": True}},
    ):
        await p.attempt("StartBatchOperation", **{**good, **fields})
    await p.refused("StartBatchOperation", job_id=p.id("job"), reason="why", visibility_query="WorkflowId = 'x'")
    await p.refused("DescribeBatchOperation", job_id="")
    await p.refused("DescribeBatchOperation", job_id=p.id("nobody"))
    await p.refused("StopBatchOperation", job_id="", reason="why")
    await p.refused("StopBatchOperation", job_id=p.id("nobody"), reason="")
    await p.refused("StopBatchOperation", job_id=p.id("nobody"), reason="why")
    await p.refused("ListBatchOperations", namespace="nowhere")


async def _standalone(p: Puppet) -> None:
    """Two running activities of a type that is theirs alone, which lists show, and one of another type."""
    for name, kind in (("one", "kind"), ("two", "kind"), ("three", "other")):
        await p.call(
            "StartActivityExecution", activity_id=p.id(name), activity_type={"name": p.id(kind)},
            task_queue={"name": p.id("nobody")}, request_id=p.id(name), schedule_to_close_timeout=seconds(600),
        )  # fmt: skip
    for _ in range(1000):
        listed = await p.call("CountActivityExecutions", record=False, query=f"ActivityId STARTS_WITH '{p.prefix}'")
        if listed.count == 3:
            return
        await asyncio.sleep(0.05)


async def _statuses(p: Puppet) -> None:
    for name in ("one", "two", "three"):
        try:
            described = await p.call("DescribeActivityExecution", record=False, activity_id=p.id(name))
            p.note(name, described.info.status)
        except Refused as refusal:
            p.note(name, refusal.code)
    await p.attempt("TerminateActivityExecution", activity_id=p.id("three"), request_id=p.id("end"))


@scenario
async def terminates_standalone_activities_by_type(p: Puppet) -> None:
    await _standalone(p)
    await _batch(
        p, visibility_query=f"ActivityType = '{p.id('kind')}'", terminate_activities_operation={"identity": "client"}
    )
    await _statuses(p)


@scenario
async def cancels_standalone_activities_by_id(p: Puppet) -> None:
    await _standalone(p)
    ids = f"ActivityId IN ('{p.id('one')}', '{p.id('two')}')"
    await _batch(p, visibility_query=ids, cancel_activities_operation={"identity": "client"})
    await _statuses(p)


@scenario
async def deletes_standalone_activities(p: Puppet) -> None:
    await _standalone(p)
    await _batch(p, visibility_query=f"ActivityType = '{p.id('kind')}'", delete_activities_operation={})
    await _statuses(p)
