"""Whole workflows through the three handlers, on both stores, with a fresh process for every call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.functions.client import QUEUE, new_events, said
from tests.functions.talk import accepted, ask, rejected, responded, update, update_fields
from tests.parity import commands
from tests.parity.puppet import payloads, seconds

if TYPE_CHECKING:
    from tests.functions.client import Cloud

_DISCARDS = {"discard_speculative_workflow_task_with_events": True}


async def _through_an_activity(cloud: Cloud) -> None:
    """An activity that fails once, heartbeats, and succeeds at its second attempt."""
    await cloud.start("order")
    # The timeouts are of real time: fresh interpreters take long where others work, too.
    timeouts = {"heartbeat_timeout": seconds(3600), "schedule_to_close_timeout": seconds(36_000)}
    await cloud.step(commands.activity("charge", QUEUE["name"], **timeouts))

    first = await cloud.activity_task()
    await cloud.call(
        "RespondActivityTaskFailed",
        task_token=first.task_token,
        failure={"message": "no signal", "application_failure_info": {"type": "Signal"}},
    )
    cloud.later(1)
    second = await cloud.activity_task()
    assert (first.activity_id, first.attempt, second.attempt) == ("charge", 1, 2)
    beat = await cloud.call("RecordActivityTaskHeartbeat", task_token=second.task_token, details=payloads("half"))
    assert not beat.cancel_requested
    await cloud.call("RespondActivityTaskCompleted", task_token=second.task_token, result=payloads("paid"))

    task = await cloud.step(commands.complete_workflow("done"))
    assert new_events(task) == ["ActivityTaskScheduled", "ActivityTaskStarted", "ActivityTaskCompleted"]
    assert await cloud.status("order") == "COMPLETED"
    history = await cloud.history("order")
    assert history[-1].workflow_execution_completed_event_attributes.result == said("done")
    assert [event.event_id for event in history] == list(range(1, 12))


async def test_activity_with_a_retry(cloud: Cloud) -> None:
    await _through_an_activity(cloud)


@pytest.mark.slow
async def test_activity_in_new_interpreters(cold_cloud: Cloud) -> None:
    """Not even what importing leaves behind is shared."""
    await _through_an_activity(cold_cloud)


async def test_timer_in_new_interpreters(cold_cloud: Cloud) -> None:
    """The same in short."""
    await cold_cloud.start("short")
    await cold_cloud.step(commands.timer("t", 60))
    cold_cloud.later(60)
    task = await cold_cloud.step(commands.complete_workflow("done"))
    assert new_events(task) == ["TimerStarted", "TimerFired"]
    closed = await cold_cloud.close_event("short")
    assert closed is not None
    assert closed.workflow_execution_completed_event_attributes.result == said("done")


async def test_timer_of_an_hour(cloud: Cloud) -> None:
    """Nothing runs meanwhile; the first poll after it fires it."""
    await cloud.start("nap")
    await cloud.step(commands.timer("t", 3600))
    await cloud.no_workflow_task()
    cloud.later(3600)
    task = await cloud.step(commands.complete_workflow())
    assert new_events(task) == ["TimerStarted", "TimerFired"]
    assert await cloud.status("nap") == "COMPLETED"


async def test_signals(cloud: Cloud) -> None:
    """One between tasks, one while a task is at its worker."""
    await cloud.start("door")
    await cloud.step()
    await cloud.call(
        "SignalWorkflowExecution", workflow_execution={"workflow_id": "door"}, signal_name="knock", input=payloads("1")
    )
    task = await cloud.workflow_task()
    await cloud.call("SignalWorkflowExecution", workflow_execution={"workflow_id": "door"}, signal_name="ring")
    await cloud.complete(task)
    assert new_events(task) == ["WorkflowExecutionSignaled"]
    last = await cloud.step(commands.complete_workflow())
    assert new_events(last) == ["WorkflowExecutionSignaled"]
    names = [e.workflow_execution_signaled_event_attributes.signal_name for e in last.history.events]
    assert [name for name in names if name] == ["knock", "ring"]


async def test_signal_with_start(cloud: Cloud) -> None:
    await cloud.call(
        "SignalWithStartWorkflowExecution",
        workflow_id="both",
        workflow_type={"name": "Journey"},
        task_queue=QUEUE,
        signal_name="go",
        request_id="r",
    )
    task = await cloud.step(commands.complete_workflow())
    assert new_events(task) == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]


async def test_direct_query(cloud: Cloud) -> None:
    """Asked on one instance, answered on another, waited for on a third: of an open run, and of a closed one."""
    await cloud.start("asked")
    await cloud.step()
    for state in ("waiting", "gone"):
        asking = asyncio.ensure_future(ask(cloud, "asked"))
        task = await cloud.workflow_task()
        assert task.query.query_type == "state"
        assert [event.event_id for event in task.history.events][:3] == [1, 2, 3]
        await cloud.call(
            "RespondQueryTaskCompleted",
            task_token=task.task_token,
            completed_type="QUERY_RESULT_TYPE_ANSWERED",
            query_result=payloads(state),
        )
        assert await asking == said(state)
        if state == "waiting":
            await cloud.call("SignalWorkflowExecution", workflow_execution={"workflow_id": "asked"}, signal_name="end")
            await cloud.step(commands.complete_workflow())


async def test_query_that_goes_with_a_workflow_task(cloud: Cloud) -> None:
    """A query waits for the pending task, goes out with it and comes back with its completion."""
    await cloud.start("busy")
    asking = asyncio.ensure_future(ask(cloud, "busy"))
    while True:
        described = await cloud.call("DescribeTaskQueue", task_queue=QUEUE, task_queue_type="TASK_QUEUE_TYPE_WORKFLOW")
        assert described.DESCRIPTOR.name == "DescribeTaskQueueResponse"
        task = await cloud.workflow_task()
        if task.queries:
            break
        # The query came later than the task's start: it goes with the next one.
        await cloud.complete(task, force_create_new_workflow_task=True)
    ((query_id, query),) = task.queries.items()
    assert query.query_type == "state"
    answer = {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads("moving")}
    await cloud.complete(task, commands.complete_workflow(), query_results={query_id: answer})
    assert await asking == said("moving")


async def test_update(cloud: Cloud) -> None:
    """Accepted and completed on other instances than the one that waits for it; a rejected one leaves no event."""
    await cloud.start("scale")
    await cloud.step()
    updating = asyncio.ensure_future(update(cloud, "scale", "u1"))
    task = await cloud.workflow_task()
    accept, respond = accepted(task), responded(task, "weighed")
    await cloud.complete(
        task, commands.protocol_message("a"), commands.protocol_message("r"), messages=[accept, respond]
    )
    outcome = await updating
    assert outcome.success == said("weighed")

    refusing = asyncio.ensure_future(update(cloud, "scale", "u2"))
    task = await cloud.workflow_task()
    await cloud.complete(task, messages=[rejected(task, "no")], capabilities=_DISCARDS)
    assert (await refusing).failure.message == "no"
    names = await cloud.event_names("scale")
    assert names[4:] == [
        "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted",
        "WorkflowExecutionUpdateAccepted", "WorkflowExecutionUpdateCompleted",
    ]  # fmt: skip


async def test_update_with_start(cloud: Cloud) -> None:
    execution = {"workflow_id": "fresh"}
    start = {
        "namespace": "default", "workflow_type": {"name": "Journey"}, "task_queue": QUEUE, "request_id": "r", **execution,
        "workflow_id_conflict_policy": "WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING",
    }  # fmt: skip
    update = {"namespace": "default", "workflow_execution": execution, **update_fields("u")}
    calling = asyncio.ensure_future(
        cloud.call("ExecuteMultiOperation", operations=[{"start_workflow": start}, {"update_workflow": update}])
    )
    task = await cloud.workflow_task()
    await cloud.complete(
        task,
        commands.protocol_message("a"),
        commands.protocol_message("r"),
        messages=[accepted(task), responded(task, "hello")],
    )
    started, updated = (await calling).responses
    assert started.start_workflow.run_id == task.workflow_execution.run_id
    assert updated.update_workflow.outcome.success == said("hello")


async def test_child_that_continues_as_new(cloud: Cloud) -> None:
    """The child's start and end reach its parent within the calls that caused them."""
    await cloud.start("parent")
    await cloud.step(commands.child("leg", QUEUE["name"]))
    seen: dict[str, list[str]] = {"parent": [], "leg": []}
    legs: set[str] = set()
    while seen["parent"][-1:] != ["ChildWorkflowExecutionCompleted"]:
        task = await cloud.workflow_task()
        workflow_id, run_id = task.workflow_execution.workflow_id, task.workflow_execution.run_id
        seen[workflow_id] += new_events(task)
        if workflow_id == "parent":
            done = "ChildWorkflowExecutionCompleted" in seen["parent"]
            await cloud.complete(task, *([commands.complete_workflow()] if done else []))
        else:
            legs.add(run_id)
            command = commands.complete_workflow("there") if len(legs) == 2 else commands.continue_as_new(QUEUE["name"])
            await cloud.complete(task, command)
            cloud.later(1)
    assert seen == {
        "parent": [
            "StartChildWorkflowExecutionInitiated", "ChildWorkflowExecutionStarted", "ChildWorkflowExecutionCompleted",
        ],
        "leg": ["WorkflowExecutionStarted", "WorkflowExecutionStarted"],
    }  # fmt: skip
    assert await cloud.status("parent") == "COMPLETED"
    listed = await cloud.call("ListWorkflowExecutions", query="WorkflowId = 'leg'")
    assert sorted(e.status for e in listed.executions) == [2, 6]


async def test_signals_and_cancels_between_workflows(cloud: Cloud) -> None:
    await cloud.start("near")
    await cloud.step(commands.signal_external("far"), commands.cancel_external("far"))
    assert new_events(await cloud.step(commands.complete_workflow())) == [
        "SignalExternalWorkflowExecutionInitiated", "RequestCancelExternalWorkflowExecutionInitiated",
        "SignalExternalWorkflowExecutionFailed", "RequestCancelExternalWorkflowExecutionFailed",
    ]  # fmt: skip
    await cloud.start("far", task_queue={"name": "elsewhere"})
    await cloud.start("again")
    await cloud.step(commands.signal_external("far"))
    assert new_events(await cloud.step(commands.complete_workflow())) == [
        "SignalExternalWorkflowExecutionInitiated", "ExternalWorkflowExecutionSignaled",
    ]  # fmt: skip
    task = await cloud.workflow_task({"name": "elsewhere"})
    assert new_events(task) == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
