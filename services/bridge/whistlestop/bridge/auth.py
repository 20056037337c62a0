"""How calls prove who they are: an API key, or AWS's request signature. mTLS is a matter of the connection."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_FUNCTION_URL = re.compile(r"\.lambda-url\.([a-z0-9-]+)\.on\.aws$")
_API_GATEWAY = re.compile(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$")
_REFRESH_S = 300
CALLER_AUTHORIZATION = "x-whistlestop-authorization"
"""Where the caller's own authorization goes when the signature takes that header."""


class Auth(Protocol):
    """Adds to the headers of a call."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Change `headers` (names in lower case) in place. Raises ValueError when there are no credentials."""
        ...


class NoAuth:
    """What the caller brings goes through; nothing is added."""

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        return None


class ApiKey:
    """A bearer token, for callers that bring none."""

    def __init__(self, key: str) -> None:
        self._value = f"Bearer {key}"

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        headers.setdefault("authorization", self._value)


class InTurn:
    """One after the other: an API key first, whose place AWS's signature then takes."""

    def __init__(self, *auths: Auth) -> None:
        self._auths = auths

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        for auth in self._auths:
            await auth.sign(url, headers, body)


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

    async def sign(self, url: str, headers: dict[str, str], body: bytes) -> None:
        credentials = await self._fresh()
        # Imported late: who brings an API key needs no botocore.
        from botocore.auth import SigV4Auth  # type: ignore[import-untyped]  # carries no types
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # as above

        if "authorization" in headers:
            headers[CALLER_AUTHORIZATION] = headers.pop("authorization")
        request = AWSRequest("POST", url, data=body, headers={"content-type": headers.get("content-type", "")})
        SigV4Auth(credentials.get_frozen_credentials(), self._service, self._region).add_auth(request)
        signed: Mapping[str, str] = request.headers
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-SHA256"):
            if name in signed:
                headers[name.lower()] = signed[name]

    async def _fresh(self) -> Any:
        """Credentials that need no refresh now; finding and refreshing them may ask the network, so a thread does."""
        if self._credentials is None:
            self._credentials = await asyncio.to_thread(_find_credentials)
        if self._credentials is None:
            raise ValueError("no AWS credentials were found")
        needed = getattr(self._credentials, "refresh_needed", None)
        if needed is not None and needed(_REFRESH_S):
            await asyncio.to_thread(self._credentials.get_frozen_credentials)
        return self._credentials


def region_of(url: str) -> str:
    """By the address of a Function URL or an API Gateway; empty for others."""
    host = urlsplit(url).hostname or ""
    found = _FUNCTION_URL.search(host) or _API_GATEWAY.search(host)
    return found[1] if found else ""


def _find_credentials() -> Any:
    import botocore.session  # type: ignore[import-untyped]  # carries no types

    return botocore.session.get_session().get_credentials()
