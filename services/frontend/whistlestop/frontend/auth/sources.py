"""Where the document of API keys is, and when it is read again.

A revoked key must stop working without a restart: a file is checked every two seconds, a document stored in AWS every
five minutes. If the document cannot be read any more, the last known keys stay valid and a warning is logged; if the
file was deleted, no key is valid.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import unavailable
from whistlestop.common.private_files import warn_if_open
from whistlestop.frontend.auth.keys import BadKeys, KeySet, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.clock import Clock

log = logging.getLogger(__name__)

FILE_AGE_NS = 2 * SECOND_NS
KEPT_AGE_NS = 300 * SECOND_NS
AGAIN_NS = 10 * SECOND_NS
BY_PARAMETER, BY_SECRET = "ssm:", "secretsmanager:"


class KeySource(Protocol):
    """A source of keys that may change."""

    def peek(self) -> KeySet | None:
        """Return the keys if they are loaded and fresh, else None."""
        ...

    async def load(self) -> KeySet:
        """Return the keys, reading them if necessary. Raises ServiceError(UNAVAILABLE) if they have never been read."""
        ...


class FixedKeys:
    """A document given as text. Raises BadKeys."""

    def __init__(self, text: str) -> None:
        self._keys = KeySet(parse(text))

    def peek(self) -> KeySet | None:
        return self._keys

    async def load(self) -> KeySet:
        return self._keys


class FileKeys:
    """A file, which must exist at first. Raises BadKeys."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = Path(path)
        self._clock = clock
        try:
            self._seen = self._stat()
            self._keys = KeySet(parse(self._path.read_text("utf-8")))
        except OSError as error:
            raise BadKeys(f"API keys {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadKeys(f"API keys {path}: not UTF-8") from error
        warn_if_open("the file of API keys", path)
        self._fresh_until_ns = clock.steady_ns() + FILE_AGE_NS

    def peek(self) -> KeySet | None:
        now_ns = self._clock.steady_ns()
        if now_ns >= self._fresh_until_ns:
            self._fresh_until_ns = now_ns + FILE_AGE_NS
            self._read_again()
        return self._keys

    async def load(self) -> KeySet:
        return self._keys

    def _stat(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read_again(self) -> None:
        try:
            seen = self._stat()
            if seen == self._seen:
                return
            self._keys = KeySet(parse(self._path.read_text("utf-8")))
            self._seen = seen
        except FileNotFoundError:
            self._keys, self._seen = KeySet(()), (0, 0, 0)
            log.warning("the file of API keys was deleted: no key is valid")
        except (OSError, UnicodeDecodeError, BadKeys) as error:
            log.warning("the file of API keys can't be read, the last known keys stay valid: %s", error)


class KeptByAws:
    """A parameter of Systems Manager (`ssm:NAME`) or a secret of Secrets Manager (`secretsmanager:ARN`).

    `fetch` returns the stored text, and blocks.
    """

    def __init__(self, place: str, clock: Clock, fetch: Callable[[str], str] | None = None) -> None:
        self._place = place
        self._clock = clock
        self._fetch = fetch or _kept
        self._keys: KeySet | None = None
        self._fresh_until_ns = 0
        self._reading = asyncio.Lock()

    def peek(self) -> KeySet | None:
        return self._keys if self._clock.steady_ns() < self._fresh_until_ns else None

    async def load(self) -> KeySet:
        from whistlestop.net.aws import AwsError

        async with self._reading:
            found = self.peek()
            if found is not None:
                return found
            now_ns = self._clock.steady_ns()
            try:
                self._keys = KeySet(parse(await asyncio.to_thread(self._fetch, self._place)))
                self._fresh_until_ns = now_ns + KEPT_AGE_NS
            except (AwsError, BadKeys) as error:
                self._fresh_until_ns = now_ns + AGAIN_NS
                log.warning("the API keys at %s can't be read: %s", self._place, error)
                if self._keys is None:
                    raise unavailable("The API keys can't be read. Try again.") from None
            return self._keys


def source_of(place: str, clock: Clock) -> KeySource:
    """Return the source for a configured value: the document itself, a place in AWS, or a file. Raises BadKeys."""
    if place.lstrip().startswith("{"):
        return FixedKeys(place)
    if place.startswith((BY_PARAMETER, BY_SECRET)):
        return KeptByAws(place, clock)
    return FileKeys(place, clock)


def _kept(place: str) -> str:
    from whistlestop.net.aws import client

    if place.startswith(BY_PARAMETER):
        found = client("ssm").get_parameter(Name=place.removeprefix(BY_PARAMETER), WithDecryption=True)
        return str(found["Parameter"]["Value"])
    return str(client("secretsmanager").get_secret_value(SecretId=place.removeprefix(BY_SECRET))["SecretString"])
