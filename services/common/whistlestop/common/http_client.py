"""Another service by HTTP: envelopes posted to one of the processes that serve it.

Rules of this file:
  - of several origins the same workflow (or task queue) has the same one, as long as it answers: its caches are warm,
    and history's offers meet matching's polls. Nothing but speed hangs on it;
  - an origin that takes no connection has seen nothing: the next one is asked. What was sent and not answered is
    UNAVAILABLE, since whether it was done is for the caller to find out;
  - a caller that goes away closes its connection, which ends the call over there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import deadline_exceeded, unavailable
from whistlestop.common.http1 import Http1Client, NotConnected, Unreachable
from whistlestop.common.routing import routing_key
from whistlestop.common.transports import answer_of, unwrap_answer, wrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext

log = logging.getLogger(__name__)

_NO_DEADLINE_S = 120.0
_MARGIN_S = 2.0
"""An answer to a call with a deadline may take this much longer on its way."""
_DOWN_NS = SECOND_NS
"""For how long an origin that took no connection is asked last."""
_OF_EVERY_PROCESS = frozenset({"ShutdownWorker"})
"""What a process does to the polls that it holds itself."""


class HttpClient:
    """A whistlestop.common.clients.ServiceClient, called `name` in errors. Connections are kept.

    `resend`: a kept connection that turns out to be closed is no failure, the request goes out again. That suits
    functions, whose connections freeze with them.
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

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        if len(self._origins) == 1:
            return await self._ask(self._origins, method, request, context)
        if method in _OF_EVERY_PROCESS:
            asked = (self._ask([origin], method, request, context) for origin in self._origins)
            replies = await asyncio.gather(*asked, return_exceptions=True)
            good = [reply for reply in replies if not isinstance(reply, BaseException)]
            if good:
                return good[0]
            assert isinstance(replies[0], BaseException)
            raise replies[0]
        key = routing_key(request)
        return await self.call_at(f"{context.namespace_id}/{key}" if key else "", method, request, context)

    async def call_at(self, key: str, method: str, request: Message, context: CallContext) -> Reply:
        """Call the process that `key` belongs to; without a key they take turns."""
        return await self._ask(self._order(key), method, request, context)

    def close(self) -> None:
        """Close the connections that idle."""
        for origin in self._origins:
            origin.client.close()

    @property
    def connects(self) -> int:
        """Connections made so far."""
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

    async def _ask(self, origins: Sequence[_Origin], method: str, request: Message, context: CallContext) -> Reply:
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
                log.error("%s does not take our credential", origin.url)
                raise unavailable(f"{self._name} refuses calls of this process")
            return unwrap_answer(answer_of(answer.status, answer.body))
        raise unavailable(f"{self._name} can't be reached. Try again.")


class _Origin:
    """One process. Raises ValueError for what is not an http(s) URL."""

    __slots__ = ("client", "down_until_ns", "path", "url")

    def __init__(self, url: str, *, resend: bool) -> None:
        self.url = url
        self.client = Http1Client(url, resend=resend)
        self.path = urlsplit(url).path or "/"
        self.down_until_ns = 0

    def weight(self, key: str) -> bytes:
        """Rendezvous hashing: whoever lists the same URLs, in whatever order, finds the same owner."""
        return blake2b(f"{self.url} {key}".encode(), digest_size=8).digest()
