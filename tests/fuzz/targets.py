"""What is fuzzed: functions of bytes, which raise only if something is wrong.

Wrong is an exception that is no answer, an answer that says "internal", a record in the log that is an error, and an
answer that its reader cannot parse.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar

import httptools
import uvicorn
from google.protobuf.message import DecodeError

from tests.fuzz import h2
from tests.fuzz.filling import filled
from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.metrics import NO_METRICS
from whistlestop.common.notify import LocalNotifier
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.endpoints.browsers import BrowserRules
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.frontend.function_instance import answer_event
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY
from whistlestop.functions import bootstrap, http_events
from whistlestop.net.budget import Budget
from whistlestop.net.http.answer import HttpAnswer, HttpRequest
from whistlestop.net.http.protocol import BoundedProtocol, HttpLimits
from whistlestop.net.http.state import ServerState
from whistlestop.server.assembly import Services, assemble
from whistlestop.server.config import ServerConfig
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Rpc

TARGETS: dict[str, Callable[[bytes], None]] = {}
RPCS = sorted(REGISTRY | OWN_REGISTRY)
PAGED = [
    name for name in RPCS if "next_page_token" in (REGISTRY | OWN_REGISTRY)[name].request_type.DESCRIPTOR.fields_by_name
]
SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
PATHS = (
    f"{SERVICE}/StartWorkflowExecution", f"{SERVICE}/ListWorkflowExecutions", f"{SERVICE}/RespondWorkflowTaskCompleted",
    f"{SERVICE}/CreateSchedule", "/whistlestop.worker.v1.WorkerService/ProbeBacklog",
    "/api/v1/namespaces/default/workflows/w", "/api/v1/namespaces/default/workflows", "/api/v1/namespaces/default/schedules/s",
    "/api/v1/namespaces/default/activities/a", "/api/v1/namespaces", "/cluster/namespaces",
    "/namespaces/default/task-queues/q/nexus-services/s/o", "/namespaces/default/task-queues/q/nexus-services/s/o/cancel",
    "/nexus/callback", "/namespaces/default/nexus/callback", "/nexus/endpoints/e/services/s/o",
)  # fmt: skip
_DEADLINE_NS = 20_000_000
"""Of a call: a poll that waits is ended, and all else is done by then or is found too slow."""


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    TARGETS[function.__name__] = function
    return function


class _Errors(logging.Handler):
    """Whatever is logged as an error is a finding: bad input makes no traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(f"logged as an error: {record.getMessage()}") from (record.exc_info or (None, None))[1]


_ERRORS = _Errors(logging.ERROR)


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    root = logging.getLogger()
    root.addHandler(_ERRORS)
    try:
        return loop().run_until_complete(work)
    finally:
        root.removeHandler(_ERRORS)


@functools.cache
def services() -> Services:
    """All of a server but its listeners, over a store in memory."""

    async def make() -> Services:
        store = SqliteStore(":memory:")
        await store.open()
        await store.migrate()
        made = assemble(ServerConfig(), store, LocalNotifier(SystemClock()), NO_METRICS)
        for name in ("default", "temporal-system"):
            await ensure_namespace(made.frontend.ports, name)
        return made

    made: Services = run(make())
    return made


def _deadline_ns() -> int:
    return SystemClock().steady_ns() + _DEADLINE_NS


@target
def http_heads(data: bytes) -> None:
    """A connection; the first byte says in how many pieces its bytes come."""
    run(_connection(data))


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("127.0.0.1", 1)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class _Answers:
    """Counts answers, as a client's parser sees them."""

    def __init__(self) -> None:
        self.whole = 0

    def on_message_complete(self) -> None:
        self.whole += 1


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    BrowserRules().refusal({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def _connection(data: bytes) -> None:
    config = uvicorn.Config(
        _app, interface="asgi3", http=BoundedProtocol, loop="none", lifespan="off", log_config=None, ws="none"
    )
    config.load()
    budget = Budget(time.monotonic)
    transport = _Transport()
    pieces = 1 + (data[0] % 5 if data else 0)
    account = budget.connect(("192.0.2.1", 1), None)  # type: ignore[arg-type]  # the protocol takes its place
    assert account is not None
    protocol = BoundedProtocol(config, ServerState(), HttpLimits(), account)
    protocol.connection_made(transport)
    size = max(1, (len(data) + pieces - 1) // pieces)
    for start in range(1, len(data), size):
        piece = data[start : start + size]
        for at in range(0, 0 if transport.closed else len(piece), 1024):
            buffer = protocol.get_buffer(1024)
            part = piece[at : at + 1024]
            buffer[: len(part)] = part
            protocol.buffer_updated(len(part))
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert (len(budget), budget.request_count, budget.bytes) == (0, 0, 0)
    answers = _Answers()
    parser = httptools.HttpResponseParser(answers)
    parser.feed_data(transport.written)
    assert transport.written.count(b"HTTP/1.1 ") == answers.whole


@target
def h2_frames(data: bytes) -> None:
    """A connection behind its greeting; the first byte says in how many pieces its frames come."""
    run(h2.connection(data))


@target
def header_blocks(data: bytes) -> None:
    """Header blocks of one connection, one after another."""
    h2.header_blocks(data)


@target
def http_requests(data: bytes) -> None:
    """A request: its first byte chooses a path, a line of its own each are more of the path, the query and headers."""
    first, _, body = data.partition(b"\n\n")
    method, *lines = first[1:].decode("latin-1").split("\n")
    path = PATHS[first[0] % len(PATHS)] if first else "/"
    more, query, *named = [*lines, "", ""][: max(len(lines), 2)]
    headers = {"host": "localhost", "content-type": "application/json"}
    for line in named:
        name, _, value = line.partition(":")
        headers[name.lower()] = value
    request = HttpRequest(method or "POST", path + more, query, headers, body, "127.0.0.1")
    frontend = services().frontend
    answer: HttpAnswer = run(HttpApi(frontend, SystemClock(), browsers=BrowserRules()).handle(request, _deadline_ns()))
    assert answer.status != 500 or b"unmarshalling" in answer.body, (request, answer)
    if answer.headers.get("content-type") == "application/json" and "content-encoding" not in answer.headers:
        json.loads(answer.body)


class _Nobody:
    """A service whose callers are other functions of ours: what they ask is checked, how they ask is what is fuzzed."""

    rpcs: ClassVar[Mapping[str, Rpc[Any, Any]]] = {**HistoryService.rpcs, **MatchingService.rpcs}

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Message:
        return request


@target
def function_events(data: bytes) -> None:
    """An event of a function: JSON, or the body of one."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = {
            "requestContext": {"http": {"method": "POST"}}, "rawPath": PATHS[0], "isBase64Encoded": True,
            "headers": {"content-type": "application/json", "content-encoding": "gzip"},
            "body": base64.b64encode(data).decode(),
        }  # fmt: skip
    if not isinstance(event, dict):
        return
    api = HttpApi(services().frontend, SystemClock(), can_long_poll=False, browsers=BrowserRules())
    if http_events.is_http(event):
        answer = run(answer_event(api, event, _deadline_ns()))
        assert answer.status != 500 or b"unmarshalling" in answer.body, answer
    run(bootstrap.serve_event(_Nobody(), event, SystemClock(), _deadline_ns()))


@target
def protobuf_requests(data: bytes) -> None:
    """An RPC, chosen by the first byte, and its request."""
    if data:
        call_raw(RPCS[data[0] % len(RPCS)], data[1:])


@target
def filled_requests(data: bytes) -> None:
    """An RPC, chosen by the first byte, and a request whose fields the others choose."""
    if data:
        name = RPCS[data[0] % len(RPCS)]
        call_raw(name, filled((REGISTRY | OWN_REGISTRY)[name].request_type, data[1:]).SerializeToString())


@target
def page_tokens(data: bytes) -> None:
    """A page token for an RPC, chosen by the first byte, with what else it needs."""
    if not data:
        return
    name = PAGED[data[0] % len(PAGED)]
    kind = (REGISTRY | OWN_REGISTRY)[name].request_type
    request = kind(next_page_token=data[1:])
    if "namespace" in kind.DESCRIPTOR.fields_by_name:
        request.namespace = "default"  # type: ignore[attr-defined]
    if "execution" in kind.DESCRIPTOR.fields_by_name:
        request.execution.workflow_id = "w"  # type: ignore[attr-defined]
    call_raw(name, request.SerializeToString())


def call_raw(name: str, data: bytes) -> None:
    spec = (REGISTRY | OWN_REGISTRY)[name]
    try:
        request: Message = spec.request_type.FromString(data)
    except DecodeError:
        return
    context = CallContext(_deadline_ns(), {}, can_long_poll=False)
    refused = None
    try:
        run(services().frontend.call(name, request, context))
    except ServiceError as error:
        refused = error
    assert refused is None or refused.code not in {Code.INTERNAL, Code.UNKNOWN}, (name, refused, request)
