"""The HTTP endpoints of a process: a listener around an ASGI application, and uvicorn's protocol with limits.

The protocol is imported with the first connection: many servers, above all in tests, never get one, and importing
uvicorn is a tenth of a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from whistlestop.net.budget import Budget
from whistlestop.net.http.state import ServerState
from whistlestop.net.listener import Listener, listening_socket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from whistlestop.net.budget import Account
    from whistlestop.net.http.asgi import App
    from whistlestop.net.http.protocol import BoundedProtocol, HttpLimits

_STOP_S = 5


class HttpServer:
    """Serves an application on one address. A connection may be idle for `keep_alive_s` seconds."""

    def __init__(
        self, app: App, keep_alive_s: float = 5, *, budget: Budget | None = None, limits: HttpLimits | None = None
    ) -> None:
        self._app = app
        self._limits = limits
        self._keep_alive_s = keep_alive_s
        self._budget = Budget(time.monotonic) if budget is None else budget
        self._listener: Listener | None = None
        self._state = ServerState()
        self._make: Callable[[Account], BoundedProtocol] | None = None

    async def start(
        self, ip: str, port: int, tls: ssl.SSLContext | None = None, *, requests_certificates: bool = False
    ) -> int:
        """Listen and return the bound port. Raises OSError."""
        make = partial(self._protocol, requests_certificates=requests_certificates)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._listener = Listener(listening_socket(family, (ip, port)), self._budget, make, tls)
        return self._listener.port

    def _protocol(self, account: Account, *, requests_certificates: bool) -> BoundedProtocol:
        if self._make is None:
            from whistlestop.net.http.protocol import protocols

            self._make = protocols(
                self._app, self._state, self._limits, self._keep_alive_s, requests_certificates=requests_certificates
            )
        return self._make(account)

    async def stop(self) -> None:
        """Refuse new requests, and give running ones a few seconds to end."""
        if self._listener is None:
            return
        self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._until_done()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_STOP_S)

    async def _until_done(self) -> None:
        if self._state.connections:
            await self._state.empty.wait()
        while self._state.tasks:
            await asyncio.wait(self._state.tasks)
