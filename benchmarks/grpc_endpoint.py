"""Measure a server's CPU per unary gRPC call, with replies of GetSystemInfo's size: our server and others.

    python -m benchmarks.grpc_endpoint                # every server, 1 and 64 calls in flight, three times each
    python -m benchmarks.grpc_endpoint --server ours  # one of them

The server runs in a process of its own, whose CPU is read from /proc, so the client's cost does not count. The client
is the Temporal SDK's (tonic), or grpc.aio's with --client grpcio. grpclib and h2 come with `pip install --group
rivals`; grpclib accepts no compressed requests, so the SDK cannot use it. The server on h2 is a skeleton: it has no
deadlines, no limits and no cancellation. docs/decisions/0004-grpc-server.md has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PATH = "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo"
CALLS = 10_000


def _answer() -> bytes:
    from temporalio.api.workflowservice.v1 import GetSystemInfoResponse

    response = GetSystemInfoResponse(server_version="1.30.0")
    response.capabilities.sdk_metadata = response.capabilities.upsert_memo = True
    return response.SerializeToString()


async def _serve_ours(pipe: Connection) -> None:
    from whistlestop.common.errors import Code, ServiceError
    from whistlestop.net.grpc.head import Head, Method
    from whistlestop.net.grpc.server import GrpcServer

    answer = _answer()

    class Echo:
        def __init__(self) -> None:
            self._method = Method(PATH, self._call)

        def method(self, path: str) -> Method:
            return self._method

        def too_large(self, size: int) -> ServiceError:
            return ServiceError(Code.RESOURCE_EXHAUSTED, "too large")

        async def _call(self, data: bytes, head: Head) -> bytes:
            return answer

    pipe.send(await GrpcServer(Echo()).start("127.0.0.1", 0))
    await asyncio.Event().wait()


async def _serve_grpcio(pipe: Connection) -> None:
    import grpc
    import grpc.aio

    answer = _answer()

    async def call(data: bytes, context: Any) -> bytes:
        return answer

    handler: Any = grpc.unary_unary_rpc_method_handler(call)

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return handler

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await asyncio.Event().wait()


async def _serve_grpclib(pipe: Connection) -> None:
    import socket

    import grpclib.server
    from grpclib.const import Cardinality, Handler

    answer = _answer()

    class Codec:
        """Pass bytes through, as the other servers here do."""

        __content_subtype__ = "proto"

        def encode(self, message: bytes, message_type: object) -> bytes:
            return message

        def decode(self, data: bytes, message_type: object) -> bytes:
            return data

    async def call(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(answer)

    class Echo:
        def __mapping__(self) -> dict[str, Any]:
            return {PATH: Handler(call, Cardinality.UNARY_UNARY, bytes, bytes)}

    here: Any = Echo()
    codec: Any = Codec()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await grpclib.server.Server([here], codec=codec).start(sock=listener)
    pipe.send(listener.getsockname()[1])
    await asyncio.Event().wait()


async def _serve_h2(pipe: Connection) -> None:
    import h2.config
    import h2.connection
    import h2.events

    body = _answer()
    answer = b"\0" + len(body).to_bytes(4, "big") + body
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    end = [(b"grpc-status", b"0")]

    async def call(http: Any, stream_id: int, transport: Any) -> None:
        http.send_headers(stream_id, head)
        http.send_data(stream_id, answer)
        http.send_headers(stream_id, end, end_stream=True)
        transport.write(http.data_to_send())

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.tasks: set[asyncio.Task[None]] = set()
            config = h2.config.H2Configuration(client_side=False, header_encoding=None)
            self.http = h2.connection.H2Connection(config)
            self.http.initiate_connection()
            transport.write(self.http.data_to_send())

        def data_received(self, data: bytes) -> None:
            for event in self.http.receive_data(data):
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    task = asyncio.create_task(call(self.http, event.stream_id, self.transport))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
            self.transport.write(self.http.data_to_send())

    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


SERVERS = {"ours": _serve_ours, "grpcio": _serve_grpcio, "grpclib": _serve_grpclib, "h2": _serve_h2}


def _run_server(kind: str, pipe: Connection) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(SERVERS[kind](pipe))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


async def _caller(client: str, port: int) -> Any:
    if client == "grpcio":
        import grpc.aio

        method: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary(PATH)

        async def call_grpcio() -> None:
            await method(b"", timeout=10)

        return call_grpcio
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
    from temporalio.client import Client

    sdk = await Client.connect(f"127.0.0.1:{port}")
    request = GetSystemInfoRequest()

    async def call_sdk() -> None:
        await sdk.workflow_service.get_system_info(request)

    return call_sdk


async def _measure(kind: str, client: str, port: int, pid: int, calls: int, repeats: int) -> None:
    call = await _caller(client, port)
    for in_flight in (1, 64):
        await _load(call, in_flight, calls // 10)
        used: list[float] = []
        for _ in range(repeats):
            before = _cpu_s(pid)
            await _load(call, in_flight, calls)
            used.append((_cpu_s(pid) - before) / calls * 1e6)
        each = ", ".join(f"{us:.0f}" for us in used)
        print(
            f"{kind:8} {client:7} {in_flight:3} in flight: {min(used):6.1f} us of server CPU a call ({each}), "
            f"{_rss_mb(pid):.0f} MB"
        )


async def _load(call: Any, in_flight: int, calls: int) -> None:
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(work() for _ in range(in_flight)))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=list(SERVERS))
    parser.add_argument("--client", choices=["sdk", "grpcio"], default="sdk")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    kinds = [kind for kind in SERVERS if (kind, chosen.client) != ("grpclib", "sdk")]
    for kind in (chosen.server,) if chosen.server else kinds:
        here, there = context.Pipe()
        process = context.Process(target=_run_server, args=(kind, there), daemon=True)
        process.start()
        try:
            assert process.pid is not None
            asyncio.run(_measure(kind, chosen.client, here.recv(), process.pid, chosen.calls, chosen.repeats))
        finally:
            process.kill()
            process.join()


if __name__ == "__main__":
    main()
