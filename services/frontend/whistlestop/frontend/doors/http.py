"""All that the frontend says over HTTP, free of any transport, and the ASGI application around it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.doors import connect
from whistlestop.frontend.doors.answer import HttpAnswer, HttpRequest, compressed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.service import Frontend

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    App = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)
_MOST_BODY = 128 * 1024 * 1024


class HttpApi:
    """Connect, the JSON API, Nexus and the health check. `can_hold` is False where a wait is billed (a function)."""

    def __init__(self, frontend: Frontend, clock: Clock, *, can_hold: bool = True) -> None:
        self._frontend = frontend
        self._clock = clock
        self._can_hold = can_hold

    async def handle(self, request: HttpRequest, latest_ns: int | None = None) -> HttpAnswer:
        """Answer one request, whatever it is, by `latest_ns` if that is set. Raises nothing but cancellation."""
        is_connect = connect.is_connect(request.path)
        try:
            answer = await self._answer(request, latest_ns, is_connect=is_connect)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            answer = _failed(ServiceError(Code.INTERNAL, "internal error"), is_connect=is_connect)
        return compressed(answer, request.headers.get("accept-encoding", ""))

    async def _answer(self, request: HttpRequest, latest_ns: int | None, *, is_connect: bool) -> HttpAnswer:
        if is_connect:
            return await connect.serve(
                self._frontend, self._clock, request, can_hold=self._can_hold, latest_ns=latest_ns
            )
        if request.path == "/healthz":
            return HttpAnswer(200, b'{"status":"SERVING"}', {"content-type": "application/json"})
        if "/nexus" in request.path:
            from whistlestop.frontend.doors import nexus

            answer = await nexus.serve(
                self._frontend, self._clock, request, can_hold=self._can_hold, latest_ns=latest_ns
            )
            if answer is not None:
                return answer
        # Imported when first needed: paths and JSON cost more to import than a function's start may.
        from whistlestop.frontend.doors import json_api

        return await json_api.serve(
            self._frontend, self._clock, request, can_hold=self._can_hold, latest_ns=latest_ns
        )


def make_app(frontend: Frontend, clock: Clock) -> App:
    """The ASGI application."""
    api = HttpApi(frontend, clock)

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read_body(receive)
        if body is None:
            return
        request = HttpRequest(
            method=scope["method"],
            path=scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=_headers(scope["headers"]),
            body=body,
        )
        answer = await _unless_gone(api.handle(request), receive)
        if answer is not None:
            await _send(send, answer)

    return app


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """One value a name: what came in several lines is put together, as HTTP has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went away. One that is too large is cut, and refused further on."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= _MOST_BODY + 1:
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _unless_gone(work: Awaitable[HttpAnswer], receive: Receive) -> HttpAnswer | None:
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


async def _send(send: Send, answer: HttpAnswer) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _failed(error: ServiceError, *, is_connect: bool) -> HttpAnswer:
    if is_connect:
        return connect.error_answer(error)
    from whistlestop.frontend.doors import json_api

    return json_api.error_answer(error)
