"""A gRPC server on one address: the listener, its connections, and how they are stopped.

This module knows nothing of frames or calls. If the port is taken, `start` raises OSError: SO_REUSEPORT is never set,
because it would silently share the port.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from whistlestop.net.budget import Budget
from whistlestop.net.grpc.connection import READ_SIZE, Connection
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.listener import Listener, listening_socket

if TYPE_CHECKING:
    import ssl

    from whistlestop.net.budget import Account
    from whistlestop.net.grpc.limits import Service


class GrpcServer:
    """Serves `service` within the budget that it shares with other listeners. Call `start` once and `stop` once."""

    def __init__(self, service: Service, limits: Limits | None = None, budget: Budget | None = None) -> None:
        self._service = service
        self._limits = limits or Limits()
        self._budget = budget
        self._listener: Listener | None = None
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopped = asyncio.Event()
        self._stopping = False

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Start to listen; return the bound port. Raises OSError."""
        loop = asyncio.get_running_loop()
        budget = self._budget or Budget(loop.time)
        buffer = memoryview(bytearray(READ_SIZE))

        def connect(account: Account) -> Connection:
            return Connection(
                self._service, self._limits, loop, account, buffer, self._connection_opened, self._connection_closed
            )

        self._listener = Listener(await _listen(loop, host, port), budget, connect, tls)
        return self._listener.port

    async def stop(self, grace_s: float) -> None:
        """Stop accepting connections and calls, wait up to `grace_s` seconds for running calls, then end them."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.drain()
        await self._until_empty(grace_s)
        for connection in list(self._connections):
            connection.close_now()
        await self._until_empty(self._limits.linger_s)
        for connection in list(self._connections):
            connection.abort()
        self._stopped.set()

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._stopped.wait()

    async def _until_empty(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self._empty.wait()
        except TimeoutError:
            return

    def _connection_opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()
        if self._stopping:
            connection.drain()

    def _connection_closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


async def _listen(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    if not host:
        raise OSError(errno.EINVAL, "no address to listen on")  # a socket takes an empty host for every address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Prefer IPv4 if a name has both, since clients try it first.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return listening_socket(family, address)
