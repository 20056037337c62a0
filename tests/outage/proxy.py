"""A TCP proxy on loopback before a database, that delays, cuts, refuses, and swallows without a word."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHUNK = 65536


class Proxy:
    """What lies between: change its fields, or call its methods, while it runs."""

    def __init__(self, url: str) -> None:
        given = conninfo_to_dict(url)
        self._host, self._port = str(given["host"]), int(given.get("port") or 5432)
        self._database = str(given["dbname"])
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_s = 0.0
        """Of each piece, either way."""
        self.refuses = False
        """New connections are closed at once."""
        self.swallows = False
        """Nothing comes through, either way, and nobody is told: a half-open connection."""
        self.swallows_answers = False
        """What is asked comes through, and the answers do not."""
        self.connections = 0

    @property
    def url(self) -> str:
        """The database, by way of the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(self._database)}?sslmode=disable"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            writer.transport.abort()
            return
        if self._host.startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        self._open |= {writer, up_writer}
        for source, target, answers in ((reader, up_writer, False), (up_reader, writer, True)):
            task = asyncio.create_task(self._pass_on(source, target, answers=answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.swallows or (answers and self.swallows_answers):
                    continue
                target.write(data)
                await target.drain()
        if not self.swallows:
            target.close()
            self._open.discard(target)


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the database of that URL."""
    between = Proxy(url)
    await between.start()
    try:
        yield between
    finally:
        await between.stop()
