"""A standalone Nexus operation through the three handlers: tried again, started, cancelled, over by its workflow's end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.functions.test_nexus import endpoint, nexus_task, respond
from tests.parity import commands

if TYPE_CHECKING:
    from tests.functions.client import Cloud

REFUSAL = {"message": "busy", "nexus_handler_failure_info": {"type": "UNAVAILABLE"}}


async def test_an_operation_that_a_workflow_does(cloud: Cloud) -> None:
    await endpoint(cloud)
    await cloud.call(
        "StartNexusOperationExecution", operation_id="alone", request_id="r", endpoint="payments", service="Payments",
        operation="pay",
    )  # fmt: skip
    task = await nexus_task(cloud)
    await cloud.call("RespondNexusTaskFailed", task_token=task.task_token, failure=REFUSAL)
    cloud.later(2)
    task = await nexus_task(cloud)
    request = task.request.start_operation
    callback = {"url": request.callback, "header": {**request.callback_header, "nexus-operation-token": "token"}}
    await cloud.start("payment", completion_callbacks=[{"nexus": callback}])
    await respond(cloud, task, start_operation={"async_success": {"operation_token": "token"}})
    started = await cloud.call(
        "PollNexusOperationExecution", operation_id="alone", wait_stage="NEXUS_OPERATION_WAIT_STAGE_STARTED"
    )
    assert started.operation_token == "token"
    await cloud.call("RequestCancelNexusOperationExecution", operation_id="alone", request_id="c")
    asked = await nexus_task(cloud)
    assert asked.request.cancel_operation.operation_token == "token"
    await respond(cloud, asked, cancel_operation={})
    await cloud.step(commands.complete_workflow("done"))
    told = await cloud.call("PollNexusOperationExecution", operation_id="alone")
    assert told.result.data == b'"done"'
    counted = await cloud.call("CountNexusOperationExecutions", query="ExecutionStatus = 'Completed'")
    assert counted.count == 1
