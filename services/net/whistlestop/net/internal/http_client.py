"""Calls to another service by HTTP: envelopes posted to one of the processes that serve it.

- With several origins, the same workflow (or task queue) goes to the same one as long as it answers, because its
  caches are warm, and history's tasks meet matching's polls there. This matters only for speed.
- An origin that accepts no connection has seen nothing of the request, so the next one is tried. A request that was
  sent and not answered fails with UNAVAILABLE, since the caller has to find out whether it took effect.
- A caller that goes away closes its connection, which cancels the call on the other side.
"""

from __future__ import annotations

import asyncio
import json
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import deadline_exceeded, unavailable
from whistlestop.common.renamed_rpcs import call_by_name
from whistlestop.net.http.client import Http1Client, NotConnected, Unreachable
from whistlestop.net.internal.routing import routing_key
from whistlestop.net.internal.transports import answer_of, unwrap_answer, wrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc

log = logging.getLogger(__name__)

_NO_DEADLINE_S = 120.0
_MARGIN_S = 2.0
"""How much later than its deadline the answer to a call may arrive."""
_DOWN_NS = SECOND_NS
"""How long an origin that accepted no connection is tried last."""
_OF_EVERY_PROCESS = frozenset({"ShutdownWorker"})
"""Methods that are called on every process, because they concern the polls held by each."""


class HttpClient:
    """A channel over HTTP with keep-alive. `name` is used in error messages.

    `resend`: if a kept connection turns out to be closed, send the request again. That suits functions, whose
    connections freeze with them.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        *,
        name: str = "the service",
        resend: bool = True,
    ) -> None:
        self._name = name
        self._clock = clock
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._origins = [_Origin(url, resend=resend) for url in ([urls] if isinstance(urls, str) else urls)]
        self._turn = 0

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Call the RPC over HTTP and return its reply. Raise ServiceError."""
        return await call_by_name(self._call, rpc, request, context)

    async def _call(self, method: str, request: Message, context: CallContext) -> Reply:
        if len(self._origins) == 1:
            return await self._post(self._origins, method, request, context)
        if method in _OF_EVERY_PROCESS:
            posted = (self._post([origin], method, request, context) for origin in self._origins)
            replies = await asyncio.gather(*posted, return_exceptions=True)
            good = [reply for reply in replies if not isinstance(reply, BaseException)]
            if good:
                return good[0]
            assert isinstance(replies[0], BaseException)
            raise replies[0]
        key = routing_key(request)
        return await self._post(self._order(f"{context.namespace_id}/{key}" if key else ""), method, request, context)

    async def call_at(self, key: str, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Call the process that `key` belongs to; with an empty key, the processes take turns. Raise ServiceError."""
        return await self._post(self._order(key), rpc.method, request, context)

    def close(self) -> None:
        """Close the idle connections."""
        for origin in self._origins:
            origin.client.close()

    @property
    def connects(self) -> int:
        """The number of connections made so far."""
        return sum(origin.client.connects for origin in self._origins)

    def _order(self, key: str) -> list[_Origin]:
        if key:
            ordered = sorted(self._origins, key=lambda origin: origin.weight(key))
        else:
            self._turn = (self._turn + 1) % len(self._origins)
            ordered = self._origins[self._turn :] + self._origins[: self._turn]
        now_ns = self._clock.steady_ns()
        ordered.sort(key=lambda origin: now_ns < origin.down_until_ns)
        return ordered

    async def _post(self, origins: Sequence[_Origin], method: str, request: Message, context: CallContext) -> Reply:
        for origin in origins:
            payload = json.dumps(wrap(method, request, context, self._clock)).encode()
            try:
                async with asyncio.timeout(context.remaining_s(self._clock, _NO_DEADLINE_S) + _MARGIN_S):
                    answer = await origin.client.post(origin.path, self._headers, payload)
            except NotConnected as error:
                origin.down_until_ns = self._clock.steady_ns() + _DOWN_NS
                log.debug("%s: %s", self._name, error)
                continue
            except Unreachable as error:
                log.debug("%s: %s", self._name, error)
                raise unavailable(f"{self._name} did not answer. Try again.") from None
            except TimeoutError:
                raise deadline_exceeded() from None
            origin.down_until_ns = 0
            if answer.status == 401:
                log.error("%s rejects our credential (HTTP 401): check that both have the same key", origin.url)
                raise unavailable(f"{self._name} rejects the credential of this process")
            return unwrap_answer(answer_of(answer.status, answer.body))
        raise unavailable(f"{self._name} can't be reached. Try again.")


class _Origin:
    """One process. Raises ValueError for anything but an http(s) URL."""

    __slots__ = ("client", "down_until_ns", "path", "url")

    def __init__(self, url: str, *, resend: bool) -> None:
        self.url = url
        self.client = Http1Client(url, resend=resend)
        self.path = urlsplit(url).path or "/"
        self.down_until_ns = 0

    def weight(self, key: str) -> bytes:
        """Return the origin's weight for a key, the lowest of which wins (rendezvous hashing).

        Clients with the same URLs, in whatever order, agree on the owner.
        """
        return blake2b(f"{self.url} {key}".encode(), digest_size=8).digest()
