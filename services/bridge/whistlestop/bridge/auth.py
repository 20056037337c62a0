"""How calls prove who they are: an API key, or AWS's request signature. mTLS is a matter of the connection."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from whistlestop.common.aws import Credentials, signed
from whistlestop.common.errors import unavailable

if TYPE_CHECKING:
    from whistlestop.common.http1 import Answer

log = logging.getLogger(__name__)

_FUNCTION_URL = re.compile(r"\.lambda-url\.([a-z0-9-]+)\.on\.aws$")
_API_GATEWAY = re.compile(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$")
_SKEW: Final = dt.timedelta(seconds=60)
"""AWS takes signatures that are up to five minutes old, or ahead."""
_DOUBT_S: Final = 30.0
"""A refusal is made sure of this often at most: most are meant."""
CALLER_AUTHORIZATION = "x-whistlestop-authorization"
"""Where the caller's own authorization goes when the signature takes that header."""


class Auth(Protocol):
    """Adds to the headers of a call."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Change `headers` (names in lower case) in place.

        Raises ValueError when there are no credentials, and ServiceError when they can't be had just now.
        """
        ...

    def refused(self, answer: Answer) -> bool:
        """Something in front of the target did not let the call through: whether it is worth another try."""
        ...


class NoAuth:
    """What the caller brings goes through; nothing is added."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        return None

    def refused(self, answer: Answer) -> bool:
        return False


class ApiKey:
    """A bearer token, for callers that bring none."""

    def __init__(self, key: str) -> None:
        self._value = f"Bearer {key}"

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        headers.setdefault("authorization", self._value)

    def refused(self, answer: Answer) -> bool:
        return False


class InTurn:
    """One after the other: an API key first, whose place AWS's signature then takes."""

    def __init__(self, *auths: Auth) -> None:
        self._auths = auths

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        for auth in self._auths:
            await auth.sign(url, headers, body)

    def refused(self, answer: Answer) -> bool:
        return any(auth.refused(answer) for auth in self._auths)


class SigV4:
    """AWS's signature, with the credentials that botocore finds (environment, profile, instance, …).

    `region` and `service` follow from the address of a Function URL or an API Gateway; elsewhere they must be named.
    """

    def __init__(self, url: str, region: str = "", service: str = "", credentials: Any = None) -> None:
        host = urlsplit(url).hostname or ""
        for pattern, known in ((_FUNCTION_URL, "lambda"), (_API_GATEWAY, "execute-api")):
            if pattern.search(host):
                region, service = region_of(url), service or known
        if not region:
            raise ValueError(f"{host} does not tell its region: name it")
        self._region = region
        self._service = service or "lambda"
        self._credentials = credentials
        self._find = _find_credentials if credentials is None else None
        self._ahead = dt.timedelta()
        """Of AWS's clock, where this machine's is wrong."""
        self._doubted_s = -_DOUBT_S

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        credentials = await self._fresh()
        if "authorization" in headers:
            headers[CALLER_AUTHORIZATION] = headers.pop("authorization")
        parts, now = urlsplit(url), dt.datetime.now(dt.UTC) + self._ahead
        given = {"content-type": headers.get("content-type", "")}
        made = signed(credentials, now, self._region, self._service, parts.netloc, parts.path or "/", body, given)
        del made["host"]  # the connection's own
        headers |= made

    def refused(self, answer: Answer) -> bool:
        """A clock that is wrong, or keys that are not good any more, are no reason to give up."""
        now_s = time.monotonic()
        if now_s < self._doubted_s + _DOUBT_S:
            return False
        self._doubted_s = now_s
        ahead = _ahead(answer.headers.get("date", ""))
        if ahead is not None and abs(ahead - self._ahead) > _SKEW:
            log.warning("this machine's clock is %.0f s behind AWS's: calls are signed by that", ahead.total_seconds())
            self._ahead = ahead
            return True
        if self._find is None:
            return False
        self._credentials = None
        return True

    async def _fresh(self) -> Credentials:
        """Credentials that need no refresh now; finding and refreshing them may ask the network, so a thread does."""
        try:
            if self._credentials is None and self._find is not None:
                self._credentials = await asyncio.to_thread(self._find)
            keys = None
            if self._credentials is not None:
                frozen = self._credentials.get_frozen_credentials
                needed = getattr(self._credentials, "refresh_needed", None)
                keys = await asyncio.to_thread(frozen) if needed is not None and needed() else frozen()
        except Exception as error:  # botocore's providers raise what they like
            raise unavailable(f"the bridge's AWS credentials can't be had just now: {error}") from error
        if keys is None:
            raise ValueError("no AWS credentials were found")
        return Credentials(keys.access_key, keys.secret_key, keys.token or "")


def _ahead(date: str) -> dt.timedelta | None:
    """By how much the other side's clock is ahead of this one; None when it does not say."""
    try:
        return email.utils.parsedate_to_datetime(date) - dt.datetime.now(dt.UTC)
    except (ValueError, TypeError):
        return None


def region_of(url: str) -> str:
    """By the address of a Function URL or an API Gateway; empty for others."""
    host = urlsplit(url).hostname or ""
    found = _FUNCTION_URL.search(host) or _API_GATEWAY.search(host)
    return found[1] if found else ""


def _find_credentials() -> Any:
    import botocore.session  # type: ignore[import-untyped]  # carries no types

    return botocore.session.get_session().get_credentials()
