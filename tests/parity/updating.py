"""Updates of a scenario: the request, and what a worker says of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.parity.commands import protocol_message, timer
from tests.parity.puppet import POLL_SECONDS, failure, payloads

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.parity.puppet import Pending, Puppet

STAGE = "UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_"


def packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def protocol(kind: str, instance: str, body: Message) -> dict[str, Any]:
    return {"id": f"{instance}/{kind}", "protocol_instance_id": instance, "body": packed(body)}


def accept(request: Any) -> dict[str, Any]:
    """Accept the update that a message of the task asks for."""
    body = update_pb.Request()
    request.body.Unpack(body)
    acceptance = update_pb.Acceptance(
        accepted_request_message_id=request.id,
        accepted_request_sequencing_event_id=request.event_id,
        accepted_request=body,
    )
    return protocol("accept", request.protocol_instance_id, acceptance)


def reject(request: Any, text: str = "no") -> dict[str, Any]:
    body = update_pb.Request()
    request.body.Unpack(body)
    refusal: Any = failure(text)
    rejection = update_pb.Rejection(
        rejected_request_message_id=request.id,
        rejected_request_sequencing_event_id=request.event_id,
        rejected_request=body,
        failure=refusal,
    )
    return protocol("reject", request.protocol_instance_id, rejection)


def finish(instance: str, **outcome: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "meta": {"update_id": instance, "identity": "client"},
        "outcome": outcome or {"success": payloads("updated")},
    }
    return protocol("complete", instance, update_pb.Response(**fields))


async def respond(
    p: Puppet, task: Any, messages: list[dict[str, Any]], *commands: dict[str, Any], **fields: Any
) -> Any:
    """Complete a task with messages; those that leave events get their command."""
    named = [protocol_message(message["id"]) for message in messages if not message["id"].endswith("/reject")]
    return await p.complete(task, *named, *commands, messages=messages, **fields)


def begin_update(p: Puppet, update_id: str = "u", *, deadline: float = POLL_SECONDS, **fields: Any) -> Pending:
    """Ask for it. How a time that is too short is refused is not written down."""
    given = p.update_fields("change", update_id, **fields)
    return p.begin("UpdateWorkflowExecution", record=deadline > 1, deadline=deadline, **given)


async def admitted(p: Puppet, update_id: str = "u") -> None:
    """Wait until the server knows of an update."""
    reference = {"workflow_execution": p.execution(), "update_id": update_id}
    for _ in range(10000):
        if await p.attempt("PollWorkflowExecutionUpdate", record=False, update_ref=reference):
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"no update {update_id}")


async def idle(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
