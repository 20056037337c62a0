"""The gRPC door, over a real socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.patience import PATIENCE_S
from whistlestop.common.clock import SystemClock
from whistlestop.common.errors import already_started
from whistlestop.net.rpc_status import error_from_status
from whistlestop.server.grpc_endpoint import GrpcEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.api.fixtures import World

_SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"


class _Caller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def call(self, path: str, data: bytes = b"", timeout_s: float = 5.0, **options: Any) -> Any:
        method: Any = self.channel.unary_unary(path)
        return method(data, timeout=timeout_s, **options)

    async def refused(self, path: str, data: bytes = b"") -> tuple[str, str | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(path, data)
        return caught.value.code().name, caught.value.details()


@pytest_asyncio.fixture
async def caller(world: World) -> AsyncIterator[_Caller]:
    door = GrpcEndpoint(world.frontend, SystemClock())
    port = await door.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield _Caller(channel)
    await door.stop(0)


def _start() -> service_pb.StartWorkflowExecutionRequest:
    request = service_pb.StartWorkflowExecutionRequest(namespace="default", workflow_id="w", request_id="r")
    request.workflow_type.name = "T"
    request.task_queue.name = "q"
    return request


async def test_a_call_reaches_its_service_with_deadline_and_metadata(world: World, caller: _Caller) -> None:
    """The deadline on our clock, metadata by lower-case names."""
    world.history.answers["StartWorkflowExecution"] = service_pb.StartWorkflowExecutionResponse(run_id="run")
    data = await caller.call(
        f"{_SERVICE}/StartWorkflowExecution", _start().SerializeToString(), metadata=(("client-name", "test"),)
    )
    assert service_pb.StartWorkflowExecutionResponse.FromString(data).run_id == "run"
    context = world.history.calls[0][2]
    assert context.headers["client-name"] == "test"
    assert context.deadline_ns is not None
    assert 0 < context.deadline_ns - SystemClock().steady_ns() <= 5_100_000_000  # grpc rounds it up


async def test_details_travel_in_the_trailing_metadata(world: World, caller: _Caller) -> None:
    """As google.rpc.Status, which is what SDKs read."""
    world.history.answers["StartWorkflowExecution"] = already_started("it runs", "r", "run")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.call(f"{_SERVICE}/StartWorkflowExecution", _start().SerializeToString())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "it runs")
    trailing: Any = caught.value.trailing_metadata()
    error = error_from_status(dict(trailing)["grpc-status-details-bin"])
    assert error.details == (details_pb.WorkflowExecutionAlreadyStartedFailure(start_request_id="r", run_id="run"),)


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        (f"{_SERVICE}/Foo", b"", ("UNIMPLEMENTED", f"unknown method Foo for service {_SERVICE[1:]}")),
        ("/a.b/C", b"", ("UNIMPLEMENTED", "unknown service a.b")),
        ("/foo", b"", ("UNIMPLEMENTED", 'malformed method name: "/foo"')),
        (
            f"{_SERVICE}/StartWorkflowExecution",
            b"\xff\xff\xff",
            ("INTERNAL", "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"),
        ),
        (
            f"{_SERVICE}/StartWorkflowExecution",
            b"\x0a\x02\xff\xfe",
            ("INTERNAL", "grpc: error unmarshalling request: string field contains invalid UTF-8"),
        ),
        (
            f"{_SERVICE}/StartWorkflowExecution",
            b"\x12" + b"x" * (4 * 1024 * 1024),
            ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (4194305 vs. 4194304)"),
        ),
        ("/grpc.health.v1.Health/Check", b"\x0a\x04nope", ("NOT_FOUND", "unknown service")),
    ],
)
async def test_refusals(caller: _Caller, path: str, data: bytes, expected: tuple[str, str]) -> None:
    """In the words of the real server."""
    assert await caller.refused(path, data) == expected


@pytest.mark.parametrize("service", ["", "temporal.api.workflowservice.v1.WorkflowService"])
async def test_health(caller: _Caller, service: str) -> None:
    """SERVING."""
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    assert await caller.call("/grpc.health.v1.Health/Check", request) == b"\x08\x01"


async def test_a_watch_of_health_ends_with_the_server(world: World) -> None:
    """Serving, then not."""
    door = GrpcEndpoint(world.frontend, SystemClock())
    port = await door.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        stream = method(b"")
        assert await stream.read() == b"\x08\x01"
        stopping = asyncio.ensure_future(door.stop(5))
        assert await stream.read() == b"\x08\x02"
        stream.cancel()
        await stopping


async def test_gzipped_requests_are_read(world: World, caller: _Caller) -> None:
    """SDKs compress when told to."""
    data = await caller.call(
        f"{_SERVICE}/DescribeNamespace",
        service_pb.DescribeNamespaceRequest(namespace="default").SerializeToString(),
        compression=grpc.Compression.Gzip,
    )
    assert service_pb.DescribeNamespaceResponse.FromString(data).namespace_info.name == "default"


async def test_reflection_names_the_services(caller: _Caller) -> None:
    """For grpcurl and the like."""
    from grpc_reflection.v1alpha import reflection_pb2

    stream = caller.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response: Any = await stream.read()
    names = {each.name for each in response.list_services_response.service}
    assert {"temporal.api.workflowservice.v1.WorkflowService", "grpc.health.v1.Health"} <= names
    stream.cancel()


async def test_a_client_that_leaves_ends_its_poll(world: World, caller: _Caller) -> None:
    """Nothing waits for nobody."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def hold(*_: object) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    world.matching.call = hold  # type: ignore[assignment]
    request = service_pb.PollActivityTaskQueueRequest(namespace="default")
    request.task_queue.name = "q"
    call = caller.call(f"{_SERVICE}/PollActivityTaskQueue", request.SerializeToString(), 60.0)
    polling = asyncio.ensure_future(call)
    await asyncio.wait_for(started.wait(), PATIENCE_S)
    polling.cancel()
    await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_a_drain_ends_open_polls_with_an_empty_answer(world: World, caller: _Caller) -> None:
    """And sends new ones elsewhere."""
    started = asyncio.Event()

    async def hold(*_: object) -> Any:
        started.set()
        await asyncio.Event().wait()

    world.matching.call = hold  # type: ignore[assignment]
    request = service_pb.PollActivityTaskQueueRequest(namespace="default")
    request.task_queue.name = "q"
    data = request.SerializeToString()
    polling = asyncio.ensure_future(caller.call(f"{_SERVICE}/PollActivityTaskQueue", data, 60.0))
    await asyncio.wait_for(started.wait(), PATIENCE_S)
    await world.frontend.close()
    assert await asyncio.wait_for(polling, PATIENCE_S) == b""
    assert await caller.refused(f"{_SERVICE}/PollActivityTaskQueue", data) == (
        "UNAVAILABLE",
        "the server is shutting down",
    )


async def test_a_taken_port_is_an_error(world: World, caller: _Caller) -> None:
    """Not a second server that silently shares it."""
    first = GrpcEndpoint(world.frontend, SystemClock())
    port = await first.start("127.0.0.1:0")
    with pytest.raises(OSError, match="is the port taken"):
        await GrpcEndpoint(world.frontend, SystemClock()).start(f"127.0.0.1:{port}")
    await first.stop(0)
