"""An HTTP/1.1 client for one origin, with keep-alive.

A connection carries one request at a time. A cancelled or failed exchange closes its connection, which tells the
other side that nobody waits any more. All parts of an answer (heads, chunks, trailers) are read up to a limit.
Written on asyncio's streams, because a general client costs several times the CPU of the exchange itself
(docs/decisions/0007-http-client.md has the figures).
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

MAX_BODY = 128 * 1024 * 1024
MAX_HEAD = 64 * 1024
_MAX_DIGITS = 12
_MAX_FIELDS = 256
"""Header fields of an answer."""
_MAX_INTERIM = 8
"""Interim answers such as `100 Continue` before the final one."""
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_STATUS = re.compile(r"HTTP/1\.[01] ([1-9][0-9]{2})(?: .*)?")
_NOT_IN_HEADS = re.compile(r"[\r\n\0]")
_NOT_IN_TARGETS = re.compile(r"[\x00-\x20\x7f]")
_MAX_IDLE = 32
_CONNECT_S = 10.0


class Unreachable(Exception):
    """The exchange failed: connection refused or reset, or not HTTP."""


class NotConnected(Unreachable):
    """No connection could be made, so that the origin has seen nothing of the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connection:
    __slots__ = ("reader", "used", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.used = False

    @property
    def is_alive(self) -> bool:
        return not (self.writer.is_closing() or self.reader.at_eof())

    def close(self) -> None:
        # Abort instead of close: nobody reads what may still arrive.
        self.writer.transport.abort()


class Http1Client:
    """Keeps connections to the origin of `url` and sends requests through them.

    An origin may close an idle connection just when a request is written to it. With `resend` such a request is
    written again on another connection; without, the caller has to decide, since the request may have been served.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        *,
        resend: bool = True,
        most_body: int = MAX_BODY,
        connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] | None = None,
    ) -> None:
        """Create a client, without connecting. Raises ValueError for anything but an http(s) URL.

        `most_body` is the maximum size of an answer in bytes. `connect`, if given, opens connections instead of
        connecting to the URL's host.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {url}")
        self._tls = (tls or True) if parts.scheme == "https" else None
        self.hostname = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self.host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        if parts.port:
            self.host += f":{parts.port}"
        self._resend = resend
        self._most_body = most_body
        self._open = connect or self._open_by_name
        self._idle: list[_Connection] = []
        self.connects = 0

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST a request. Raises Unreachable, and ValueError for an invalid path or header."""
        return await self.request("POST", path, headers, body)

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request. Raises Unreachable, and ValueError for an invalid path or header."""
        if _NOT_IN_TARGETS.search(path):
            raise ValueError(f"invalid path: {path!r}")
        head = [f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n"]
        for name, value in headers.items():
            if _NOT_IN_TARGETS.search(name) or ":" in name or _NOT_IN_HEADS.search(value):
                raise ValueError(f"invalid header: {name!r}")
            head.append(f"{name}: {value}\r\n")
        head.append(f"content-length: {len(body)}\r\n\r\n")
        request = "".join(head).encode("latin-1", "replace") + body
        while True:
            connection = self._kept() or await self._connect()
            was_used = connection.used
            try:
                answer, keep = await _exchange(connection, request, self._most_body)
            except _Stale:
                connection.close()
                if was_used and self._resend:
                    continue  # closed by the origin while idle, before it saw this request
                raise Unreachable(f"{self.host} closed the connection") from None
            except (OSError, EOFError, ValueError) as error:
                connection.close()
                raise Unreachable(f"{self.host} did not answer as expected: {error}") from error
            except BaseException:
                connection.close()
                raise
            if keep and len(self._idle) < _MAX_IDLE:
                connection.used = True
                self._idle.append(connection)
            else:
                connection.close()
            return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        self.connects += 1
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await self._open()
        except TimeoutError as error:
            raise NotConnected(f"{self.host}: no connection within {_CONNECT_S:.0f} s") from error
        except OSError as error:
            raise NotConnected(f"{self.host}: {error}") from error
        return _Connection(reader, writer)

    async def _open_by_name(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.hostname, self._port, ssl=self._tls, limit=MAX_HEAD)


class _Stale(Exception):
    """The connection ended before the first byte of the answer."""


async def _exchange(connection: _Connection, request: bytes, most: int) -> tuple[Answer, bool]:
    reader, writer = connection.reader, connection.writer
    try:
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        for _ in range(_MAX_INTERIM):
            if not head.startswith(b"HTTP/1.1 1"):
                break
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise _Stale from None
        raise
    except ConnectionError:
        raise _Stale from None
    except asyncio.LimitOverrunError:
        raise ValueError("the head of the answer is too long") from None
    status, headers = _parsed(head)
    body, is_whole = await _body(reader, status, headers, most)
    keeps = head.startswith(b"HTTP/1.1") and headers.get("connection", "").lower() != "close"
    return Answer(status, headers, body), is_whole and keeps


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or status[1].startswith("1"):
        raise ValueError("not HTTP/1.1")
    if len(lines) > _MAX_FIELDS:
        raise ValueError("the head of the answer has too many fields")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(status[1]), headers


async def _body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str], most: int) -> tuple[bytes, bool]:
    """Return the body, and whether the connection can be used again."""
    if status in {204, 304}:
        return b"", True
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader, most), True
    if "content-length" in headers:
        length = headers["content-length"]
        if not (length.isascii() and length.isdecimal()):
            raise ValueError("the length of the body is not a number")
        if len(length) > _MAX_DIGITS or int(length) > most:
            raise ValueError(f"a body of {length[:_MAX_DIGITS]} bytes is too long")
        return await reader.readexactly(int(length)), True
    return await _until_closed(reader, most), False


async def _until_closed(reader: asyncio.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    while part := await reader.read(MAX_HEAD):
        parts.append(part)
        most -= len(part)
        if most < 0:
            raise ValueError("the body is too long")
    return b"".join(parts)


async def _chunks(reader: asyncio.StreamReader, most: int) -> bytes:
    """Read a chunked body. Size lines count as content, so that many small chunks are bounded too."""
    body = bytearray()
    left = most
    while True:
        line = await _line(reader)
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise ValueError("a chunk has no size")
        size = int(found[1], 16)
        left -= size + len(line)
        if left < 0:
            raise ValueError("the body is too long")
        if size == 0:
            break
        body += (await reader.readexactly(size + 2))[:-2]
    # Skip the trailers.
    left = MAX_HEAD
    while (line := await _line(reader)) != b"\r\n":
        left -= len(line)
        if left < 0:
            raise ValueError("the trailers of the answer are too long")
    return bytes(body)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError:
        raise ValueError("a line of the answer is too long") from None
