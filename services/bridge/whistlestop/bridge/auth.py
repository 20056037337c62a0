"""Authentication of the bridge's calls: an API key, or AWS's request signature. mTLS is part of the connection."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from whistlestop.common.errors import unavailable
from whistlestop.net.aws import find_session, frozen, signed

if TYPE_CHECKING:
    from whistlestop.net.aws import Credentials
    from whistlestop.net.http.client import Answer

log = logging.getLogger(__name__)

_FUNCTION_URL = re.compile(r"\.lambda-url\.([a-z0-9-]+)\.on\.aws$")
_API_GATEWAY = re.compile(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$")
_SKEW: Final = dt.timedelta(seconds=60)
"""AWS accepts signatures that are up to five minutes old, or in the future."""
_RECHECK_S: Final = 30.0
"""Minimum interval of retries after a refusal, since most refusals are permanent."""
CALLER_AUTHORIZATION = "x-whistlestop-authorization"
"""Carries the caller's own authorization when the signature occupies the usual header."""


class Auth(Protocol):
    """Adds credentials to the headers of a call."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Add credentials to `headers` (names in lower case), in place.

        Raises ValueError without credentials, and ServiceError when they are temporarily unavailable.
        """
        ...

    def refused(self, answer: Answer) -> bool:
        """Return whether to retry a call that was refused by something in front of the target."""
        ...


class NoAuth:
    """Adds nothing; the caller's own credentials are passed on."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Leave the headers unchanged."""
        return

    def refused(self, answer: Answer) -> bool:
        """Return False: without credentials, a retry would be refused as well."""
        return False


class ApiKey:
    """Adds a bearer token for callers that send none."""

    def __init__(self, key: str) -> None:
        self._value = f"Bearer {key}"

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Add credentials to `headers` (names in lower case), in place.

        Raises ValueError without credentials, and ServiceError when they are temporarily unavailable.
        """
        headers.setdefault("authorization", self._value)

    def refused(self, answer: Answer) -> bool:
        """Return False: the same key would be refused again."""
        return False


class InOrder:
    """Applies several in order: first an API key, which the AWS signature then moves to another header."""

    def __init__(self, *auths: Auth) -> None:
        self._auths = auths

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Add credentials to `headers` (names in lower case), in place.

        Raises ValueError without credentials, and ServiceError when they are temporarily unavailable.
        """
        for auth in self._auths:
            await auth.sign(url, headers, body)

    def refused(self, answer: Answer) -> bool:
        """Return whether any of the methods wants a retry."""
        return any(auth.refused(answer) for auth in self._auths)


class SigV4:
    """Adds AWS's signature, with the credentials that botocore finds (environment, profile, instance, …).

    `region` and `service` are derived from the URL of a Function URL or API Gateway; for others they must be given.
    """

    def __init__(self, url: str, region: str = "", service: str = "", credentials: Any = None) -> None:
        host = urlsplit(url).hostname or ""
        for pattern, known in ((_FUNCTION_URL, "lambda"), (_API_GATEWAY, "execute-api")):
            if pattern.search(host):
                region, service = region_of(url), service or known
        if not region:
            raise ValueError(f"the region is not part of {host}: give it with --region")
        self._region = region
        self._service = service or "lambda"
        self._credentials = credentials
        self._find = _find_credentials if credentials is None else None
        self._ahead = dt.timedelta()
        """How far AWS's clock is ahead, if this machine's is wrong."""
        self._rechecked_s = -_RECHECK_S

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Add credentials to `headers` (names in lower case), in place.

        Raises ValueError without credentials, and ServiceError when they are temporarily unavailable.
        """
        credentials = await self._fresh()
        if "authorization" in headers:
            headers[CALLER_AUTHORIZATION] = headers.pop("authorization")
        parts, now = urlsplit(url), dt.datetime.now(dt.UTC) + self._ahead
        given = {"content-type": headers.get("content-type", "")}
        made = signed(credentials, now, self._region, self._service, parts.netloc, parts.path or "/", body, given)
        del made["host"]  # the connection's own
        headers |= made

    def refused(self, answer: Answer) -> bool:
        """Return whether to retry: after correcting for a wrong clock, or with new credentials."""
        now_s = time.monotonic()
        if now_s < self._rechecked_s + _RECHECK_S:
            return False
        self._rechecked_s = now_s
        ahead = _ahead(answer.headers.get("date", ""))
        if ahead is not None and abs(ahead - self._ahead) > _SKEW:
            log.warning("this machine's clock is %.0f s behind AWS's: signing with AWS's time", ahead.total_seconds())
            self._ahead = ahead
            return True
        if self._find is None:
            return False
        self._credentials = None
        return True

    async def _fresh(self) -> Credentials:
        """Return credentials that need no refresh now.

        Finding and refreshing them may use the network, so a thread does it.
        """
        try:
            if self._credentials is None and self._find is not None:
                self._credentials = await asyncio.to_thread(self._find)
            keys = None
            if self._credentials is not None:
                get_frozen = self._credentials.get_frozen_credentials
                needed = getattr(self._credentials, "refresh_needed", None)
                keys = await asyncio.to_thread(get_frozen) if needed is not None and needed() else get_frozen()
        except Exception as error:  # botocore's providers may raise anything
            raise unavailable(f"the bridge's AWS credentials are not available now: {error}") from error
        if keys is None:
            raise ValueError("no AWS credentials were found")
        return frozen(keys)


def _ahead(date: str) -> dt.timedelta | None:
    """Return how far the other side's clock is ahead of this one; None if the answer has no date."""
    try:
        return email.utils.parsedate_to_datetime(date) - dt.datetime.now(dt.UTC)
    except (ValueError, TypeError):
        return None


def region_of(url: str) -> str:
    """Return the region in the URL of a Function URL or API Gateway; empty for others."""
    host = urlsplit(url).hostname or ""
    found = _FUNCTION_URL.search(host) or _API_GATEWAY.search(host)
    return found[1] if found else ""


def _find_credentials() -> Any:
    return find_session().get_credentials()
