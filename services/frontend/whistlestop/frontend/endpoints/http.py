"""The frontend's HTTP API, independent of the transport, and the ASGI application around it.

A request is refused by its headers if possible: whether its path exists, whether a web page may have sent it, and who
calls is checked before any of its body is buffered, decoded or decompressed.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code, ServiceError, permission_denied
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.endpoints import connect
from whistlestop.frontend.registry import UNAUTHENTICATED_RPC
from whistlestop.net import certificates
from whistlestop.net.http.answer import HttpAnswer, HttpRequest, compressed
from whistlestop.net.http.asgi import (
    HEALTH,
    PEER,
    discard_body,
    headers_of,
    local_ip_of,
    read_body,
    send_answer,
    unless_disconnected,
)
from whistlestop.net.tasks import loops

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.endpoints.browsers import BrowserRules
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.asgi import App, Receive, Send


logger = logging.getLogger(__name__)
_MAX_UNAUTHENTICATED_BODY = 16 * 1024
"""Maximum body, compressed or not, of the only RPC that needs no credential."""
_MAX_DISCARDED = 8 * 1024 * 1024
"""Bytes of an authenticated caller's too large body that are read and discarded. A larger one resets the connection."""
_UNSUPPORTED_MEDIA_TYPE = 415


class Kind(Enum):
    """The protocol that serves a path."""

    CONNECT = auto()
    NEXUS = auto()
    JSON = auto()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request whose headers are acceptable."""

    kind: Kind
    most_body: int
    """Maximum size of the body in bytes, compressed or not."""
    is_authenticated: bool
    """Whether the caller was authenticated (or authentication is off); False for RPCs that need no credential."""


class HttpApi:
    """Connect, the JSON API, Nexus and the health check.

    `can_long_poll` is False where waiting is billed (in a function). `browsers` limits what web pages may send; without
    it, nothing does.
    """

    def __init__(
        self, frontend: Frontend, clock: Clock, *, can_long_poll: bool = True, browsers: BrowserRules | None = None
    ) -> None:
        self._frontend = frontend
        self._clock = clock
        self._can_long_poll = can_long_poll
        self._browsers = browsers

    async def handle(self, request: HttpRequest, latest_ns: int | None = None) -> HttpAnswer:
        """Serve any request, by `latest_ns` (steady clock) if given. Raises only cancellation."""
        found = await self.check_headers(request)
        return await self.serve(request, found, latest_ns) if isinstance(found, Accepted) else found

    async def check_headers(self, request: HttpRequest) -> Accepted | HttpAnswer:
        """Check the headers of a request: return its answer if the body does not matter, else what `serve` needs.

        Errors are in the answer.
        """
        try:
            found = await self._check_headers(request)
        except ServiceError as error:
            found = _error_answer(request, error)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            found = _internal_error(request)
        return found if isinstance(found, Accepted) else self._readable(request, found)

    async def serve(self, request: HttpRequest, accepted: Accepted, latest_ns: int | None = None) -> HttpAnswer:
        """Serve a request that `check_headers` allows, by `latest_ns` (steady clock) if given.

        Errors are in the answer, and bugs are logged: no exception is raised.
        """
        if len(request.body) > accepted.most_body:
            return self.too_large(request, accepted, len(request.body))
        try:
            answer = await self._answer(request, accepted, latest_ns)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            answer = _internal_error(request)
        return self._readable(request, compressed(answer, request.headers.get("accept-encoding", "")))

    def too_large(self, request: HttpRequest, accepted: Accepted, size: int) -> HttpAnswer:
        """Return the answer to a body of `size` bytes, which is too large."""
        if accepted.kind is Kind.CONNECT:
            answer = connect.error_answer(connect.too_large(size, accepted.most_body))
        elif accepted.kind is Kind.NEXUS:
            from whistlestop.frontend.endpoints import nexus

            answer = nexus.error_answer(request, nexus.too_large(request))
        else:
            from whistlestop.frontend.endpoints import json_api

            answer = json_api.error_answer(json_api.too_large(), request)
        return self._readable(request, answer)

    async def _check_headers(self, request: HttpRequest) -> Accepted | HttpAnswer:
        """Check the headers like `check_headers`. Raises ServiceError."""
        kind = _kind(request.path)
        if self._browsers is not None:
            allowed = self._browsers.preflight(request.method, request.headers)
            if allowed is not None:
                return HttpAnswer(204, b"", allowed)
            refused = self._browsers.refusal(request.headers, request.local_ip, any_content=kind is Kind.NEXUS)
            if refused is not None:
                raise refused
        if request.path == HEALTH:
            said = json.dumps(loops.health(), separators=(",", ":")).encode()
            return HttpAnswer(200, said, {"content-type": "application/json"})
        unauthenticated = False
        if kind is Kind.CONNECT:
            answer = connect.refusal(request)
            if answer is not None:
                return answer
            unauthenticated = request.path.endswith(f"/{UNAUTHENTICATED_RPC}")
            most = self._frontend.ports.config.max_message_size
        elif kind is Kind.NEXUS:
            from whistlestop.frontend.endpoints import nexus_requests

            most = nexus_requests.MAX_BODY
        else:
            # Imported when first needed, because paths and JSON are slow to import at a function's start.
            from whistlestop.frontend.endpoints import json_api

            found = json_api.rpc_of(request)
            if isinstance(found, HttpAnswer):
                return found
            unauthenticated = found.method == UNAUTHENTICATED_RPC
            most = json_api.MAX_BODY
        if unauthenticated:
            return Accepted(kind, _MAX_UNAUTHENTICATED_BODY, is_authenticated=False)
        if not await self._frontend.is_authenticated(request.headers):
            raise permission_denied()
        return Accepted(kind, most, is_authenticated=True)

    async def _answer(self, request: HttpRequest, accepted: Accepted, latest_ns: int | None) -> HttpAnswer:
        if accepted.kind is Kind.CONNECT:
            return await connect.serve(
                self._frontend,
                self._clock,
                request,
                accepted.most_body,
                can_long_poll=self._can_long_poll,
                latest_ns=latest_ns,
            )
        if accepted.kind is Kind.NEXUS:
            from whistlestop.frontend.endpoints import nexus

            return await nexus.serve(
                self._frontend, self._clock, request, can_long_poll=self._can_long_poll, latest_ns=latest_ns
            )
        from whistlestop.frontend.endpoints import json_api

        return await json_api.serve(
            self._frontend, self._clock, request, can_long_poll=self._can_long_poll, latest_ns=latest_ns
        )

    def _readable(self, request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        """Return the answer with the headers for pages of configured origins."""
        added = {} if self._browsers is None else self._browsers.cors(request.headers)
        return replace(answer, headers=answer.headers | added) if added else answer


def make_app(frontend: Frontend, clock: Clock, browsers: BrowserRules | None = None) -> App:
    """Return the ASGI application that serves the HTTP API. Without `browsers`, no other origin is allowed."""
    api = HttpApi(frontend, clock, browsers=browsers)

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        state = scope.get("state", {})
        peer = state.get(PEER)
        counts = peer is not None and not peer.is_authenticated
        began_s = time.thread_time() if counts else 0.0
        headers = headers_of(scope["headers"])
        headers.pop(certificates.HEADER, None)
        if certificate := state.get(certificates.HEADER):
            headers[certificates.HEADER] = certificate
        request = HttpRequest(
            method=scope["method"],
            path=scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            local_ip=local_ip_of(scope),
        )
        found = await api.check_headers(request)
        if counts:
            if isinstance(found, Accepted) and found.is_authenticated:
                peer.authenticate()
            else:
                peer.spend_cpu(time.thread_time() - began_s)
        if not isinstance(found, Accepted):
            await send_answer(send, found)
            return
        size = int(headers.get("content-length", "") or 0)
        if size <= found.most_body:
            body = await read_body(receive, found.most_body)
            if body is None:
                return
            request, size = replace(request, body=body), len(body)
        if size > found.most_body:
            waits = headers.get("expect", "").lower() == "100-continue"
            if found.is_authenticated and not waits and size <= _MAX_DISCARDED:
                await discard_body(receive, _MAX_DISCARDED)
            await send_answer(send, api.too_large(request, found, size))
            return
        answer = await unless_disconnected(api.serve(request, found), receive)
        if answer is not None:
            await send_answer(send, answer)

    return app


def _kind(path: str) -> Kind:
    if connect.is_connect(path):
        return Kind.CONNECT
    if "/nexus" in path:
        from whistlestop.frontend.endpoints import nexus

        if nexus.is_nexus(path):
            return Kind.NEXUS
    return Kind.JSON


def _error_answer(request: HttpRequest, error: ServiceError) -> HttpAnswer:
    """Return the error in the format of the path's protocol."""
    kind = _kind(request.path)
    if kind is Kind.CONNECT:
        answer = connect.error_answer(error)
    elif kind is Kind.NEXUS:
        from whistlestop.frontend.endpoints import nexus

        answer = nexus.error_answer(request, error)
    else:
        from whistlestop.frontend.endpoints import json_api

        answer = json_api.error_answer(error, request)
    from whistlestop.frontend.endpoints.browsers import UnsupportedMediaType

    return replace(answer, status=_UNSUPPORTED_MEDIA_TYPE) if isinstance(error, UnsupportedMediaType) else answer


def _internal_error(request: HttpRequest) -> HttpAnswer:
    return _error_answer(request, ServiceError(Code.INTERNAL, "internal error"))
