"""A small service behind the server under test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest_asyncio

from tests.net.grpc.peer import Peer
from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc.head import Head, Method
from whistlestop.net.grpc.server import GrpcServer

if TYPE_CHECKING:
    from whistlestop.net.grpc.head import MessageStream
    from whistlestop.net.grpc.limits import Limits

Start = Callable[..., Awaitable[int]]


class Toy:
    """Echo, hold, fail, answer at length, and count in a stream."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.held = 0
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self._methods = {
            f"/toy/{name}": Method(f"toy/{name}", handler)
            for name, handler in (
                ("Echo", self.echo), ("Hold", self.hold), ("Fail", self.fail), ("Bug", self.bug), ("Big", self.big),
            )
        } | {"/toy/Count": Method("toy/Count", streaming=self.count)}  # fmt: skip

    def method(self, path: str) -> Method:
        async def refuse(data: bytes, head: Head) -> bytes:
            raise ServiceError(Code.UNIMPLEMENTED, f"no {path}")

        return self._methods.get(path) or Method(path, refuse)

    def too_large(self, size: int) -> ServiceError:
        return ServiceError(Code.RESOURCE_EXHAUSTED, f"{size} is too large")

    async def echo(self, data: bytes, head: Head) -> bytes:
        self.heads.append(head)
        return data

    async def hold(self, data: bytes, head: Head) -> bytes:
        self.entered.set()
        self.held += 1
        try:
            await self.release.wait()
        finally:
            self.held -= 1
            self.left.set()
        return data

    async def fail(self, data: bytes, head: Head) -> bytes:
        raise ServiceError(Code.NOT_FOUND, data.decode())

    async def bug(self, data: bytes, head: Head) -> bytes:
        raise RuntimeError("a secret")

    async def big(self, data: bytes, head: Head) -> bytes:
        return bytes(range(256)) * (int(data) // 256)

    async def count(self, call: MessageStream) -> None:
        number = 0
        async for data in call:
            number += 1
            await call.send(b"%d:%s" % (number, data))


@pytest_asyncio.fixture
async def toy() -> Toy:
    return Toy()


@pytest_asyncio.fixture
async def start(toy: Toy) -> AsyncIterator[Start]:
    servers: list[GrpcServer] = []

    async def begin(limits: Limits | None = None) -> int:
        server = GrpcServer(toy, limits)
        servers.append(server)
        return await server.start("127.0.0.1", 0)

    yield begin
    for server in servers:
        await server.stop(0)


@pytest_asyncio.fixture(autouse=True)
async def close_peers(start: Start) -> AsyncIterator[None]:
    yield
    while Peer.opened:
        await Peer.opened.pop().close()


@pytest_asyncio.fixture
async def port(start: Start) -> int:
    return await start()


@pytest_asyncio.fixture
async def peer(port: int) -> Peer:
    return await Peer.greet(port)
