"""Calls to the target: the unary Connect protocol with protobuf bodies, over HTTP/1.1.

Requests and replies are bytes and are not parsed. Every failure is a ServiceError, with the target's details.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import zlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

# Imported so that details of these types can be parsed.
from temporalio.api.errordetails.v1 import message_pb2 as _details_pb  # noqa: F401

from whistlestop.bridge.auth import Auth, NoAuth
from whistlestop.bridge.counters import OTHER, Counters
from whistlestop.common.errors import Code, ServiceError, deadline_exceeded, unavailable
from whistlestop.net.http.client import MAX_BODY, Http1Client, Unreachable
from whistlestop.net.rpc_status import unpacked

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from whistlestop.net.http.client import Answer

log = logging.getLogger(__name__)

_GZIP_FROM = 2048
_GUARD_S = 5.0
"""How much later than its deadline the answer to a call may arrive."""
_NO_DEADLINE_S = 120.0
_MOST_MS = 9_999_999_999
_REFUSED = 403
_BY_STATUS = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""Answers that are not Connect's: from a gateway, a throttled function, another server."""


class Target(Protocol):
    """What the bridge calls."""

    async def call(
        self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float | None, kind: str = OTHER
    ) -> bytes:
        """Call an RPC, `/package.Service/Method`, and return the reply. Raises ServiceError.

        Without a timeout (None), the target's own limit applies.
        """
        ...


class ConnectTarget:
    """A server or function that speaks Connect at `url`."""

    def __init__(
        self, url: str, auth: Auth | None = None, counters: Counters | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._http = Http1Client(url, tls)
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/")
        self._origin = f"{parts.scheme}://{self._http.host}"
        self._auth = auth or NoAuth()
        self.counters = counters or Counters()
        self._fixed = {
            "content-type": "application/proto",
            "connect-protocol-version": "1",
            "accept-encoding": "gzip",
            "user-agent": f"whistlestop-bridge/{version('whistlestop')}",
        }

    async def call(
        self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float | None, kind: str = OTHER
    ) -> bytes:
        """Call an RPC, `/package.Service/Method`, and return the reply. Raises ServiceError.

        Without a timeout (None), the target's own limit applies.
        """
        fixed = dict(self._fixed)
        if timeout_s is not None:
            if timeout_s <= 0:
                raise deadline_exceeded()
            fixed["connect-timeout-ms"] = str(min(max(int(timeout_s * 1000), 1), _MOST_MS))
        if len(body) >= _GZIP_FROM:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            fixed["content-encoding"] = "gzip"
        path = self._prefix + path
        try:
            answer = await self._post(path, {**headers, **fixed}, body, timeout_s, kind)
            if answer.status == _REFUSED and not _is_ours(answer) and self._auth.refused(answer):
                answer = await self._post(path, {**headers, **fixed}, body, timeout_s, kind)
            return _reply(answer)
        except TimeoutError:
            self.counters.failures[kind] += 1
            raise deadline_exceeded() from None
        except Unreachable as error:
            self.counters.failures[kind] += 1
            raise unavailable(f"the bridge can't reach its target: {error}") from None
        except ServiceError:
            self.counters.failures[kind] += 1
            raise
        except Exception as error:
            # Report every failure to the caller.
            self.counters.failures[kind] += 1
            log.exception("a call to %s failed", path)
            raise ServiceError(Code.INTERNAL, f"the bridge can't make this call: {error!r}") from error

    async def _post(
        self, path: str, headers: dict[str, str], body: bytes, timeout_s: float | None, kind: str
    ) -> Answer:
        counters = self.counters
        counters.calls[kind] += 1
        counters.bytes_out += len(body)
        try:
            await self._auth.sign(self._origin + path, headers, body)
        except ValueError as error:
            raise ServiceError(Code.UNAUTHENTICATED, f"the bridge can't sign its calls: {error}") from None
        async with asyncio.timeout(_NO_DEADLINE_S if timeout_s is None else timeout_s + _GUARD_S):
            answer = await self._http.post(path, headers, body)
        counters.bytes_in += len(answer.body)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _reply(answer: Answer) -> bytes:
    found = _body(answer)
    kind_of = answer.headers.get("content-type", "")
    if answer.status == 200 and kind_of.startswith("application/proto"):
        return found
    raise error_of(answer.status, kind_of, found)


def _body(answer: Answer) -> bytes:
    return _plain(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body


def _is_ours(answer: Answer) -> bool:
    """Return whether an error comes from the target itself rather than from something in front of it."""
    try:
        return "code" in json.loads(_body(answer))
    except (ValueError, TypeError, RecursionError):
        return False


def error_of(status: int, content_type: str, body: bytes) -> ServiceError:
    """Convert an unsuccessful answer to a ServiceError."""
    if status == 200:
        return ServiceError(Code.UNKNOWN, f"the target answered with content type {content_type}")
    try:
        parsed = json.loads(body)
        name = str(parsed["code"]).upper()
        code = Code.CANCELLED if name == "CANCELED" else Code[name]
        message = str(parsed.get("message", ""))
        packed = [
            AnyMessage(type_url=f"type.googleapis.com/{each['type']}", value=_unpadded(each["value"]))
            for each in parsed.get("details", ())
        ]
        details = [detail for detail in map(unpacked, packed) if detail is not None]
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError, RecursionError):
        code = _BY_STATUS.get(status, Code.UNKNOWN)
        if status == 413:
            # SDKs recognise by this wording that the request will never fit.
            return ServiceError(code, "grpc: received message larger than max (the target's HTTP limit)")
        return ServiceError(code, f"the target answered with HTTP status {status}")
    return ServiceError(code, message, *details)


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _plain(body: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise ServiceError(Code.INTERNAL, f"the target's answer can't be decompressed: {error}") from None
    if unzip.unconsumed_tail:
        raise ServiceError(Code.RESOURCE_EXHAUSTED, f"the target's answer is larger than {MAX_BODY} bytes")
    return plain
