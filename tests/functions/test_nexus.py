"""Nexus through the three handlers: every request, answer and callback may land on another instance."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

from tests.functions.client import POLLS, function_url_event, new_events, said
from tests.parity import commands
from tests.parity.puppet import payload, seconds
from whistlestop.frontend.registry import OPERATOR_SERVICE

if TYPE_CHECKING:
    from tests.functions.client import Cloud

HANDLERS = {"name": "handlers"}


async def endpoint(cloud: Cloud, name: str = "payments") -> operator_pb.CreateNexusEndpointResponse:
    worker = {"namespace": "default", "task_queue": HANDLERS["name"]}
    request = operator_pb.CreateNexusEndpointRequest(spec={"name": name, "target": {"worker": worker}})  # type: ignore[arg-type]
    path = f"/{OPERATOR_SERVICE}/CreateNexusEndpoint"
    answer = await cloud.invoke("frontend", function_url_event(path, request.SerializeToString(), 10_000))
    assert answer["statusCode"] == 200, answer
    body = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()
    return operator_pb.CreateNexusEndpointResponse.FromString(body)


def pay(**fields: Any) -> dict[str, Any]:
    return commands.command(
        "schedule_nexus_operation", endpoint="payments", service="Payments", operation="pay", input=payload("in"),
        **fields,
    )  # fmt: skip


async def nexus_task(cloud: Cloud) -> Any:
    """Poll until there is a request."""
    for _ in range(POLLS):
        task = await cloud.call("PollNexusTaskQueue", task_queue=HANDLERS, identity="handler")
        if task.task_token:
            return task
    raise AssertionError(f"no Nexus task in {POLLS} polls")


async def respond(cloud: Cloud, task: Any, **response: Any) -> None:
    await cloud.call("RespondNexusTaskCompleted", task_token=task.task_token, identity="handler", response=response)


async def test_an_operation_that_is_answered_at_once(cloud: Cloud) -> None:
    await endpoint(cloud)
    await cloud.start("caller")
    await cloud.step(pay())
    task = await nexus_task(cloud)
    assert task.request.start_operation.payload.data == b'"in"'
    await respond(cloud, task, start_operation={"sync_success": {"payload": payload("paid")}})
    task = await cloud.step(commands.complete_workflow("done"))
    assert new_events(task) == ["NexusOperationScheduled", "NexusOperationCompleted"]


async def test_an_operation_that_is_a_workflow_ends_by_its_callback(cloud: Cloud) -> None:
    await endpoint(cloud)
    await cloud.start("caller")
    await cloud.step(pay())
    task = await nexus_task(cloud)
    request = task.request.start_operation
    callback = {"url": request.callback, "header": dict(request.callback_header)}
    await cloud.start("payment", task_queue=HANDLERS, completion_callbacks=[{"nexus": callback}])
    await respond(cloud, task, start_operation={"async_success": {"operation_token": "payment"}})
    await cloud.complete(await cloud.workflow_task(HANDLERS), commands.complete_workflow("paid"))
    task = await cloud.step(commands.complete_workflow("done"))
    assert new_events(task) == ["NexusOperationScheduled", "NexusOperationStarted", "NexusOperationCompleted"]
    results = [
        event.nexus_operation_completed_event_attributes.result
        for event in task.history.events
        if event.HasField("nexus_operation_completed_event_attributes")
    ]
    assert results == [said("paid").payloads[0]]
    described = await cloud.call("DescribeWorkflowExecution", execution={"workflow_id": "payment"})
    assert [each.attempt for each in described.callbacks] == [1]


async def test_a_refused_request_is_made_again_when_a_poll_comes_by(cloud: Cloud) -> None:
    await endpoint(cloud)
    await cloud.start("caller")
    await cloud.step(pay(schedule_to_close_timeout=seconds(60)))
    first = await nexus_task(cloud)
    failure = {"message": "later", "nexus_handler_failure_info": {"type": "UNAVAILABLE"}}
    await cloud.call("RespondNexusTaskFailed", task_token=first.task_token, identity="handler", failure=failure)
    cloud.later(2)
    again = await nexus_task(cloud)
    await respond(cloud, again, start_operation={"sync_success": {"payload": payload("paid")}})
    await cloud.step(commands.complete_workflow())
    assert await cloud.status("caller") == "COMPLETED"


async def test_no_answer_before_the_deadline(cloud: Cloud) -> None:
    await endpoint(cloud)
    await cloud.start("caller")
    await cloud.step(pay(schedule_to_close_timeout=seconds(60)))
    await nexus_task(cloud)
    cloud.later(61)
    task = await cloud.step(commands.complete_workflow())
    assert new_events(task) == ["NexusOperationScheduled", "NexusOperationTimedOut"]


async def test_an_external_request_is_answered_by_a_worker(cloud: Cloud) -> None:
    path = "/namespaces/default/task-queues/handlers/nexus-services/Payments/pay"
    event = function_url_event(path, b'"in"', 20_000)
    event["headers"] |= {"content-type": "application/json", "nexus-request-id": "request"}
    asking = asyncio.create_task(cloud.invoke("frontend", event))
    task = await nexus_task(cloud)
    assert (task.request.start_operation.payload.data, task.request.start_operation.request_id) == (b'"in"', "request")
    await respond(cloud, task, start_operation={"async_success": {"operation_token": "token"}})
    answer = await asking
    assert (answer["statusCode"], json.loads(answer["body"])) == (201, {"token": "token", "state": "running"})
