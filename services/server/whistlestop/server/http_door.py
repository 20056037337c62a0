"""The HTTP doors of a process: uvicorn around an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from whistlestop.common import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.frontend.doors.asgi import App
    from whistlestop.server.config import TlsConfig

_BACKLOG = 1024
_STOP_S = 5


class _Server(uvicorn.Server):
    """Signals are the process's matter, not the door's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WithCertificates(HttpToolsProtocol):
    """Tells the application whose certificate the client has shown: ASGI's scope has a place for a server's own."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self.app_state = {**self.app_state, certificates.HEADER: certificates.names_of(transport)}


class HttpDoor:
    """Serves an application on one address. A connection may idle for `keep_alive_s`."""

    def __init__(self, app: App, keep_alive_s: int = 5) -> None:
        self._app = app
        self._keep_alive_s = keep_alive_s
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, ip: str, port: int, tls: TlsConfig | None = None) -> int:
        """Listen; the bound port. Raises OSError."""
        listener = _listen(ip, port)
        secure: dict[str, Any] = {}
        if tls is not None:
            import ssl

            secure = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
            if tls.client_ca:
                secure |= {
                    "ssl_ca_certs": tls.client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED, "http": _WithCertificates,
                }  # fmt: skip
        config = uvicorn.Config(
            self._app, loop="none", lifespan="off", log_config=None, access_log=False, ws="none",
            timeout_keep_alive=self._keep_alive_s, timeout_graceful_shutdown=_STOP_S, server_header=False, **secure,
        )  # fmt: skip
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise OSError("the HTTP server ended at its start")
            await asyncio.sleep(0)
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Refuse new requests, let running ones end for a moment."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)


def _listen(ip: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
