"""Queries and updates: the caller's side, and the messages of a worker that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.parity.puppet import payloads

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from tests.functions.client import Cloud


async def ask(cloud: Cloud, workflow_id: str) -> common_pb.Payloads:
    """Query and wait for the answer."""
    reply: rr.QueryWorkflowResponse = await cloud.call(
        "QueryWorkflow", execution={"workflow_id": workflow_id}, query={"query_type": "state"}
    )
    return reply.query_result


def update_fields(update_id: str) -> dict[str, Any]:
    """A request for an update whose caller waits for its outcome."""
    return {
        "request": {"meta": {"update_id": update_id, "identity": "client"}, "input": {"name": "weigh"}},
        "wait_policy": {"lifecycle_stage": "UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED"},
    }


async def update(cloud: Cloud, workflow_id: str, update_id: str) -> update_pb.Outcome:
    """Update and wait for the outcome."""
    reply: rr.UpdateWorkflowExecutionResponse = await cloud.call(
        "UpdateWorkflowExecution", workflow_execution={"workflow_id": workflow_id}, **update_fields(update_id)
    )
    return reply.outcome


def _message(task: rr.PollWorkflowTaskQueueResponse, message_id: str, body: Message) -> protocol_pb.Message:
    message = protocol_pb.Message(id=message_id, protocol_instance_id=task.messages[0].protocol_instance_id)
    message.body.Pack(body)
    return message


def accepted(task: rr.PollWorkflowTaskQueueResponse) -> protocol_pb.Message:
    """Message `a`: the worker takes the update on."""
    request = task.messages[0]
    body = update_pb.Acceptance(
        accepted_request_message_id=request.id, accepted_request_sequencing_event_id=request.event_id
    )
    return _message(task, "a", body)


def responded(task: rr.PollWorkflowTaskQueueResponse, text: str) -> protocol_pb.Message:
    """Message `r`: what came of it."""
    fields: dict[str, Any] = {
        "meta": {"update_id": task.messages[0].protocol_instance_id}, "outcome": {"success": payloads(text)}
    }  # fmt: skip
    return _message(task, "r", update_pb.Response(**fields))


def rejected(task: rr.PollWorkflowTaskQueueResponse, reason: str) -> protocol_pb.Message:
    """The update's validator refused it."""
    fields: dict[str, Any] = {"failure": {"message": reason, "application_failure_info": {}}}
    return _message(task, "x", update_pb.Rejection(**fields))
