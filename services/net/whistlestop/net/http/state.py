"""What the connections of a listener share."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class HttpConnection(Protocol):
    """A connection, as the listener ends it."""

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's transport."""
        ...

    def shutdown(self) -> None:
        """Finish the requests in progress, then close."""
        ...


class ServerState:
    """What the connections of a listener share; uvicorn's protocol uses the first four attributes."""

    def __init__(self) -> None:
        self.total_requests = 0
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._date_s = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer: the date, formatted once a second."""
        now_s = int(time.time())
        if now_s != self._date_s:
            from email.utils import formatdate

            self._date_s = now_s
            self._headers = [(b"date", formatdate(now_s, usegmt=True).encode())]
        return self._headers

    def connection_opened(self) -> None:
        """Record a new connection."""
        self.empty.clear()

    def connection_closed(self) -> None:
        """Record the end of a connection."""
        if not self.connections:
            self.empty.set()
