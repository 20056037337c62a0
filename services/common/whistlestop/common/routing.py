"""What a request is about, where several processes serve: the workflow id, or the task queue.

Found by the names that Temporal gives these fields. A request that has none of them may go to any process.
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
        return ""  # whoever serves it says so


def _of_operations(operations: Any) -> str:
    return str(operations[0].start_workflow.workflow_id) if operations else ""


def queue_route(name: str) -> str:
    """Of a task queue, and of all queues that stand for one of its worker versions: they end in its name."""
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
    """What decides where the request goes; empty: nothing does."""
    kind = type(request)
    if kind not in _known:
        names = kind.DESCRIPTOR.fields_by_name
        # A poll or a look at a queue has no workflow; what has both is history's.
        _known[kind] = next(((name, read) for name, read in _BY_WORKFLOW + _BY_QUEUE if name in names), None)
    found = _known[kind]
    return "" if found is None else found[1](getattr(request, found[0]))
