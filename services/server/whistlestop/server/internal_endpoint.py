"""The internal endpoint, by which other processes of the deployment call history and matching.

It serves the envelopes that the functions exchange, at `/history` and `/matching`, and `/healthz`. Callers
authenticate with the shared secret; a process without a secret listens on loopback only (config.py).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code, ServiceError, unavailable
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.frontend.endpoints.browsers import BrowserRules
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY
from whistlestop.net.http.answer import HttpAnswer
from whistlestop.net.http.asgi import HEALTH, PEER, headers_of, local_ip_of, read_body, send_answer, unless_disconnected
from whistlestop.net.internal.transports import error_answer, invoke_envelope
from whistlestop.net.tasks import loops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.common.rpcs.rpc import Server
    from whistlestop.net.http.asgi import App, Receive, Send

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024
"""Maximum size of an envelope. The public endpoints already refuse requests above 4 MiB."""
KEEP_ALIVE_S = 75
"""How long a connection may be idle: longer than any pause of a caller that has work."""
_LONG_POLLS = frozenset(name.rpartition("/")[2] for name, spec in (REGISTRY | OWN_REGISTRY).items() if spec.long_poll)
"""Long polls, which a drain ends at once."""
_SHUTTING_DOWN = "the server is shutting down"
_JSON = {"content-type": "application/json"}


def credential(secrets: Sequence[str]) -> dict[str, str]:
    """Return the header with the first of the secrets; empty without any."""
    return {"authorization": f"Bearer {secrets[0]}"} if secrets else {}


class InternalApi:
    """The services of this process, for callers with one of the secrets; without secrets, for every caller."""

    def __init__(self, services: Mapping[str, Server], clock: Clock, secrets: Sequence[str]) -> None:
        self._by_path = {f"/{name}": service for name, service in services.items()}
        self._clock = clock
        self._browsers = BrowserRules(open=not secrets)
        self._expected = [credential([secret])["authorization"].encode() for secret in secrets]
        self._warn = ThrottledWarnings(log, clock)
        self._long_polls: set[asyncio.Task[object]] = set()
        self._draining = False

    def refusal(self, method: str, path: str, headers: Mapping[str, str], local_ip: str = "") -> HttpAnswer | None:
        """Return why a request is refused, judging by its headers; None if it is allowed."""
        given = headers.get("authorization", "").encode("latin-1", "replace")
        if self._expected and not self._shows_secret(given):
            self._warn("a call to the internal endpoint does not have the secret")
            return _refused(401, Code.UNAUTHENTICATED, "the internal secret is missing or wrong")
        if method != "POST" or path not in self._by_path:
            return _refused(404, Code.UNIMPLEMENTED, f"POST to {' or '.join(sorted(self._by_path))}")
        refused = self._browsers.refusal(headers, local_ip)
        if refused is not None:
            return _refused(403, refused.code, refused.message)
        if int(headers.get("content-length", "") or 0) > MAX_BODY:
            return _too_large()
        return None

    def _shows_secret(self, given: bytes) -> bool:
        return any(hmac.compare_digest(given, expected) for expected in self._expected)

    async def invoke(self, path: str, body: bytes) -> HttpAnswer:
        """Serve a JSON envelope. Errors, also of an envelope that is not valid, are in the answer."""
        try:
            envelope = json.loads(body)
        except (ValueError, RecursionError):
            envelope = None
        if not isinstance(envelope, dict):
            envelope = {}
        task = asyncio.current_task()
        assert task is not None
        if self._draining:
            return _answered(200, error_answer(unavailable(_SHUTTING_DOWN)))
        if envelope.get("method") in _LONG_POLLS:
            self._long_polls.add(task)
        try:
            answer = await invoke_envelope(self._by_path[path], envelope, self._clock, can_long_poll=True)
        except asyncio.CancelledError:
            if not self._is_draining():
                raise
            task.uncancel()
            answer = error_answer(unavailable(_SHUTTING_DOWN))
        except Exception:
            log.exception("%s failed", envelope.get("method"))
            answer = error_answer(ServiceError(Code.INTERNAL, "internal error"))
        finally:
            self._long_polls.discard(task)
        return _answered(200, answer)

    async def drain(self) -> None:
        """Refuse new calls, and end long polls."""
        self._draining = True
        waiting = list(self._long_polls)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _is_draining(self) -> bool:
        return self._draining


def internal_app(api: InternalApi) -> App:
    """Return the ASGI application that other services of this server call."""

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == HEALTH:
            await send_answer(send, _answered(200, loops.health()))
            return
        refused = api.refusal(scope["method"], path, headers_of(scope["headers"]), local_ip_of(scope))
        if refused is not None:
            await send_answer(send, refused)
            return
        peer = scope.get("state", {}).get(PEER)
        if peer is not None and not peer.is_authenticated:
            peer.authenticate()
        body = await read_body(receive, MAX_BODY)
        if body is None:
            return
        if len(body) > MAX_BODY:
            await send_answer(send, _too_large())
            return
        answer = await unless_disconnected(api.invoke(path, body), receive)
        if answer is not None:
            await send_answer(send, answer)

    return app


def _answered(status: int, answer: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(answer).encode(), _JSON)


def _too_large() -> HttpAnswer:
    return _refused(413, Code.RESOURCE_EXHAUSTED, f"an envelope may have {MAX_BODY} bytes")


def _refused(status: int, code: Code, message: str) -> HttpAnswer:
    body = json.dumps(error_answer(ServiceError(code, message))).encode()
    return HttpAnswer(status, body, {**_JSON, "connection": "close"})
