"""The operations of the endpoint `__temporal_system`: so far, only signal-with-start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common import task_queues
from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.history.core.commands.faults import RESERVED_ID_PREFIXES

if TYPE_CHECKING:
    from google.protobuf.message import Message

ENDPOINT = "__temporal_system"
SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATION = "SignalWithStartWorkflowExecution"


class Call(Protocol):
    """A command, or its event."""

    @property
    def service(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def input(self) -> common_pb.Payload: ...


def parse(call: Call, namespace: str) -> service_pb.SignalWithStartWorkflowExecutionRequest:
    """Return the request. Raise NOT_FOUND for an unknown operation, INVALID_ARGUMENT for an invalid request."""
    if call.service != SERVICE:
        raise not_found(f'service "{call.service}" not found')
    if call.operation != OPERATION:
        raise not_found(f'operation "{call.operation}" not found')
    request = service_pb.SignalWithStartWorkflowExecutionRequest()
    _read(call.input, request)
    request.namespace = request.namespace or namespace
    if request.namespace != namespace:
        raise invalid_argument(
            f'Namespace in request "{request.namespace}" does not match namespace in context "{namespace}"'
        )
    if request.request_id:
        raise invalid_argument("RequestID should not be set on the request")
    if request.links:
        raise invalid_argument("Links should not be set on the request")
    missing = (
        ("WorkflowId", request.workflow_id),
        ("SignalName", request.signal_name),
        ("WorkflowType", request.workflow_type.name),
        ("TaskQueue", request.task_queue.name),
    )
    for name, value in missing:
        if not value:
            raise invalid_argument(f"{name} is not set on request.")
    fault = task_queues.internal_fault(request.task_queue.name)
    if fault:
        raise invalid_argument(fault)
    if request.workflow_id.startswith(RESERVED_ID_PREFIXES):
        raise invalid_argument(f"WorkflowId cannot start with reserved prefix {request.workflow_id.partition(':')[0]}:")
    _check_policies(request)
    request.task_queue.kind = request.task_queue.kind or task_queue_pb2.TASK_QUEUE_KIND_NORMAL
    return request


def _check_policies(request: service_pb.SignalWithStartWorkflowExecutionRequest) -> None:
    reuse, conflict = request.workflow_id_reuse_policy, request.workflow_id_conflict_policy
    if reuse == wf_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING and conflict:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together with "
            "a WorkflowIDConflictPolicy"
        )
    if (
        conflict == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        and reuse == wf_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    ):
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with "
            "WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )
    if conflict == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL:
        raise invalid_argument(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation."
        )


def _read(payload: common_pb.Payload, message: Message) -> None:
    from google.protobuf import json_format

    encoding = payload.metadata.get("encoding", b"")
    try:
        if encoding == b"binary/protobuf":
            message.ParseFromString(payload.data)
        elif encoding == b"json/protobuf":
            json_format.Parse(payload.data.decode(), message, ignore_unknown_fields=True)
        else:
            raise invalid_argument(f"input of encoding {encoding.decode(errors='replace')!r} is no request")
    except (DecodeError, json_format.ParseError, UnicodeDecodeError) as error:
        raise invalid_argument(f"input is no {message.DESCRIPTOR.name}: {error}") from error


def result(answer: Message) -> common_pb.Payload:
    """Return the answer as the operation's result: a payload with the encoding binary/protobuf."""
    return common_pb.Payload(
        metadata={
            "encoding": b"binary/protobuf",
            "messageType": answer.DESCRIPTOR.full_name.encode(),
        },
        data=answer.SerializeToString(),
    )
