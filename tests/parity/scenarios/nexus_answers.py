"""Nexus: what is passed on unset or empty, links of every kind, answers that come too late, worker heartbeats in polls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow
from tests.parity.puppet import payload, seconds
from tests.parity.scenarios import scenario, slow_scenario
from tests.parity.scenarios.nexus import LINK, called, caller, end, endpoint, nexus_task, operation, respond

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.parity.puppet import Puppet

KIND = "temporal.api.common.v1.Link."
SOMEWHERE = "temporal:///namespaces/a%20b"
# Links to workflows are kept by ours as by later releases than the one that is compared with: core/test_nexus.py.
LINKS = [
    LINK,
    {"url": f"{SOMEWHERE}/workflows/w%2F1/r/history?referenceType=RequestIdReference&requestID=q&eventType=WorkflowExecutionSignaled",
     "type": f"{KIND}WorkflowEvent"},
    {"url": f"{SOMEWHERE}/workflows/w%2F1/r/history", "type": f"{KIND}WorkflowEvent"},
    {"url": f"{SOMEWHERE}/activities/a%2F1/r/details", "type": f"{KIND}Activity"},
    {"url": f"{SOMEWHERE}/activities/a/r", "type": f"{KIND}Activity"},
    {"url": f"{SOMEWHERE}/workflows/w/r/history", "type": f"{KIND}Workflow"},
    {"url": f"{SOMEWHERE}/nexus-operations/o/r/details", "type": f"{KIND}NexusOperation"},
    {"url": "https://example.com/batch", "type": f"{KIND}BatchJob"},
    {"url": "https://example.com/x", "type": "something"},
]  # fmt: skip


@scenario
async def start_without_input(p: Puppet) -> None:
    """Unset and empty are told apart: one is no value, the other a payload without an encoding."""
    await endpoint(p)
    await p.start()
    await p.step(
        {
            "command_type": "COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION",
            "schedule_nexus_operation_command_attributes": {
                "endpoint": p.id("endpoint"), "service": "svc", "operation": "op",
            },
        }
    )  # fmt: skip
    await respond(p, await nexus_task(p), start_operation={"sync_success": {}})
    await p.step(operation(p, input={}))
    await respond(p, await nexus_task(p), start_operation={"sync_success": {"payload": {}}})
    await end(p)


@scenario
async def standalone_start_without_input(p: Puppet) -> None:
    await endpoint(p)
    given: dict[str, dict[str, Any]] = {"unset": {}, "empty": {"input": {}}}
    for name, fields in given.items():
        await p.call(
            "StartNexusOperationExecution", operation_id=p.id(name), endpoint=p.id("endpoint"), service="svc",
            operation="op", request_id=p.id(name), schedule_to_close_timeout=seconds(60), **fields,
        )  # fmt: skip
        task = await nexus_task(p)
        await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
        await p.call("PollNexusOperationExecution", operation_id=p.id(name))


@scenario
async def links_of_a_result(p: Puppet) -> None:
    await respond(p, await called(p), start_operation={"sync_success": {"payload": payload("out"), "links": LINKS}})
    await end(p)


@scenario
async def links_of_a_start(p: Puppet) -> None:
    started = {"async_success": {"operation_token": "token", "links": LINKS}}
    await respond(p, await called(p), start_operation=started)
    await end(p)


async def _completed_first(p: Puppet, answers: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """The operation ends by its callback; then the request that it began with is answered."""
    await caller(p)
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())
    request = task.request.start_operation
    callback = {"url": request.callback, "header": {**request.callback_header, "nexus-operation-token": "token"}}
    await p.start(p.id("handler"), task_queue={"name": p.id("handlers")}, completion_callbacks=[{"nexus": callback}])
    handler_task = await p.workflow_task(p.id("handlers"), record=False)
    await p.complete(handler_task, complete_workflow("out"))
    await p.has_event("nexus_operation_completed")
    for rpc, fields in answers:
        await p.attempt(rpc, task_token=task.task_token, identity="worker", **fields)
    await end(p)


STARTED = (
    "RespondNexusTaskCompleted",
    {"response": {"start_operation": {"async_success": {"operation_token": "token"}}}},
)
REFUSED = (
    "RespondNexusTaskFailed",
    {"failure": {"message": "no", "nexus_handler_failure_info": {"type": "INTERNAL"}}},
)


@scenario
async def started_after_the_end(p: Puppet) -> None:
    """The handler could not know: its answer is taken once, and changes nothing."""
    await _completed_first(p, [STARTED, STARTED])


@scenario
async def refused_after_the_end(p: Puppet) -> None:
    await _completed_first(p, [REFUSED, REFUSED])


@scenario
async def answered_after_the_workflow(p: Puppet) -> None:
    task = await called(p)
    await p.terminate()
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await p.history()


@slow_scenario
async def answered_after_a_timeout(p: Puppet) -> None:
    task = await called(p, schedule_to_close_timeout=seconds(6))
    await p.has_event("nexus_operation_timed_out")
    await p.attempt(
        "RespondNexusTaskCompleted", task_token=task.task_token, identity="worker",
        response={"start_operation": {"sync_success": {}}},
    )  # fmt: skip
    await end(p)


@scenario
async def heartbeats_in_polls(p: Puppet) -> None:
    """A worker that only handles Nexus operations tells of itself in its polls."""
    heartbeat = {
        "worker_instance_key": p.id("key"), "worker_identity": "w", "task_queue": p.task_queue,
        "sdk_name": "sdk", "sdk_version": "1", "status": "WORKER_STATUS_RUNNING",
    }  # fmt: skip
    poll = p.begin("PollNexusTaskQueue", record=False, worker_heartbeat=[heartbeat], **p.poll_fields())
    query = f"WorkerInstanceKey = '{p.id('key')}'"
    for _ in range(1000):
        listed = await p.call("ListWorkers", record=False, query=query)
        if listed.workers_info:
            break
        await asyncio.sleep(0.05)
    p.note("workers", [each.worker_heartbeat.worker_identity for each in listed.workers_info])
    await poll.abandon()


@scenario
async def reset_based_on_an_older_run(p: Puppet) -> None:
    """The run in whose place the new one stands is over for good: its callbacks are called."""
    await p.start(p.id("handler"), task_queue={"name": p.id("handlers")})
    first = await p.workflow_task(p.id("handlers"))
    await p.complete(first)
    await p.terminate(p.id("handler"))
    await caller(p)
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())
    request = task.request.start_operation
    callback = {"url": request.callback, "header": {**request.callback_header, "nexus-operation-token": "token"}}
    await p.start(p.id("handler"), task_queue={"name": p.id("handlers")}, completion_callbacks=[{"nexus": callback}])
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(p.id("handler"), first.workflow_execution.run_id),
        workflow_task_finish_event_id=4, request_id=p.id("reset"),
    )  # fmt: skip
    await p.has_event("nexus_operation_failed")
    await end(p)
    await p.history(p.id("handler"))
