"""TLS from files that are replaced while they are in use, as certificates are every few weeks.

- A handshake uses the current files. They are checked when a handshake begins, at most once a second; nothing runs in
  the background.
- Existing connections keep what they began with. Sessions are not resumed under new files, since a resumed session
  would not present its certificate again.
- Files that cannot be used (for instance, when only one of two was replaced) change nothing: a warning is logged, and
  they are checked again.
"""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Seen = tuple[tuple[int, int, int] | None, ...]

log = logging.getLogger(__name__)

CHECK_S = 1.0


class ReloadedContext(ssl.SSLContext):
    """An SSL context that delegates to the newest context of `make`, wherever asyncio accepts one.

    asyncio and uvloop use a context only through `wrap_bio`, once for each connection.
    """

    _current: ssl.SSLContext

    def __new__(cls, make: Callable[[], ssl.SSLContext], *_: Any, **__: Any) -> Self:
        """Create the context. Raises what `make` raises."""
        current = make()
        self = super().__new__(cls, current.protocol)
        self._current = current
        return self

    def __init__(
        self, make: Callable[[], ssl.SSLContext], paths: Sequence[str], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember how to reload. `make` reads the files at `paths`; `now` returns monotonic seconds."""
        self._make = make
        self._paths = [Path(path) for path in paths if path]
        self._now = now
        self._next_check_s = now() + CHECK_S
        self._seen = self._tried = self._file_states()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Wrap with the context of the current files, or the last ones that could be read."""
        return self.current().wrap_bio(*args, **kwargs)

    def current(self) -> ssl.SSLContext:
        """Return the context of the current files; that of the last usable ones if they cannot be used."""
        now_s = self._now()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + CHECK_S
            seen = self._file_states()
            if seen != self._seen:
                self._reload(seen)
        return self._current

    def _reload(self, seen: Seen) -> None:
        try:
            self._current = self._make()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if seen != self._tried:
                log.warning("new TLS files can't be used, the previous ones stay in use: %s", error)
            self._tried = seen
            return
        self._seen = self._tried = seen
        log.info("TLS files were reloaded: %s", ", ".join(map(str, self._paths)))

    def _file_states(self) -> Seen:
        return tuple(_state_of(path) for path in self._paths)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def server_context(certificate: str, key: str, client_ca: str, protocol: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or later from PEM files, for `h2` or `http/1.1`. Raises OSError.

    With `client_ca`, clients must present a certificate signed by it.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return ReloadedContext(make, (certificate, key, client_ca))
