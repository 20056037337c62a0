"""A gRPC server on one address: the listener, its connections, and their end.

Rules of this file: nothing here knows frames or calls. A taken port is an OSError: SO_REUSEPORT, which would share
it without a word, is never set.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from whistlestop.common.grpc.connection import Connection
from whistlestop.common.grpc.limits import Limits

if TYPE_CHECKING:
    import ssl

    from whistlestop.common.grpc.limits import Service

_BACKLOG = 1_024
_TLS_HANDSHAKE_S = 20.0


class GrpcServer:
    """Serves `service`. `start` once, `stop` once."""

    def __init__(self, service: Service, limits: Limits | None = None) -> None:
        self._service = service
        self._limits = limits or Limits()
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopped = asyncio.Event()
        self._stopping = False

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the bound port. Raises OSError."""
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(self._service, self._limits, loop, self._came, self._gone)

        listener = await _listen(loop, host, port)
        try:
            self._server = await loop.create_server(
                connect, sock=listener, ssl=tls, backlog=_BACKLOG,
                ssl_handshake_timeout=_TLS_HANDSHAKE_S if tls is not None else None,
            )  # fmt: skip
        except BaseException:
            listener.close()
            raise
        return int(listener.getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Take no new connections and calls, give running calls `grace_s`, then end them."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
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
        """Until the server has stopped."""
        await self._stopped.wait()

    async def _until_empty(self, most_s: float) -> None:
        try:
            await asyncio.wait_for(self._empty.wait(), most_s)
        except TimeoutError:
            return

    def _came(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()
        if self._stopping:
            connection.drain()

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


async def _listen(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    if not host:
        raise OSError(errno.EINVAL, "no address to listen on")  # to a socket, no host means every address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv4 first where a name has both: clients try it first.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
