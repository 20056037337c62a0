"""Requests to addresses that somebody else named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from whistlestop.common import outbound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\n"


async def asked(serve: Serve, headers: dict[str, str] | None = None, timeout_s: float = 10.0) -> outbound.Answer:
    """Post to a server that does that with each connection."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        return await outbound.post(f"http://127.0.0.1:{port}/x?y=1", headers or {}, b"body", timeout_s)
    finally:
        server.close()


async def test_an_answer_that_never_ends_is_none_when_the_time_is_over() -> None:
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 1000000\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        finally:
            writer.close()
            gone.set()

    with pytest.raises(TimeoutError):
        await asked(drip, timeout_s=0.2)
    await gone.wait()


async def test_an_answer_above_the_limit_is_not_read() -> None:
    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(HEAD + b"\r\n" + bytes(outbound.MOST_READ + 1))
        writer.close()

    with pytest.raises(OSError, match="too long"):
        await asked(much)


async def test_whoever_names_headers_can_t_frame_the_request() -> None:
    heads: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + b"nexus-link: a\r\nNexus-Link: b\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    answer = await asked(note, {"Content-Length": "0", "Transfer-Encoding": "chunked", "Host": "inside", "k": "v"})
    assert answer.headers["nexus-link"] == "a, b"
    first, host, *others = heads[0].decode().rstrip().split("\r\n")
    assert (first, host[:16]) == ("POST /x?y=1 HTTP/1.1", "host: 127.0.0.1:")
    assert others == ["k: v", "connection: close", "content-length: 4"]


@pytest.mark.parametrize("headers", [{"k": "v\r\nx: y"}, {"k\r\nx": "y"}, {"k: v": "y"}])
async def test_headers_that_would_break_the_head_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(OSError, match="invalid header"):
        await outbound.post("http://127.0.0.1:9/", headers, b"", 1.0)
