"""All that the frontend says over HTTP, free of any transport, and the ASGI application around it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from whistlestop.common import certificates
from whistlestop.common.errors import Code, ServiceError, permission_denied
from whistlestop.frontend.doors import connect
from whistlestop.frontend.doors.answer import HttpAnswer, HttpRequest, compressed
from whistlestop.frontend.doors.asgi import read_body, send_answer, unless_gone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.doors.asgi import App, Receive, Send
    from whistlestop.frontend.service import Frontend


logger = logging.getLogger(__name__)
_MOST_BODY = 128 * 1024 * 1024
_MOST_FROM_STRANGERS = 16 * 1024
"""Whoever brings no credential that is known is refused further on: no more of what they send is kept, or unzipped."""


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

        return await json_api.serve(self._frontend, self._clock, request, can_hold=self._can_hold, latest_ns=latest_ns)


def make_app(frontend: Frontend, clock: Clock) -> App:
    """The ASGI application."""
    api = HttpApi(frontend, clock)

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = _headers(scope["headers"])
        headers.pop(certificates.HEADER, None)
        if certificate := scope.get("state", {}).get(certificates.HEADER):
            headers[certificates.HEADER] = certificate
        known = await frontend.knows(headers)
        body = await read_body(receive, _MOST_BODY if known else _MOST_FROM_STRANGERS)
        if body is None:
            return
        request = HttpRequest(
            method=scope["method"],
            path=scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            body=body,
        )
        if not known and len(body) > _MOST_FROM_STRANGERS:
            # What was cut off would be taken for a bad request.
            await send_answer(send, _failed(permission_denied(), is_connect=connect.is_connect(request.path)))
            return
        answer = await unless_gone(api.handle(request), receive)
        if answer is not None:
            await send_answer(send, answer)

    return app


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """One value a name: what came in several lines is put together, as HTTP has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _failed(error: ServiceError, *, is_connect: bool) -> HttpAnswer:
    if is_connect:
        return connect.error_answer(error)
    from whistlestop.frontend.doors import json_api

    return json_api.error_answer(error)
