"""JSON Web Tokens: signed by a key of a JWKS document, by one public key, or with a shared secret.

Their claims are those of Temporal's default claim mapper: `sub` names the caller, `permissions` is a list of
`namespace:role`. Entries that are not grants are ignored. Times in tokens are compared with the wall clock; caches
age on the steady clock.
"""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import unavailable
from whistlestop.frontend.auth.grants import BadGrant, Claims, Role, claims_of, parse_grant
from whistlestop.net.outbound import Named, Outbound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.auth.config import JwtConfig

log = logging.getLogger(__name__)

KEPT_NS = 300 * SECOND_NS
"""How long a verified token is cached; it may expire earlier."""
MAX_KEPT = 4096
_NEVER_NS = 1 << 63
LEEWAY_NS = 30 * SECOND_NS
"""Allowed difference between our clock and the issuer's."""
JWKS_AGE_NS = 300 * SECOND_NS
JWKS_AGAIN_NS = 10 * SECOND_NS
"""Minimum interval between requests for the JWKS document, which tokens with an unknown key id cause."""
_FETCH_S = 5.0
_MAX_JWKS = 1024 * 1024
_PUBLIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_SECRET = ("HS256", "HS384", "HS512")


class TokenVerifier:
    """Verifies the tokens of one issuer."""

    def __init__(self, config: JwtConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._jwks = Jwks(config.jwks_url, clock) if config.jwks_url else None
        self._kept: dict[str, tuple[int, int, Claims]] = {}
        """By hash: when to verify the token again (steady clock), when it expires (wall clock), and its claims."""

    def peek(self, hashed: str, now_ns: int) -> Claims | None:
        """Return the cached claims of a token that has not expired at `now_ns` (wall clock), else None."""
        found = self._kept.get(hashed)
        if found is None or now_ns >= found[1] or self._clock.steady_ns() >= found[0]:
            return None
        return found[2]

    async def verify(self, token: str, hashed: str) -> Claims | None:
        """Return the claims; None for an invalid token. Raises ServiceError while the issuer's keys are unknown."""
        # Imported here, because without JWT settings neither this nor its cryptography is needed.
        import jwt

        try:
            key, algorithms = await self._key(token)
            if key is None:
                log.debug("a token was refused: its key id is not known")
                return None
            payload = jwt.decode(
                token, key, algorithms=algorithms, audience=self._config.audience or None,
                issuer=self._config.issuer or None,
                options={
                    "require": ["sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                    "verify_aud": bool(self._config.audience), "verify_iss": bool(self._config.issuer),
                },
            )  # fmt: skip
            expires_ns = self._expires_ns(payload)
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError) as error:
            # Log only the type, because the message might quote the token.
            log.debug("a token was refused: %s", type(error).__name__)
            return None
        claims = claims_of(f"token of {payload['sub']}", self._grants(payload))
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[hashed] = (self._clock.steady_ns() + KEPT_NS, expires_ns, claims)
        return claims

    async def _key(self, token: str) -> tuple[Any, tuple[str, ...]]:
        import jwt

        if self._jwks is None:
            return self._config.key, _PUBLIC if self._config.key_is_public else _SECRET
        return await self._jwks.key(str(jwt.get_unverified_header(token).get("kid", ""))), _PUBLIC

    def _expires_ns(self, payload: Mapping[str, Any]) -> int:
        """Return when the token expires, with leeway. Raises ValueError if it is not valid yet or any more."""
        now_ns = self._clock.now_ns()
        if "nbf" in payload and now_ns < _instant_ns(payload["nbf"]) - LEEWAY_NS:
            raise ValueError("not yet valid")
        if "exp" not in payload:
            return _NEVER_NS
        expires_ns = _instant_ns(payload["exp"]) + LEEWAY_NS
        if now_ns >= expires_ns:
            raise ValueError("expired")
        return expires_ns

    def _grants(self, payload: Mapping[str, Any]) -> list[tuple[str, Role]]:
        permissions = payload.get(self._config.permissions_claim)
        grants = []
        for text in permissions if isinstance(permissions, list) else ():
            try:
                grants.append(parse_grant(str(text)))
            except BadGrant as error:
                log.debug("a permission was ignored: %s", error)
        return grants


def _instant_ns(value: object) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("not a number")
    return int(value * SECOND_NS)


class Jwks:
    """The public keys of an issuer (`https:`, `http:` or `file:`), by their ids."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        # The configured issuer is allowed although it may not be public: many are in the operator's own network.
        self._outbound = Outbound(Named.by_url(url))
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._known = False
        self._fresh_until_ns = 0
        self._fetched_ns = -JWKS_AGAIN_NS
        self._asking = asyncio.Lock()

    async def key(self, key_id: str) -> Any:
        """Return the key, or None if it is unknown. Raises UNAVAILABLE if the document could never be read.

        The last known keys are used while the issuer does not answer.
        """
        if self._should_fetch(key_id):
            async with self._asking:
                if self._should_fetch(key_id):
                    await self._fetch()
        if not self._known:
            raise unavailable("The keys that sign tokens can't be read. Try again.")
        return self._keys.get(key_id)

    def _should_fetch(self, key_id: str) -> bool:
        now_ns = self._clock.steady_ns()
        if now_ns < self._fetched_ns + JWKS_AGAIN_NS:
            return False
        return key_id not in self._keys or now_ns >= self._fresh_until_ns

    async def _fetch(self) -> None:
        import jwt

        self._fetched_ns = self._clock.steady_ns()
        try:
            document = json.loads(await _fetch(self._url, self._outbound))
            keys = jwt.PyJWKSet.from_dict(document).keys
        except OSError as error:
            log.warning("the JWKS document can't be read: %s", error)
            return
        except (ValueError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
            # Log only the type, because the message might quote the document.
            log.warning("the JWKS document can't be read: %s", type(error).__name__)
            return
        self._keys = {key.key_id: key for key in keys if key.key_id and key.public_key_use in (None, "sig")}
        self._known = True
        self._fresh_until_ns = self._fetched_ns + JWKS_AGE_NS


async def _fetch(url: str, outbound: Outbound) -> bytes:
    """Return the document. Raises OSError."""
    if url.startswith("file:"):
        return await asyncio.to_thread(_read, url)
    answer = await outbound.get(url, _FETCH_S, _MAX_JWKS)
    if answer.status != HTTPStatus.OK:
        raise OSError(f"the issuer answered with status {answer.status}")
    return answer.body


def _read(url: str) -> bytes:
    """Read a file of the operator's configuration."""
    with Path(unquote(urlsplit(url).path)).open("rb") as file:
        return file.read(_MAX_JWKS)
