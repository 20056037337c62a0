"""API keys, and the document that stores their hashes.

A key is 32 random bytes after a prefix, so SHA-256 protects it as well as a slow hash would. The document is JSON:

    {"keys": [{"name": "ci", "sha256": "…", "grants": ["orders:write"], "created": "…", "expires": "…"}]}

Instead of a hash, an entry may have a `certificate`: a name in a client certificate, for servers that ask for them.
The document contains no secret: it may be a file, an environment variable, or a stored secret of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.auth.grants import BadGrant, Claims, claims_of, parse_grant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "wsk_"
_HASH = re.compile(r"[0-9a-f]{64}")
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"


class BadKeys(ValueError):
    """The document of keys is invalid; the message is one line."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Instants are nanoseconds since the epoch; 0: never."""

    name: str
    sha256: str
    grants: tuple[str, ...]
    created_ns: int = 0
    expires_ns: int = 0
    certificate: str = ""
    """A name in the client's certificate, used instead of a hash."""

    def claims(self) -> Claims:
        """Return the caller's claims. Raises BadGrant."""
        return claims_of(f"key {self.name}", map(parse_grant, self.grants))


def new_key() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return the hash under which the document stores a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str) -> list[ApiKey]:
    """Return the keys of a document; none for an empty text. Raises BadKeys."""
    if not text.strip():
        return []
    try:
        entries = json.loads(text)["keys"]
        keys = [_key(entry) for entry in entries]
    except BadGrant as error:
        raise BadKeys(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadKeys(f'not a document of API keys, {{"keys": [...]}}: {error}') from None
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise BadKeys("two API keys have the same name")
    certificates = [key.certificate for key in keys if key.certificate]
    if len(set(certificates)) != len(certificates):
        raise BadKeys("two API keys are for the same certificate")
    return keys


def render(keys: Iterable[ApiKey]) -> str:
    """Return the JSON document with these keys; a time of creation or expiry that is 0 is left out."""
    entries = []
    for key in keys:
        known_by = {"certificate": key.certificate} if key.certificate else {"sha256": key.sha256}
        entry: dict[str, Any] = {"name": key.name, **known_by, "grants": list(key.grants)}
        for name, instant_ns in (("created", key.created_ns), ("expires", key.expires_ns)):
            if instant_ns:
                entry[name] = dt.datetime.fromtimestamp(instant_ns // 10**9, dt.UTC).strftime(_INSTANT)
        entries.append(entry)
    return json.dumps({"keys": entries}, indent=2, ensure_ascii=False) + "\n"


class KeySet:
    """Keys by their hashes, and clients by their certificates."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_hash: dict[str, tuple[int, Claims]] = {}
        self._by_certificate: dict[str, tuple[int, Claims]] = {}
        for key in keys:
            known = key.expires_ns, key.claims()
            if key.certificate:
                self._by_certificate[key.certificate] = known
            else:
                self._by_hash[key.sha256] = known

    def of_certificate(self, names: Iterable[str], now_ns: int) -> Claims | None:
        """Return the claims of the first of these names that has an unexpired entry; None when there is none."""
        for name in names:
            found = self._by_certificate.get(name)
            if found is not None and not 0 < found[0] <= now_ns:
                return found[1]
        return None

    def find(self, hashed: str, now_ns: int) -> Claims | None:
        """Return the claims of the key with that hash; None when it is unknown or has expired."""
        found = self._by_hash.get(hashed)
        if found is None or 0 < found[0] <= now_ns:
            return None
        return found[1]


def _key(entry: Mapping[str, Any]) -> ApiKey:
    key = ApiKey(
        name=str(entry["name"]), sha256=str(entry.get("sha256", "")).lower(), grants=tuple(map(str, entry["grants"])),
        created_ns=_instant_ns(entry.get("created")), expires_ns=_instant_ns(entry.get("expires")),
        certificate=str(entry.get("certificate", "")),
    )  # fmt: skip
    if not key.name or bool(key.certificate) == bool(key.sha256) or (key.sha256 and not _HASH.fullmatch(key.sha256)):
        raise BadKeys(
            f'API key "{key.name}" needs a name and either the SHA-256 of the key in hexadecimal or a certificate'
        )
    key.claims()
    return key


def _instant_ns(text: object) -> int:
    if text is None:
        return 0
    parsed = dt.datetime.fromisoformat(str(text))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=dt.UTC)
    return int(parsed.timestamp()) * 10**9
