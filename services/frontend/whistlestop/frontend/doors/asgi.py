"""What ASGI applications of ours have in common: bodies in, answers out, and callers that go away."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from whistlestop.frontend.doors.answer import HttpAnswer

    Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
    Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
    App: TypeAlias = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]


HEALTH = "/healthz"
PEER = "peer"
"""Where the state of ASGI's scope has the connection, if a server of ours has put it there."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BREAKS = re.compile(r"[\r\n\0]")


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """One value a name: what came in several lines is put together, as HTTP has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def local_ip_of(scope: Mapping[str, Any]) -> str:
    """The address of this side of the connection."""
    return str((scope.get("server") or ("",))[0] or "")


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The whole body; None when the client went away. Of one that is too large, the first `most` bytes and one more."""
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
    """Read what is left of a body, at most so many bytes, and keep none of it.

    A client that is still writing does not read the answer: closing the connection would reset it.
    """
    size = 0
    while size <= most:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def unless_gone(work: Awaitable[HttpAnswer], receive: Receive) -> HttpAnswer | None:
    """The answer, or None (and the work cancelled) when the client leaves first: a long poll must not outlive it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_answer(send: Send, answer: HttpAnswer) -> None:
    """The answer with its length. Workers name some of its headers: one that HTTP can't carry is left out."""
    headers = [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in answer.headers.items()
        if _NAME.fullmatch(name) and not _BREAKS.search(value)
    ]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
