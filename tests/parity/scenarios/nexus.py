"""Nexus: endpoints, operations that workflows call, their ends, and what a handler may answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import cancel_workflow, command, complete_workflow, fail_workflow
from tests.parity.puppet import failure, payload, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

SCHEDULED_EVENT = 5
LINK = {
    "url": (
        "temporal:///namespaces/other%20one/workflows/there/run/history"
        "?eventID=1&eventType=WorkflowExecutionStarted&referenceType=EventReference"
    ),
    "type": "temporal.api.common.v1.Link.WorkflowEvent",
}


# ---- endpoints -------------------------------------------------------------------------------------------------------


def spec(p: Puppet, name: str = "endpoint", **fields: Any) -> dict[str, Any]:
    target = {"worker": {"namespace": "default", "task_queue": p.task_queue}}
    return {"name": p.id(name), "target": target, **fields}


async def endpoint(p: Puppet) -> Any:
    return (await p.call("CreateNexusEndpoint", record=False, spec=spec(p))).endpoint


@scenario
async def endpoints_come_and_go(p: Puppet) -> None:
    made = (await p.call("CreateNexusEndpoint", spec=spec(p, description=payload("why")))).endpoint
    await p.call("GetNexusEndpoint", id=made.id)
    await p.call("ListNexusEndpoints", name=p.id("endpoint"))
    await p.call("ListNexusEndpoints", name=p.id("nobody"))
    outside = {"name": p.id("endpoint"), "target": {"external": {"url": "https://example.com/nexus"}}}
    changed = await p.call("UpdateNexusEndpoint", record=False, id=made.id, version=1, spec=outside)
    p.note("changed", [changed.endpoint.version, changed.endpoint.HasField("last_modified_time")])
    await p.refused("UpdateNexusEndpoint", id=made.id, version=1, spec=outside)
    await p.call("DeleteNexusEndpoint", id=made.id, version=2)
    await p.refused("GetNexusEndpoint", id=made.id)
    await p.refused("DeleteNexusEndpoint", id=made.id, version=2)
    await p.refused("UpdateNexusEndpoint", id=made.id, version=2, spec=outside)


@scenario
async def endpoints_that_are_refused(p: Puppet) -> None:
    await endpoint(p)
    await p.refused("CreateNexusEndpoint", spec=spec(p))
    worker = {"namespace": "default", "task_queue": "q"}
    targets: tuple[dict[str, Any], ...] = (
        {},
        {"worker": {**worker, "namespace": ""}},
        {"worker": {**worker, "namespace": "nowhere"}},
        {"worker": {**worker, "task_queue": ""}},
        {"worker": {**worker, "task_queue": "/_sys/q"}},
        {"external": {}},
        {"external": {"url": "ftp://host/"}},
        {"external": {"url": "https://" + "x" * 5000}},
        {"external": {"url": "-http://host/"}},
        {"external": {"url": "://host/"}},
        {"external": {"url": "host/a:b"}},
    )
    for target in targets:
        await p.refused("CreateNexusEndpoint", spec={"name": p.id("other"), "target": target})
    for name in ("", "x", "1x", "a b", "a-", "n" * 300):
        await p.refused("CreateNexusEndpoint", spec={"name": name, "target": {"worker": worker}})
    await p.refused("GetNexusEndpoint", id="")
    await p.refused("GetNexusEndpoint", id="short")
    await p.refused("DeleteNexusEndpoint", id="", version=0)
    await p.refused("ListNexusEndpoints", page_size=-1)
    await p.refused("ListNexusEndpoints", page_size=5000)


# ---- operations ------------------------------------------------------------------------------------------------------


def operation(p: Puppet, **fields: Any) -> dict[str, Any]:
    fields = {"service": "svc", "operation": "op", "input": payload("in"), "nexus_header": {"Trace": "1"}, **fields}
    fields.setdefault("endpoint", p.id("endpoint"))
    return command("schedule_nexus_operation", **fields)


def cancel(scheduled_event_id: int = SCHEDULED_EVENT) -> dict[str, Any]:
    return command("request_cancel_nexus_operation", scheduled_event_id=scheduled_event_id)


async def nexus_task(p: Puppet, **worker: Any) -> Any:
    """Poll a task; what may be compared of it goes into the transcript."""
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields(), **worker)
    request = task.request
    p.note("names of headers", sorted(name.lower() for name in request.header))
    p.note("trace", request.header.get("trace", ""))
    if request.HasField("start_operation"):
        request.start_operation.callback_header.clear()
    request.header.clear()
    p.note("task", p.normalised(request))
    return task


async def respond(p: Puppet, task: Any, **response: Any) -> None:
    await p.attempt("RespondNexusTaskCompleted", task_token=task.task_token, identity="worker", response=response)


async def refuse(p: Puppet, task: Any, kind: str, *, cause: dict[str, Any] | None = None, **info: Any) -> None:
    refusal: dict[str, Any] = {"message": "no", "nexus_handler_failure_info": {"type": kind, **info}}
    if cause is not None:
        refusal["cause"] = cause
    await p.attempt("RespondNexusTaskFailed", task_token=task.task_token, identity="worker", failure=refusal)


async def called(p: Puppet, **fields: Any) -> Any:
    """A workflow that has called an operation, and the task of it."""
    await endpoint(p)
    await p.start()
    await p.step(operation(p, **fields))
    return await nexus_task(p)


async def end(p: Puppet) -> None:
    await p.step(complete_workflow())
    await p.history()


@scenario
async def operation_answered_at_once(p: Puppet) -> None:
    task = await called(p)
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out"), "links": [LINK]}})
    await respond(p, task, start_operation={"sync_success": {"payload": payload("again")}})
    await end(p)


@scenario
async def pending_operations_are_described(p: Puppet) -> None:
    task = await called(p)
    await p.describe()
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    await p.describe()
    await p.step(cancel())
    await p.describe()
    await p.terminate()


@scenario
async def pending_operations_with_timeouts_are_described(p: Puppet) -> None:
    """Also those of zero, which are none."""
    await called(
        p,
        schedule_to_close_timeout=seconds(90),
        schedule_to_start_timeout=seconds(0),
        start_to_close_timeout=seconds(50),
    )
    await p.describe()
    await p.terminate()


@scenario
async def operation_without_result(p: Puppet) -> None:
    await respond(p, await called(p), start_operation={"sync_success": {}})
    await end(p)


@scenario
async def operation_fails(p: Puppet) -> None:
    await respond(p, await called(p), start_operation={"failure": failure("bad", "Kind", non_retryable=True)})
    await end(p)


@scenario
async def operation_says_canceled(p: Puppet) -> None:
    canceled = {"message": "stopped", "canceled_failure_info": {}}
    await respond(p, await called(p), start_operation={"failure": canceled})
    await end(p)


@scenario
async def handler_refuses_for_good(p: Puppet) -> None:
    await refuse(p, await called(p), "BAD_REQUEST")
    await end(p)


@scenario
async def handler_calls_its_refusal_final(p: Puppet) -> None:
    behavior = "NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE"
    await refuse(p, await called(p), "INTERNAL", retry_behavior=behavior)
    await end(p)


@slow_scenario
async def handler_refuses_for_now(p: Puppet) -> None:
    await refuse(p, await called(p), "UNAVAILABLE")
    for _ in range(10000):
        described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
        pending = described.pending_nexus_operations[0]
        if pending.HasField("last_attempt_failure"):
            break
        await asyncio.sleep(0.03)
    p.note("backing off", [pending.state, pending.attempt, p.normalised(pending.last_attempt_failure)])
    task = await nexus_task(p)
    await respond(p, task, start_operation={"sync_success": {"payload": payload("out")}})
    await end(p)


@scenario
async def operation_goes_on_and_is_described(p: Puppet) -> None:
    task = await called(p, schedule_to_close_timeout=seconds(60))
    await respond(p, task, start_operation={"async_success": {"operation_token": "token", "links": [LINK]}})
    await p.has_event("nexus_operation_started")
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    p.note("pending", [p.normalised(each) for each in described.pending_nexus_operations])
    await p.history()
    await p.terminate()


@scenario
async def request_to_cancel(p: Puppet) -> None:
    task = await called(p)
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.step(cancel())
    task = await nexus_task(p)
    await respond(p, task, cancel_operation={})
    await p.has_event("nexus_operation_cancel_request_completed")
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    p.note("pending", [p.normalised(each) for each in described.pending_nexus_operations])
    await end(p)


@scenario
async def request_to_cancel_is_refused(p: Puppet) -> None:
    task = await called(p)
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.step(cancel())
    await refuse(p, await nexus_task(p), "NOT_FOUND")
    await end(p)


@scenario
async def request_to_cancel_before_the_start(p: Puppet) -> None:
    task = await called(p)
    await p.signal("go on")
    await p.step(cancel())
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await respond(p, await nexus_task(p), cancel_operation={})
    await p.has_event("nexus_operation_cancel_request_completed")
    await end(p)


@scenario
async def commands_that_fail_the_task(p: Puppet) -> None:
    await endpoint(p)
    bad = (
        operation(p, endpoint=p.id("nowhere")),
        operation(p, service="s" * 1001),
        operation(p, operation="o" * 1001),
        operation(p, nexus_header={"Request-Timeout": "1s"}),
        operation(p, nexus_header={"h": "x" * 9000}),
        operation(p, schedule_to_close_timeout=seconds(-1)),
        cancel(99),
    )
    for each in bad:
        await p.start(p.id("bad"), workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING")
        await p.bad_step(each)
    await p.terminate(p.id("bad"))


@scenario
async def timeouts_are_trimmed(p: Puppet) -> None:
    await endpoint(p)
    await p.start(workflow_run_timeout=seconds(50))
    longer = {"schedule_to_start_timeout": seconds(300), "start_to_close_timeout": seconds(400)}
    await p.step(operation(p, **longer), operation(p, schedule_to_close_timeout=seconds(20), **longer))
    await p.history()
    await p.terminate()


@scenario
async def too_little_time_for_a_request(p: Puppet) -> None:
    await endpoint(p)
    await p.start()
    await p.step(operation(p, schedule_to_close_timeout=seconds(1)))
    await end(p)


@slow_scenario
async def started_operation_times_out(p: Puppet) -> None:
    task = await called(p, start_to_close_timeout=seconds(1))
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_timed_out")
    await end(p)


# ---- completion by callback ------------------------------------------------------------------------------------------


async def handled_by_a_workflow(p: Puppet, closing: dict[str, Any], ending: str, *, answer: bool = True) -> None:
    """The handler starts a workflow, whose end is the operation's."""
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())
    request = task.request.start_operation
    callback = {"url": request.callback, "header": {**request.callback_header, "nexus-operation-token": "token"}}
    await p.start(
        p.id("handler"),
        task_queue={"name": p.id("handlers")},
        request_id=request.request_id,
        completion_callbacks=[{"nexus": callback}],
    )
    if answer:
        await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    handler_task = await p.workflow_task(p.id("handlers"), record=False)
    await p.complete(handler_task, closing)
    await p.has_event(f"nexus_operation_{ending}")
    for _ in range(10000):
        described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(p.id("handler")))
        if described.callbacks[0].attempt:
            break
        await asyncio.sleep(0.03)
    p.note("callbacks", [[each.state, each.attempt] for each in described.callbacks])
    await end(p)


async def caller(p: Puppet) -> None:
    await endpoint(p)
    await p.start()
    await p.step(operation(p))


@scenario
async def callback_of_a_completed_workflow(p: Puppet) -> None:
    await caller(p)
    await handled_by_a_workflow(p, complete_workflow("out"), "completed")


@scenario
async def callback_of_a_workflow_without_result(p: Puppet) -> None:
    await caller(p)
    await handled_by_a_workflow(p, complete_workflow(), "completed")


@scenario
async def callback_of_a_failed_workflow(p: Puppet) -> None:
    await caller(p)
    await handled_by_a_workflow(p, fail_workflow(), "failed")


@scenario
async def callback_of_a_canceled_workflow(p: Puppet) -> None:
    await caller(p)
    await handled_by_a_workflow(p, cancel_workflow("details"), "canceled")


@scenario
async def callback_before_the_answer(p: Puppet) -> None:
    await caller(p)
    await handled_by_a_workflow(p, complete_workflow("out"), "completed", answer=False)


@scenario
async def callback_of_a_terminated_workflow(p: Puppet) -> None:
    await caller(p)
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())
    request = task.request.start_operation
    callback = {"url": request.callback, "header": dict(request.callback_header)}
    await p.start(p.id("handler"), task_queue={"name": p.id("handlers")}, completion_callbacks=[{"nexus": callback}])
    await respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.terminate(p.id("handler"))
    await p.has_event("nexus_operation_failed")
    await end(p)


async def _cancel_refused(p: Puppet, **refusal: Any) -> None:
    await respond(p, await called(p), start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    await p.step(cancel())
    task = await nexus_task(p)
    await p.attempt("RespondNexusTaskFailed", task_token=task.task_token, identity="worker", **refusal)
    await p.has_event("nexus_operation_cancel_request_failed")
    await p.history()
    await p.terminate()


@scenario
async def cancellation_refused_for_a_cause(p: Puppet) -> None:
    cause = {"message": "deep", "application_failure_info": {"type": "Deep"}}
    info = {"nexus_handler_failure_info": {"type": "NOT_FOUND"}}
    await _cancel_refused(p, failure={"message": "no", "cause": cause, **info})


@scenario
async def cancellation_refused_without_a_message(p: Puppet) -> None:
    cause = {"message": "deep", "application_failure_info": {"type": "Deep"}}
    info = {"nexus_handler_failure_info": {"type": "NOT_FOUND"}}
    await _cancel_refused(p, failure={"cause": cause, **info})


@scenario
async def cancellation_refused_in_the_older_form(p: Puppet) -> None:
    details = {
        "message": "deep",
        "metadata": {"type": "temporal.api.failure.v1.Failure"},
        "details": b'{"source": "S"}',
    }
    await _cancel_refused(p, error={"error_type": "NOT_FOUND", "failure": details})


@scenario
async def cancellation_refused_in_the_older_form_with_text(p: Puppet) -> None:
    await _cancel_refused(p, error={"error_type": "BAD_REQUEST", "failure": {"message": "deep"}})


CAUSE = {"message": "deep", "application_failure_info": {"type": "Deep"}}


async def _described_after_a_refusal(p: Puppet) -> None:
    """The failure of the last attempt, once it is there."""
    for _ in range(6000):
        described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
        (operation,) = described.pending_nexus_operations
        attempted = operation.cancellation_info if operation.HasField("cancellation_info") else operation
        if attempted.HasField("last_attempt_failure"):
            break
        await asyncio.sleep(0.03)
    p.note("last failure", p.normalised(attempted.last_attempt_failure))


@scenario
async def start_refused_for_a_cause(p: Puppet) -> None:
    await refuse(p, await called(p), "UNAVAILABLE", cause=CAUSE)
    await _described_after_a_refusal(p)
    await refuse(p, await nexus_task(p), "NOT_FOUND", cause=CAUSE)
    await p.has_event("nexus_operation_failed")
    await p.history()
    await p.terminate()


@scenario
async def cancellation_refused_for_a_while_for_a_cause(p: Puppet) -> None:
    await respond(p, await called(p), start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    await p.step(cancel())
    await refuse(p, await nexus_task(p), "UNAVAILABLE", cause=CAUSE)
    await _described_after_a_refusal(p)
    await p.terminate()
