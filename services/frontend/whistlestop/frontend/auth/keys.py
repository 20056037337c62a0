"""API keys, and the document that knows them by their hashes.

A key is 32 random bytes behind a prefix, so SHA-256 keeps it as safe as a slow hash would. The document is JSON:

    {"keys": [{"name": "ci", "sha256": "…", "grants": ["orders:write"], "created": "…", "expires": "…"}]}

It holds no secret: it may stand in a file, in an environment variable, or in a secret of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whistlestop.frontend.auth.grants import BadGrant, Claims, claims_of, parse_grant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "wsk_"
_HASH = re.compile(r"[0-9a-f]{64}")
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"


class BadKeys(ValueError):
    """Not a document of keys; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Instants are nanoseconds since the epoch; 0: never."""

    name: str
    sha256: str
    grants: tuple[str, ...]
    created_ns: int = 0
    expires_ns: int = 0

    def claims(self) -> Claims:
        """What it allows. Raises BadGrant."""
        return claims_of(f"key {self.name}", map(parse_grant, self.grants))


def new_key() -> str:
    """A fresh secret."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """By which the document knows a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str) -> list[ApiKey]:
    """The keys of a document. Raises BadKeys."""
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
    return keys


def render(keys: Iterable[ApiKey]) -> str:
    """The document."""
    entries = []
    for key in keys:
        entry: dict[str, Any] = {"name": key.name, "sha256": key.sha256, "grants": list(key.grants)}
        for name, instant_ns in (("created", key.created_ns), ("expires", key.expires_ns)):
            if instant_ns:
                entry[name] = dt.datetime.fromtimestamp(instant_ns // 10**9, dt.UTC).strftime(_INSTANT)
        entries.append(entry)
    return json.dumps({"keys": entries}, indent=2, ensure_ascii=False) + "\n"


class KeySet:
    """Keys, found by their hashes."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_hash: Mapping[str, tuple[int, Claims]] = {
            key.sha256: (key.expires_ns, key.claims()) for key in keys
        }

    def find(self, hashed: str, now_ns: int) -> Claims | None:
        """What the key of that hash allows; None when there is none, or not any more."""
        found = self._by_hash.get(hashed)
        if found is None or 0 < found[0] <= now_ns:
            return None
        return found[1]


def _key(entry: Mapping[str, Any]) -> ApiKey:
    key = ApiKey(
        name=str(entry["name"]), sha256=str(entry["sha256"]).lower(), grants=tuple(map(str, entry["grants"])),
        created_ns=_instant_ns(entry.get("created")), expires_ns=_instant_ns(entry.get("expires")),
    )  # fmt: skip
    if not key.name or not _HASH.fullmatch(key.sha256):
        raise BadKeys(f'API key "{key.name}" needs a name and the SHA-256 of the key in hexadecimal')
    key.claims()
    return key


def _instant_ns(text: object) -> int:
    if text is None:
        return 0
    parsed = dt.datetime.fromisoformat(str(text))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=dt.UTC)
    return int(parsed.timestamp()) * 10**9
