"""What a process that lives would do by itself: here the next call does it, whoever's it is."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.functions.client import QUEUE, SCHEDULED, function_url_event, new_events
from tests.functions.talk import ask
from tests.parity import commands
from tests.parity.puppet import payloads, seconds
from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import internal_pb2
from whistlestop.net.internal.transports import unwrap_answer, wrap

if TYPE_CHECKING:
    from tests.functions.client import Cloud


async def test_an_instance_dies_between_its_commit_and_what_follows(cloud: Cloud) -> None:
    """The outbox row stands in the store: a later poll has it delivered."""
    await cloud.start("parent")
    task = await cloud.workflow_task()
    cloud.dies = "history"
    with pytest.raises(ServiceError) as raised:
        await cloud.complete(task, commands.child("leg", "elsewhere"))
    cloud.dies = ""
    assert raised.value.code is Code.UNAVAILABLE
    with pytest.raises(ServiceError) as raised:
        await cloud.status("leg")
    assert raised.value.code is Code.NOT_FOUND

    cloud.later(3)
    task = await cloud.workflow_task()
    assert new_events(task) == ["StartChildWorkflowExecutionInitiated", "ChildWorkflowExecutionStarted"]
    assert await cloud.status("leg") == "RUNNING"


async def test_an_instance_dies_with_a_task_in_its_hands(cloud: Cloud) -> None:
    """The poller never gets it; the task's own timeout brings it back."""
    await cloud.start("order", workflow_task_timeout=seconds(5))
    cloud.dies = "history"
    await cloud.no_workflow_task()
    cloud.dies = ""
    assert (await cloud.event_names("order"))[-1] == "WorkflowTaskStarted"
    cloud.later(6)
    task = await cloud.workflow_task()
    assert (task.attempt, task.workflow_execution.workflow_id) == (2, "order")


async def test_an_envelope_by_http(cloud: Cloud) -> None:
    """Posted to the function's own URL, where functions are not invoked but called."""
    envelope = wrap("HasPoller", internal_pb2.HasPollerRequest(task_queue="line"), CallContext(), SystemClock())
    event = function_url_event("/", json.dumps(envelope).encode(), 5_000)
    answer = await cloud.invoke("matching", event)
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    assert unwrap_answer(json.loads(answer["body"])).data == b""


async def test_a_schedule_fires_what_no_poll_does(cloud: Cloud) -> None:
    """A wake without a word about what is due: history looks."""
    await cloud.start("nap")
    await cloud.step(commands.timer("t", 600))
    assert await cloud.invoke("history", SCHEDULED) == {"timers": 0, "transfers": 0, "queries": 0}
    cloud.later(600)
    assert await cloud.invoke("history", SCHEDULED) == {"timers": 1, "transfers": 0, "queries": 0}
    assert (await cloud.event_names("nap"))[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


async def test_a_caller_that_waits_is_a_clock(cloud: Cloud) -> None:
    """Nobody polls, and yet the run times out while its caller waits for the end."""
    await cloud.start("late", workflow_run_timeout=seconds(30))
    cloud.later(31)
    closed = await cloud.close_event("late")
    assert closed is not None
    assert closed.HasField("workflow_execution_timed_out_event_attributes")


async def test_a_caller_waits_for_what_another_instance_does(cloud: Cloud) -> None:
    await cloud.start("awaited")
    waiting = asyncio.ensure_future(cloud.close_event("awaited"))
    await cloud.step(commands.complete_workflow("done"))
    closed = await waiting
    assert closed is not None
    assert closed.HasField("workflow_execution_completed_event_attributes")


async def test_a_wait_ends_before_its_deadline(cloud: Cloud) -> None:
    """Empty, to be asked again."""
    await cloud.start("open")
    assert await cloud.close_event("open", timeout_ms=1_500) is None


async def test_a_lost_worker_is_found_out(cloud: Cloud) -> None:
    """Its workflow task times out, and so does its activity; both are tried again."""
    await cloud.start("lost", workflow_task_timeout=seconds(5))
    await cloud.workflow_task()
    cloud.later(6)
    task = await cloud.workflow_task()
    assert task.attempt == 2
    await cloud.complete(task, commands.activity("a", QUEUE["name"], start_to_close_timeout=seconds(5)))
    await cloud.activity_task()
    cloud.later(6)
    await cloud.no_workflow_task()
    cloud.later(1)
    assert (await cloud.activity_task()).attempt == 2


async def test_a_sticky_worker_that_left(cloud: Cloud) -> None:
    """Its tasks go back to the normal queue when their time to be started is over."""
    sticky = {"name": "w1", "kind": "TASK_QUEUE_KIND_STICKY", "normal_name": QUEUE["name"]}
    await cloud.start("cached")
    task = await cloud.workflow_task()
    own = {"worker_task_queue": sticky, "schedule_to_start_timeout": seconds(10)}
    await cloud.complete(task, sticky_attributes=own)
    await cloud.call("SignalWorkflowExecution", workflow_execution={"workflow_id": "cached"}, signal_name="one")
    task = await cloud.workflow_task(sticky)
    assert task.history.events[0].event_id == 4
    await cloud.complete(task, sticky_attributes=own)

    await cloud.call("SignalWorkflowExecution", workflow_execution={"workflow_id": "cached"}, signal_name="two")
    await cloud.no_workflow_task()
    cloud.later(10)
    task = await cloud.workflow_task()
    assert task.history.events[0].event_id == 1
    await cloud.complete(task)


async def test_a_query_goes_to_the_sticky_worker_while_it_polls(cloud: Cloud) -> None:
    """Matching knows by its poller rows."""
    sticky = {"name": "w2", "kind": "TASK_QUEUE_KIND_STICKY", "normal_name": QUEUE["name"]}
    await cloud.start("known")
    task = await cloud.workflow_task()
    await cloud.complete(
        task, sticky_attributes={"worker_task_queue": sticky, "schedule_to_start_timeout": seconds(10)}
    )
    await cloud.call("PollWorkflowTaskQueue", task_queue=sticky, identity="worker")
    asking = asyncio.ensure_future(ask(cloud, "known"))
    task = await cloud.workflow_task(sticky)
    assert len(task.history.events) == 0
    await cloud.call(
        "RespondQueryTaskCompleted",
        task_token=task.task_token,
        completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=payloads("here"),
    )
    assert (await asking).payloads[0].data == b'"here"'


async def test_a_terminated_parent_takes_its_child_along(cloud: Cloud) -> None:
    await cloud.start("parent")
    await cloud.step(commands.child("leg", "elsewhere", parent_close_policy="PARENT_CLOSE_POLICY_TERMINATE"))
    await cloud.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "parent"}, reason="enough")
    assert [await cloud.status("parent"), await cloud.status("leg")] == ["TERMINATED", "TERMINATED"]


async def test_a_closed_run_is_deleted_after_its_retention(cloud: Cloud) -> None:
    await cloud.start("old")
    await cloud.step(commands.complete_workflow())
    cloud.later(24 * 3600 + 1)
    assert (await cloud.invoke("history", SCHEDULED))["timers"] == 1
    with pytest.raises(ServiceError) as raised:
        await cloud.status("old")
    assert raised.value.code is Code.NOT_FOUND


async def test_not_an_envelope(cloud: Cloud) -> None:
    """A call that makes no sense gets an error to read, and does nothing."""
    for function in ("history", "matching"):
        answer = await cloud.invoke(function, {"method": "StartWorkflowExecution", "request": 7})
        assert answer["error"]["code"] == Code.INVALID_ARGUMENT
        answer = await cloud.invoke(function, {"method": "Derail", "request": ""})
        assert answer["error"]["code"] == Code.UNIMPLEMENTED


async def test_heartbeats_of_workers(cloud: Cloud) -> None:
    """Told to one instance, listed by another; gone when the worker says goodbye, or was not heard for long."""
    for key in ("k1", "k2"):
        beat = {"worker_instance_key": key, "worker_identity": f"worker-{key}", "task_queue": QUEUE["name"]}
        await cloud.call("RecordWorkerHeartbeat", identity="worker", worker_heartbeat=[beat])
    assert await _workers(cloud) == ["k1", "k2"]
    last = {"worker_instance_key": "k1", "status": "WORKER_STATUS_SHUTDOWN"}
    await cloud.call("ShutdownWorker", identity="worker-k1", worker_heartbeat=last, worker_instance_key="k1")
    assert await _workers(cloud) == ["k2"]
    cloud.later(600)
    assert await _workers(cloud) == []


async def _workers(cloud: Cloud) -> list[str]:
    """As matching knows them, asked as the frontend asks."""
    namespace = (await cloud.call("DescribeNamespace")).namespace_info
    context = CallContext(namespace_id=namespace.id, namespace=namespace.name)
    envelope = wrap("ListWorkers", rr.ListWorkersRequest(), context, SystemClock())
    listed = rr.ListWorkersResponse.FromString(unwrap_answer(await cloud.invoke("matching", envelope)).data)
    return [info.worker_instance_key for info in listed.workers]
