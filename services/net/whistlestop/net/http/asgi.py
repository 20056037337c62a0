"""Code shared by our ASGI applications: reading bodies, sending answers, and noticing clients that leave."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from whistlestop.net.http.answer import HttpAnswer

    Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
    Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
    App: TypeAlias = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]


HEALTH = "/healthz"
PEER = "peer"
"""Key of ASGI's state under which our own servers put the connection."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BREAKS = re.compile(r"[\r\n\0]")


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name; the values of a repeated header are joined with commas, as HTTP specifies.

    Names are in lower case, as ASGI gives them.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def local_ip_of(scope: Mapping[str, Any]) -> str:
    """Return the server's address of the connection; empty if unknown."""
    return str((scope.get("server") or ("",))[0] or "")


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Return the whole body, None if the client left; of a body over `most` bytes, the first `most` + 1."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        parts.append(part[: most + 1 - size])
        size += len(parts[-1])
        if size > most or not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def discard_body(receive: Receive, most: int) -> None:
    """Read and discard the rest of a body, up to `most` bytes.

    A client that is still writing does not read the answer, and closing the connection would reset it.
    """
    size = 0
    while size <= most:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def unless_disconnected(work: Awaitable[HttpAnswer], receive: Receive) -> HttpAnswer | None:
    """Return the answer; cancel the work and return None if the client leaves first, as it may during a long poll."""
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None
    finally:
        disconnected.cancel()
        task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_answer(send: Send, answer: HttpAnswer) -> None:
    """Send the answer with its length. Headers set by workers that HTTP cannot carry are left out."""
    headers = [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in answer.headers.items()
        if _NAME.fullmatch(name) and not _BREAKS.search(value)
    ]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
