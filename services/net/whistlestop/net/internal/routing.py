"""The routing key of a request, where several processes serve: the workflow id, or the task queue.

It is found by Temporal's names for these fields. A request that has none of them may go to any process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message


def _id_of(execution: Any) -> str:
    return str(execution.workflow_id)


def _of_token(token: bytes) -> str:
    try:
        return TaskToken.FromString(token).workflow_id
    except DecodeError:
        return ""  # the process that serves it reports the invalid token


def _of_operations(operations: Any) -> str:
    return str(operations[0].start_workflow.workflow_id) if operations else ""


def queue_route(name: str) -> str:
    """Return the routing key of a task queue, the same for the queues of its worker versions.

    Their names end in the name of the task queue.
    """
    return name.rpartition("/")[2]


def _of_queue(queue: Any) -> str:
    return queue_route(queue if isinstance(queue, str) else queue.name)


_BY_WORKFLOW: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("workflow_execution", _id_of), ("execution", _id_of), ("workflow_id", str), ("task_token", _of_token),
    ("update_ref", lambda reference: _id_of(reference.workflow_execution)), ("operations", _of_operations),
    ("schedule_id", str), ("activity_id", str), ("operation_id", str),
)  # fmt: skip
_BY_QUEUE: tuple[tuple[str, Callable[[Any], str]], ...] = (("task_queue", _of_queue),)
_known: dict[type[Message], tuple[str, Callable[[Any], str]] | None] = {}


def routing_key(request: Message) -> str:
    """Return what the request is routed by; empty when it may go to any process."""
    kind = type(request)
    if kind not in _known:
        names = kind.DESCRIPTOR.fields_by_name
        # Polls and other requests about a queue have no workflow; a request with both goes to history.
        _known[kind] = next(((name, read) for name, read in _BY_WORKFLOW + _BY_QUEUE if name in names), None)
    found = _known[kind]
    return "" if found is None else found[1](getattr(request, found[0]))
