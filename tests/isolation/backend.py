"""All three services over one store, in one process and on a fake clock; and requests as bytes, as clients send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.ids import CountedIds
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.registry import OPERATOR_SERVICE, REGISTRY, WORKFLOW_SERVICE
from whistlestop.frontend.service import Frontend
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.net.decode import parse_request

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.storage.interface import Store


class _Late:
    service: Any = None

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        reply: Reply = await self.service.call(rpc, request, context)
        return reply


class Backend:
    """Use `start` and `close`; `restart` forgets everything that only memory knew."""

    def __init__(self, store: Store, *, exclusive: bool = True) -> None:
        self.store = store
        self.clock = FakeClock()
        self.ids = CountedIds()
        self.exclusive = exclusive
        self.namespace_id = ""
        self._make()

    def _make(self) -> None:
        notifier, late = LocalNotifier(self.clock), _Late()
        self.matching = Matching(self.store, late, self.clock, self.ids, notifier, MatchingConfig())
        self.history = History(
            self.store, self.matching, self.clock, self.ids, notifier, task_listener=self.matching.offer,
            exclusive=self.exclusive,
        )  # fmt: skip
        late.service = self.history
        self.frontend = Frontend(self.store, self.history, self.matching, self.clock, self.ids)

    async def open(self, *namespaces: str) -> None:
        for name in ("default", *namespaces):
            await ensure_namespace(self.frontend.ports, name)
        found = await self.store.get_namespace(name="default")
        assert found is not None
        self.namespace_id = found.namespace_id

    async def close(self) -> None:
        await self.history.close()
        await self.matching.close()
        await self.frontend.close()

    async def restart(self) -> None:
        """Another process over the same store."""
        await self.close()
        self._make()

    async def call(self, method: str, /, *, timeout_s: float = 10, **fields: Any) -> Any:
        """By the method's name. Raises ServiceError."""
        return await self.send(method, _request(method)(**fields).SerializeToString(), timeout_s=timeout_s)

    async def send(self, method: str, data: bytes, *, timeout_s: float = 10) -> Any:
        """The same with a serialised request, parsed as endpoints parse it."""
        request = parse_request(_request(method), data)
        context = CallContext(deadline_ns=self.clock.steady_ns() + round(timeout_s * SECOND_NS))
        reply = await self.frontend.call(full_name(method), request, context)
        return decoded(reply, REGISTRY[full_name(method)].response_type)

    async def start(self, workflow_id: str, *, namespace: str = "default", **fields: Any) -> str:
        """A new workflow of the task queue that has its name; the run id."""
        wanted: dict[str, Any] = {
            "request_id": self.ids.uuid(),
            "workflow_type": {"name": "W"},
            "task_queue": {"name": workflow_id},
        }
        reply = await self.call(
            "StartWorkflowExecution", namespace=namespace, workflow_id=workflow_id, **(wanted | fields)
        )
        return str(reply.run_id)

    async def poll(self, queue: str, *, namespace: str = "default") -> rr.PollWorkflowTaskQueueResponse:
        reply = await self.call("PollWorkflowTaskQueue", namespace=namespace, task_queue={"name": queue})
        assert isinstance(reply, rr.PollWorkflowTaskQueueResponse)
        return reply

    async def complete(self, queue: str, *commands: dict[str, Any], namespace: str = "default") -> None:
        """Poll a workflow task and answer it."""
        task = await self.poll(queue, namespace=namespace)
        assert task.task_token
        await self.call(
            "RespondWorkflowTaskCompleted", namespace=namespace, task_token=task.task_token, commands=commands
        )


def full_name(method: str) -> str:
    operator = f"{OPERATOR_SERVICE}/{method}"
    return operator if operator in REGISTRY else f"{WORKFLOW_SERVICE}/{method}"


def _request(method: str) -> Any:
    return REGISTRY[full_name(method)].request_type


# ---- messages that nest deeply, which this parser could not even make -------------------------------------------------


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes((number & 127 | 128,)), number >> 7
    return out + bytes((number,))


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def chain(depth: int, innermost: bytes = b"", *, cause: int = 4) -> bytes:
    """A failure with `depth` - 1 causes, as bytes; by the number of the field `cause` it is Temporal's or Nexus's."""
    start = b"\x0a\x01x\x2a\x00" if cause == 4 else b"\x0a\x01x"
    data = start + innermost
    for _ in range(depth - 1):
        data = start + field(cause, data)
    return data


def at(kind: type[Message], path: str, data: bytes) -> bytes:
    """A serialised message of that kind with nothing but `data` at the dotted path of a field."""
    numbers = []
    descriptor: Any = kind.DESCRIPTOR
    for name in path.split("."):
        numbers.append(descriptor.fields_by_name[name].number)
        descriptor = descriptor.fields_by_name[name].message_type
    for number in reversed(numbers):
        data = field(number, data)
    return data
