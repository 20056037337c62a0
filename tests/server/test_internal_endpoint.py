"""The internal endpoint and its client: one process calls another as if it were itself."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.patience import PATIENCE_S
from tests.support.ports import free_port
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, already_started
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.net.http.client import Http1Client
from whistlestop.net.http.server import HttpServer
from whistlestop.net.internal.http_client import HttpClient
from whistlestop.net.internal.routing import routing_key
from whistlestop.server import internal_endpoint
from whistlestop.server.config import BadConfig, Role, ServerConfig, StoreConfig, check_internal_address
from whistlestop.server.internal_endpoint import InternalApi, credential, internal_app
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.rpcs.rpc import Rpc

CLOCK = SystemClock()
SECRET = "known here"
START = rr.StartWorkflowExecutionRequest(namespace="n", workflow_id="w")
POLL = rr.PollWorkflowTaskQueueRequest(namespace="n", identity="me")


class Service:
    """Answers a start, holds a poll until it is cancelled."""

    rpcs: ClassVar[Mapping[str, Rpc[Any, Any]]] = {**HistoryService.rpcs, **MatchingService.rpcs}

    def __init__(self) -> None:
        self.seen: list[tuple[Message, CallContext]] = []
        self.error: Exception | None = None
        self.polls = 0
        self.held = asyncio.Event()
        self.gone = asyncio.Event()

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        self.seen.append((request, context))
        if rpc.method.startswith("Poll"):
            self.polls += 1
            self.held.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.gone.set()
        if self.error is not None:
            raise self.error
        return rr.StartWorkflowExecutionResponse(run_id="run")


class Site:
    """Doors of history on loopback."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.services: list[Service] = []
        self.apis: list[InternalApi] = []
        self.urls: list[str] = []

    async def open(self, *secrets: str) -> None:
        service = Service()
        api = InternalApi({"history": service}, CLOCK, secrets or (SECRET,))
        door = HttpServer(internal_app(api))
        port = await door.start("127.0.0.1", 0)
        self._stack.push_async_callback(door.stop)
        self.services.append(service)
        self.apis.append(api)
        self.urls.append(f"http://127.0.0.1:{port}/history")

    def client(self, *urls: str, secret: str = SECRET) -> HttpClient:
        made = HttpClient(
            urls or self.urls, CLOCK, credential([secret] if secret else []), name="the history service", resend=False
        )
        self._stack.callback(made.close)
        return made


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        made = Site(stack)
        await made.open()
        yield made


def closed_port() -> str:
    return f"http://127.0.0.1:{free_port()}/history"


async def refusal(client: HttpClient, request: Message = START, **context: Any) -> ServiceError:
    rpc = Service.rpcs[type(request).__name__.removesuffix("Request")]
    with pytest.raises(ServiceError) as caught:
        await client.call(rpc, request, CallContext(**context))
    return caught.value


async def test_a_call_arrives_with_what_belongs_to_it(site: Site) -> None:
    """The client's name, which decides about answers; the namespace; the deadline. Not its credentials."""
    headers = {"client-name": "temporal-python", "supported-features": "x", "authorization": "theirs"}
    deadline_ns = CLOCK.steady_ns() + 500 * SECOND_NS
    reply = await site.client().call(
        HistoryService.StartWorkflowExecution, START, CallContext(deadline_ns, headers, "id", "n")
    )
    assert decoded(reply, rr.StartWorkflowExecutionResponse) == rr.StartWorkflowExecutionResponse(run_id="run")
    [(request, context)] = site.services[0].seen
    assert request == START
    assert context.headers == {"client-name": "temporal-python", "supported-features": "x"}
    assert (context.namespace_id, context.namespace, context.can_long_poll) == ("id", "n", True)
    assert context.deadline_ns is not None
    assert abs(context.deadline_ns - deadline_ns) < PATIENCE_S * SECOND_NS


async def test_a_server_does_not_make_a_function_wait(site: Site) -> None:
    """Its wait is billed, wherever it waits."""
    await site.client().call(HistoryService.StartWorkflowExecution, START, CallContext(can_long_poll=False))
    assert not site.services[0].seen[0][1].can_long_poll


async def test_errors_keep_their_details(site: Site) -> None:
    expected = already_started("it runs", "request", "run")
    site.services[0].error = expected
    error = await refusal(site.client())
    assert (error.code, error.message, error.details) == (expected.code, expected.message, expected.details)


async def test_an_exception_in_the_called_process_is_an_internal_error(site: Site) -> None:
    """And tells nothing of itself."""
    site.services[0].error = RuntimeError("a secret of the code")
    error = await refusal(site.client())
    assert (error.code, error.message) == (Code.INTERNAL, "internal error")


@pytest.mark.parametrize("secret", ["", "guessed"])
async def test_a_caller_without_the_secret_is_refused(site: Site, secret: str) -> None:
    """Callers of the caller are told to try again: it is not them who are unknown."""
    error = await refusal(site.client(secret=secret))
    assert error.code is Code.UNAVAILABLE
    assert site.services[0].seen == []


async def test_two_secrets_are_taken_while_one_replaces_the_other(site: Site) -> None:
    """A process that knows both shows the first; so neither order of restarts refuses anybody."""
    await site.open("new", "old")
    for secrets in (["old"], ["new"], ["new", "old"], ["old", "new"]):
        headers = credential(secrets)
        assert headers == {"authorization": f"Bearer {secrets[0]}"}
        client = Http1Client(site.urls[1])
        assert (await client.post("/history", headers, b"{}")).status == 200
        assert (await client.post("/history", credential(["other"]), b"{}")).status == 401
        client.close()


@pytest.mark.parametrize(
    ("ip", "metrics_ip", "expected"),
    [
        ("127.0.0.1", "", "127.0.0.1"), ("localhost", "", "127.0.0.1"), ("::1", "", "::1"), ("127.0.0.2", "", "127.0.0.2"),
        ("0.0.0.0", "", "127.0.0.1"), ("::", "", "127.0.0.1"), ("192.0.2.1", "", "127.0.0.1"),
        ("0.0.0.0", "192.0.2.1", "192.0.2.1"), ("127.0.0.1", "0.0.0.0", "0.0.0.0"),
    ],
)  # fmt: skip
def test_metrics_are_public_only_on_a_configured_address(ip: str, metrics_ip: str, expected: str) -> None:
    """They ask nobody, so they stay on loopback unless their own address is named."""
    assert ServerConfig(ip=ip, metrics_ip=metrics_ip).metrics_address() == expected


async def test_metrics_are_served_on_their_own_address() -> None:
    async with Server(ServerConfig(port=0, metrics_port=0, metrics_ip="127.0.0.2")) as server:
        listening = {each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN}
        assert ("127.0.0.2", server.metrics_port) in listening
        # The same number on the other address may have fallen to another endpoint.
        of_others = {server.port, server.http_port}
        assert server.metrics_port in of_others or ("127.0.0.1", server.metrics_port) not in listening


def test_a_secret_and_its_successor_stand_in_lines() -> None:
    assert ServerConfig(internal_secret="new\nold\n").internal_secrets() == ("new", "old")
    assert ServerConfig(internal_secret="a b").internal_secrets() == ("a b",)
    assert ServerConfig().internal_secrets() == ()
    with pytest.raises(BadConfig, match="3 lines"):
        ServerConfig(internal_secret="a\nb\nc")
    with pytest.raises(BadConfig, match="is empty"):
        ServerConfig(internal_secret=" \n ")


async def test_other_paths_are_not_found_and_health_is_public(site: Site) -> None:
    client = Http1Client(site.urls[0])
    assert (await client.post("/matching", credential([SECRET]), b"{}")).status == 404
    assert (await client.post("/healthz", {}, b"")).status == 200
    assert (await client.post("/history", credential([SECRET]), b"nothing")).status == 200  # an error in an envelope
    client.close()
    assert site.services[0].seen == []


async def test_an_envelope_that_is_too_large_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its length alone."""
    monkeypatch.setattr(internal_endpoint, "MAX_BODY", 1000)
    error = await refusal(site.client(), rr.StartWorkflowExecutionRequest(workflow_id="w" * 1000))
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert site.services[0].seen == []


async def test_a_caller_that_goes_away_ends_its_call(site: Site) -> None:
    calling = asyncio.create_task(site.client().call(MatchingService.PollWorkflowTaskQueue, POLL, CallContext()))
    await site.services[0].held.wait()
    calling.cancel()
    await asyncio.wait_for(site.services[0].gone.wait(), PATIENCE_S)


async def test_a_deadline_ends_a_call(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the other side does not keep it."""
    monkeypatch.setattr("whistlestop.net.internal.http_client._MARGIN_S", 0.05)
    for tenths in (1, 10, 100, 1000):
        error = await refusal(site.client(), POLL, deadline_ns=CLOCK.steady_ns() + tenths * SECOND_NS // 10)
        assert error.code is Code.DEADLINE_EXCEEDED
        if site.services[0].held.is_set():
            break  # on a busy machine the first deadlines pass on the way
    await asyncio.wait_for(site.services[0].gone.wait(), PATIENCE_S)


async def test_a_drain_ends_what_waits_and_refuses_what_comes(site: Site) -> None:
    client = site.client()
    calling = asyncio.create_task(refusal(client, POLL))
    await site.services[0].held.wait()
    await site.apis[0].drain()
    assert (await calling).code is Code.UNAVAILABLE
    assert (await refusal(client)).code is Code.UNAVAILABLE


async def test_a_missing_process_is_unavailable(site: Site) -> None:
    error = await refusal(site.client(closed_port()))
    assert (error.code, error.message) == (Code.UNAVAILABLE, "the history service can't be reached. Try again.")


async def test_a_process_that_refuses_connections_is_skipped(site: Site) -> None:
    """For every workflow, whoever it belongs to."""
    client = site.client(closed_port(), site.urls[0])
    for n in range(8):
        await client.call(
            HistoryService.StartWorkflowExecution, rr.StartWorkflowExecutionRequest(workflow_id=f"{n}"), CallContext()
        )
    assert len(site.services[0].seen) == 8


async def test_an_interrupted_request_is_not_sent_again(site: Site) -> None:
    """Whether it was done is not known here."""
    asked = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(site.client(f"http://127.0.0.1:{port}/history"))
    assert (error.code, asked) == (Code.UNAVAILABLE, 1)


async def test_a_workflow_has_the_same_process_in_whatever_order_they_are_listed(site: Site) -> None:
    await site.open()
    clients = [site.client(*site.urls), site.client(*reversed(site.urls))]
    owners = []
    for n in range(20):
        request = rr.StartWorkflowExecutionRequest(workflow_id=f"w-{n}")
        before = [len(service.seen) for service in site.services]
        for client in clients:
            await client.call(HistoryService.StartWorkflowExecution, request, CallContext(namespace_id="ns"))
        owners.append([len(service.seen) for service in site.services] != [before[0] + 2, before[1]])
        assert sorted(len(service.seen) - was for service, was in zip(site.services, before, strict=True)) == [0, 2]
    assert set(owners) == {False, True}


async def test_a_worker_shutdown_is_sent_to_all_processes(site: Site) -> None:
    """Its polls may wait at any of them. One that is gone holds none."""
    await site.open()
    client = site.client(*site.urls, closed_port())
    await client.call(MatchingService.ShutdownWorker, rr.ShutdownWorkerRequest(), CallContext())
    assert [len(service.seen) for service in site.services] == [1, 1]


def test_routing_keys_of_requests() -> None:
    """Workflow ids before task queues; a queue's versions go where the queue goes."""
    poll = rr.PollActivityTaskQueueRequest()
    poll.task_queue.name = "/_sys/shop:1.0/orders"
    signal = rr.SignalWorkflowExecutionRequest()
    signal.workflow_execution.workflow_id = "order-1"
    start = rr.StartWorkflowExecutionRequest(workflow_id="order-2")
    start.task_queue.name = "orders"
    update = rr.PollWorkflowExecutionUpdateRequest()
    update.update_ref.workflow_execution.workflow_id = "order-3"
    multi = rr.ExecuteMultiOperationRequest()
    multi.operations.add().start_workflow.workflow_id = "order-4"
    broken = rr.RespondWorkflowTaskCompletedRequest(task_token=b"\xff")
    requests: list[Message] = [poll, signal, start, update, multi, broken, rr.ListWorkersRequest()]
    assert [routing_key(each) for each in requests] == ["orders", "order-1", "order-2", "order-3", "order-4", "", ""]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"roles": frozenset({Role.FRONTEND})}, "--matching-url"),
        ({"roles": frozenset({Role.MATCHING})}, "--internal-port"),
        ({"roles": frozenset({Role.FRONTEND, Role.MATCHING}), "matching_urls": ("http://h:1",)}, "--matching-url"),
        ({"roles": frozenset({Role.HISTORY}), "matching_urls": ("h:1",)}, "http://HOST:PORT"),
        (
            {"roles": frozenset({Role.FRONTEND}), "matching_urls": ("http://h:1",), "internal_port": 1},
            "--internal-port",
        ),
        ({"roles": frozenset({Role.HISTORY}), "matching_urls": ("http://h:1",), "store": StoreConfig()}, "SQLite"),
    ],
)
def test_conflicting_flags_are_refused(settings: dict[str, Any], words: str) -> None:
    """With the flag that is wrong or missing."""
    with pytest.raises(BadConfig, match=words):
        ServerConfig(**{"store": StoreConfig(database_url="postgresql://localhost/x"), **settings})


def test_an_internal_endpoint_without_a_secret_needs_loopback() -> None:
    check_internal_address("127.0.0.1", ())
    check_internal_address("::1", ())
    check_internal_address("0.0.0.0", (SECRET,))
    with pytest.raises(BadConfig, match="--internal-secret-file"):
        check_internal_address("0.0.0.0", ())
    assert SECRET not in repr(ServerConfig(internal_secret=SECRET))
