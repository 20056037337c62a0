"""Count which fields of replies and events were set, without keeping any of their values.

A path names an RPC and the fields on the way from its reply: `DescribeWorkflowExecution workflow_execution_info.type`.
Repeated fields and maps have one path for all their elements. Events have paths of their own, by type, whichever reply
they came in: `event ACTIVITY_TASK_SCHEDULED attempt`. A refusal counts as `StartWorkflowExecution !ALREADY_EXISTS`,
followed by the fields of its details. The path of a message itself counts how often it was there, so that a field can be
judged by how often it could have been set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import symbol_database
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus
from temporalio.api.enums.v1.event_type_pb2 import EventType
from temporalio.api.errordetails.v1 import message_pb2 as _details  # noqa: F401 - registers the types of details
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.update.v1 import message_pb2 as _updates  # noqa: F401 - registers the types of protocol messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_pb

if TYPE_CHECKING:
    from collections import Counter

_MODULES = {
    "temporal.api.workflowservice.v1.WorkflowService": workflow_pb,
    "temporal.api.operatorservice.v1.OperatorService": operator_pb,
}
_EVENT = "temporal.api.history.v1.HistoryEvent"
_LEAVES = frozenset({
    "temporal.api.common.v1.Payload", "google.protobuf.Timestamp", "google.protobuf.Duration",
})  # fmt: skip
"""Messages whose fields are values of users, or one value."""


def count_reply(counts: Counter[str], method: str, data: bytes) -> None:
    """Count the fields of a reply; `method` is gRPC's path. Methods of other services are ignored."""
    service, _, rpc = method.strip("/").partition("/")
    kind = getattr(_MODULES.get(service), f"{rpc}Response", None)
    if kind is None:
        return
    try:
        message = kind.FromString(data)
    except DecodeError:
        counts[f"{rpc} <unreadable>"] += 1
        return
    counts[f"{rpc} "] += 1
    _count(counts, f"{rpc} ", message, frozenset())


def count_refusal(counts: Counter[str], method: str, code: str, status: bytes) -> None:
    """Count a refusal with its code, and the fields of the details in the serialised status."""
    service, _, rpc = method.strip("/").partition("/")
    if service not in _MODULES:
        return
    path = f"{rpc} !{code}"
    counts[path] += 1
    if not status:
        return
    for detail in GrpcStatus.FromString(status).details:
        _count_any(counts, f"{path} ", detail, frozenset())


def _count(counts: Counter[str], path: str, message: Message, within: frozenset[str]) -> None:
    name = message.DESCRIPTOR.full_name
    if name in _LEAVES or name in within:
        return
    if name == _EVENT:
        path = f"event {EventType.Name(message.event_type).removeprefix('EVENT_TYPE_')} "  # type: ignore[attr-defined]
        counts[path] += 1
    within |= {name}
    for field, value in message.ListFields():
        inner = f"{path}{field.name}"
        counts[inner] += 1
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in _messages_of(field, value):
                if isinstance(each, AnyMessage):
                    _count_any(counts, f"{inner}.", each, within)
                else:
                    _count(counts, f"{inner}.", each, within)


def _count_any(counts: Counter[str], path: str, packed: AnyMessage, within: frozenset[str]) -> None:
    name = packed.type_url.rpartition("/")[2]
    inner = f"{path}<{name.rpartition('.')[2]}>"
    counts[inner] += 1
    try:
        message = symbol_database.Default().GetSymbol(name)()
        message.ParseFromString(packed.value)
    except (KeyError, DecodeError):
        return
    _count(counts, f"{inner}.", message, within)


def _messages_of(field: FieldDescriptor, value: Any) -> list[Message]:
    if isinstance(value, Message):
        return [value]
    kind = field.message_type
    if kind is None or not kind.GetOptions().map_entry:
        return list(value)
    of_messages = kind.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE
    return list(value.values()) if of_messages else []
