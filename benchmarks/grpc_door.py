"""CPU of a server process per unary gRPC call: an echo of GetSystemInfo's size, on our HTTP/2 server or on grpc.aio.

    python benchmarks/grpc_door.py                # both servers, 1 and 64 calls in flight
    python benchmarks/grpc_door.py --server ours  # one of them

The server runs in a process of its own; what it used is read from /proc, so the client's cost does not count. The
client is the Temporal SDK's (tonic), or grpc.aio's with --client grpcio.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
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
    from whistlestop.common.grpc.head import Head, Method
    from whistlestop.common.grpc.server import GrpcServer

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


def _run_server(kind: str, pipe: Connection) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_ours(pipe) if kind == "ours" else _serve_grpcio(pipe))


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


async def _measure(kind: str, client: str, port: int, pid: int, calls: int) -> None:
    call = await _caller(client, port)
    for in_flight in (1, 64):
        await _load(call, in_flight, calls // 10)
        cpu, wall = _cpu_s(pid), time.perf_counter()
        await _load(call, in_flight, calls)
        used, took = _cpu_s(pid) - cpu, time.perf_counter() - wall
        print(
            f"{kind:8} {client:7} {in_flight:3} in flight: {used / calls * 1e6:6.1f} us of server CPU a call, "
            f"{calls / took:6.0f} calls/s, {_rss_mb(pid):.0f} MB"
        )


async def _load(call: Any, in_flight: int, calls: int) -> None:
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(work() for _ in range(in_flight)))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=["ours", "grpcio"])
    parser.add_argument("--client", choices=["sdk", "grpcio"], default="sdk")
    parser.add_argument("--calls", type=int, default=CALLS)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for kind in (chosen.server,) if chosen.server else ("grpcio", "ours"):
        here, there = context.Pipe()
        process = context.Process(target=_run_server, args=(kind, there), daemon=True)
        process.start()
        try:
            assert process.pid is not None
            asyncio.run(_measure(kind, chosen.client, here.recv(), process.pid, chosen.calls))
        finally:
            process.kill()
            process.join()


if __name__ == "__main__":
    main()
